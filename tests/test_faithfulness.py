"""Faithfulness: exact ends, known circuits, a study that goes on where it stopped, and its tables."""

from __future__ import annotations

import json
import runpy
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LABEL_TOKENS, random_rows, tiny
from safetensors.torch import save

from ctsft.discovery.circuits import circuit
from ctsft.discovery.faithfulness import heads_at_mean, margins, marked, same_layers
from ctsft.discovery.mean import label_balanced_mean
from ctsft.discovery.relevance import Relevance
from ctsft.errors import CellFailed, UserError
from ctsft.evaluation import predict
from ctsft.heads import Head
from ctsft.models.load import weight_hash
from ctsft.report import stability
from ctsft.report.faithful_claims import faithful
from ctsft.report.faithful_tables import chance_cells, faithfulness, faithfulness_tables, known_cells
from ctsft.report.faithfulness import Faithfulness, area, beaten, curve, faithfulness_of
from ctsft.report.figures.faithfulness import stability_figure
from ctsft.report.paying import paying, paying_text
from ctsft.report.render import interval
from ctsft.report.rows import Results
from ctsft.report.select import pick
from ctsft.report.stability import ByRows, Overlap, by_rows, settled_text, stability_cells
from ctsft.stats import Interval
from ctsft.storage import write_atomic, write_sealed
from ctsft.study.competence import theta1_paths
from ctsft.study.faithfulness import Asked, run_faithfulness
from ctsft.study.head_sets import HeadSet, heads_of_set, plan
from ctsft.study.known import score_known
from ctsft.study.record import KNOWN_COLUMNS, SET_COLUMNS, SETS, append_rows, read_rows
from ctsft.study.run import parse, run_study
from ctsft.study.workbench import Workbench
from ctsft.tasks.known import KnownCircuit
from ctsft.tasks.known import ioi as ioi_module
from ctsft.tasks.known.induction import rows as induction_rows
from ctsft.tasks.known.ioi import NAMES, sentences
from ctsft.tasks.known.planted import AGAINST, LOUD, planted

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "results" / "demo"
PRESETS = runpy.run_path(str(ROOT / "experiments" / "05_faithfulness.py"))["PRESETS"]
TRANSFER = runpy.run_path(str(ROOT / "experiments" / "01_nusax_transfer.py"))["PRESETS"]
NO_AUTOCAST = torch.autocast("cpu", torch.bfloat16, enabled=False)


def answers(loaded, rows):
    return predict(loaded.model, rows, LABEL_TOKENS, loaded.layout, 5, NO_AUTOCAST).logits


def test_with_no_head_replaced_the_model_is_itself(loaded):
    rows, mean = random_rows(9), label_balanced_mean(loaded, random_rows(18, 5), 3, 4)
    shape = (len(loaded.anatomy.layers), loaded.anatomy.heads)
    before = answers(loaded, rows)
    with heads_at_mean(loaded, mean, np.zeros(shape, bool)):
        np.testing.assert_array_equal(answers(loaded, rows), before)
    with heads_at_mean(loaded, mean, np.ones(shape, bool)):
        assert np.abs(answers(loaded, rows) - before).max() > 0.01
    np.testing.assert_array_equal(answers(loaded, rows), before)


def test_with_every_head_at_its_mean_only_the_last_token_speaks():
    """Rotary positions enter through attention alone, so rows that end alike are then answered alike."""
    loaded = tiny("llama-2kv")
    rows = random_rows(9)
    rows = replace(rows, prompts=tuple((*prompt[:-1], 30) for prompt in rows.prompts))
    mean = label_balanced_mean(loaded, random_rows(18, 5), 3, 4)
    assert np.ptp(answers(loaded, rows), axis=0).max() > 0.01
    with heads_at_mean(loaded, mean, np.ones((3, 4), bool)):
        assert np.ptp(answers(loaded, rows), axis=0).max() < 1e-4


def test_one_head_at_its_mean_is_what_ablation_measures():
    from ctsft.discovery.problem import Problem
    from ctsft.discovery.scorers import get_scorer

    loaded = tiny("qwen2-2kv")
    rows, mean = random_rows(6), label_balanced_mean(loaded, random_rows(18, 5), 3, 4)
    lost = get_scorer("ablation")(Problem(loaded, rows, LABEL_TOKENS, mean), None, []).logits
    whole = margins(answers(loaded, rows), rows.labels).mean()
    for head in (Head(0, 1), Head(2, 3)):
        with heads_at_mean(loaded, mean, marked([head], (3, 4))):
            without = margins(answers(loaded, rows), rows.labels).mean()
        assert lost[head] == pytest.approx(whole - without, rel=1e-3, abs=1e-5)


