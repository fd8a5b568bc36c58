"""Figures of script 07: what every arm costs, and what fewer bits do to products and answers."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ctsft.report.costs import read_arithmetic, read_costs
from ctsft.report.figures.style import COLOURS, MARKERS, PALETTE, WIDTH, arm_label, arms_of_error, style
from ctsft.report.select import arms_in_order, pick
from ctsft.stats import mean_interval

COSTS = {
    "flops": ("operations, GFLOP", 1e9),
    "cpu_seconds": ("processor seconds", 1),
    "peak_memory_mb": ("peak memory, MB", 1),
    "stored_bytes": ("stored, kB", 1e3),
}


def costs_figure(folder: Path) -> plt.Figure | None:
    """Four panels that share their lines, one line an arm, from zero; None where nothing was measured.

    Of several numbers of target rows that of the most cells is drawn. What is stored differs by factors of a thousand,
    so that panel alone is logarithmic.
    """
    rows = read_costs(folder)
    if rows.empty:
        return None
    rows = rows[rows["n_target"] == rows["n_target"].mode().max()]
    arms = arms_in_order(rows)
    with style():
        figure, axes = plt.subplots(
            1, len(COSTS), figsize=(WIDTH, 0.9 + 0.18 * len(arms)), sharey=True, layout="constrained"
        )
        for axis, (column, (label, unit)) in zip(axes, COSTS.items(), strict=True):
            for number, (arm, depth) in enumerate(arms):
                value = pick(rows, arm=arm, depth=depth)[column].mean() / unit
                if value > 0:  # no model, no operations
                    axis.plot(value, number, color=COLOURS[arm], marker=MARKERS[arm], linestyle="none")
            if column == "stored_bytes":
                axis.set_xscale("log")
                axis.margins(x=0.12)
            else:
                axis.set_xlim(0, 1.12 * axis.dataLim.xmax)
            axis.set_xlabel(label)
        axes[0].set_yticks(range(len(arms)), [arm_label(*pair) for pair in arms])
        axes[0].set_ylim(len(arms) - 0.5, -0.5)
        figure.suptitle(f"{rows['model'].iloc[0]}, {rows['n_target'].iloc[0]} target rows", fontsize=10)
    return figure


def arithmetic_figure(folder: Path) -> plt.Figure | None:
    """Accuracy by arithmetic and place with 95 % intervals, and the mean relative error of the model's own products."""
    rows = read_arithmetic(folder)
    if rows.empty:
        return None
    names, places = list(dict.fromkeys(rows["arithmetic"]))[1:], list(dict.fromkeys(rows["where"].iloc[1:]))
    exact = rows.iloc[0]
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.8), sharey=True, layout="constrained")
        for shift, (place, colour, marker) in enumerate(zip(places, PALETTE, "osD", strict=False)):
            for number, name in enumerate(names):
                found = pick(rows, arithmetic=name, where=place)
                if found.empty:  # a run that was stopped
                    continue
                row = found.iloc[0]
                value = mean_interval((row["answers"] == row["gold"])[None].astype(float))
                height = number + 0.2 * (shift - 1)
                label = place if number == 0 else None
                look = dict(color=colour, marker=marker, markersize=5, linewidth=1, label=label)
                axes[0].errorbar(value.value, height, xerr=arms_of_error(value), **look)
                axes[1].plot(
                    100 * row["real_error"], height, color=colour, marker=marker, markersize=5, linestyle="none"
                )
        axes[0].axvline(np.mean(exact["answers"] == exact["gold"]), color="black", linestyle="--", linewidth=1)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylim(len(names) - 0.5, -0.5)
        axes[0].set_xlabel(f"accuracy on {exact['language']} (dashed: float32)")
        axes[1].set_xlabel("relative error of a product, %")
        axes[1].set_xlim(left=0)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure
