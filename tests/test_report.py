"""From rows to tables, claims, figures and the page: statistics against known answers, gaps, and honest verdicts."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import there
from scipy import stats
from sklearn.metrics import f1_score

from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError
from ctsft.heads import Head
from ctsft.report import claims, documents, limits, verdicts
from ctsft.report.__main__ import figures_of, tables_of
from ctsft.report.__main__ import main as report_main
from ctsft.report.baseline_claims import ASKED, by_arms
from ctsft.report.by_rate import edges, kept_text, over_all, rate_cells, rate_points
from ctsft.report.choosing import add_ct_sft, at_one_rate, at_validated_rate, by_usual_circuits, extra_rates
from ctsft.report.claims_page import about_folder
from ctsft.report.compare import SOURCE, paired, pooled
from ctsft.report.fair import at_common_rates
from ctsft.report.faithfulness import Faithfulness
from ctsft.report.figures.by_rate import by_rate_figure
from ctsft.report.figures.forgetting import bottom_is_near_zero, plane_figure
from ctsft.report.figures.style import arm_label
from ctsft.report.figures.tradeoff import spread
from ctsft.report.figures.transfer import by_rows_figure
from ctsft.report.forgetting import forgetting_tables, related_cells
from ctsft.report.judging import BY_INDEX, MARGIN, Judgement, by_interval
from ctsft.report.otherwise import judge_otherwise
from ctsft.report.pairs import pair_cells, pair_tables
from ctsft.report.paper import BEST, beside, matching, paper_tables, published, said_once
from ctsft.report.printed import COLUMN, beside_the_paper, transfer
from ctsft.report.render import Table, change, rate_text
from ctsft.report.rows import Results
from ctsft.report.select import ENTAILMENT, pick
from ctsft.report.sentences import TO_A_USER, TO_THE_AUTHORS
from ctsft.report.showing import folders
from ctsft.report.summary import HEADINGS, report_page
from ctsft.report.tradeoff import by_the_papers_rule, difficulty, tradeoff_cells
from ctsft.report.transfer import about, transfer_cells, transfer_table
from ctsft.report.verdicts import ALL_CLAIMS, judge_all
from ctsft.stats import (
    Difference,
    Interval,
    combined,
    holm,
    macro_f1_difference,
    macro_f1_interval,
    mean_draws,
    mean_interval,
    mean_over,
    paired_difference,
    permutation_p,
    ratio_interval,
    share_interval,
    spearman,
)
from ctsft.study.record import append_rows
from ctsft.tasks.registry import get_task

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "results" / "demo"


@pytest.fixture(scope="module")
def demo() -> Results:
    return Results.read(DEMO)


@pytest.fixture(scope="module")
def sentiment(demo) -> Results:
    """The demo's rows of script 01's task."""
    return demo.of("01_nusax_transfer")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the committed demo rows, to be spoilt."""
    return Path(shutil.copytree(DEMO, tmp_path / "demo", ignore=shutil.ignore_patterns("cache")))


def rewrite(path: Path, change) -> None:
    """Pass every row of a CSV through `change`, which may return None to drop it; its checksums no longer hold."""
    path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        names, rows = reader.fieldnames, [row for row in map(change, reader) if row is not None]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# ---- statistics --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "of", "low", "high"), [(10, 10, 0.722, 1.0), (0, 10, 0.0, 0.278), (15, 20, 0.531, 0.888)]
)
def test_wilsons_interval_against_worked_examples(right, of, low, high):
    found = share_interval(np.arange(of) < right)
    assert found == pytest.approx((right / of, low, high), abs=5e-4)


def test_holm_against_a_worked_example():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_interval_of_one_seed_is_the_binomials():
    values = np.zeros((1, 400))
    values[0, :240] = 1
    value, low, high = mean_interval(values)
    assert value == 0.6
    expected = 1.96 * (0.6 * 0.4 / 400) ** 0.5
    assert (value - low, high - value) == pytest.approx((expected, expected), abs=0.006)
    assert mean_interval(values) == (value, low, high)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        _, low, high = mean_interval((generator.random((1, 400)) < 0.6).astype(float))
        inside += low <= 0.6 <= high
    assert 0.90 < inside / 300 < 0.99


def test_seeds_that_disagree_widen_the_interval():
    same = np.tile(np.arange(400) < 240, (4, 1)).astype(float)
    apart = np.stack([np.arange(400) < size for size in (200, 220, 260, 280)]).astype(float)
    assert same.mean() == apart.mean()
    narrow, wide = mean_interval(same), mean_interval(apart)
    assert wide.high - wide.low > 1.2 * (narrow.high - narrow.low)


def test_an_interval_for_other_languages_covers_their_mean():
    """Differences [seeds, rows] of ten languages, whose true means spread by .03 about .02."""
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        means = generator.normal(0.02, 0.03, 10)
        _, low, high = mean_over([mean + generator.normal(0, 0.4, (2, 400)) for mean in means])
        inside += low <= 0.02 <= high
    assert 0.90 < inside / 200 < 0.995
    # Languages that do not differ add next to nothing.
    same = [generator.normal(0, 0.4, (2, 400))] * 10
    alike, alone = mean_over(same), mean_interval(same[0])
    assert (alike.low, alike.high) == pytest.approx((alone.low, alone.high), abs=1e-6)


@pytest.mark.parametrize("rows", [1, 20, 400])
def test_rows_that_all_agree_leave_room_for_those_that_are_not_there(rows):
    """The exact (Clopper-Pearson) bound for none of so many."""
    bound = stats.beta.ppf(0.975, 1, rows)
    assert mean_interval(np.zeros((2, rows))) == pytest.approx((0, -bound, bound), abs=1e-8)
    assert mean_interval(np.ones((3, rows))) == pytest.approx((1, 1 - bound, 1), abs=1e-8)


@pytest.mark.parametrize("means", [(0.4, 0.6), (0.4, 0.45, 0.55, 0.7)])
def test_draws_of_seeds_vary_as_much_as_their_mean(means):
    """Drawn with replacement alone they would vary too little: by half of the variance with two seeds."""
    values = np.tile(np.array(means)[:, None], (1, 50))
    assert mean_draws(values).std() == pytest.approx(np.std(means, ddof=1) / len(means) ** 0.5, rel=0.05)
    assert mean_draws(values).mean() == pytest.approx(np.mean(means), abs=0.01)


@pytest.mark.parametrize("noise", [-1e-12, 0.0, 1e-12])
def test_the_last_bits_choose_neither_a_digit_nor_a_sign(noise):
    """They differ by processor, and committed tables are compared with those that another machine draws."""
    assert change(combined(lambda mean: noise * mean, np.ones((2, 5)))) == "+0.000 [+0.00, +0.00]"
    assert change(combined(lambda mean: (0.125 + noise) * mean, np.ones((2, 5)))) == "+0.125 [+0.12, +0.12]"


def test_macro_f1_of_two_arms_is_paired_and_averaged_over_settings():
    rng = np.random.default_rng(2)
    gold = rng.integers(0, 3, 80)
    noisy = [np.where(rng.random((2, 80)) < share, gold, 0) for share in (0.9, 0.6, 0.8, 0.8)]
    pairs = [(noisy[0], noisy[1]), (noisy[2], noisy[3])]
    found = macro_f1_difference(pairs, [gold, gold])
    each = [np.mean([f1_score(gold, a, average="macro") for a in arm]) for arm in noisy]
    assert found.value == pytest.approx((each[0] - each[1] + each[2] - each[3]) / 2)
    assert found.low < found.value < found.high
    assert macro_f1_difference([(noisy[0], noisy[0])], [gold]) == (0, 0, 0)


def test_macro_f1_is_sklearns():
    generator = np.random.default_rng(1)
    gold, answers = generator.integers(0, 3, 200), generator.integers(0, 3, (2, 200))
    value, low, high = macro_f1_interval(answers, gold)
    assert value == pytest.approx(np.mean([f1_score(gold, a, average="macro") for a in answers]))
    assert low < value < high


def test_seeds_that_disagree_widen_macro_f1s_interval():
    gold = np.arange(300) % 3
    alike = np.tile(np.where(np.arange(300) % 2, gold, 0), (2, 1))
    apart = np.stack([gold, np.zeros(300, dtype=int)])
    spans = [found.high - found.low for found in (macro_f1_interval(answers, gold) for answers in (alike, apart))]
    assert spans[1] > 3 * spans[0]


def test_the_permutation_is_exact_on_few_rows():
    """Eight rows that all favour one arm: two of the 2^8 swaps are as extreme."""
    difference = paired_difference(np.ones((1, 8)), np.zeros((1, 8)))
    assert difference.value == 1
    assert difference.p == pytest.approx(2 / 2**8)
    for parts in (2, 3):  # means over as many seeds
        apart = np.random.default_rng(3).integers(-parts, parts + 1, 12) / parts
        exact = stats.permutation_test(
            (apart, np.zeros(12)), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=2**12
        )
        assert permutation_p(apart) == pytest.approx(exact.pvalue)
    opposed = np.stack([np.ones(8), np.zeros(8)]), np.stack([np.zeros(8), np.ones(8)])
    assert paired_difference(*opposed).p == 1  # both seeds count
    none = paired_difference(np.ones((2, 8)), np.ones((2, 8)))
    assert (none.value, none.p) == (0, 1)


