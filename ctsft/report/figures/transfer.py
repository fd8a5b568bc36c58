"""Figures of scripts 01 and 02: what every arm gets on the target and keeps on the source, and how it grows with n."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ctsft.discovery.circuits import PAPERS_DEPTH
from ctsft.report.choosing import at_papers_share, at_validated_rate, chosen_by_index, circuits_by
from ctsft.report.compare import SOURCE, TARGET, accuracy
from ctsft.report.fair import rates_by_seed, short_of_rates
from ctsft.report.figures.style import SHORT, WIDTH, arm_label, arms_of_error, legend_below, look_of, style, widen
from ctsft.report.rows import Results
from ctsft.report.select import EXPERIMENT, arms_in_order, by_a_model, pick


def transfer_figure(results: Results, experiment: str = EXPERIMENT) -> plt.Figure | None:
    """Two panels a target, one row an arm that was run: accuracy on the target, and on the source.

    They show the number of target rows that most cells have; of several, the largest.

    Every arm stands at its validated learning rate and the paper's share of heads, with its 95 % interval, and has a
    star where it had fewer rates than another. The dashed line is the accuracy without target rows (left) and before
    tuning (right).
    """
    tried = at_papers_share(results.from_most_source_rows().on_the_grid_of(experiment).rows)
    rows = at_validated_rate(tried)
    targets = list(dict.fromkeys(rows["target"]))
    tuned = rows[rows["arm"] != "zero_shot"]
    if tuned.empty:
        return None
    n_target = int(tuned["n_target"].mode().max())
    tuned = tuned[tuned["n_target"] == n_target]
    targets = [target for target in targets if target in set(tuned["target"])]
    run = {target: arms_in_order(tuned[tuned["target"] == target]) for target in targets}
    short = {target: _short(tuned[tuned["target"] == target], arms, tried) for target, arms in run.items()}
    with style():
        heights = [0.45 + 0.2 * len(arms) for arms in run.values()]
        figure, axes = plt.subplots(
            len(targets),
            2,
            figsize=(WIDTH, 0.7 + sum(heights)),
            sharex="col",
            squeeze=False,
            height_ratios=[len(arms) for arms in run.values()],
            layout="constrained",
        )
        for (left, right), (target, arms) in zip(axes, run.items(), strict=True):
            here = tuned[tuned["target"] == target]
            _intervals(left, here, arms, TARGET)
            _intervals(right, by_a_model(here), arms, SOURCE)
            zero = pick(rows, target=target, arm="zero_shot")
            if len(zero):
                left.axvline(zero["accuracy"].mean(), color="black", linestyle="--", linewidth=1)
            right.axvline(here["source_accuracy_before"].mean(), color="black", linestyle="--", linewidth=1)
            left.set_yticks(range(len(arms)), [arm_label(*pair) + SHORT * (pair in short[target]) for pair in arms])
            right.set_yticks(range(len(arms)), [""] * len(arms))
            left.set_title(target, loc="left", fontweight="bold")
        for axis in axes[-1]:
            widen(axis, "x")
        axes[-1][0].set_xlabel("accuracy on the target\n(dashed: no target rows)")
        axes[-1][1].set_xlabel(f"accuracy on {rows['source'].iloc[0]} afterwards\n(dashed: before)")
        told = f" ({SHORT} had fewer learning rates)" if any(short.values()) else ""
        figure.suptitle(f"{results.model}, {n_target} target rows{told}", fontsize=10)
    return figure


def _short(rows: pd.DataFrame, arms: list, tried: pd.DataFrame) -> list:
    """Those of a target's arms that had fewer rates to choose from, in all rows `tried`, than another on some seed."""
    rates = [rates_by_seed(pick(rows, arm=arm, depth=depth), tried) for arm, depth in arms]
    return [pair for pair, fewer in zip(arms, short_of_rates(rates), strict=True) if fewer]


def _intervals(axis: plt.Axes, rows: pd.DataFrame, arms: list, columns: tuple[str, str]) -> None:
    for number, (arm, depth) in enumerate(arms):
        value = accuracy(pick(rows, arm=arm, depth=depth), columns)
        if value is not None:
            axis.errorbar(value.value, number, xerr=arms_of_error(value), **look_of(arm))
    axis.set_ylim(len(arms) - 0.5, -0.5)


