"""Arms with unequal learning rates are compared at those that both had: a further one of one arm hides nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from ctsft.report import claims
from ctsft.report.by_rate import kept_text, rate_points
from ctsft.report.fair import short_of_rates
from ctsft.report.figures.by_rate import by_rate_figure
from ctsft.report.figures.forgetting import FEWER, plane_figure
from ctsft.report.figures.tradeoff import difficulty_figure
from ctsft.report.forgetting import forgetting_cells, forgetting_tables, plane
from ctsft.report.render import GAP, change
from ctsft.report.rows import Results
from ctsft.report.select import EXPERIMENT, pick
from ctsft.report.tradeoff import correlation_text, difficulty_predicts, tradeoff_cells, tradeoff_tables

DEMO = Path(__file__).parents[1] / "results" / "demo"
FURTHER = 0.5


@pytest.fixture(scope="module")
def study() -> Results:
    return Results.read(DEMO).of(EXPERIMENT)


@pytest.fixture(scope="module")
def one_target(study) -> Results:
    return study.only((study.rows["target"] == "d30") & study.rows["n_target"].isin([0, 100]))


def with_further_rate(results: Results, arm: str) -> Results:
    """One rate more for this arm, which validation would choose, and which answers nothing right."""
    own = pick(results.rows, arm=arm).drop_duplicates(["target", "n_target", "depth", "share", "draw", "seed"])
    wrong = [labels * 0 - 1 for labels in own["gold"]]
    own = own.assign(lr=FURTHER, valid_accuracy=1.0, accuracy=0.0, answers=wrong, source_answers=wrong)
    own["cell"] += "-more"
    return replace(results, rows=pd.concat([results.rows, own], ignore_index=True))


@pytest.mark.parametrize("arm", ["circuit", "near_zero", "random", "norm_only", "full"])
def test_a_further_rate_of_one_arm_blanks_and_changes_no_comparison(one_target, arm):
    more = with_further_rate(one_target, arm)
    assert tradeoff_cells(more).equals(tradeoff_cells(one_target))
    column = "source, against full"
    cells = forgetting_cells(one_target)[column]
    assert (cells != GAP).sum() > 1
    assert forgetting_cells(more)[column].equals(cells)


def test_arms_without_a_common_rate_are_not_compared(one_target):
    full, circuit = (one_target.rows["arm"] == arm for arm in ("full", "circuit"))
    apart = one_target.only(~(full & (one_target.rows["lr"] > 1e-3)) & ~(circuit & (one_target.rows["lr"] == 1e-3)))
    cells = forgetting_cells(apart).set_index("arm")["source, against full"]
    assert cells["circuit"] == GAP
    assert cells["norm_only"] != GAP


@pytest.mark.parametrize("arm", ["circuit", "near_zero"])
def test_difficulty_asks_at_the_rates_of_both(study, arm):
    more = with_further_rate(study, arm)
    assert difficulty_predicts(more) == difficulty_predicts(study)
    drawn = []
    for results in (study, more):
        figure = difficulty_figure(results)
        drawn.append([line.get_xydata().tolist() for line in figure.axes[0].lines])
        plt.close(figure)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("arm", ["full", "near_zero"])
def test_table_and_claim_answer_alike_whether_difficulty_predicts(study, arm):
    """A rate that `full` lacks is none of this question's; one that near_zero lacks counts for neither, in both."""
    fewer = study.only(~((study.rows["arm"] == arm) & (study.rows["lr"] == study.rows["lr"].max())))
    [judged] = [j for j in claims.of_transfer(fewer) if j.claim == "C2"]
    told = change(difficulty_predicts(fewer))
    assert judged.deciding == f"Spearman of difficulty and lead {told}"
    assert f"near-zero heads: {told} " in correlation_text(fewer)
    without_it = study.only(study.rows["lr"] != study.rows["lr"].max())
    assert (change(difficulty_predicts(without_it)) == told) is (arm == "near_zero")


def test_captions_say_which_rates_are_compared(one_target):
    assert "same learning rates to choose from on each seed" in tradeoff_tables(one_target)[0].caption
    assert "from the learning rates that both had on a seed" in forgetting_tables(one_target)[0].caption


def test_arms_are_short_of_rates_where_another_had_more_on_their_seed():
    three, four = (1e-4, 1e-3, 1e-2), (1e-4, 1e-3, 1e-2, 1e-1)
    assert short_of_rates([{31: three, 777: four}, {31: four, 777: four}, {31: ()}]) == [True, False, False]
    assert short_of_rates([{31: three, 777: four}, {31: three}, {777: four}]) == [False, False, False]
    assert short_of_rates([]) == []


def test_arms_with_fewer_rates_are_ringed_and_left_out_of_the_front(one_target):
    """Norms alone that are right about everything would be the front; with a rate less they are none of it."""
    rows = one_target.rows
    for answers, gold in (("answers", "gold"), ("source_answers", "source_gold")):
        best = [g if arm == "norm_only" else a for arm, a, g in rows[["arm", answers, gold]].itertuples(index=False)]
        rows = rows.assign(**{answers: best})
    best = replace(one_target, rows=rows)
    gone = (rows["arm"] == "norm_only") & (rows["seed"] == 31) & (rows["lr"] == rows["lr"].max())
    others = plane(one_target.only(one_target.rows["arm"] != "norm_only"))
    for study, front, fewer in (
        (best, {"norm_only"}, set()),
        (best.only(~gone), set(others.loc[others["front"], "arm"]), {"norm_only"}),
    ):
        points = plane(study)
        assert set(points.loc[points["front"], "arm"]) == front
        assert set(points.loc[points["fewer"], "arm"]) == fewer
        figure = plane_figure(study)
        assert (FEWER in figure.axes[0].get_legend_handles_labels()[1]) is bool(fewer)
        plt.close(figure)


def test_seeds_on_which_arms_began_from_other_weights_are_not_compared(one_target):
    """In tables and verdicts alike; an arm without theta1 fits every other."""
    rows = one_target.rows
    moved = (rows["arm"] == "circuit") & (rows["seed"] == 31)
    apart = replace(one_target, rows=rows.assign(theta1=rows["theta1"].mask(moved, "another machine's")))
    without = one_target.only(~moved)
    column = "circuit − near_zero"
    assert not tradeoff_cells(apart)[column].equals(tradeoff_cells(one_target)[column])
    assert tradeoff_cells(apart)[column].tolist() == tradeoff_cells(without)[column].tolist()
    for one, other in zip(claims.of_transfer(apart), claims.of_transfer(without), strict=True):
        assert (one.verdict, one.number) == (other.verdict, other.number)
    none = replace(one_target, rows=rows.assign(theta1=rows["theta1"].mask(moved)))
    assert tradeoff_cells(none)[column].equals(tradeoff_cells(one_target)[column])


def test_of_targets_with_other_seeds_those_of_the_most_are_pooled(study):
    """One seed of each would be none in common."""
    targets = list(dict.fromkeys(study.rows["target"]))
    one, *others = targets
    apart = study.only((study.rows["target"] == one) ^ (study.rows["seed"] == 31))
    found = claims.target_accuracy(apart)
    assert "seeds 31;" in found.data
    assert f"{one} n" not in found.data
    assert all(f"{target} n" in found.data for target in others)


def test_the_best_rate_that_keeps_the_source_is_told_for_each_target_that_stands_alone(study):
    """Rates that not all targets have leave no line over all; then no target's heads meet another one's `full`."""
    rows = study.rows[study.rows["target"].isin(["d30", "d70"])]
    uneven = rows[~((rows["target"] == "d70") & (rows["lr"] == rows["lr"].max()))]
    points = rate_points(replace(study, rows=uneven)).assign(before=0.0)
    told = kept_text(points[points["targets"] == 1])
    assert told.count("d30, n = 100: circuit at") == told.count("d70, n = 100: circuit at") == 1
    for target in ("d30", "d70"):
        [alone] = kept_text(points[points["target"] == target]).partition("seen them): ")[2:]
        assert all(part in told for part in alone.removesuffix(".").split("; "))
    figure = by_rate_figure(replace(study, rows=rows[(rows["target"] != "d70") | (rows["seed"] == 31)]))
    drawn = [line.get_xdata() for axis in figure.axes for line in axis.lines]
    assert all(len(set(x)) == len(x) for x in drawn if len(x) > 2)  # a line is of one target
    assert [axis.get_title(loc="left") for axis in figure.axes[::2]] == ["d30, n = 100", "d70, n = 100"]
    plt.close(figure)