def test_pairing_finds_what_two_separate_intervals_cannot():
    generator = np.random.default_rng(2)
    base = (generator.random((1, 400)) < 0.6).astype(float)
    better = base.copy()
    better[0, np.flatnonzero(base[0] == 0)[:12]] = 1
    assert mean_interval(base).high > mean_interval(better).low
    assert paired_difference(better, base).low > 0
    assert paired_difference(better, base).p < 0.01


def test_retention_is_a_ratio_with_an_interval():
    before, after = np.tile(np.arange(400) < 300, (2, 1)), np.tile(np.arange(400) < 270, (2, 1))
    value, low, high = ratio_interval(after.astype(float), before.astype(float))
    assert value == pytest.approx(0.9)
    assert low < 0.9 < high < 1
    assert ratio_interval(after.astype(float), after.astype(float)) == (1, 1, 1)  # the same rows are drawn
    uneven = np.array([[1.0, 1.0], [0.25, 0.25]])
    assert ratio_interval(np.array([[0.5, 0.5], [0.25, 0.25]]), uneven).value == pytest.approx(0.375 / 0.625)


def test_spearman_wants_three_targets_and_variation():
    x = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]])
    assert spearman(x, x).value == pytest.approx(1)
    assert spearman(x, -x).value == pytest.approx(-1)
    assert spearman(x[:2], x[:2]) is None
    assert spearman(x, np.zeros_like(x)) is None


# ---- reading -----------------------------------------------------------------------------------------------------


def test_every_accuracy_is_counted_from_the_predictions(folder):
    """What the accuracy columns say plays no part; one digit of one prediction does."""
    path = folder / "01_nusax_transfer.csv"
    before = transfer(Results.read(folder).of("01_nusax_transfer"))
    rewrite(path, lambda row: row | {"accuracy": "0.123", "macro_f1": "0.5", "source_accuracy": "0.9"})
    assert transfer(Results.read(folder).of("01_nusax_transfer")) == before
    first = True

    def flip(row):
        nonlocal first
        if first and row["arm"] == "full":
            first = False
            digit = str((int(row["predictions"][-1]) + 1) % 3)
            return row | {"predictions": row["predictions"][:-1] + digit}
        return row

    rewrite(path, flip)
    assert transfer(Results.read(folder).of("01_nusax_transfer")) != before


def test_missing_rows_are_gaps_and_never_a_silent_average(folder):
    path = folder / "01_nusax_transfer.csv"
    others = list(folder.glob("0[346]*.csv"))
    for other in others:
        other.unlink()

    def table():
        return transfer_cells(Results.read(folder).of("01_nusax_transfer"))

    lines = len(table())
    rewrite(path, lambda row: None if (row["target"], row["seed"], row["arm"]) == ("d70", "777", "full") else row)
    cells = table().set_index(["target", "arm"])
    assert cells.loc[("d70", "full"), "seeds"] == "1/2"
    rewrite(path, lambda row: None if (row["target"], row["arm"]) == ("d70", "full") else row)
    cells = table()
    assert len(cells) == lines
    gap = cells[(cells["target"] == "d70") & (cells["arm"] == "full")].iloc[0]
    assert (gap["accuracy"], gap["seeds"]) == ("–", "0/2")


def test_a_file_cut_short_is_named(folder):
    path = folder / "01_nusax_transfer.csv"
    path.write_text(path.read_text()[:-60])
    with pytest.raises(UserError, match=r"line \d+: the row is not whole"):
        Results.read(folder)


def test_spoilt_predictions_and_missing_labels_are_named(folder):
    path = folder / "01_nusax_transfer.csv"
    text = path.read_text()
    rewrite(path, lambda row: row | {"predictions": row["predictions"][:-1]})
    with pytest.raises(UserError, match="p and 400 digits"):
        Results.read(folder)
    path.write_text(text)
    gold = json.loads((folder / "gold.json").read_text())
    del gold["demo/d70"]
    (folder / "gold.json").write_text(json.dumps(gold))
    with pytest.raises(UserError, match="lacks the labels of demo/d70"):
        Results.read(folder)
    (folder / "gold.json").unlink()
    with pytest.raises(UserError, match=r"gold\.json"):
        Results.read(folder)
    with pytest.raises(UserError, match="no result rows"):
        Results.read(folder / "nothing")


@pytest.mark.parametrize("task", ["demo", "demo_entailment", "nusax", "smsa", "xnli"])
def test_the_labels_beside_the_rows_are_the_tasks(task, request):
    folder = None
    if not task.startswith("demo"):
        folder = there(request.getfixturevalue("real_data"), {"nusax": "nusax_senti"}.get(task, task))
    found = [json.loads(path.read_text()).items() for path in sorted((ROOT / "results").glob("*/gold.json"))]
    labels = [(test, entry) for entries in found for test, entry in entries if test.split("/")[0] == task]
    assert labels
    for test, entry in labels:
        language, _, split = test.partition("/")[2].partition(":")
        rows = get_task(task).load(language, split or "test", folder)
        assert entry["labels"] == "p" + "".join(str(example.label) for example in rows.examples)
        assert entry["sha256"] == rows.sha256


# ---- choices -----------------------------------------------------------------------------------------------------


def test_rows_of_another_precision_or_scorer_are_set_aside_and_told(demo):
    rows = demo.rows.copy()
    own = rows["experiment"] == "01_nusax_transfer"
    rows.loc[rows.index[own & (rows["arm"] == "full")][:3], "dtype"] = "bfloat16"
    rows.loc[rows.index[own & (rows["arm"] == "circuit")][:2], "scorer"] = "ablation"
    found = replace(demo, rows=rows).of("01_nusax_transfer")
    assert found.set_aside == (("in bfloat16", 3), ("by ablation", 2))
    assert set(found.rows["dtype"]) == {"float32"}
    assert set(found.rows["scorer"].dropna()) == {"cdt"}
    assert "3 rows in bfloat16 are not shown; 2 rows by ablation are not shown" in transfer_table(found).caption


def test_circuits_filled_by_index_are_never_shown_beside_others(demo):
    rows = demo.rows.assign(ties=demo.rows["ties"].where(demo.rows["ties"].isna(), "logits"))
    own = rows.index[(rows["experiment"] == "01_nusax_transfer") & (rows["arm"] == "circuit")]
    rows.loc[own[:2], "ties"] = "index"
    found = replace(demo, rows=rows).of("01_nusax_transfer")
    assert found.set_aside == (("by cdt (ties by index)", 2),)
    assert set(found.rows["ties"].dropna()) == {"logits"}
    assert "ties by index" not in claims.target_accuracy(found).data
    rows["ties"] = rows["ties"].where(rows["ties"].isna(), "index")
    older = replace(demo, rows=rows).of("01_nusax_transfer")
    assert claims.target_accuracy(older).data.endswith("heads by cdt (ties by index)")
    assert "heads by cdt (ties by index)" in transfer_table(older).caption


def test_circuits_filled_by_index_decide_no_claim(demo):
    """Its number stays, with what it rests on beside it."""
    by_index = demo.rows["ties"].mask(demo.rows["ties"].notna(), "index")
    older = replace(demo, rows=demo.rows.assign(ties=by_index))
    first = [claims.at_shared_rates(results.of("01_nusax_transfer")) for results in (demo, older)]
    second = [results.of(ENTAILMENT) for results in (demo, older)]
    travelled = [results.of("06_adaptation_odyssey").rows for results in (demo, older)]
    found = Faithfulness.read(demo.folder)
    rules = [
        (claims.hard_transfers, *first),
        (claims.source_kept, *first),
        (claims.competent_start, *second),
        (claims.second_task, *second),
        (claims.faithful, found, replace(found, maps=[replace(m, ties="index") for m in found.maps])),
        (partial(by_arms, "B11", ASKED["B11"]), *travelled),
    ]
    for rule, sound, filled in rules:
        known, told = rule(sound), rule(filled)
        assert BY_INDEX not in known.number
        assert told.verdict == "undecided"
        assert told.deciding == known.deciding + BY_INDEX
        assert told.number.replace(BY_INDEX, "") == known.number
    assert claims.competent_start(second[0]).verdict == "contradicted"  # so the rule has changed something
    dapt = [by_arms("B2", ASKED["B2"], rows) for rows in travelled]  # no heads
    assert dapt[0] == dapt[1]


def test_a_second_start_has_lines_for_the_targets_that_were_tuned_from_it(sentiment):
    weak = pick(sentiment.rows, target="d30", arm="circuit")
    weak = weak.assign(n_source=50, theta1="weak", cell=weak["cell"] + "-weak")
    both = replace(sentiment, rows=pd.concat([sentiment.rows, weak], ignore_index=True))
    cells = transfer_cells(both)
    assert set(cells.loc[cells["source rows"] == 50, "target"]) == {"d30"}
    assert cells[cells["source rows"] != 50].reset_index(drop=True).equals(transfer_cells(sentiment))
    assert set(cells.loc[cells["arm"] == "ct_sft", "rates"]) == {"2 × 3", "–"}


def test_a_weak_start_of_either_script_decides_c4(demo):
    """Script 02's where it has one, else script 01's."""
    rows = demo.rows[demo.rows["task"] == "demo"]
    weak = rows[rows["arm"].isin(["circuit", "near_zero"])]
    weak = weak.assign(n_source=50, theta1="weak", cell=[f"{cell}-weak" for cell in weak["cell"]])
    hardly = replace(demo, rows=pd.concat([rows, weak], ignore_index=True))
    assert claims.competent_start(hardly.of("01_nusax_transfer")).data.endswith("0.1 below that from 400")
    weak = weak.assign(source_accuracy_before=weak["source_accuracy_before"] - 0.3)
    both = replace(demo, rows=pd.concat([rows, weak], ignore_index=True))
    assert next(j for j in claims.judge(hardly) if j.claim == "C4").data.endswith("0.1 below that from 400")
    found = {judged.claim: judged for judged in claims.judge(both)}
    assert found["C4"].verdict == "contradicted"
    assert found["C4"].number == "ct_sft from 50 rows of d00 − from 400: +0.000 [−0.01, +0.01]"
    alone = {judged.claim: judged for judged in claims.judge(replace(demo, rows=rows))}
    assert alone["C4"].verdict == "not run"
    assert [found[claim] for claim in ("C1", "C2", "C3a", "C3b")] == [
        alone[claim] for claim in ("C1", "C2", "C3a", "C3b")
    ]


def test_circuits_that_are_the_models_first_heads_are_counted_and_told(demo):
    main = demo.of("01_nusax_transfer")
    columns = {Head(0, i): np.zeros((4, 8)) for i in range(8)}
    best = np.zeros((4, 8))
    best[0, 0], best[3, 7] = 2, 1  # the best is the first head, the second best is not the second
    maps = [Relevance(best, columns, ties=ties) for ties in ("index", "logits")]
    assert list(limits.by_index(replace(main, maps=maps))) == []  # no row's heads were chosen so
    with_heads = main.rows["ties"].notna() & (main.rows["n_target"] == 100)
    older = replace(main, rows=main.rows.assign(ties=main.rows["ties"].mask(with_heads, "index")))
    assert list(limits.by_index(replace(older, maps=maps[1:]))) == []
    [told] = limits.by_index(replace(older, maps=maps))
    assert "the rows of n = 100 took" in told
    assert "1 of 1 circuits of depth 2 are the model's first heads" in told


def test_rows_in_two_precisions_are_two_studies(demo):
    rows = demo.rows.copy()
    slow = (rows["task"] == "demo") & (rows["target"] == "d30")
    rows.loc[slow, "dtype"] = "bfloat16"
    both = replace(demo, rows=rows)
    first, second = both.studies("01_nusax_transfer")
    assert "d30" not in set(first.rows["target"])
    assert set(second.rows["target"]) == {"d30"}
    assert set(transfer_cells(second.on_the_grid_of("01_nusax_transfer"))["target"]) == {"d30"}
    table = transfer_table(second).suffixed("bfloat16")
    assert table.name == "demo_01_nusax_transfer_bfloat16"
    judged = {j.claim: j for which, j in judge_otherwise(both) if which == "in bfloat16"}
    assert list(judged) == ["C1", "C2", "C3a", "C3b"]
    assert judged["C1"].data.startswith("d30 n = ")
    assert "d30" not in claims.target_accuracy(first).data
    alone = claims.target_accuracy(demo.only(~slow & (rows["task"] == "demo")).of("01_nusax_transfer"))
    assert claims.target_accuracy(first).number == alone.number


SETTING_BUT_TARGET = ["n_source", "n_target", "arm", "depth", "share", "scorer", "ties", "kv_policy"]


def test_the_papers_one_rate_is_judged_beside_the_validated_ones(demo):
    told = [which for which, _ in judge_otherwise(demo)]
    sizes = {"with 25 target rows", "with 100 target rows"}
    assert set(told) - sizes == {"at one rate for all targets and seeds"}  # the demo has not the paper's
    one = at_one_rate(demo.of("01_nusax_transfer").rows)
    tuned = one[one["lr"].notna()]
    assert (tuned.groupby(SETTING_BUT_TARGET, dropna=False)["lr"].nunique() == 1).all()
    slow = demo.rows["lr"] == 1e-3
    paper = replace(demo, rows=demo.rows.assign(lr=demo.rows["lr"].where(~slow, 5e-5)))
    judged = {j.claim: j for which, j in judge_otherwise(paper) if which == "at 5e-5 alone"}
    assert list(judged) == ["C1", "C2", "C3a", "C3b", "C5"]
    assert "learning rate 5e-5;" in judged["C5"].data
    assert "learning rate 5e-5;" in judged["C1"].data
    alone = paper.only(paper.rows["lr"].isna() | (paper.rows["lr"] == 5e-5)).of("01_nusax_transfer")
    assert judged["C3b"].number == claims.source_kept_better(alone).number


def test_rates_that_only_script_06_tried_are_further_ones():
    """`direct` starts from no source rows, but is asked on the same target rows; n-grams have no rate at all."""
    one = dict(task="t", source="s", target="a", n_target=100, dtype="float32", n_source=400)
    own, other = (one | {"experiment": name} for name in ("06_adaptation_odyssey", "01_nusax_transfer"))
    rows = [other | dict(arm="full", lr=rate) for rate in (1e-3, 1e-2)]
    rows += [own | dict(arm="direct", n_source=0, lr=rate) for rate in (1e-3, 1e-2, 1e-1)]
    rows += [own | dict(arm="ngrams", lr=None), other | dict(target="b", arm="ngrams", lr=None)]
    rows += [own | dict(target="b", arm="full", lr=1e-1)]  # nothing else was tuned there
    table = pd.DataFrame(rows)
    assert list(table.index[extra_rates(table)]) == [4]


def test_one_rate_must_have_been_tried_everywhere(demo):
    """The best rate of an arm does not count where one of its targets lacks it on one seed."""
    rows = demo.of("01_nusax_transfer").rows
    full = (rows["arm"] == "full") & (rows["n_target"] == 100)
    best = at_one_rate(rows[full])["lr"].unique().item()
    gone = full & (rows["lr"] == best) & (rows["target"] == "d30") & (rows["seed"] == 31)
    assert gone.sum() == 1
    assert best not in set(at_one_rate(rows[full & ~gone])["lr"])
    elsewhere = full & (rows["target"].eq("d30") == rows["lr"].ne(best))
    assert at_one_rate(rows[elsewhere]).empty


def test_claims_of_unequal_rates_are_not_run(demo):
    """An arm that was given one rate less than what it is compared with, or a higher one, waits; in C2 it does not."""
    main = demo.of("01_nusax_transfer")
    rate = main.rows.loc[main.rows["arm"] == "full", "lr"].max()
    less = main.only(~((main.rows["arm"] == "full") & (main.rows["lr"] == rate) & (main.rows["seed"] == 31)))
    for rule in (claims.target_accuracy, claims.source_kept_better):
        assert rule(main).verdict != "not run"
        assert rule(less).verdict == "not run"
    assert claims.source_kept(less).number == claims.source_kept(main).number  # zero_shot uses none
    lower = main.only(~((main.rows["arm"] == "near_zero") & (main.rows["lr"] == rate)))
    two = [claims.hard_transfers(one) for one in (lower, without(lower, arm="circuit", lr=rate))]
    told, both = ((j.deciding, j.number.split("; circuit − near_zero")[1], j.data) for j in two)
    assert told == both
    assert claims.source_kept(lower).verdict == "not run"  # the rates would choose between the two arms as well
    assert claims.hard_transfers(main).verdict != "not run"


def test_zero_shot_rows_alone_are_no_study(demo):
    """Script 06's changes are measured from them, whichever script ran them."""
    own, travelled = (demo.rows["experiment"] == name for name in ("01_nusax_transfer", "06_adaptation_odyssey"))
    assert demo.of("01_nusax_transfer") is not None
    assert demo.only(travelled | (demo.rows["arm"] == "zero_shot")).of("01_nusax_transfer") is None
    assert demo.only(own & (demo.rows["arm"] == "zero_shot")).of("01_nusax_transfer") is not None  # all there is