def _in_common(rows: pd.DataFrame) -> pd.DataFrame:
    """Of every target the seeds that all of its numbers of rows have, and of each arm the rates that it had with all.

    An arm that lacks one of these seeds with some number of rows is left out.
    """
    kept = []
    for _, here in rows.groupby("target", sort=False):
        tuned = here[here["arm"] != "zero_shot"].groupby("n_target")
        seeds = set.intersection(*tuned["seed"].agg(set)) if len(tuned) else set()
        for _, own in here[here["seed"].isin(seeds)].groupby(["arm", "depth"], dropna=False, sort=False):
            tried = own.groupby(["n_target", "seed"])["lr"].agg(lambda rates: set(rates.dropna()))
            if len(tried) == len(seeds) * own["n_target"].nunique():
                kept.append(own[own["lr"].isna() | own["lr"].isin(set.intersection(*tried))])
    return pd.concat(kept) if kept else rows.iloc[:0]


def _common_told(common: pd.DataFrame, stars: bool) -> str:
    """The seeds of the rows that are `_in_common`, once for targets that have equally many, and of which rates."""
    by_number: dict[int, list[str]] = {}
    for target, here in common.groupby("target", sort=False):
        by_number.setdefault(here["seed"].nunique(), []).append(str(target))
    told = [
        f"{', '.join(targets) if len(by_number) > 1 else common['model'].iloc[0]}: {seeds} seeds"
        for seeds, targets in by_number.items()
    ]
    fewer = f" ({SHORT} fewer than another)" if stars else ""
    return "\n".join([*told, f"each arm at the learning rates that it had with every n{fewer}"])


def by_rows_figure(results: Results) -> plt.Figure | None:
    """Accuracy on the target by number of target rows, one line an arm; None where there is only one number.

    On the seeds that a target has with every number of rows, each arm at the rates that it had with all of them there,
    without arms that lack such a seed or have one number of rows alone, and without heads that ties by index chose
    where the arm has others: what more rows give must not be what other seeds, more rates, or other heads give. An arm
    with fewer rates than another has a star. From the most source rows.
    """
    rows = at_papers_share(results.from_most_source_rows().rows)
    common = _in_common(rows[rows["depth"].isna() | (rows["depth"] == PAPERS_DEPTH)])
    rows = at_validated_rate(common)
    ways = circuits_by(rows).groupby([rows["target"], rows["arm"]]).transform("nunique")
    rows = rows[(ways <= 1) | ~chosen_by_index(rows)]
    tuned = rows[rows["arm"] != "zero_shot"]
    unit = [tuned[name] for name in ("target", "arm", "depth")]
    tuned = tuned[tuned["n_target"].groupby(unit, dropna=False).transform("nunique") > 1]
    targets = list(dict.fromkeys(tuned["target"]))
    if not targets:
        return None
    arms = arms_in_order(tuned)
    short = set().union(*(_short(here, arms, common) for _, here in tuned.groupby("target")))
    with style():
        figure, axes = plt.subplots(
            1, len(targets), figsize=(WIDTH, 3.2), sharey=True, sharex=True, squeeze=False, layout="constrained"
        )
        for axis, target in zip(axes[0], targets, strict=True):
            here = tuned[tuned["target"] == target]
            sizes = sorted(here["n_target"].unique())
            for number, (arm, depth) in enumerate(arms):
                values = {n: accuracy(pick(here, arm=arm, depth=depth, n_target=n)) for n in sizes}
                known = {n: value for n, value in values.items() if value is not None}
                if known:
                    # Beside each other, or the intervals of one n would hide each other.
                    x = np.array(list(known)) + (number - (len(arms) - 1) / 2) * 0.018 * max(sizes)
                    errors = np.hstack([arms_of_error(value) for value in known.values()])
                    look = look_of(arm) | {"label": arm_label(arm, depth) + SHORT * ((arm, depth) in short)}
                    axis.errorbar(x, [value.value for value in known.values()], yerr=errors, **look)
            zero = pick(rows, target=target, arm="zero_shot")["accuracy"]
            if len(zero):
                axis.axhline(zero.mean(), color="black", linestyle="--", linewidth=1, label="no target rows")
            axis.set_title(target, loc="left", fontweight="bold")
            axis.set_xticks(sizes)
            axis.set_xlabel("target rows")
        axes[0][0].set_ylabel("accuracy on the target")
        figure.suptitle(_common_told(common[common["target"].isin(targets)], bool(short)), fontsize=9)
        legend_below(figure, axes[0])
    return figure