def test_a_final_soft_cap_leaves_heads_that_do_nothing_at_zero():
    """Every head at its mean in every row: what is taken away changes nothing, whatever caps the logits."""
    from ctsft.discovery.problem import Problem
    from ctsft.discovery.scorers import get_scorer

    loaded = tiny("gemma2-2kv", final_logit_softcapping=1.0)
    rows = random_rows(6)
    rows = replace(rows, prompts=(rows.prompts[0],) * 6)
    mean = label_balanced_mean(loaded, rows, 3, 4)
    lost = get_scorer("ablation")(Problem(loaded, rows, LABEL_TOKENS, mean), None, []).logits
    np.testing.assert_allclose(lost, 0, atol=1e-5)


def test_margins_are_gold_minus_the_mean_of_the_others():
    np.testing.assert_allclose(margins(np.array([[3.0, 1.0, 0.0], [1.0, 2.0, 5.0]]), [0, 1]), [2.5, -1.0])


def test_random_sets_have_as_many_heads_in_every_layer():
    heads = [Head(0, 1), Head(2, 0), Head(2, 3)]
    draws = {tuple(same_layers(heads, 4, seed)) for seed in range(20)}
    assert len(draws) > 5
    for drawn in draws:
        assert [head.layer for head in drawn] == [0, 2, 2]
        assert len(set(drawn)) == 3


# ---- known circuits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scorer", ["cdt", "cdt_linear", "cdt+raw", "attribution", "ablation"])
def test_directional_scores_find_the_planted_circuit(scorer):
    assert score_known(planted(0), scorer, 31)["roc_auc"] > 0.95


def test_magnitude_takes_the_loud_head_and_the_opponent_for_the_circuit():
    assert score_known(planted(0), "magnitude", 31)["roc_auc"] < score_known(planted(0), "cdt", 31)["roc_auc"] - 0.1


def test_heads_that_work_against_the_answer_are_ranked_from_the_lowest_score(tmp_path):
    """Of signed scores; they take no part in the AUC's known heads, and rows without such heads are as they were."""
    plain, known = planted(0), replace(planted(0), against=(AGAINST, LOUD))
    row, without = score_known(known, "ablation", 31), score_known(plain, "ablation", 31)
    assert row["heads"] == f"{without['heads']} -{AGAINST} -{LOUD}"
    assert row["ranks"].startswith(f"{without['ranks']} -1 -")
    assert row["roc_auc"] == without["roc_auc"]
    about = {"circuit": "ioi", "seed": 31, "scorer": "ablation", "git_commit": "", "created": ""}
    append_rows(tmp_path / "05_faithfulness.known.csv", [about | row], KNOWN_COLUMNS)
    [told] = known_cells(tmp_path)["ioi, ranks"]
    assert ", −1, −" in told
    results = Results.read(DEMO)
    shutil.copytree(DEMO, tmp_path / "demo")
    append_rows(tmp_path / "demo" / "05_faithfulness.known.csv", [about | row], KNOWN_COLUMNS)
    found = Faithfulness.read(DEMO)
    captions = [
        next(table.caption for table in faithfulness_tables(found, of) if table.name.endswith("_known"))
        for of in (results, replace(results, folder=tmp_path / "demo"))
    ]
    assert ["from the lowest score" in caption for caption in captions] == [False, True]


def test_what_works_against_the_names_in_ioi_is_published(monkeypatch):
    """Wang et al. (2022), figure 2; with a tokenizer that has each name whole, and no weights."""
    names = {name: number for number, name in enumerate(NAMES)}
    loaded = SimpleNamespace(tokenizer=lambda text: {"input_ids": [names[text]]})
    monkeypatch.setattr(ioi_module, "load_model", lambda *_: loaded)
    assert ioi_module.ioi(0).against == (Head(10, 7), Head(11, 10))


def test_the_sentences_of_ioi_are_balanced():
    said = sentences()
    assert len({text for text, _ in said}) == len(said)
    assert sum(label for _, label in said) == len(said) / 2
    text, label = said[0]
    assert text.count(NAMES[label]) == 1
    assert text.count(NAMES[1 - label]) == 2


def test_known_rows_are_balanced_and_repeat():
    for known in (planted(0), KnownCircuit(None, induction_rows, (1, 2, 3), ())):
        rows = known.rows(9, 4)
        assert rows == known.rows(9, 4)
        assert [rows.labels.count(label) for label in range(3)] == [3, 3, 3]


# ---- the study ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return replace(
        PRESETS["demo"],
        seeds=(31,),
        targets=("d30",),
        scorers=("cdt", "cdt_linear", "magnitude"),
        sizes=(0.1, 0.5),
        matched_sizes=(0.1,),
        random_draws=3,
        row_counts=(12,),
        n_source=60,
        epochs=1,
        mean_rows=24,
        score_rows=12,
        other_sources=(),
        checkpoints=(),
        known=(),
        output=tmp_path_factory.mktemp("results"),
    )


@pytest.fixture(scope="module")
def found(config) -> Faithfulness:
    assert run_faithfulness(config, lambda folder: "") == 0
    return Faithfulness.read(config.folder)


def test_every_set_of_the_plan_is_asked_once(config, found):
    wanted = list(plan(config, 31, 32))
    assert len(found.sets) == len(wanted) == len(set(wanted))
    assert set(found.sets["selection"]) == {
        *("none", "all", "circuit", "top", "random:circuit", "random:top", "near_zero", "bottom")
    }
    assert not found.sets["error"].any()


@pytest.mark.parametrize("direction", ["keep", "knock_out"])
def test_a_set_is_asked_with_all_others_at_their_mean_or_with_itself(config, found, direction):
    asked = Asked(Workbench(config), 31)
    wanted = next(one for one in plan(config, 31, 32) if one.selection == "circuit" and one.direction == direction)
    row, own = asked.ask(wanted), marked(asked.heads_of(wanted), (4, 8))
    assert own.sum() == wanted.size
    rows = asked.bench.prompts("d00", "valid")
    with heads_at_mean(asked.bench.loaded, asked.mean, ~own if direction == "keep" else own):
        logits = asked.bench.predict(rows).logits
    assert row["margin"] == pytest.approx(margins(logits, rows.labels).mean(), abs=1e-5)


@pytest.mark.parametrize(
    ("wins", "kept", "verdict"),
    [
        (38, 0.9, "supported"),
        (37, 0.9, "undecided"),
        (20, 0.9, "undecided"),
        (19, 0.9, "contradicted"),
        (38, 0.5, "undecided"),
        (38, 0.1, "contradicted"),
    ],
)
def test_a_faithful_circuit_keeps_half_and_more_than_nearly_all_random_sets(found, monkeypatch, wins, kept, verdict):
    monkeypatch.setattr("ctsft.report.faithful_claims.beaten", lambda *_, **__: (wins, 40))
    monkeypatch.setattr(
        "ctsft.report.faithful_claims.faithfulness_of", lambda *_: Interval(kept, kept - 0.1, kept + 0.1)
    )
    assert faithful(found).verdict == verdict


def test_draws_of_random_sets_differ(config, found):
    asked = Asked(Workbench(config), 31)
    sets = [one for one in plan(config, 31, 32) if one.selection == "random:top" and one.direction == "keep"]
    assert len({tuple(asked.heads_of(one)) for one in sets}) > len(sets) / 2


def test_a_second_run_asks_nothing_again(config, found):
    paths = [config.folder / f"05_faithfulness.{kind}" for kind in ("sets.csv", "config.json")]
    before = [path.read_text() for path in paths]
    assert run_faithfulness(replace(config, eval_batch=7), faithfulness) == 0
    assert [path.read_text() for path in paths] == before


def test_the_paper_scorer_need_not_be_among_those_that_are_asked(config, tmp_path):
    short = replace(config, scorer="cdt_linear", scorers=("cdt_linear",), sizes=(0.5,), matched_sizes=(0.5,))
    assert run_faithfulness(replace(short, random_draws=1, output=tmp_path), lambda folder: "") == 0
    assert set(Faithfulness.read(tmp_path / "demo").sets["scorer"]) == {"", "cdt_linear"}


def test_a_dry_run_says_what_is_left(config, found, tmp_path, capsys):
    """Also where rows of other settings are in the file, and where there is no theta1 yet."""
    for change, left in (({}, len(found.sets)), ({"seeds": (31, 777)}, len(found.sets)), ({"epochs": 2}, 0)):
        asked = replace(config, dry_run=True, **change)
        assert run_faithfulness(asked, lambda folder: "") == 0
        planned = len(found.sets) * len(asked.seeds)
        assert f"{planned} sets of heads, {planned - left} left to ask" in capsys.readouterr().out
    assert run_faithfulness(replace(config, output=tmp_path, dry_run=True), lambda folder: "") == 0
    assert f"{len(found.sets)} left to ask" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.csv"))


