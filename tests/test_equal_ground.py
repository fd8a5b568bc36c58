"""Means and comparisons rest on the same seeds, rates and starts on both sides, and pages say on which."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from ctsft.report import baseline_claims
from ctsft.report.baseline_claims import ASKED
from ctsft.report.by_rate import kept_text, rate_points
from ctsft.report.choosing import have_one_rate_to_choose
from ctsft.report.claims import judge
from ctsft.report.figures.transfer import by_rows_figure, transfer_figure
from ctsft.report.judging import ground, pairs_of
from ctsft.report.measured import odyssey_results
from ctsft.report.otherwise import judge_otherwise
from ctsft.report.pairs import pair_cells, pair_tables
from ctsft.report.paper import matching, of_the_paper
from ctsft.report.render import rate_text
from ctsft.report.rows import Results
from ctsft.report.select import EXPERIMENT, pick
from ctsft.report.self_training import _starts
from ctsft.report.share_of_heads import sweep_cells
from ctsft.report.tradeoff import comparable

RESULTS = Path(__file__).parents[1] / "results"
DEMO = RESULTS / "demo"


@pytest.fixture(scope="module")
def study() -> Results:
    return Results.read(DEMO).of(EXPERIMENT)


@pytest.fixture(scope="module")
def small() -> Results:
    """The real rows of Javanese, at three rates."""
    rows = Results.read(RESULTS / "small").of(EXPERIMENT)
    return rows.only((rows.rows["target"] == "javanese") & (rows.rows["lr"].isna() | (rows.rows["lr"] >= 5e-5)))


def from_fewer_source_rows(results: Results) -> Results:
    again = results.rows[results.rows["n_source"] > 0].assign(n_source=50)
    return replace(results, rows=pd.concat([results.rows, again.assign(cell="x" + again["cell"])], ignore_index=True))


def test_whether_difficulty_predicts_is_asked_of_the_same_seeds_at_every_n(study):
    """A mean over n of one seed, and of one n of another, would compare numbers of rows."""
    every = study.rows[study.rows["n_target"] == 100]
    for seeds, sizes in (((31, 777), {50, 100}), ((31,), {100})):
        again = every[every["seed"].isin(seeds)].assign(n_target=50)
        both = pd.concat([study.rows, again.assign(cell="x" + again["cell"])], ignore_index=True)
        found = comparable(replace(study, rows=both))
        assert set(found["n_target"]) == sizes
        assert set(found["seed"]) == {31, 777}
    one_target = (study.rows["seed"] == 777) & (study.rows["target"] == "d30") & (study.rows["n_target"] > 0)
    assert set(comparable(study.only(~one_target))["seed"]) == {31}


def test_one_rate_for_all_is_a_choice_only_where_several_are_whole(study):
    full = pick(study.rows, arm="full")
    assert have_one_rate_to_choose(full)
    highest = study.rows["lr"].max()
    gone = study.rows["lr"].notna() & (study.rows["lr"] < highest) & (study.rows["target"] == "d30")
    fewer = study.only(~gone)
    assert not have_one_rate_to_choose(pick(fewer.rows, arm="full"))
    assert "at one rate for all targets and seeds" in dict(judge_otherwise(study))
    assert "at one rate for all targets and seeds" not in dict(judge_otherwise(fewer))


def test_seeds_with_more_rates_than_others_are_also_judged_by_themselves(study):
    main = study.only(study.rows["n_target"] != 25)
    assert not any("most learning rates" in which for which, _ in judge_otherwise(main))
    fewer = main.only(~((main.rows["lr"] == main.rows["lr"].max()) & (main.rows["seed"] == 31)))
    told = [j for which, j in judge_otherwise(fewer) if which == "on seeds 777, which had the most learning rates"]
    assert [j.claim for j in told] == ["C1", "C2", "C3a", "C3b"]
    assert "seeds 777;" in told[0].data
    common = [j for which, j in judge_otherwise(fewer) if which == "on seeds 777, at the rates of all seeds"]
    assert [j.claim for j in common] == ["C1", "C2", "C3a", "C3b"]
    highest = rate_text(main.rows["lr"].max())
    assert highest in told[0].data
    assert highest not in common[0].data
    assert common[0].data.endswith(told[0].data.split("; seeds ")[1])


def test_numbers_of_heads_are_compared_at_the_rates_that_all_of_them_had(study):
    circuit, highest = study.rows["arm"] == "circuit", study.rows["lr"] == study.rows["lr"].max()
    circuit &= study.rows["n_target"] == 100  # with 25 rows it has depth 2 alone
    fewer = study.only(~(circuit & highest & (study.rows["depth"] == 0)))
    pd.testing.assert_frame_equal(sweep_cells(fewer), sweep_cells(study.only(~(circuit & highest))))
    assert not sweep_cells(fewer).equals(sweep_cells(study))


def test_test_sets_of_unequal_size_are_averaged_by_target(study):
    """Languages of one's own have test sets of their own."""
    columns = ["answers", "gold"]
    cut = study.rows.copy()
    here = cut["target"] == "d30"
    cut.loc[here, columns] = cut.loc[here, columns].map(lambda labels: labels[:300])
    cells = sweep_cells(replace(study, rows=cut))
    assert len(cells) == len(sweep_cells(study))
    assert cells["source after"].equals(sweep_cells(study)["source after"])


