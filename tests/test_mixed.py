"""Rows of two kinds in one results folder: each is a study of its own, or the report says what they differ in."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from ctsft.discovery.circuits import PAPERS_SHARE
from ctsft.errors import UserError
from ctsft.report.__main__ import FIGURES, tables_of
from ctsft.report.choosing import at_papers_share, at_validated_rate
from ctsft.report.compare import right
from ctsft.report.costs import cost_cells, read_arithmetic, read_costs
from ctsft.report.faithfulness import Faithfulness
from ctsft.report.figures.transfer import transfer_figure
from ctsft.report.mixed import refuse_mixed
from ctsft.report.otherwise import judge_otherwise
from ctsft.report.render import GAP
from ctsft.report.rows import Results
from ctsft.report.select import ENTAILMENT, EXPERIMENT, pick
from ctsft.report.self_training import read_self_training
from ctsft.report.transfer import transfer_cells, transfer_table
from ctsft.study.record import SET_COLUMNS, append_rows, read_rows

DEMO = Path(__file__).parents[1] / "results" / "demo"


@pytest.fixture(scope="module")
def demo() -> Results:
    return Results.read(DEMO)


def doubled(results: Results, which: pd.Series, **changes: object) -> Results:
    """`results` with some of its rows once more, changed."""
    again = results.rows[which].assign(**changes)
    again["cell"] += "-again"
    return replace(results, rows=pd.concat([results.rows, again], ignore_index=True))


@pytest.mark.parametrize(
    ("changes", "heads_alone", "suffix", "words"),
    [
        ({"source": "d05"}, False, "d05", "from d05"),
        ({"kv_policy": "frozen"}, True, "frozen", "with frozen keys and values"),
    ],
)
def test_another_source_or_rule_for_keys_is_a_study_of_its_own(demo, changes, heads_alone, suffix, words):
    rows = demo.rows
    own = (rows["experiment"] == EXPERIMENT) & (rows["target"] == "d30")
    own &= rows["kv_policy"].notna() if heads_alone else True
    # The other kind answers everything wrong, so that a mean over both would show.
    both = doubled(demo, own, **changes, answers=[gold * 0 - 1 for gold in rows.loc[own, "gold"]])
    alone, (first, second) = demo.of(EXPERIMENT), both.studies(EXPERIMENT)
    assert transfer_cells(first).equals(transfer_cells(alone))
    assert first.set_aside == ((words, int(own.sum())),)
    assert f"rows {words} are not shown" in transfer_table(first).caption
    told = pick(transfer_cells(second), target="d30", arm="circuit")["accuracy"]
    assert set(told) - {GAP} == {"0.000 [0.00, 0.01]"}  # of 400 rows
    assert f"demo_01_nusax_transfer_{suffix}" in {table.name for table in tables_of(both)}
    assert words in {which for which, _ in judge_otherwise(both)}


def test_zero_shot_rows_that_script_06_ran_first_are_shown(demo):
    rows = demo.rows
    zero = (rows["arm"] == "zero_shot") & (rows["task"] == "demo")
    moved = replace(demo, rows=rows.assign(experiment=rows["experiment"].mask(zero, "06_adaptation_odyssey")))
    assert set(pick(moved.of(EXPERIMENT).rows, arm="zero_shot")["cell"]) == set(rows.loc[zero, "cell"])


def test_a_table_has_one_share_of_the_heads(demo):
    study = demo.of(EXPERIMENT)
    circuits = study.rows["share"].notna()
    both = doubled(study, circuits, share=0.1, valid_accuracy=1.0)
    assert transfer_cells(both).equals(transfer_cells(study))
    others = study.rows.assign(share=study.rows["share"].where(study.rows["share"].isna(), 0.1))
    assert at_papers_share(others).equals(others)  # where none has the paper's, the commonest


def drawn(figure: plt.Figure) -> list:
    """Every point of a figure's lines."""
    plt.close(figure)
    return [line.get_xydata().tolist() for axis in figure.axes for line in axis.lines]


# Not the surface, which shows the shares beside each other, nor those of scores, which are of no cell.
OF_SHARES = sorted(name for name in FIGURES if name != "03_surface" and not name.startswith("circuits_"))


@pytest.mark.parametrize("name", OF_SHARES)
def test_a_figure_has_one_share_of_the_heads(demo, name):
    """Two values of --shares, the other of which validation would prefer, and by which nothing is kept."""
    study = demo.of(EXPERIMENT)
    study = study.only((study.rows["target"] == "d30") & study.rows["n_target"].isin([0, 25, 100]))
    circuits = study.rows["share"] == PAPERS_SHARE
    wrong = [labels * 0 - 1 for labels in study.rows.loc[circuits, "gold"]]
    both = doubled(study, circuits, share=0.3, valid_accuracy=1.0, answers=wrong, source_answers=wrong)
    probes = study.probes[study.probes["cell"].isin(study.rows.loc[circuits, "cell"])]
    probes = probes.assign(cell=probes["cell"] + "-again", share=0.3, valid_accuracy=1.0, accuracy=0.0)
    both = replace(both, probes=pd.concat([study.probes, probes], ignore_index=True))
    alone, beside = FIGURES[name](study), FIGURES[name](both)
    assert (alone is None) is (beside is None)
    if alone is not None:
        assert (points := drawn(alone)) == drawn(beside)
        assert points