def test_a_curve_runs_from_no_heads_to_all_or_back(config, found):
    base = dict(language="d00", scorer="cdt", selection="top")
    for direction, ends in (("keep", (0, 1)), ("knock_out", (1, 0))):
        shares, points = curve(found, **base, direction=direction)
        assert shares == [0, 3 / 32, 16 / 32, 1]
        none, whole = (pick(found.sets, language="d00", selection=name)["values"].iloc[0] for name in ("none", "all"))
        np.testing.assert_array_equal(points[0][0], (none, whole)[ends[0]])
        np.testing.assert_array_equal(points[-1][0], (none, whole)[ends[1]])
    assert faithfulness_of(found, pick(found.sets, language="d00", selection="all")).value == 1
    assert faithfulness_of(found, pick(found.sets, language="d00", selection="none")).value == 0


def test_the_area_is_the_trapezoid_of_the_curve(found):
    line = {name: pick(found.sets, language="d00", selection=name)["values"].iloc[0].mean() for name in ("none", "all")}
    top = pick(found.sets, language="d00", selection="top", direction="keep", scorer="cdt").sort_values("size")
    inner = [(values.mean() - line["none"]) / (line["all"] - line["none"]) for values in top["values"]]
    by_hand = np.trapezoid([0, *inner, 1], [0, 3 / 32, 16 / 32, 1])
    assert area(found, "cdt").value == pytest.approx(by_hand)
    apart = area(found, "cdt_linear", "cdt")
    assert apart.value == pytest.approx(area(found, "cdt_linear").value - by_hand)
    assert area(found, "cdt", "cdt").low == area(found, "cdt", "cdt").high == 0


def test_areas_are_compared_on_seeds_where_both_scorers_are_whole(found):
    """A set that failed takes its seed from the comparison, and no other seed stands in for it."""
    both = pd.concat([found.sets, found.sets.assign(seed=777)], ignore_index=True)
    wanted = area(found, "cdt_linear", "cdt")
    kept = (both["selection"] == "top") & (both["direction"] == "keep") & (both["language"] == "d00")
    one = kept & (both["scorer"] == "cdt") & (both["seed"] == 31) & (both["size"] == 3)
    assert one.sum() == 1
    other = kept & (both["scorer"] == "cdt_linear") & (both["seed"] == 777)
    for failed, told in ((one, wanted), (one | other, None)):
        sets = both.assign(values=both["values"].where(~failed, None))
        assert area(replace(found, sets=sets), "cdt_linear", "cdt") == told


def test_of_two_scorers_on_different_seeds_each_is_compared_on_its_own(found):
    """Shown is the one whose circuits no tie by index has filled; curves are compared on the seeds that both have."""
    second = found.sets.assign(seed=777, scorer=found.sets["scorer"].map({"cdt": "cdt_linear"}).fillna(""))
    values = [None if value is None else value * 2 for value in second["values"]]
    second = second.assign(values=values)[second["scorer"].isin(["", "cdt_linear"])]
    maps = [replace(m, ties="index") for m in found.maps]
    maps += [replace(m, about=m.about | {"seed": 777}) for m in found.maps if m.about["scorer"] == "cdt_linear"]
    both = replace(found, sets=pd.concat([found.sets, second]), maps=maps)
    assert (found.main, both.main) == ("cdt", "cdt_linear")
    assert both.seeds == [777]
    assert not both.by_index
    assert set(chance_cells(both)["seeds"]) == {1}
    assert faithful(both).data.endswith("seeds 777")
    studied = replace(both, maps=maps + [m for m in maps if m.about["scorer"] == "cdt"] * 3)
    assert studied.found_again == "cdt"  # the one with the most maps, on the seeds that have its circuits
    assert studied.seeds_of("cdt") == [31]
    assert studied.told("cdt") == "cdt (ties by index)"
    alone, together = area(found, "cdt_linear", "cdt"), area(both, "cdt_linear", "cdt")
    assert (together.value, together.low) == (alone.value, alone.low)
    only = replace(both, maps=[replace(m, ties="index") for m in maps])
    assert only.main == "cdt"
    assert only.by_index


def test_circuits_from_other_starts_are_compared(config, tmp_path):
    short = replace(config, output=tmp_path, sizes=(0.5,), matched_sizes=(0.5,), random_draws=1, scorers=("cdt",))
    short = replace(short, targets=("d30",), row_counts=(), other_sources=("d30",), checkpoints=(30,))
    shutil.copytree(config.folder / "cache", short.folder / "cache")
    shutil.copytree(config.folder / "theta1", short.folder / "theta1")
    assert run_faithfulness(short, lambda folder: "") == 0
    found = Faithfulness.read(short.folder)
    assert {(m.about["source"], m.about["n_source"]) for m in found.maps} == {("d00", 60)}
    assert {(m.about["source"], m.about["n_source"]) for m in found.elsewhere} == {("d00", 30), ("d30", 60)}
    lines = stability_cells(found).set_index("scores")
    for start in ("30 rows of d00", "60 rows of d30"):
        assert lines.loc[f"theta1 on {start}, against d00", "pairs"] == 1