def all_right_from_fewer_source_rows(results: Results) -> Results:
    both = from_fewer_source_rows(results)
    right = [gold if n == 50 else own for n, gold, own in both.rows[["n_source", "gold", "answers"]].to_numpy()]
    return replace(both, rows=both.rows.assign(answers=right))


def test_best_rates_are_those_from_the_most_source_rows(study):
    told = kept_text(rate_points(study))
    assert told == kept_text(rate_points(all_right_from_fewer_source_rows(study)))
    assert "circuit at" in told


def test_baselines_are_told_at_one_rate_only_where_all_targets_and_seeds_have_it():
    rows, asked = odyssey_results(DEMO).rows, ASKED["B11"]
    gone = (rows["lr"] == 3e-3) & (rows["seed"] == 31) & (rows["arm"] == asked.first)
    for some, told in ((rows, True), (rows[~gone], False)):
        at_one = baseline_claims.by_arms("B11", asked, some).number.partition("with both at the same rate ")[2]
        assert "1e-3 " in at_one
        assert (" 3e-3 " in at_one) == told


def test_two_starts_in_one_folder_are_drawn_and_looked_up_apart(small, study):
    drawn = [
        [list(line.get_ydata()) for axis in by_rows_figure(one).axes for line in axis.lines]
        for one in (study, all_right_from_fewer_source_rows(study))
    ]
    plt.close("all")
    assert drawn[0] == drawn[1]
    assert not any(1.0 in line for line in drawn[0])
    both = from_fewer_source_rows(small)
    line = pd.Series({"source": "indonesian", "target": "javanese", "n_target": 25, "arm": "full"})
    assert set(matching(of_the_paper(both), line)["n_source"]) == {400}
    weak = pd.concat([line, pd.Series({"n_source": 50})])
    assert set(matching(of_the_paper(both), weak)["n_source"]) == {50}


def test_starts_are_paired_and_judged_apart(study):
    """Where all weights answer everything right from 50 rows, nothing changes from 400, and the other start tells."""
    both = from_fewer_source_rows(study)
    full = (both.rows["arm"] == "full") & (both.rows["n_source"] == 50)
    right = both.rows["answers"].where(~full, both.rows["gold"])
    both = replace(both, rows=both.rows.assign(answers=right))
    cells = pair_cells(both)
    assert "(50, 400 rows)" in pair_tables(both, "01")[0].caption
    one = pair_cells(study)
    assert "source rows" not in one
    apart = {
        start: own.drop(columns="source rows").reset_index(drop=True) for start, own in cells.groupby("source rows")
    }
    pd.testing.assert_frame_equal(apart[400], one)
    changed = {arms for arms, a, b in zip(one["arms"], apart[50]["target"], one["target"], strict=True) if a != b}
    assert changed == {arms for arms in one["arms"] if "full" in arms}
    first = {j.claim: j for j in judge(study)}
    assert [j.number for j in judge(both) if j.claim == "C1"] == [first["C1"].number]
    weaker = {j.claim: j for which, j in judge_otherwise(both) if which == "from 50 source rows"}
    assert weaker["C1"].verdict == "contradicted"
    assert weaker["C3b"].number == first["C3b"].number


def test_two_rules_for_keys_and_values_are_no_two_rows_of_an_arm_without_heads(small):
    heads = small.rows[small.rows["kv_policy"].notna()]
    frozen = heads.head(2).assign(kv_policy="frozen", cell=[f"y{cell}" for cell in heads["cell"].head(2)])
    found = of_the_paper(replace(small, rows=pd.concat([small.rows, frozen], ignore_index=True)))
    assert not found["cell"].duplicated().any()
    assert set(found["kv_policy"].dropna()) == {"shared"}


def test_rates_of_unpaired_seeds_are_not_told(small):
    rows = pick(small.rows, n_target=25)
    circuit, random = pick(rows, arm="circuit", depth=2), pick(rows, arm="random", depth=2)
    random = random[(random["lr"] == 2e-4) & random["seed"].isin([31, 777])]
    circuit = circuit[(circuit["lr"] == 2e-4) | ~circuit["seed"].isin([31, 777])]
    tried = pd.concat([circuit, random])
    told = ground(pairs_of(circuit[circuit["lr"] == 2e-4], random, ("target", "n_target"), tried), tried)
    assert "learning rate 2e-4; seeds 31, 777" in told


def test_arms_with_fewer_rates_are_marked_in_the_figure(study):
    circuit, highest = study.rows["arm"] == "circuit", study.rows["lr"] == study.rows["lr"].max()
    for results, marked in ((study, False), (study.only(~(circuit & highest)), True)):
        figure = transfer_figure(results)
        labels = [label.get_text() for axis in figure.axes[::2] for label in axis.get_yticklabels()]
        starred = {label for label in labels if label.endswith("*")}
        assert bool(starred) == marked
        assert all(label.startswith("circuit") for label in starred)
        assert ("had fewer learning rates" in figure.get_suptitle()) == marked
        plt.close(figure)


def test_a_seed_whose_arms_start_from_two_theta1_is_named():
    ground_of = dict(dtype="float32", target="d30", n_target=25, unlabelled=50, rows="same", rates="1e-3")
    rows = pd.DataFrame(
        [ground_of | {"seed": seed, "theta1": name} for seed, name in ((31, "a"), (777, "a"), (777, "b"))]
    )
    assert _starts(rows) == "On seed 777 not all arms start from the same one. "
    assert _starts(rows.head(2)) == ""