@pytest.mark.parametrize(
    ("script", "table", "figure", "judged"),
    [
        ("03_editing_preserving_tradeoff", "03_editing_preserving_tradeoff", "03_difficulty", {"C1", "C2", "C3a"}),
        ("04_forgetting", "04_forgetting", "04_forgetting_plane", {"C1", "C3a", "C3b", "C7"}),
    ],
)
def test_a_script_that_ran_alone_has_its_tables_figures_and_claims(script, table, figure, judged, folder):
    """The demo's rows as that script leaves them in an empty folder, which runs script 01's cells itself."""
    rows = [row for name in ("01_nusax_transfer", script) for row in csv.DictReader((folder / f"{name}.csv").open())]
    for path in [*folder.glob("0*"), *folder.glob("measures/*")]:
        if not path.name.startswith(f"{script}.probes"):
            path.unlink()
    with (folder / f"{script}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"experiment": script} for row in rows if row["n_target"] in ("0", "100"))
    results = Results.read(folder)
    names = {one.name for one in tables_of(results)}
    assert f"demo_{table}" in names
    assert "demo_01_nusax_transfer" not in names
    assert f"demo_{figure}" in figures_of(results)
    plt.close("all")
    assert judged <= {one.claim for one in claims.judge(results) if one.verdict != "not run"}


def test_a_folder_is_told_by_its_name(demo, tmp_path):
    """Rows that were moved say the preset that they were run by."""
    moved = Results.read(shutil.copytree(demo.folder, tmp_path / "elsewhere"))
    assert moved.name == "elsewhere"
    assert {table.name.split("_")[0] for table in tables_of(moved)} == {"elsewhere"}


def test_rates_that_one_arm_lacks_count_for_none():
    """By start, target, n and seed; arms without a rate and arms that are not asked about stay whole."""
    one = dict(task="t", n_source=400, target="a", n_target=25, dtype="float32", seed=31, variant=None)
    rows = [one | dict(arm=arm, lr=lr) for arm, lr in (("full", 1e-5), ("full", 1e-3), ("circuit", 1e-3))]
    rows += [one | dict(arm="lora", lr=1e-5), one | dict(arm="ngrams", lr=None)]
    rows += [one | dict(seed=777, arm="full", lr=1e-5)]  # alone there
    table = pd.DataFrame(rows)
    assert list(at_common_rates(table, ("full", "circuit")).index) == [1, 2, 3, 4, 5]
    assert list(at_common_rates(table, ("full", "circuit", "lora")).index) == [4, 5]
    assert list(at_common_rates(table, ("full", "ngrams")).index) == list(table.index)


def test_claims_are_judged_at_the_rates_that_all_of_their_arms_had(demo):
    """Leaving a rate out for one arm on one seed is leaving it out for the others there."""
    main = demo.of("01_nusax_transfer").rows
    highest = (main["lr"] == main["lr"].max()) & (main["seed"] == 31)
    ways = [highest & (main["arm"] == "full"), highest & main["arm"].isin(["full", *claims.BOTH])]
    told = []
    for way in ways:
        gone = set(main.loc[way, "cell"])
        judged = claims.judge(replace(demo, rows=demo.rows[~demo.rows["cell"].isin(gone)]))
        told.append([(j.verdict, j.number) for j in judged if j.claim in ("C1", "C3b")])
    assert told[0] == told[1]
    assert "not run" not in dict(told[0])
    assert told[0] != [(j.verdict, j.number) for j in claims.judge(demo) if j.claim in ("C1", "C3b")]


def test_each_number_of_rows_is_judged_unless_the_verdict_rests_on_it_alone(demo):
    def told(rows) -> dict[str, set[str]]:
        judged = judge_otherwise(replace(demo, rows=rows))
        return {str(n): {j.claim for which, j in judged if which == f"with {n} target rows"} for n in (25, 100)}

    every = {"C1", "C2", "C3a", "C3b"}
    rows = demo.rows
    assert told(rows) == {"25": every, "100": every}  # pooled, so what each says by itself is told too
    assert told(rows[(rows["n_target"] != 25) | (rows["seed"] == 31)]) == {"25": every, "100": set()}
    assert told(rows[rows["n_target"] != 25]) == {"25": set(), "100": set()}


def test_circuits_by_index_stand_only_where_there_are_no_others():
    """By the number of target rows: two rules are never in one line."""
    line = dict(task="t", dtype="float32", scorer="cdt_linear", ties="index", arm="circuit")
    rows = [line | dict(n_target=25)] * 3 + [line | dict(n_target=25, scorer="cdt", ties="logits")]
    rows += [line | dict(n_target=100)] * 2 + [line | dict(n_target=100, scorer=None, ties=None, arm="full")]
    rows += [line | dict(task="u", n_target=25), line | dict(dtype="bfloat16", n_target=25)]
    table = pd.DataFrame(rows)
    assert list(by_usual_circuits(table).index) == [3, 4, 5, 6, 7, 8]
    sized = pd.concat([table, table.iloc[[0]].assign(arm="lt_sft")], ignore_index=True)
    assert 9 in by_usual_circuits(sized).index  # it tunes no heads of theirs, only as many weights
    more = pd.concat([table, table.iloc[[3]].assign(scorer="ablation")] * 2, ignore_index=True)
    kept = by_usual_circuits(more[more["n_target"] == 25])
    same = (kept["task"] == "t") & (kept["dtype"] == "float32")
    assert set(kept.loc[same, "scorer"]) == {"ablation"}  # as often: the first by name


def test_rates_over_all_targets_are_the_mean_of_their_lines(demo):
    main = demo.of("01_nusax_transfer").on_the_grid_of("01_nusax_transfer")
    table = rate_cells(main)
    targets = sorted(set(main.rows["target"]))
    over = table[table["target"] == f"all {len(targets)} targets"]
    assert {"full", "circuit", "near_zero", "norm_only"} <= set(over["arm"])
    for line in over.to_dict("records"):
        same = {name: line[name] for name in ("n", "arm", "depth", "learning rate")}
        parts = pick(table, **same).loc[lambda lines: lines["target"].isin(targets)]
        assert len(parts) == len(targets)
        for column in ("accuracy", "source after"):
            each = [float(text.split()[0]) for text in parts[column]]
            assert float(line[column].split()[0]) == pytest.approx(np.mean(each), abs=1e-3)
    gone = (main.rows["arm"] == "full") & (main.rows["target"] == "d30") & (main.rows["lr"] == main.rows["lr"].max())
    fewer = rate_cells(main.only(~gone))
    assert len(pick(fewer, arm="full")) == len(pick(table, arm="full")) - 2  # its line, and that over all targets


def test_every_rate_is_drawn_over_its_rate(demo):
    main = demo.of("01_nusax_transfer")
    figure = by_rate_figure(main)
    table = pick(rate_cells(main.on_the_grid_of("01_nusax_transfer")), arm="full")
    over = table[table["target"].str.startswith("all ")]
    assert list(over["learning rate"]) == ["1e-3", "3e-3", "1e-2"]
    for axis, column in zip(figure.axes, ("accuracy", "source after"), strict=True):
        full = next(line for line in axis.lines if line.get_label() == "all weights")
        rates, values = full.get_data()
        assert list(rates) == pytest.approx([1e-3, 3e-3, 1e-2], rel=0.3)  # arms stand beside each other
        assert list(values) == pytest.approx([float(text.split()[0]) for text in over[column]], abs=6e-4)
    one_rate = main.only(main.rows["lr"].isna() | (main.rows["lr"] == 1e-3))
    assert by_rate_figure(one_rate) is None
    plt.close(figure)


def test_what_keeps_the_source_is_compared_at_the_rate_that_learns_most(demo):
    points = rate_points(demo.of("01_nusax_transfer").on_the_grid_of("01_nusax_transfer"))
    full = pick(over_all(points), arm="full")
    lost = dict(zip(full["lr"], full["before"] - full["source_right"].map(np.mean), strict=True))
    kept = {rate for rate, loss in lost.items() if loss <= MARGIN}
    best = max(kept, key=lambda rate: pick(full, lr=rate)["right"].iloc[0].mean())
    assert f"− full at {rate_text(best)}, on the target" in kept_text(points)
    assert kept_text(points.assign(before=2.0)) == ""  # nothing keeps it


def test_a_cell_belongs_to_a_scripts_grid_whoever_ran_it_first(demo):
    """Cells of script 01, then all of an arm's, are another's; at a rate or of an arm that 01 has not they stay out."""
    own = demo.on_the_grid_of("01_nusax_transfer")
    given = (own.rows["arm"] == "full") & (own.rows["seed"] == 31) & (own.rows["target"] == "d30")
    given |= own.rows["arm"] == "near_zero"  # which 01 was asked for, as the settings beside its table say
    moved = demo.rows.copy()
    moved.loc[moved["cell"].isin(own.rows.loc[given, "cell"]), "experiment"] = "06_adaptation_odyssey"
    again = replace(demo, rows=moved).on_the_grid_of("01_nusax_transfer")
    assert given.any()
    assert set(again.rows["cell"]) == set(own.rows["cell"])
    written = demo.rows[demo.rows["experiment"] == "01_nusax_transfer"]
    assert set(own.rows["lr"].dropna()) <= set(written["lr"].dropna())
    assert set(own.rows["arm"]) == set(written["arm"])
    assert len(own.rows) < len(demo.rows)


def test_a_rate_that_script_06_alone_tried_stays_out_of_the_other_scripts_studies(demo):
    written = demo.rows[(demo.rows["experiment"] == "06_adaptation_odyssey") & (demo.rows["arm"] == "lora")]
    extra = written.head(2).assign(arm="near_zero", lr=0.1, cell=["one", "two"])
    elsewhere = extra.assign(n_target=60, cell=["three", "four"])
    both = replace(demo, rows=pd.concat([demo.rows, extra, elsewhere], ignore_index=True))
    assert {"one", "two"} <= set(both.of("06_adaptation_odyssey").rows["cell"])
    kept = set(both.of("03_editing_preserving_tradeoff").rows["cell"])
    assert not {"one", "two"} & kept
    assert {"three", "four"} <= kept


def test_ct_sft_is_chosen_on_validation_and_never_on_test(sentiment):
    rows = at_validated_rate(sentiment.rows)
    pair = pick(rows, target="d30", n_target=100, seed=31, depth=2, share=0.02)
    pair = pair[pair["arm"].isin(["circuit", "near_zero"])]
    assert len(pair) == 2
    for better in ("circuit", "near_zero"):
        valid = pair["arm"].eq(better).astype(float)
        chosen = pick(add_ct_sft(pair.assign(valid_accuracy=valid, accuracy=1 - valid), sentiment.rows), arm="ct_sft")
        assert chosen["cell"].tolist() == pair.loc[pair["arm"] == better, "cell"].tolist()


def test_the_validated_rate_is_chosen_on_validation(sentiment):
    row = pick(sentiment.rows, arm="full", target="d30", n_target=100, seed=31, lr=1e-3)
    two = pd.concat([row.assign(lr=1e-3, valid_accuracy=0.5, accuracy=0.9), row.assign(lr=1e-4, valid_accuracy=0.6)])
    assert at_validated_rate(two)["lr"].tolist() == [1e-4]
    assert at_validated_rate(two.assign(valid_accuracy=0.5))["lr"].tolist() == [1e-4]


def test_the_papers_rule_takes_the_circuit_where_the_transfer_is_hard(sentiment):
    rows = at_validated_rate(sentiment.rows)
    zero = pick(rows, target="d30", arm="zero_shot")
    pair = pick(rows, target="d30", n_target=100, depth=2, share=0.02)
    pair = pair[pair["arm"].isin(["circuit", "near_zero"])]
    for valid, arm in ((0.2, "circuit"), (0.75, "near_zero")):
        chosen = by_the_papers_rule(pair, zero.assign(valid_accuracy=valid))
        assert set(chosen["arm"]) == {arm}
        assert len(chosen) == 2
    assert difficulty(zero.assign(accuracy=0.4, source_accuracy_before=0.8)).tolist() == [0.5, 0.5]


def test_comparisons_use_the_seeds_and_rows_that_both_have(sentiment):
    rows = at_validated_rate(sentiment.rows)
    full, circuit = pick(rows, arm="full", target="d70", n_target=100), pick(rows, arm="circuit", target="d70", depth=2)
    circuit = pick(circuit, share=0.02, n_target=100)
    both = paired(full, circuit)
    assert both.value == pytest.approx(full["accuracy"].mean() - circuit["accuracy"].mean())
    one = paired(full, pick(circuit, seed=31))
    assert one.value == pytest.approx(
        pick(full, seed=31)["accuracy"].iloc[0] - pick(circuit, seed=31)["accuracy"].iloc[0]
    )
    assert paired(pick(full, seed=31), pick(circuit, seed=777)) is None
    assert pooled([]) is None
    assert pooled([(full, circuit), (full, circuit)]).value == pytest.approx(both.value)


# ---- tables ------------------------------------------------------------------------------------------------------


def one_setting(study: Results) -> Results:
    rows = study.rows
    return study.only((rows["target"] == "d30") & (rows["n_target"].isin([0, 100])))


def without(study: Results, **which: object) -> Results:
    return study.only(~study.rows.index.isin(pick(study.rows, **which).index))


def test_seeds_of_unequal_rates_are_marked_and_have_no_ct_sft(sentiment):
    whole = one_setting(sentiment.on_the_grid_of("01_nusax_transfer"))
    fewer = without(whole, arm="circuit", depth=2, seed=31, lr=1e-2)
    for study, rates, seeds in ((whole, "3", "2/2"), (fewer, "2*", "1/2")):
        cells = pick(transfer_cells(study), n=100, depth=2).set_index("arm")
        assert cells.loc["circuit", "rates"] == rates
        assert cells.loc["circuit", "seeds"] == "2/2"
        assert (cells.loc["ct_sft", "rates"], cells.loc["ct_sft", "seeds"]) == ("2 × 3", seeds)
        assert ("not all seeds had the same rates" in transfer_table(study).caption) is ("*" in rates)


def test_circuit_and_near_zero_stand_beside_each_other_on_common_seeds_only(sentiment):
    whole = one_setting(sentiment)
    [line] = pick(tradeoff_cells(whole), depth=2).to_dict("records")
    assert line["seeds"] == "2/2"
    [one] = pick(tradeoff_cells(without(whole, arm="near_zero", seed=31)), depth=2).to_dict("records")
    assert one["seeds"] == "1/2"
    [alone] = pick(tradeoff_cells(whole.only(whole.rows["seed"] == 777)), depth=2).to_dict("records")
    assert one | {"seeds": "", "p (Holm)": ""} == alone | {"seeds": "", "p (Holm)": ""}
    [short] = pick(tradeoff_cells(without(whole, arm="random", seed=31)), depth=2).to_dict("records")
    assert short["seeds"] == "2/2; random 1"
    assert short["circuit"] == line["circuit"]


def test_who_chooses_between_two_arms_has_them_at_the_rates_of_both(sentiment):
    which = dict(depth=2, share=0.02, seed=31, lr=1e-2)
    one = without(one_setting(sentiment), arm="circuit", **which)
    [line] = pick(tradeoff_cells(one), depth=2).to_dict("records")
    [both] = pick(tradeoff_cells(without(one, arm="near_zero", **which)), depth=2).to_dict("records")
    assert line == both
    for name in ("circuit − near_zero", "paper's rule", "ct_sft", "oracle"):
        assert line[name] != "–", name
    apart = without(without(one, arm="circuit", depth=2, lr=1e-3), arm="near_zero", depth=2, lr=1e-2)
    apart = without(apart, arm="near_zero", depth=2, lr=3e-3)  # 3e-3 and 1e-2 against 1e-3
    [never] = pick(tradeoff_cells(apart), depth=2).to_dict("records")
    assert never["seeds"] == "0/2"
    assert {never[name] for name in ("circuit", "near_zero", "circuit − near_zero", "ct_sft", "oracle")} == {"–"}


def test_a_related_test_without_rows_is_a_gap(sentiment):
    here = one_setting(sentiment)
    gone = (here.probes["arm"] == "full") & (here.probes["test"] == "demo/d50")
    cells = related_cells(replace(here, probes=here.probes[~gone]))
    [line] = pick(cells, arm="full", **{"related test": "demo/d50"}).to_dict("records")
    assert [line[name] for name in ("before", "after", "change", "seeds")] == ["–", "–", "–", 0]
    assert set(cells["related test"]) == {"demo/d10", "demo/d50"}


def test_what_another_model_than_the_rows_answered_is_left_out_and_told(folder):
    path = folder / "04_forgetting.probes.csv"
    cell = next(row["cell"] for row in csv.DictReader(path.open()) if "-full-" in row["cell"])
    whole = Results.read(folder)
    rewrite(path, lambda row: row | {"same_row": str(row["cell"] != cell)})
    found = Results.read(folder)
    assert cell in set(whole.probes["cell"])
    assert set(found.probes["cell"]) == set(whole.probes["cell"]) - {cell}
    few = [results.only(results.rows["target"] == "d30").of("01_nusax_transfer") for results in (found, whole)]
    told = ["What script 04 measured of 1 cells is left out" in table.caption for table in forgetting_tables(few[0])]
    assert told == [True, True]
    assert not any("left out" in table.caption for table in forgetting_tables(few[1]))


def test_the_page_of_the_demo_shows_the_committed_table(demo):
    assert transfer(demo.on_the_grid_of("01_nusax_transfer")) in (ROOT / "docs" / "demo.md").read_text()


def test_every_table_says_its_seeds_and_where_it_comes_from(demo):
    # Of maps, of models, of kinds of numbers; costs are of one seed.
    pairs = {"demo_05_stability", "demo_05_known", "demo_07_arithmetic", "demo_07_cost_and_energy"}
    for table in tables_of(demo):
        if table.name not in pairs:
            assert any(column.startswith("seeds") for column in table.cells), table.name
            assert "demo" in table.title
            assert "seeds 31, 777" in table.caption
        assert "\\begin{tabular}" in table.latex()
        assert table.markdown().count("\n|") == len(table.cells) + 2


def test_arms_without_a_source_have_lines_also_by_themselves(demo):
    demo = demo.of("01_nusax_transfer")
    alone = demo.only(demo.rows["arm"] == "direct")
    cells = transfer_cells(alone)
    assert set(cells["arm"]) == {"direct"}
    assert set(cells["source rows"]) == {0}
    assert "(no rows)" in about(alone, alone.rows)


def test_arms_without_a_source_show_none(demo):
    """Their rows hold theta1's accuracy before, and a classifier's also one after; neither is theirs."""
    demo = demo.of("01_nusax_transfer")
    direct = demo.rows[demo.rows["arm"] == "direct"]
    both = pd.concat([direct, direct.assign(arm="ngrams"), demo.rows[demo.rows["arm"] == "full"]])
    cells = transfer_cells(replace(demo, rows=both))
    for arm, before, after in (("direct", False, True), ("ngrams", False, False), ("full", True, True)):
        here = cells[(cells["arm"] == arm) & (cells["accuracy"] != "–")]
        assert len(here)
        assert set(here["source before"] != "–") == {before}, arm
        assert set(here["source after"] != "–") == {after}, arm


def test_the_papers_tables_leave_gaps_where_nothing_was_run(demo):
    for table in paper_tables({}):
        assert "ours, Qwen2.5-0.5B" in table.cells, table.name
        assert set(table.cells["ours, Qwen2.5-0.5B"]) <= {"not run", "–"}
    names = [table.name for table in paper_tables({})]
    assert names == ["table1", "table2", "table4", "table5", "table6", "table7", "table8"]
    text = beside("table2_nusax_by_depth", {}, ("answers", "gold"), "accuracy")
    line = text[(text["target"] == "javanese") & (text["n_target"] == 100) & (text["depth"] == "1")]
    assert line["paper"].tolist() == ["0.640", "0.611"]


def test_the_claims_say_what_the_rows_of_a_folder_are(sentiment):
    assert "constructed languages" in about_folder(sentiment)
    rows = sentiment.rows.assign(model="their/model", task="topics", device="cuda")
    told = about_folder(replace(sentiment, rows=rows))
    targets = ", ".join(sorted(set(rows["target"])))
    assert told == f"- `{rows['preset'].iloc[0]}`: their/model, topics to {targets}; computed on cuda in float32."


def test_a_script_prints_the_papers_number_where_the_setting_is_its_own(sentiment):
    assert COLUMN not in beside_the_paper(sentiment)
    rows = sentiment.rows[sentiment.rows["target"] == "d30"].assign(
        task="nusax", source="indonesian", target="javanese"
    )
    told = beside_the_paper(replace(sentiment, rows=rows)).set_index(["n", "arm", "depth"])[COLUMN]
    assert COLUMN not in beside_the_paper(replace(sentiment, rows=rows.assign(task="topics")))
    assert told[(100, "circuit", 2)] == "0.623"
    assert told[(25, "full", "–")] == "0.384"
    assert told[(100, "norm_only", "–")] == "–"
    known = published("table4_nusax_anchors").query("target == 'javanese' and n_target == 100").set_index("arm")
    assert told[(100, "ct_sft", 2)] == f"{known.loc[BEST, 'accuracy']:.3f}"


def test_the_papers_entailment_tables_bear_several_targets(demo):
    """Its line of the start names no target: every target's zero-shot rows have that start's answers."""
    rows = demo.of(ENTAILMENT).rows
    languages = {"d30": "spanish", "d70": "vietnamese"}
    rows = rows.assign(
        task="xnli",
        source="english",
        target=rows["target"].map(languages),
        lr=rows["lr"].where(rows["lr"] != 3e-3, 5e-5),
    )
    two = replace(demo, rows=rows)
    table = beside("table7_xnli_source_retention", {"small": two}, SOURCE, "source_accuracy")
    start = table[table["arm"] == "competence"].iloc[0]
    assert start["seeds, small"] == 2
    known = pick(rows, arm="zero_shot", target="spanish")
    best = known[known["n_source"] == known["n_source"].max()]
    assert start["ours, SmolLM2-135M"].startswith(f"{best['source_accuracy'].mean():.3f}")
    answered = table[(table["target"].isin(languages.values())) & (table["seeds, small"] > 0)]
    assert set(answered["target"]) == set(languages.values())


def test_pairs_of_arms_are_compared_at_rates_that_both_had(sentiment):
    cells = pair_cells(sentiment).set_index(["n", "arms"])
    line = cells.loc[(100, "circuit 2 − full")]
    rows = at_validated_rate(sentiment.rows)
    pairs = [
        (
            pick(rows, target=t, n_target=100, arm="circuit", depth=2, share=0.02),
            pick(rows, target=t, n_target=100, arm="full"),
        )
        for t in line["targets"].split(", ")
    ]
    assert line["target"] == change(pooled(pairs))
    assert line["source afterwards"] == change(pooled(pairs, SOURCE))
    # A rate that the circuit alone had changes nothing for it, beside an arm that never had it.
    best = sentiment.rows.assign(accuracy=1.0)
    extra = pick(best, arm="circuit", depth=2, n_target=100).assign(lr=0.5, valid_accuracy=1.0)
    extra = extra.drop_duplicates(["target", "seed"]).assign(cell=lambda more: more["cell"] + "-more")
    more = replace(sentiment, rows=pd.concat([sentiment.rows, extra], ignore_index=True))
    assert pair_cells(more).set_index(["n", "arms"]).loc[(100, "circuit 2 − full"), "target"] == line["target"]


def test_an_arm_that_would_choose_a_rate_which_the_other_lacks_is_held_back(sentiment):
    pair = "circuit 2 − full"
    rows, best = sentiment.rows, at_validated_rate(pick(sentiment.rows, arm="full", n_target=100))
    assert set(pair_cells(sentiment)["held back"]) == {"–"}
    lacks = (rows["arm"] == "circuit") & (rows["lr"] == best["lr"].max()) & (rows["n_target"] == 100)
    cells = pair_cells(sentiment.only(~lacks)).set_index(["n", "arms"])["held back"]
    assert cells[100, pair] == "full"
    assert cells[100, "random 2 − full"] == "–"


def test_many_languages_are_drawn_too(sentiment, monkeypatch):
    """Five say little of how languages differ, so there is no column then."""
    few = pair_tables(sentiment, "01")[0]
    assert not [name for name in few.cells if "languages drawn too" in name]
    assert "seeds (not over languages)" in few.caption
    monkeypatch.setattr("ctsft.report.pairs.ENOUGH_LANGUAGES", 5)
    many = pair_tables(sentiment, "01")[0]
    assert "languages as well where `languages drawn too` is said" in many.caption
    assert "fewer than 5 languages" in many.caption
    pd.testing.assert_frame_equal(many.cells[few.cells.columns], few.cells)
    lines = many.cells.set_index(["n", "arms"])["target, languages drawn too"]
    assert lines[25, "circuit 2 − full"] == "–"  # three languages had so few rows
    rows = few.cells.set_index(["n", "arms"])["target"]
    assert lines[100, "circuit 2 − full"].split()[0] == rows[100, "circuit 2 − full"].split()[0]


def test_ct_sft_in_pairs_has_the_rates_of_both_its_arms(sentiment):
    cells = pair_cells(sentiment).set_index(["n", "arms"])
    told = claims.target_accuracy(claims.at_shared_rates(sentiment)).number
    everything = cells.loc[[index for index in cells.index if index[1] == "ct_sft 2 − full"]]
    assert len(everything) == sentiment.rows.query("n_target > 0")["n_target"].nunique()
    one = sentiment.only(sentiment.rows["n_target"].isin([0, 100]))
    number = claims.target_accuracy(claims.at_shared_rates(one)).number
    assert f"ct_sft − full: {cells.loc[(100, 'ct_sft 2 − full'), 'target']}" in number
    assert told.startswith("ct_sft − full")


def test_fewer_rates_are_told_of_a_number_of_rows_where_all_its_targets_have_fewer(sentiment):
    rows = sentiment.rows
    gone = (rows["lr"] == rows["lr"].max()) & (rows["n_target"] == 25)
    for which, told in (
        (gone, "(fewer on n = 25)"),
        (gone & (rows["target"] == "d30"), "(fewer on d30 n = 25)"),
        (gone & (rows["target"] == "d30") & (rows["seed"] == 31), "(fewer on d30 n = 25, seed 31)"),
    ):
        assert told in claims.target_accuracy(claims.at_shared_rates(sentiment.only(~which))).data


def test_what_is_the_same_on_every_line_of_a_papers_table_is_said_once():
    cells = pd.DataFrame({"target": ["a", "b"], "precision, x": ["bfloat16", "–"], "heads, x": ["cdt", "cdt_linear"]})
    kept, sentence = said_once(cells.assign(**{"source rows, x": "–"}))
    assert list(kept) == ["target", "heads, x"]
    assert sentence == " The same on every line: precision, x: bfloat16."
    assert said_once(cells[["target", "heads, x"]])[1] == ""


def test_a_folder_that_is_no_preset_has_columns_in_the_papers_tables_where_it_has_rows(sentiment):
    rows = sentiment.rows
    rows = rows[(rows["target"] == "d30") & ((rows["lr"] == 3e-3) | rows["lr"].isna())]
    extra = {"cpu": replace(sentiment, rows=rows.assign(task="nusax", source="indonesian", target="javanese", lr=5e-5))}
    title = "ours, SmolLM2-135M on CPUs"
    answered = beside("table2_nusax_by_depth", extra, ("answers", "gold"), "accuracy")
    here = answered[answered[title] != "–"]
    assert set(here["target"]) == {"javanese"}
    assert (here["seeds, cpu"] == 2).all()
    entailment = beside("table7_xnli_source_retention", extra, SOURCE, "source_accuracy")
    assert title not in entailment
    assert "ours, SmolLM2-135M" in entailment


def test_the_papers_best_arm_is_the_better_of_the_two_means_on_test(sentiment):
    rows = pick(at_validated_rate(sentiment.rows), target="d30", n_target=100, depth=2, share=0.02)
    line = published("table4_nusax_anchors").query("n_target == 100").iloc[0].copy()
    line["source"], line["target"], line["arm"] = "d00", "d30", BEST
    for better in ("circuit", "near_zero"):
        changed = rows.assign(accuracy=rows["arm"].eq(better).astype(float))
        assert set(matching(changed, line)["arm"]) == {better}
    assert matching(rows[rows["arm"] != "circuit"], line).empty


def test_rows_whose_rounded_logits_made_label_words_equal_are_counted(demo):
    assert "equal logits" not in " ".join(limits.limits([demo]))
    rows = demo.rows.copy()
    first = rows.index[rows["experiment"] == "01_nusax_transfer"][:3]
    rows.loc[first, "full_vocab_accuracy"] = (rows.loc[first, "accuracy"] + [0.01, 0.02, 0.0]).astype(str)
    told = " ".join(limits.limits([replace(demo, rows=rows)]))
    every = len(demo.of(claims.EXPERIMENT).rows)
    assert f"In 2 of {every} rows" in told
    assert "wrongly in 1.50% of a row's answers on average, 2.00% at most" in told


def test_arms_that_chose_an_end_of_their_rates_are_told(demo):
    rows = pick(demo.of(claims.EXPERIMENT).rows, target="d30", n_target=100)
    rows = rows[rows["arm"].isin(["full", "circuit", "norm_only"]) & (rows["depth"].isna() | (rows["depth"] == 2))]
    best = {"full": rows["lr"].max(), "circuit": rows["lr"].min(), "norm_only": rows["lr"].median()}
    rows = rows.assign(valid_accuracy=[float(lr == best[arm]) for arm, lr in zip(rows["arm"], rows["lr"], strict=True)])
    one_rate = rows[(rows["arm"] != "norm_only") | (rows["lr"] == best["norm_only"])]
    ends = {"highest": ["full (d30, 100 rows)"], "lowest": ["circuit 2 (d30, 100 rows)"]}
    assert edges(rows) == ends | {"only": [], "another": ["norm_only (d30, 100 rows)"]}
    assert edges(one_rate) == ends | {"only": ["norm_only (d30, 100 rows)"], "another": []}
    weak = one_rate[one_rate["arm"] == "full"].assign(n_source=50)
    highest = edges(pd.concat([one_rate, weak], ignore_index=True))["highest"]
    assert sorted(highest) == [f"full (d30, 100 rows from {n})" for n in (400, 50)]
    stronger = pick(one_rate, arm="circuit").assign(variant="stronger")
    assert edges(pd.concat([one_rate, stronger.assign(lr=best["circuit"] / 2)])) == edges(one_rate)


def test_the_report_prints_each_verdict_once_and_only_what_follows_from_it(demo):
    page = report_page([demo])
    parts = dict(part.split("\n", 1) for part in page.split("\n## ")[1:])
    judged = judge_all(demo)
    for judgement in judged:
        line = f"- {judgement.claim}. {ALL_CLAIMS[judgement.claim]}"
        if judgement.claim in claims.CLAIMS or judgement.verdict != "undecided":  # those are too many for their numbers
            line += f" {judgement.deciding}."
        assert [title for title, part in parts.items() if line in part] == [HEADINGS[judgement.verdict]]
    assert len(parts) == len({judgement.verdict for judgement in judged}) + 3 + bool(judge_otherwise(demo))
    verdicts = {f"{judgement.claim} {judgement.verdict}": judgement for judgement in judged}
    for said in (TO_THE_AUTHORS, TO_A_USER):
        for cause, sentence in said.items():
            j = verdicts.get(cause)
            words = sentence.format(number=j.deciding, rows=j.target_rows) if j else sentence.partition("{")[0]
            assert (f"- {words}" in page) == (j is not None)
            assert j is None or f"{words} ({cause.replace(' ', ', ')}" in page
    assert re.search(r"\(C1, \w+, 25 and 100 target rows\.\)$", page, re.MULTILINE)
    assert "Only 2 seeds (31, 777), where the paper has 4" in page


@pytest.mark.parametrize("data", ["d10 n = 25, d30 n = 100; seeds 31, 777", "tuned on d10; n = 25, 100; seeds 31, 777"])
def test_target_rows_are_read_from_what_a_verdict_rests_on(data):
    assert Judgement("C1", "undecided", "–", data).target_rows == "25 and 100 target rows"
    assert Judgement("C6", "undecided", "–", "cdt; indonesian, 100 validation rows").target_rows == ""


def test_captions_are_escaped_for_latex():
    cells = pd.DataFrame([{"a_b": "1 %", "c": "–"}])
    made = Table("name", "5 % & more", "`lr_1` ~ 5e-5 #2 {x} ^ \\ p < 0.001", cells).latex()
    caption = next(line for line in made.splitlines() if line.startswith("\\caption"))
    assert r"5 \% \& more. \texttt{lr\_1}" in caption
    assert r"\textasciitilde{} 5e-5 \#2 \{x\} \textasciicircum{} \textbackslash{} p $<$ 0.001" in caption
    assert r"a\_b" in made


def test_the_papers_starts_stand_beside_ours_of_the_same_kind(demo):
    """Its weak start (50 rows) beside 50 rows of ours only, its competent one beside the most that ours has."""
    rows = pick(demo.of("02_xnli_generalization").rows, target="d30", n_target=100, arm="full")
    assert set(rows["n_source"]) == {50, 2000}
    line = pd.Series({"source": "d00", "target": "d30", "n_target": 100, "arm": "full", "depth": pd.NA})
    for papers, ours in ((50, 50), (250, 2000)):
        assert set(matching(rows, pd.concat([line, pd.Series({"n_source": papers})]))["n_source"]) == {ours}
    assert matching(rows[rows["n_source"] == 2000], pd.concat([line, pd.Series({"n_source": 50})])).empty


# ---- claims ------------------------------------------------------------------------------------------------------


def test_no_verdict_without_its_number(demo):
    judged = claims.judge(demo)
    assert [judgement.claim for judgement in judged] == list(claims.CLAIMS)
    for judgement in judged:
        assert judgement.verdict in ("supported", "contradicted", "undecided", "not run")
        decided = judgement.verdict in ("supported", "contradicted")
        assert not decided or (any(c.isdigit() for c in judgement.number) and "[" in judgement.number)
        assert judgement.data


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.0006, 0.07, "undecided"),
        (0.0051, 0.07, "supported"),
        (-0.07, -0.0006, "undecided"),
        (-0.07, -0.0051, "contradicted"),
    ],
)
def test_bounds_decide_as_they_are_printed(low, high, verdict, demo, monkeypatch):
    value = Difference((low + high) / 2, low, high, 0.04)
    assert by_interval(value, 0, 0) == verdict
    # C4 is supported by what is lost, and contradicted only within the margin.
    monkeypatch.setattr(claims, "pooled", lambda *_: value)
    other_way = {"contradicted": "supported", "supported": "contradicted"}.get(verdict)
    found = claims.competent_start(demo.of(ENTAILMENT)).verdict
    assert found == (other_way or ("contradicted" if low > -MARGIN else "undecided"))