def test_circuits_tuned_from_another_machines_theta1_are_measured_on_it(config, found, tmp_path):
    """A study that goes on elsewhere makes theta1 again, with other bits: curves and maps of the first one stay."""
    shutil.copytree(config.folder, tmp_path / "demo")
    config = replace(config, output=tmp_path)
    bench = Workbench(config)
    about_path, weights_path = theta1_paths(bench, 31)
    first = bench.theta1_of(31)
    next(bench.model.parameters()).mul_(1.001)
    other = first | {"weight_hash": weight_hash(bench.model)}
    write_atomic(weights_path, save({name: part.clone() for name, part in bench.model.named_parameters()}))
    write_sealed(about_path, other)
    same = dict(seeds=(31,), targets=("d30",), n_source=60, epochs=1, mean_rows=24, score_rows=12, output=tmp_path)
    arms = dict(n_targets=(20,), lrs=(1e-3,), arms=("zero_shot", "circuit:0", "near_zero:0"))
    assert run_study(replace(TRANSFER["demo"], **same, **arms)) == 0
    assert run_faithfulness(config, faithfulness) == 0
    again, results = Faithfulness.read(config.folder), Results.read(config.folder)
    assert list(again.sets["margins"]) == list(found.sets["margins"])
    assert set(again.tuned["theta1"]) == {other["weight_hash"]}
    assert {m.about["theta1_hash"] for m in again.maps} == {first["weight_hash"]}
    asked = Asked(Workbench(replace(config, score_rows=24)), 31)  # other maps than those that the circuits came from
    assert {asked._score_rows(wanted) for wanted in asked.tuned} == {12}
    assert sorted(again.tuned["selection"]) == ["all", "none", *["tuned"] * 4]
    means = {name: pick(again.tuned, selection=name)["values"].iloc[0].mean() for name in ("none", "all")}
    lines = paying(again, results).set_index("arm")
    for arm in ("circuit", "near_zero"):
        mine = again.tuned[again.tuned["circuit"].str.startswith(f"d00-{arm}-d0")].set_index("direction")["values"]
        kept, without = (
            (mine[way].mean() - means["none"]) / (means["all"] - means["none"]) for way in ("keep", "knock_out")
        )
        assert lines.loc[arm, "kept"] == pytest.approx(kept)
        assert lines.loc[arm, "needed"] == pytest.approx(1 - without)
    told = stability_cells(again).set_index("scores")
    assert told.loc["theta1 again on another machine, against the first", "pairs"] == 1


def test_circuits_that_ties_by_index_filled_are_no_proof_of_stability(monkeypatch):
    """Their heads are the model's first, whatever the scores say: the top tenth decides, which scores alone choose."""
    found = Faithfulness.read(DEMO)
    alike = [ByRows(8, 6, [Overlap(1.0, 0.5, 0.5)], []), ByRows(48, 48, [Overlap(1.0, 0.9, 0.9)], [])]
    monkeypatch.setattr(stability, "by_rows", lambda _: alike)
    assert settled_text(found).startswith("From 6 rows on, circuits share")
    by_index = replace(found, maps=[replace(m, ties="index") for m in found.maps])
    told = settled_text(by_index)
    assert told.startswith("Ties by index filled")
    assert "From 48 rows on, the top tenths by score share" in told
    monkeypatch.setattr(stability, "by_rows", lambda _: alike[:1])
    assert "There is no number of rows" in settled_text(by_index)


def test_numbers_of_rows_that_a_weak_start_cuts_to_one_stand_apart():
    """Two numbers that were asked for, and as many rows in both; what is scored on the very same rows counts once."""
    found = Faithfulness.read(DEMO)
    first = next(iter(found.maps_of(found.main).values()))
    scores = np.arange(first.logits.size, dtype=float).reshape(first.logits.shape)

    def scored(asked: int, ids: str, seed: int, logits: np.ndarray) -> Relevance:
        return replace(
            first, logits=logits, about=first.about | {"score_rows": asked, "score_row_ids": [*ids], "seed": seed}
        )

    maps = [scored(8, "abc", 31, scores), scored(16, "abd", 31, -scores), scored(48, "abcdef", 31, scores)]
    maps += [scored(8, "abc", 777, scores), scored(16, "abc", 777, scores), scored(48, "abc", 777, scores)]
    weak = replace(found, maps=maps)
    assert [(one.asked, one.scored, len(one.to_most), len(one.between)) for one in by_rows(weak)] == [
        (8, 3, 1, 1),
        (16, 3, 1, 0),
        (48, 6, 0, 0),
    ]
    cells = stability_cells(weak).set_index("scores")["rank correlation"]
    assert cells["3 rows (8 asked), against the most"] == "1.000"
    assert cells["3 rows (16 asked), against the most"] == "-1.000"
    figure = stability_figure(weak)
    drawn = figure.axes[2].collections[0].get_offsets().tolist()
    assert drawn == [[3, 1], [3, -1]]
    plt.close(figure)


