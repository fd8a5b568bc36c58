"""Figures of script 03: the circuit's advantage against the difficulty of the transfer, and the sweep as a surface."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from scipy.optimize import isotonic_regression

from ctsft.discovery.circuits import PAPERS_DEPTH, PAPERS_SHARE
from ctsft.report.compare import paired
from ctsft.report.fair import fair_pair
from ctsft.report.figures.style import WIDTH, arms_of_error, style
from ctsft.report.render import change, rate_text
from ctsft.report.rows import Results
from ctsft.report.select import pick
from ctsft.report.share_of_heads import surface
from ctsft.report.tradeoff import PAIR, difficulty, difficulty_predicts, settings
from ctsft.tuning.arms import ARMS


def spread(values: Sequence[float], gap: float) -> np.ndarray:
    """Places as near as can be to rising `values`, at least `gap` of their range apart, so that labels can be read."""
    steps = gap * np.ptp(values) * np.arange(len(values))
    return isotonic_regression(np.array(values) - steps).x + steps


def difficulty_figure(results: Results) -> plt.Figure | None:
    """Accuracy of the circuit minus near-zero's, with its paired interval, over the difficulty of the transfer.

    From the most source rows. Both arms have the same learning rates to choose from, on each seed.
    """
    rows = results.from_most_source_rows().rows
    points = []
    for setting in settings(pick(rows, share=PAPERS_SHARE)).to_dict("records"):
        value = paired(*fair_pair(*(pick(rows, **setting, arm=arm) for arm in PAIR)))
        zero = pick(rows, target=setting["target"], arm="zero_shot")
        if value is not None and len(zero):
            points.append((setting, difficulty(zero).mean(), value))
    if not points:
        return None
    kinds = sorted({(setting["n_target"], setting["depth"]) for setting, _, _ in points})
    colours = sns.color_palette("colorblind", len(kinds))
    with style():
        figure, axis = plt.subplots(figsize=(WIDTH * 0.75, 3.2), layout="constrained")
        for number, kind in enumerate(kinds):
            mine = [point for point in points if (point[0]["n_target"], point[0]["depth"]) == kind]
            # Beside each other: the settings of one target have one difficulty.
            x = [hard + (number - (len(kinds) - 1) / 2) * 0.006 for _, hard, _ in mine]
            for place, (_, _, value) in zip(x, mine, strict=True):
                axis.errorbar(place, value.value, yerr=arms_of_error(value), color=colours[number], linewidth=1)
            label = f"{kind[0]} rows, depth {kind[1]}"
            axis.plot(x, [v.value for _, _, v in mine], "osDPXv^*"[number % 8], color=colours[number], label=label)
        hardness = dict(
            sorted({setting["target"]: hard for setting, hard, _ in points}.items(), key=lambda one: one[1])
        )
        for (target, hard), place in zip(hardness.items(), spread(list(hardness.values()), 0.05), strict=True):
            axis.annotate(
                target,
                (hard, 1),
                (place, 1.05),
                xycoords=axis.get_xaxis_transform(),
                rotation=60,
                fontsize=8,
                arrowprops={"arrowstyle": "-", "linewidth": 0.5},
            )
        axis.axhline(0, color="black", linewidth=1)
        found = difficulty_predicts(results)
        if found is not None:
            figure.suptitle(f"Spearman's correlation at depth {PAPERS_DEPTH}: {change(found)}", fontsize=9)
        axis.set_xlabel("difficulty: 1 − zero-shot accuracy / accuracy on the source")
        axis.set_ylabel("accuracy, circuit − near-zero\n(each from the same learning rates)")
        axis.margins(y=0.12)
        figure.legend(loc="outside lower center", ncols=min(4, len(kinds)), frameon=False)
    return figure


def surface_figure(results: Results) -> plt.Figure | None:
    """Accuracy on the target and change on the source by share of heads and learning rate, for circuit and near-zero.

    None where fewer than two shares were run.
    """
    points = surface(results)
    points = points[points["n_target"] == points["n_target"].max()]
    depth = points["depth"].max()
    points = points[points["depth"] == depth]
    if points["share"].nunique() < 2:
        return None
    panels = (("accuracy", "accuracy on the target", "viridis"), ("source_change", "change on the source", "RdBu"))
    with style():
        figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.4), layout="constrained", sharex=True, sharey=True)
        for row, (column, words, colours) in zip(axes, panels, strict=True):
            low, high = points[column].min(), points[column].max()
            if column == "source_change":
                low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
            for axis, arm in zip(row, ("circuit", "near_zero"), strict=True):
                grid = points[points["arm"] == arm].pivot(index="lr", columns="share", values=column).iloc[::-1]
                grid.columns = [f"{share:.0%}" for share in grid.columns]
                grid.index = [rate_text(rate) for rate in grid.index]
                form = ".3f" if column == "accuracy" else "+.3f"
                look = dict(annot=True, fmt=form, cmap=colours, vmin=low, vmax=high)
                look |= dict(cbar=arm == "near_zero", cbar_kws={"label": words})
                sns.heatmap(grid, ax=axis, annot_kws={"fontsize": 8}, linewidths=0.5, **look)
                axis.tick_params(axis="y", rotation=0)
            row[0].set_ylabel("learning rate")
        for axis, arm in zip(axes[0], ("circuit", "near_zero"), strict=True):
            axis.set_title(ARMS[arm].words, loc="left", fontweight="bold")
        for axis in axes[-1]:
            axis.set_xlabel(f"share of the heads at each of {depth + 1} depths")
    return figure