@pytest.mark.parametrize(
    ("low", "high", "as_good", "better"),
    [
        (-0.02, 0.01, "supported", "undecided"),
        (-0.06, -0.03, "contradicted", "contradicted"),
        (-0.04, 0.01, "undecided", "undecided"),
        (0.01, 0.03, "supported", "supported"),
    ],
)
def test_what_is_matched_has_a_margin_and_what_is_better_has_none(low, high, as_good, better, demo, monkeypatch):
    for name in ("pooled", "related_change"):
        monkeypatch.setattr(claims, name, lambda *_: Difference((low + high) / 2, low, high, 0.04))
    study = demo.of(claims.EXPERIMENT)
    few = replace(study, rows=study.rows.assign(trainable_share=0.005))
    for judge, verdict in (
        (claims.target_accuracy, as_good),
        (claims.source_kept, as_good),
        (claims.source_kept_better, better),
    ):
        assert judge(few).verdict == verdict
    assert claims.related_kept(demo).verdict == as_good
    many = replace(few, rows=few.rows.assign(trainable_share=0.01))
    assert claims.target_accuracy(many).verdict == ("undecided" if as_good == "supported" else as_good)


def test_verdicts_follow_the_rows(folder):
    """Rows in which full answers everything right contradict the claim that the circuit matches it; and the reverse."""
    gold = json.loads((folder / "gold.json").read_text())

    def answered(winner):
        def change(row):
            right = gold[f"demo/{row['target']}"]["labels"]
            wrong = "p" + "".join(str((int(digit) + 1) % 3) for digit in right[1:])
            return row | {"predictions": right if row["arm"] == winner else wrong}

        return change

    def verdicts() -> dict[str, str]:
        return {judgement.claim: judgement.verdict for judgement in claims.judge(Results.read(folder))}

    rewrite(folder / "01_nusax_transfer.csv", answered("full"))
    for name in ("03_editing_preserving_tradeoff.csv", "04_forgetting.csv", "06_adaptation_odyssey.csv"):
        (folder / name).unlink()
    assert verdicts()["C1"] == "contradicted"
    rewrite(folder / "01_nusax_transfer.csv", lambda row: answered("circuit")(row) | {"trainable_share": "0.005"})
    assert verdicts()["C1"] == "supported"
    rewrite(folder / "01_nusax_transfer.csv", lambda row: row | {"trainable_share": "0.02"})
    assert verdicts()["C1"] == "undecided"
    rewrite(folder / "01_nusax_transfer.csv", lambda row: None if row["arm"] == "full" else row)
    assert verdicts()["C1"] == "not run"