def test_a_start_of_other_settings_is_no_other_machine(config, found):
    known = read_rows(config.folder / "05_faithfulness.sets.csv", SET_COLUMNS)
    asked = Asked(Workbench(config), 31)
    mine = list(plan(config, 31, 32))
    foreign = [row | {"theta1": "0123"} for row in known]
    assert not asked.is_another_theta1(known, mine)
    assert asked.is_another_theta1(foreign, mine)
    assert not asked.is_another_theta1([row | {"set": f"{row['set']}-of-50-rows"} for row in foreign], mine)


def test_curves_of_two_starts_are_not_averaged(config, found, tmp_path):
    shutil.copytree(config.folder, tmp_path / "demo")
    path = tmp_path / "demo" / "05_faithfulness.sets.csv"
    known = read_rows(path, SET_COLUMNS)
    foreign = [row | {"set": f"{row['set']}-x", "theta1": "0123", "margin": "0"} for row in known[:5]]
    append_rows(path, foreign, SET_COLUMNS)
    assert set(Faithfulness.read(tmp_path / "demo").sets["theta1"]) == set(found.sets["theta1"])


def test_sets_come_from_their_scores(config, found):
    relevance = next(m for m in found.maps if m.about["scorer"] == "cdt" and len(m.columns) == 32)
    heads = heads_of_set(HeadSet("d00", 31, "circuit", "keep", 3, "cdt"), relevance, 0.02)
    assert heads == [head for part in circuit(relevance, 2, 0.02) for head in part]
    top = heads_of_set(HeadSet("d00", 31, "top", "keep", 3, "cdt"), relevance, 0.02)
    assert top[0] == heads[0]
    random = heads_of_set(HeadSet("d00", 31, "random:top", "keep", 3, "cdt", 1), relevance, 0.02)
    assert sorted(head.layer for head in random) == sorted(head.layer for head in top)


def test_a_random_set_is_beaten_by_its_own_seed(found):
    top = pick(found.sets, language="d00", scorer="cdt", selection="top", direction="keep", size=3)
    random = pick(found.sets, language="d00", scorer="cdt", selection="random:top", size=3, direction="keep")
    own = top["values"].iloc[0].mean()
    assert beaten(top, random) == (sum(values.mean() < own for values in random["values"]), 3)
    assert beaten(top.assign(seed=1), random) == (0, 0)
    failed = random.assign(values=[None, *random["values"].iloc[1:]])
    assert beaten(top, failed)[1] == 2


def test_what_is_left_without_a_circuit_has_controls(config, found):
    """Random sets like it, and near-zero and bottom ones of its size: all are asked both ways."""
    for selection, direction in product(("random:circuit", "random:top"), ("keep", "knock_out")):
        asked = pick(found.sets, selection=selection, direction=direction)
        assert sorted(zip(asked["size"], asked["draw"], strict=True)) == [(3, 0), (3, 1), (3, 2)]
    for selection, direction in product(("near_zero", "bottom"), ("keep", "knock_out")):
        assert {1, 2, 3} <= set(pick(found.sets, selection=selection, direction=direction)["size"])

    table = chance_cells(found).set_index("heads")
    out = pick(found.sets, selection="random:circuit", direction="knock_out")
    without = pick(found.sets, selection="circuit", direction="knock_out", size=3)["values"].iloc[0].mean()
    left = sum(values.mean() > without for values in out["values"])
    assert table.loc["circuit, 3", "random beaten, knocked out"] == f"{left}/3"
    assert table.loc["circuit, 3", "random, knocked out"] == interval(faithfulness_of(found, out))
    assert table.loc["circuit, 1", "random, knocked out"] == "–"
    assert table.loc["circuit, 1", "near_zero"] != "–"
    kept = found.sets[(found.sets["direction"] == "keep") | found.sets["selection"].isin(["circuit", "top"])]
    before = replace(found, sets=kept)
    assert not [name for name in chance_cells(before) if name.endswith(", knocked out")]