def test_the_figure_of_entailment_has_one_share_too(demo):
    study = demo.of(ENTAILMENT)
    both = doubled(study, study.rows["share"].notna(), share=0.3, valid_accuracy=1.0)
    assert drawn(transfer_figure(both, ENTAILMENT)) == drawn(transfer_figure(study, ENTAILMENT))


def test_rows_of_two_tasks_are_chosen_apart(demo):
    twice = doubled(demo, pd.Series(True, index=demo.rows.index), task="other " + demo.rows["task"])
    assert len(at_validated_rate(twice.rows)) == 2 * len(at_validated_rate(demo.rows))


def test_what_no_table_tells_apart_is_refused_by_name(demo):
    rows = pick(demo.of(EXPERIMENT).rows, arm="full", target="d30", n_target=100, lr=1e-3)
    assert set(right(rows)) == {31, 777}
    with pytest.raises(UserError, match=r"same seed, draw differ in lr \(0.001, 0.01\)"):
        right(pd.concat([rows, rows.assign(lr=1e-2)]))
    with pytest.raises(UserError, match="differ in settings that no column has"):
        refuse_mixed(pd.concat([rows, rows]), ["seed", "draw"])
    refuse_mixed(rows.iloc[:0], ["seed", "draw"])


def test_sets_of_heads_asked_in_two_ways_are_refused(tmp_path):
    folder = shutil.copytree(DEMO, tmp_path / "demo", ignore=shutil.ignore_patterns("cache", "measures"))
    path = folder / "05_faithfulness.sets.csv"
    known = read_rows(path, SET_COLUMNS)
    circuit = next(row for row in known if row["selection"] == "circuit")
    append_rows(path, [circuit | {"set": "by-other-rows", "margins": circuit["margins"]}], SET_COLUMNS)
    with pytest.raises(UserError, match=r"rows of the same theta1, .*circuit differ in settings that no column has"):
        Faithfulness.read(folder)


def test_chains_from_two_starts_are_refused(tmp_path):
    folder = shutil.copytree(DEMO, tmp_path / "demo", ignore=shutil.ignore_patterns("cache", "measures", "0*"))
    path = folder / "self_training" / "08_self_training.csv"
    path.parent.mkdir(exist_ok=True)
    rows = pd.read_csv(DEMO / "self_training" / "08_self_training.csv", dtype=str, keep_default_na=False)
    rows.to_csv(path, index=False)
    assert len(read_self_training(folder))
    first = rows[rows["chain"] == rows["chain"].iloc[0]]
    other = first.assign(chain=first["chain"] + "-x", theta1="0123")
    pd.concat([rows, other]).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"generation differ in theta1 \(0123, "):
        read_self_training(folder)


@pytest.fixture
def spent(tmp_path) -> tuple[Path, pd.DataFrame]:
    (tmp_path / "costs").mkdir()
    shutil.copy(DEMO / "gold.json", tmp_path)
    return tmp_path, pd.read_csv(DEMO / "costs" / "07_cost_and_energy.csv", dtype=str, keep_default_na=False)


def test_costs_of_more_rows_stand_in_lines_of_their_own(spent):
    folder, rows = spent
    more = rows.assign(cell=rows["cell"] + "-x", n_target="400", flops=(4 * rows["flops"].astype(int)).astype(str))
    pd.concat([rows, more]).to_csv(folder / "costs" / "07_cost_and_energy.csv", index=False)
    table = cost_cells(folder)
    full = table[table["arm"] == "full"].set_index("n")["GFLOP"].astype(float)
    assert full[400] == pytest.approx(4 * full[100], rel=1e-3)
    pd.concat([rows, rows.assign(device="cuda")]).to_csv(folder / "costs" / "07_cost_and_energy.csv", index=False)
    with pytest.raises(UserError, match=r"differ in device \(cpu, cuda\)"):
        read_costs(folder)


def test_arithmetics_of_one_start_are_compared(spent):
    folder, _ = spent
    name = "07_cost_and_energy.arithmetic.csv"
    rows = pd.read_csv(DEMO / "costs" / name, dtype=str, keep_default_na=False)
    pd.concat([rows.iloc[:2].assign(theta1="0123", key="x"), rows]).to_csv(folder / "costs" / name, index=False)
    assert list(read_arithmetic(folder)["key"]) == list(rows["key"])