@pytest.mark.parametrize(("worst", "verdict"), [(0.02, "supported"), (-0.01, "undecided"), (-0.1, "contradicted")])
def test_a_gain_on_one_related_test_does_not_pay_for_a_loss_on_another(demo, monkeypatch, worst, verdict):
    def changed(lines, other=None):
        value = {"demo/d50": worst}.get("".join(set(lines["test"])), 0.1)
        return Interval(value, value - 0.03, value + 0.03)

    monkeypatch.setattr(claims, "related_change", changed)
    told = claims.related_kept(demo)
    assert told.verdict == verdict
    assert told.deciding == f"after − before: demo/d10 {change(changed(demo.probes.head(0)))}, demo/d50 " + change(
        Interval(worst, worst - 0.03, worst + 0.03)
    )


def test_the_readme_names_other_rows_where_they_give_another_verdict(demo, monkeypatch):
    def judged(claim, verdict):
        return Judgement(claim, verdict, "+0.1 [+0.0, +0.2]; beside it", "data")

    for module, name in ((documents, "CLAIMS"), (verdicts, "ALL_CLAIMS")):
        monkeypatch.setattr(module, name, {"C1": "One.", "C2": "Two."})
    own = [judged("C1", "undecided"), judged("C2", "not run")]
    monkeypatch.setattr(verdicts, "judge_all", lambda _: own)
    others = [("there", "C1", "undecided"), ("here", "C1", "supported"), ("far", "C1", "not run")]
    monkeypatch.setattr(verdicts, "judge_otherwise", lambda _: [(which, judged(*rest)) for which, *rest in others])
    real = replace(demo, rows=demo.rows.assign(preset="own"))
    less = replace(real, rows=real.rows[real.rows["target"] == "d30"].assign(preset="less"))
    number = "+0.1 [+0.0, +0.2]"
    first = f"**undecided**: {number}<br>here: **supported**: {number}"
    page = documents.verdicts([demo, real, less]).splitlines()
    assert page[0] == "First verdicts on these 2 claims: undecided 1, not run 1."
    assert page[-2:] == [f"| C1. One. | {first}<br>`less`, here: **supported**: {number} |", "| C2. Two. | not run |"]
    more = {"less": [judged("C1", "supported"), judged("C2", "contradicted")]}
    monkeypatch.setattr(verdicts, "judge_all", lambda results: more.get(results.name, own))
    assert documents.verdicts([demo, real, less]).splitlines()[-2:] == [
        f"| C1. One. | {first}<br>`less`: **supported**: {number} (also here; there undecided) |",
        f"| C2. Two. | `less`: **contradicted**: {number} |",
    ]