def test_committed_sets_keep_their_keys():
    """What was asked before the controls were knocked out is in the plan of today, and is not asked again."""
    rows = read_rows(DEMO / "05_faithfulness.sets.csv", SET_COLUMNS)
    known = {row["set"] for row in rows if not row["circuit"]}
    [weights] = {row["model_hash"] for row in rows}
    config = replace(PRESETS["demo"], dtype="float32")
    planned = [one for seed in config.seeds for one in plan(config, seed, 32)]
    keys = {one.key(config, weights): one for one in planned}
    assert known <= keys.keys()
    assert len(keys) == len(planned)
    new = [one for key, one in keys.items() if key not in known]
    assert {(one.selection, one.direction) for one in new if one.selection.startswith("random")} <= {
        ("random:circuit", "knock_out"),
        ("random:top", "knock_out"),
    }


def test_a_scorer_that_fails_is_told_and_the_others_go_on(config, monkeypatch, tmp_path):
    from ctsft.discovery import scorers

    def diverges(problem, relevance, targets):
        raise CellFailed("the score to the logits is not finite from layer 2 on. Try another.")

    monkeypatch.setitem(scorers.SCORERS, "magnitude", diverges)
    short = replace(config, output=tmp_path, sizes=(0.5,), matched_sizes=(0.5,), random_draws=1, targets=("d30",))
    assert run_faithfulness(short, lambda folder: "") == 0
    found = Faithfulness.read(short.folder)
    assert pick(found.sets, scorer="magnitude")["error"].str.contains("not finite from layer 2").all()
    assert area(found, "magnitude") is None
    assert area(found, "cdt") is not None
    assert "not finite from layer 2 on" in faithfulness(short.folder)


def test_sets_that_memory_lacked_for_are_asked_again(config, monkeypatch, tmp_path, capsys):
    from ctsft.study import faithfulness as module

    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    short = replace(
        config, output=tmp_path, sizes=(0.5,), matched_sizes=(), scorers=("cdt",), targets=("d30",), row_counts=(),
        checkpoints=(), other_sources=(), known=(),
    )  # fmt: skip
    honest = module.heads_at_mean
    monkeypatch.setattr(module, "heads_at_mean", no_memory)
    assert run_faithfulness(short, lambda folder: "") == 1
    assert "out of memory (CUDA out of memory" in capsys.readouterr().err
    path = short.folder / f"{short.experiment}{SETS}"
    assert not read_rows(path, SET_COLUMNS)
    monkeypatch.setattr(module, "heads_at_mean", honest)
    assert run_faithfulness(short, lambda folder: "") == 0
    assert len(read_rows(path, SET_COLUMNS)) == len(list(plan(short, short.seeds[0], 32)))


def test_a_score_that_fails_on_a_known_circuit_is_told_and_the_others_are_kept(monkeypatch, tmp_path, capsys):
    from ctsft.study import known as module

    def score(known, scorer, seed):
        if scorer == "magnitude":
            raise CellFailed("not finite.")
        return score_known(known, scorer, seed)

    monkeypatch.setattr(module, "score_known", score)
    path = tmp_path / "known.csv"
    assert module.run_known(path, ["planted"], ["magnitude", "cdt_linear"], [31]) == 1
    assert [row["scorer"] for row in read_rows(path, KNOWN_COLUMNS)] == ["cdt_linear"]
    assert "failed: magnitude on planted, seed 31: not finite." in capsys.readouterr().err


def test_a_seed_that_fails_is_told_and_the_others_go_on(config, monkeypatch, tmp_path, capsys):
    from ctsft.study import faithfulness as module

    def ask_all(bench, seed, mine, known, bar):
        if seed == config.seeds[0]:
            raise CellFailed("theta1 diverged.")
        asked.append((seed, len(mine)))

    asked = []
    monkeypatch.setattr(module, "_ask_all", ask_all)
    two = replace(config, output=tmp_path, seeds=(config.seeds[0], 777), checkpoints=(), other_sources=(), known=())
    assert run_faithfulness(two, lambda folder: "the table") == 1
    said = capsys.readouterr()
    assert asked == [(777, len(list(plan(two, 777, 32))))]
    assert f"failed: seed {config.seeds[0]}: theta1 diverged." in said.err
    assert "the table" in said.out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scorers": ("cdt_linear",)}, "must be one of --scorers"),
        ({"sizes": (0.5, 1.0)}, "between 0 and 1"),
        ({"shares": (0.04,)}, "at 2% of the heads a depth"),
        ({"seeds": (31, 40)}, "31 and 40 would share random sets.*20. apart"),
        ({"scorers": ("cdt", "cdt+loud")}, "'loud' is no option"),
        ({"row_counts": (2, 48)}, "--row-counts has 2; demo needs 3"),
        ({"known": ("plantd",)}, "'plantd'.*planted, induction, ioi"),
        ({"scorers": ("cdt", "ablation+raw")}, "not of ablation"),
    ],
)
def test_wrong_settings_are_refused(change, said):
    with pytest.raises(UserError, match=said):
        replace(PRESETS["demo"], **change)


