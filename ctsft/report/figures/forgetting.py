"""Figures of script 04: what an arm gains on the target against what it costs the source, and how that comes about."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.colors import to_rgb

from ctsft.report.figures.style import (
    COLOURS,
    MARKERS,
    WIDTH,
    arm_label,
    arms_of_error,
    legend_below,
    look_of,
    style,
    widen,
)
from ctsft.report.forgetting import by_epoch, plane
from ctsft.report.rows import Results
from ctsft.report.select import arms_in_order, pick
from ctsft.tuning.arms import ARMS

FEWER = "fewer learning rates, not in the front"


def bottom_is_near_zero(rows: pd.DataFrame) -> bool:
    """Whether the lowest scores are also those next to zero: both arms answer alike wherever `bottom` was run."""
    keys = ["n_source", "target", "n_target", "depth", "share", "lr", "dtype", "seed"]
    answers = ["predictions", "source_predictions"]
    bottom, near_zero = (pick(rows, arm=arm).set_index(keys)[answers] for arm in ("bottom", "near_zero"))
    alike = near_zero.index.is_unique and bottom.index.isin(near_zero.index).all()
    return bool(len(bottom) and alike and (near_zero.loc[bottom.index].to_numpy() == bottom.to_numpy()).all())


def plane_figure(results: Results) -> plt.Figure | None:
    """One panel a target, at one n: gain on the target over change on the source, with the Pareto front.

    Arms that had fewer learning rates than another of their panel are ringed, and left out of the front. The n that
    most targets and seeds were run with, of several the largest. Without `direct`, which never knew the source, so that
    the other arms can be told apart; and without `bottom` where it is near_zero under another name. Every panel has
    limits of its own.
    """
    twice = bottom_is_near_zero(results.rows)
    points = plane(results.only(~results.rows["arm"].isin({"direct", "bottom"} if twice else {"direct"})))
    tuned = results.rows[results.rows["n_target"] > 0].drop_duplicates(["n_target", "target", "seed"])
    run = tuned["n_target"].value_counts()
    n_target = run.index[run == run.max()].max()
    points = points[points["n_target"] == n_target]
    if points.empty:
        return None
    twice &= bool(len(pick(results.rows, arm="bottom", n_target=n_target)))
    targets = list(dict.fromkeys(points["target"]))
    columns = 2 if len(targets) == 4 else min(3, len(targets))
    lines = -(-len(targets) // columns)
    with style():
        figure, axes = plt.subplots(
            lines,
            columns,
            figsize=(WIDTH, 0.9 + 2.1 * lines),
            squeeze=False,
            layout="constrained",
        )
        for axis, target in zip(axes.flat, targets, strict=False):
            _panel(axis, points[points["target"] == target])
            axis.set_title(target, loc="left", fontweight="bold")
            for which in "xy":
                widen(axis, which)
        for axis in axes.flat[len(targets) :]:
            axis.set_visible(False)
        for number, axis in enumerate(axes.flat[: len(targets)]):
            if number + columns >= len(targets):
                axis.set_xlabel("change on the source")
            if number % columns == 0:
                axis.set_ylabel("gain on the target")
        legend_below(figure, axes.flat)
        note = f"\nwithout {ARMS['bottom'].words}, which answer as {ARMS['near_zero'].words}"
        title = f"{results.model}, {n_target} target rows, validated rates{note if twice else ''}"
        figure.suptitle(title, fontsize=9 if twice else 10)
    return figure


def _panel(axis: plt.Axes, points: pd.DataFrame) -> None:
    """The arms of one target, the front of those that had as many rates as any, and rings around the others."""
    front = sorted((kept.value, gain.value) for kept, gain in points.loc[points["front"], ["kept", "gain"]].to_numpy())
    axis.plot(*zip(*front, strict=True), color="grey", linewidth=1, label="Pareto front")
    for arm, depth in arms_in_order(points):
        mine = pick(points, arm=arm, depth=depth)
        look = dict(marker=MARKERS[arm], color=COLOURS[arm], markerfacecolor=_face(arm, depth), elinewidth=0.6)
        kept, gain = mine["kept"].iloc[0], mine["gain"].iloc[0]
        bars = dict(xerr=arms_of_error(kept), yerr=arms_of_error(gain))
        axis.errorbar(kept.value, gain.value, label=arm_label(arm, depth), **bars, **look)
    short = [(kept.value, gain.value) for kept, gain in points.loc[points["fewer"], ["kept", "gain"]].to_numpy()]
    if short:
        ring = dict(marker="o", markersize=10, markerfacecolor="none", color="0.3", markeredgewidth=0.8)
        axis.plot(*zip(*short, strict=True), label=FEWER, linestyle="none", **ring)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.axvline(0, color="black", linewidth=0.8)


def _face(arm: str, depth: object) -> tuple[float, ...]:
    """The arm's colour; paler at depth 1, and white at depth 0."""
    white = 0.0 if pd.isna(depth) else {0: 1.0, 1: 0.6}.get(int(depth), 0.0)
    return tuple(white + (1 - white) * part for part in to_rgb(COLOURS[arm]))


def epochs_figure(results: Results) -> plt.Figure | None:
    """Change on the target (above) and on the source (below) after every epoch, at the largest n; one line an arm."""
    if results.probes.empty or results.probes["epoch"].nunique() < 3:
        return None
    lines = by_epoch(results)
    lines = lines[lines["n_target"] == lines["n_target"].max()]
    targets = list(dict.fromkeys(lines["target"]))
    with style():
        figure, axes = plt.subplots(
            2, len(targets), figsize=(WIDTH, 4.4), squeeze=False, sharex=True, sharey="row", layout="constrained"
        )
        for row, role in zip(axes, ("target", "source"), strict=True):
            for axis, target in zip(row, targets, strict=True):
                here = lines[(lines["target"] == target) & (lines["role"] == role)]
                for arm, depth in arms_in_order(here):
                    mine = pick(here, arm=arm, depth=depth).sort_values("epoch")
                    axis.plot(mine["epoch"], mine["change"], label=arm_label(arm, depth), **look_of(arm, 4))
                axis.axhline(0, color="black", linewidth=0.8)
                axis.set_title(target, loc="left", fontweight="bold")
            row[0].set_ylabel(f"change on the {role}")
        for axis in axes[-1]:
            axis.set_xlabel("epoch")
            axis.set_xticks(sorted(lines["epoch"].unique()))
        legend_below(figure, [axes[0][0]])
    return figure