# ---- figures and page --------------------------------------------------------------------------------------------


def test_labels_of_targets_that_are_as_hard_stand_apart():
    places = spread([0.1, 0.3, 0.301, 0.5], 0.05)
    assert np.diff(places).min() == pytest.approx(0.02)
    np.testing.assert_allclose(places, [0.1, 0.2905, 0.3105, 0.5])


def test_bottom_leaves_the_plane_where_it_is_near_zero(sentiment):
    rows = one_setting(sentiment).rows
    near_zero = pick(rows, arm="near_zero", depth=2)
    again = near_zero.assign(arm="bottom", cell=near_zero["cell"] + "-b")
    rows = rows[rows["arm"].isin(["zero_shot", "full", "near_zero"])]
    for alike in (True, False):
        own = again if alike else again.assign(predictions=again["predictions"].str[::-1])
        assert bottom_is_near_zero(pd.concat([rows, own], ignore_index=True)) is alike
        figure = plane_figure(replace(sentiment, rows=pd.concat([rows, own], ignore_index=True)))
        shown = {label for axis in figure.axes for label in axis.get_legend_handles_labels()[1]}
        assert (arm_label("bottom", 2) in shown) is not alike
        assert ("without lowest-scored heads" in figure.get_suptitle()) is alike
        plt.close(figure)
    assert not bottom_is_near_zero(rows)