@pytest.mark.parametrize("script", ["05_faithfulness", "07_cost_and_energy", "08_self_training"])
@pytest.mark.parametrize("flag", ["--shard 1/2", "--probes demo/d10", "--by-epoch"])
def test_what_is_no_grid_refuses_the_flags_of_cells(script, flag, capsys):
    presets = runpy.run_path(str(ROOT / "experiments" / f"{script}.py"))["PRESETS"]
    with pytest.raises(SystemExit):
        parse(presets, "", flag.split())
    assert flag.split()[0] in capsys.readouterr().err


@pytest.mark.parametrize("script", ["05_faithfulness", "07_cost_and_energy", "08_self_training"])
def test_the_help_promises_of_a_dry_run_what_it_prints(script, capsys):
    presets = runpy.run_path(str(ROOT / "experiments" / f"{script}.py"))["PRESETS"]
    with pytest.raises(SystemExit):
        parse(presets, "", ["--help"])
    help_text = capsys.readouterr().out
    assert "how many are left" in " ".join(help_text.replace("│", " ").split())
    assert "estimate" not in help_text


# ---- the committed rows ------------------------------------------------------------------------------------------


def test_tuned_circuits_are_compared_on_the_same_ground():
    found, results = Faithfulness.read(DEMO), Results.read(DEMO)
    lines = paying(found, results)
    assert set(lines["seed"]) == {31, 777}
    one = lines.iloc[0]
    content = [json.loads(path.read_text()) for path in (DEMO / "circuits").glob("*.json")]
    assert any(c["seed"] == one["seed"] and len(c["heads"]) == one["heads"] and c["arm"] == one["arm"] for c in content)
    assert lines["settings"].nunique() == 1
    assert lines["target accuracy"].notna().all()
    assert lines.groupby("theta1")["target accuracy"].mean().abs().max() < 1e-12


def test_a_seed_with_fewer_tuned_circuits_takes_nothing_from_paying(tmp_path):
    """Tuned on another number of rows, its one circuit would leave all others without common ground."""
    folder = Path(shutil.copytree(DEMO, tmp_path / "demo"))
    found, results = Faithfulness.read(folder), Results.read(folder)
    name = found.tuned.loc[found.tuned["selection"] == "tuned", "circuit"].iloc[0]
    about = json.loads((folder / "circuits" / f"{name}.json").read_text())
    about.pop("sha256", None)
    write_sealed(folder / "circuits" / "further.json", about | {"seed": 2025})
    ends = found.sets[found.sets["selection"].isin(["none", "all"])]
    tuned = [found.tuned[found.tuned["circuit"] == name].assign(circuit="further"), ends]
    sets = pd.concat([found.tuned, *(lines.assign(seed=2025, theta1="other") for lines in tuned)])
    rows = results.rows[results.rows["seed"] == about["seed"]]
    rows = rows.assign(seed=2025, theta1="other", n_target=7, cell="x" + rows["cell"])
    more = replace(results, rows=pd.concat([results.rows, rows], ignore_index=True))
    known = paying(found, results)
    assert len(known)
    assert paying(replace(found, tuned=sets), more).equals(known)


def test_what_the_start_could_do_by_itself_does_not_matter_to_paying():
    """Tuned circuits are compared where the zero-shot rows of their start are elsewhere, or are of another start."""
    found, results = Faithfulness.read(DEMO), Results.read(DEMO)
    bare = results.only(results.rows["arm"] != "zero_shot")
    assert paying(found, bare).equals(paying(found, results))
    assert "target accuracy –" not in paying_text(found, bare)


def test_the_committed_sets_are_whole():
    rows = read_rows(DEMO / "05_faithfulness.sets.csv", SET_COLUMNS)
    assert len({row["set"] for row in rows}) == len(rows)
    assert {row["seed"] for row in rows} == {"31", "777"}


def test_what_script_05_prints_where_every_seed_failed(tmp_path):
    assert faithfulness(tmp_path) == ""
