"""Figures of script 05: curves of faithfulness, against chance and by scorer, and whether faithfulness pays."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from ctsft.report.faithfulness import Faithfulness, controls, faithfulness_curve, faithfulness_of
from ctsft.report.figures.style import COLOURS, MARKERS, WIDTH, arms_of_error, legend_below, style
from ctsft.report.paying import MEASURES, OUTCOMES, paying
from ctsft.report.rows import Results
from ctsft.report.select import pick
from ctsft.report.stability import Overlap, by_rows

LINES = ("-", "--", ":", "-.")
# What `ByRows` holds, by its field: a label, the arm whose colour it has, a marker.
SIDES = (("to_most", "against the most rows", "circuit", "o"), ("between", "between seeds", "near_zero", "s"))


def curves_figure(found: Faithfulness) -> plt.Figure:
    """Left: the main scorer's heads kept and knocked out, other selections, random sets. Right: every scorer, kept.

    On the right without intervals, which would hide one another: table 05_scorers has them.
    """
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4.2), sharey=True, layout="constrained")
        base = dict(language=found.source, scorer=found.main)
        looks = {
            ("top", "keep"): ("best heads kept", COLOURS["circuit"], MARKERS["circuit"]),
            ("top", "knock_out"): ("best heads knocked out", COLOURS["full"], MARKERS["full"]),
            ("near_zero", "keep"): ("near-zero heads kept", COLOURS["near_zero"], MARKERS["near_zero"]),
            ("bottom", "keep"): ("bottom heads kept", COLOURS["bottom"], MARKERS["bottom"]),
        }
        drawn = {"top", *controls(found)}
        for (selection, direction), (label, colour, marker) in looks.items():
            if selection not in drawn:
                continue
            look = (label, colour, marker, "-", True)
            _draw(left, found, *look, **base, seeds=found.seeds, selection=selection, direction=direction)
        total = int(found.sets["heads"].iloc[0])
        for direction, words, fill in (("keep", "kept", "full"), ("knock_out", "knocked out", "none")):
            by_chance = pick(found.sets, **base, selection="random:top", direction=direction)
            for number, (size, group) in enumerate(by_chance.groupby("size")):
                value = faithfulness_of(found, group)
                look = dict(color=COLOURS["random"], marker=MARKERS["random"], linestyle="none", fillstyle=fill)
                label = None if number else f"random heads of the same layers {words}"
                left.errorbar(size / total, value.value, yerr=arms_of_error(value), label=label, markersize=5, **look)
        left.set_title(f"scorer {found.main}", loc="left")
        palette = sns.color_palette("colorblind", 10)
        for number, scorer in enumerate(found.scorers):
            look = dict(language=found.source, scorer=scorer, selection="top", direction="keep")
            line = LINES[number // len(palette) % len(LINES)] if number >= len(palette) else LINES[number % 2]
            _draw(right, found, scorer, palette[number % len(palette)], "osD^vPX*"[number % 8], line, False, **look)
        right.set_title("best heads kept, by scorer", loc="left")
        for axis in (left, right):
            axis.axhline(0, color="black", linewidth=0.8)
            axis.axhline(1, color="black", linewidth=0.8, linestyle="--")
            axis.set_xlabel("share of heads")
        left.set_ylabel("faithfulness (0: no head, 1: all heads)")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", frameon=False)
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
        figure.suptitle(f"{found.sets['model'].iloc[0]}, {found.source}, validation rows", fontsize=10)
    return figure


def _draw(axis, found: Faithfulness, label: str, colour, marker: str, line: str, band: bool, **wanted: object) -> None:
    points = faithfulness_curve(found, **wanted)
    if points is None:
        return
    shares, values = points
    look = dict(color=colour, marker=marker, linestyle=line, markersize=4, linewidth=1)
    axis.plot(shares, [value.value for value in values], label=label, **look)
    if band:
        low, high = [value.low for value in values], [value.high for value in values]
        axis.fill_between(shares, low, high, color=colour, alpha=0.12, linewidth=0)


def stability_figure(found: Faithfulness) -> plt.Figure | None:
    """Overlap of circuits and correlation of scores, by the number of scored rows."""
    known = by_rows(found)
    if len(known) < 2:
        return None
    sizes = sorted({one.scored for one in known})
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.8), sharey=True, layout="constrained")
        titles = ("heads of the circuit (Jaccard)", "top tenth of the heads (Jaccard)", "all scores (Spearman)")
        for axis, name, title in zip(axes, Overlap._fields, titles, strict=True):
            for side, label, arm, marker in SIDES:
                # Against the most rows, the most have nothing; between seeds, one seed has nothing.
                values = [(one.scored, [getattr(pair, name) for pair in getattr(one, side)]) for one in known]
                values = [(rows, here) for rows, here in values if here]
                points = [(rows, value) for rows, here in values for value in here]
                if not points:
                    continue
                look = dict(color=COLOURS[arm])
                axis.scatter(*zip(*points, strict=True), marker=marker, s=16, alpha=0.7, label=label, **look)
                means = [(rows, np.mean(here)) for rows, here in values]
                axis.plot(*zip(*means, strict=True), linewidth=1, **look)
            axis.set_xscale("log", base=2)
            apart = [after / before > 1.5 for before, after in pairwise(sizes)]  # else the numbers touch
            axis.set_xticks(
                sizes, [str(rows) if free else "" for rows, free in zip(sizes, [True, *apart], strict=True)]
            )
            axis.minorticks_off()
            axis.set_xlabel("scored rows")
            axis.set_title(title, loc="left")
        axes[0].set_ylim(-0.05, 1.05)
        axes[0].set_ylabel("overlap, or correlation")
        legend_below(figure, axes[:1], 2)
        figure.suptitle(f"{found.sets['model'].iloc[0]}, scorer {found.found_again}", fontsize=10)
    return figure


def paying_figure(found: Faithfulness, results: Results) -> plt.Figure | None:
    """Of every tuned circuit: faithfulness, both ways, against what it reached on the target and kept of the source."""
    lines = paying(found, results)
    if lines.empty:
        return None
    total = int(found.sets["heads"].iloc[0])
    measures = [name for name in MEASURES if lines[name].notna().any()]
    with style():
        size = (WIDTH, 0.6 + 2.6 * len(measures))
        figure, grid = plt.subplots(len(measures), 2, figsize=size, squeeze=False, layout="constrained")
        for line, measure in zip(grid, measures, strict=True):
            for axis, what in zip(line, OUTCOMES, strict=True):
                for arm, group in lines.groupby("arm"):
                    look = dict(color=COLOURS[arm], marker=MARKERS[arm], alpha=0.8, label=arm)
                    axis.scatter(group[measure], group[what], s=120 * np.sqrt(group["heads"] / total), **look)
                axis.axhline(0, color="black", linewidth=0.8)
                axis.set_xlabel(f"part of the margin that is {measure}")
                axis.set_ylabel(f"{what},\nabove the start's mean" if what == OUTCOMES[0] else what)
        looks = dict(loc="outside lower center", ncols=4, frameon=False, title="area: number of heads")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), **looks)
    return figure