def test_panels_of_the_plane_have_limits_of_their_own(sentiment):
    here = sentiment.only(sentiment.rows["arm"].isin(["zero_shot", "norm_only"]) & sentiment.rows["depth"].isna())
    figure = plane_figure(here)
    assert len({axis.get_xlim() for axis in figure.axes if axis.get_visible()}) > 1
    plt.close(figure)


def test_the_figure_by_target_rows_draws_each_arm_at_the_rates_of_every_n(sentiment):
    rows = sentiment.rows
    lacking = rows["arm"].eq("norm_only") & rows["lr"].eq(1e-2) & rows["n_target"].eq(25)
    here = rows["target"].eq("d30") & rows["arm"].isin(["zero_shot", "norm_only", "full"])
    told = "demo: 2 seeds\neach arm at the learning rates that it had with every n"
    for gone, star in ((~here, ""), (lacking, "*")):
        figure = by_rows_figure(sentiment.only(here & ~gone))
        assert figure.get_suptitle() == told + " (* fewer than another)" * bool(star)
        (axis,) = figure.axes
        lines = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        assert set(lines) == {"no target rows", arm_label("full"), arm_label("norm_only") + star}
        drawn = lines[arm_label("norm_only") + star].lines[0].get_ydata()[1]  # 100 rows
        own = at_validated_rate(
            rows[here & rows["arm"].eq("norm_only") & rows["n_target"].eq(100) & (rows["lr"] < 1e-2 if star else True)]
        )
        assert drawn == pytest.approx(own["accuracy"].mean())
        plt.close(figure)


def test_arms_with_one_number_of_rows_are_not_in_the_figure_by_target_rows(sentiment):
    rows = sentiment.rows
    alone = rows["arm"].eq("norm_only") & rows["n_target"].eq(25)
    here = rows["target"].eq("d30") & rows["arm"].isin(["norm_only", "full"]) & ~alone
    figure = by_rows_figure(sentiment.only(here))
    drawn = {label for axis in figure.axes for label in axis.get_legend_handles_labels()[1]}
    assert arm_label("full", None) in drawn
    assert arm_label("norm_only", None) not in drawn
    plt.close(figure)
    assert by_rows_figure(sentiment.only(here & rows["arm"].eq("norm_only"))) is None


def test_a_study_that_has_only_begun_is_drawn_and_judged(tmp_path):
    """Nothing but zero-shot cells is done, and no circuit was asked whether it is faithful."""
    folder = shutil.copytree(DEMO, tmp_path / "demo", ignore=shutil.ignore_patterns("cache", "0[346]*", "*.sha256"))
    for name, column, begun in (
        ("01_nusax_transfer.csv", "arm", {"zero_shot"}),
        ("02_xnli_generalization.csv", "arm", {"zero_shot"}),
        ("05_faithfulness.sets.csv", "selection", {"none", "all"}),
    ):
        rows = pd.read_csv(folder / name, dtype=str, keep_default_na=False)
        rows[rows[column].isin(begun)].to_csv(folder / name, index=False)
    results = Results.read(folder)
    assert tables_of(results)
    assert figures_of(results)
    judged = {judgement.claim: judgement.verdict for judgement in claims.judge(results)}
    assert {judged[claim] for claim in ("C1", "C2", "C3a", "C3b", "C5", "C6", "C8")} == {"not run"}
    plt.close("all")


def test_rows_that_no_column_tells_apart_are_refused(folder):
    """As a run with other epochs leaves them: another key, and nothing else that a table could see."""
    path = folder / "01_nusax_transfer.csv"
    first = list(csv.DictReader(path.open()))[5]
    with path.open("a", newline="") as file:
        csv.DictWriter(file, first).writerow(first | {"cell": first["cell"][:-6] + "0a1b2c"})
    path.with_name(f"{path.name}.sha256").unlink()
    with pytest.raises(UserError, match=rf"made with other settings.*{first['cell'][:-6]}.*--output of its own"):
        Results.read(folder)
    assert len(Results.read(folder, "01_nusax_transfer").rows)  # a script picks its rows by their keys


def test_arms_without_a_start_may_have_been_run_under_two_settings_of_the_source(folder):
    """They are keyed by these too, and run again under each: the same answers, told once. Other answers are refused."""
    path = folder / "01_nusax_transfer.csv"
    before = Results.read(folder).rows
    again = next(row for row in csv.DictReader(path.open()) if row["arm"] == "direct")
    again |= {"cell": again["cell"][:-6] + "0a1b2c", "created": "2026-01-01", "train_seconds": "0.1"}
    append_rows(path, [again])
    assert Results.read(folder).rows["cell"].tolist() == before["cell"].tolist()
    assert again["cell"] in set(Results.read(folder, "01_nusax_transfer").rows["cell"])  # a script has its own key
    append_rows(path, [again | {"predictions": f"p{again['predictions'][:0:-1]}"}])
    with pytest.raises(UserError, match="made with other settings"):
        Results.read(folder)


def test_two_folders_of_one_name_are_refused(tmp_path, monkeypatch, capsys):
    other = shutil.copytree(DEMO, tmp_path / "demo", ignore=shutil.ignore_patterns("cache"))
    monkeypatch.setattr(sys, "argv", ["report", str(DEMO), str(other)])
    with pytest.raises(SystemExit) as ended:
        report_main()
    assert ended.value.code == 2
    assert "two results folders have the same name" in capsys.readouterr().err


def test_every_figure_is_drawn_from_the_demo(demo):
    figures = figures_of(demo)
    assert len(figures) == 19
    for name, figure in figures.items():
        figure.canvas.draw()
        inside = figure.get_tightbbox().transformed(figure.dpi_scale_trans).padded(-2)
        width, height = figure.get_size_inches() * figure.dpi
        assert inside.x0 >= 0, name
        assert inside.y0 >= 0, name
        assert inside.x1 <= width, name
        assert inside.y1 <= height, name
    plt.close("all")


def test_the_page_opens_in_a_browser_with_all_pictures_and_no_error(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("needs chromium and chromedriver on the PATH (Debian: chromium, chromium-driver)")
    page = tmp_path / "report.html"
    subprocess.run([sys.executable, "-m", "ctsft.report", str(DEMO), "--page", str(page)], check=True)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        window.get(page.as_uri())
        widths = window.execute_script("return [...document.images].map(i => i.complete ? i.naturalWidth : 0)")
        assert len(widths) == 19
        assert min(widths) > 100
        assert window.get_log("browser") == []
        (glance,) = window.find_elements("css selector", "table:not(:has(caption))")
        assert "contradicted" in glance.text
        assert len(window.find_elements("tag name", "caption")) == len(tables_of(Results.read(DEMO)))
    finally:
        window.quit()


def test_notebooks_show_the_rows_of_ones_own_output(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    assert folders()["demo"] == DEMO
    monkeypatch.setenv("CTSFT_RESULTS", str(tmp_path))
    with pytest.raises(UserError, match="Set CTSFT_RESULTS to what a script was given as --output"):
        folders()
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "gold.json").touch()
    assert folders() == {"small": tmp_path / "small"}


def test_nothing_after_the_rows_can_load_a_model():
    """The report reads rows; what loads models, reads data sets or tunes is not even imported."""
    code = "import sys, ctsft.report.__main__; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "ctsft.report.rows" in told.split()
    heavy = {"ctsft.models.load", "ctsft.study.workbench", "datasets", "evaluate", "transformers.modeling_utils"}
    assert not heavy & set(told.split())
