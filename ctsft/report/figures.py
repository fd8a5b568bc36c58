"""Figures from result rows: PNG and PDF, colour-blind safe, with markers that survive a grey print."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from ctsft.report.tables import at_validated_rate
from ctsft.tuning.arms import ARMS

MARKERS = dict(zip(ARMS, ["o", "s", "D", "P", "X", "v", "^", "*"], strict=True))
COLOURS = dict(zip(ARMS, sns.color_palette("colorblind", len(ARMS)), strict=True))

# A narrower axis would blow up differences that 400 test rows cannot tell from chance.
MIN_SPAN = 0.2


def arm_label(arm: str, depth: object) -> str:
    """An arm in words, with its depth where it has one."""
    return ARMS[arm].words if pd.isna(depth) else f"{ARMS[arm].words}, depth {depth}"


def transfer_figure(rows: pd.DataFrame, n_target: int, title: str) -> plt.Figure:
    """Two panels that share their rows, one row an arm: accuracy on the target, and on the source afterwards.

    Every arm stands at its validated learning rate. A marker is the mean over seeds, a thin line spans the seeds. The
    dashed line is the accuracy without target rows (left) and before tuning (right).
    """
    targets = list(dict.fromkeys(rows["target"]))
    rows = at_validated_rate(rows)
    tuned = rows[(rows["n_target"] == n_target) & (rows["arm"] != "zero_shot")]
    order = {arm: number for number, arm in enumerate(ARMS)}
    arms = sorted(
        tuned[["arm", "depth"]].drop_duplicates().itertuples(index=False),
        key=lambda pair: (order[pair.arm], -1 if pd.isna(pair.depth) else pair.depth),
    )
    with sns.axes_style("whitegrid"), plt.rc_context({"font.size": 9, "pdf.fonttype": 42}):
        height = 0.7 + len(targets) * (0.45 + 0.2 * len(arms))
        figure, axes = plt.subplots(len(targets), 2, figsize=(7, height), sharex="col", squeeze=False)
        for (left, right), target in zip(axes, targets, strict=True):
            here = tuned[tuned["target"] == target]
            _spans(left, here, arms, "accuracy")
            _spans(right, here, arms, "source_accuracy")
            zero = rows[(rows["target"] == target) & (rows["arm"] == "zero_shot")]["accuracy"]
            if len(zero):
                left.axvline(zero.mean(), color="black", linestyle="--", linewidth=1)
            right.axvline(here["source_accuracy_before"].mean(), color="black", linestyle="--", linewidth=1)
            left.set_yticks(range(len(arms)), [arm_label(*pair) for pair in arms])
            right.set_yticks(range(len(arms)), [""] * len(arms))
            left.set_title(target, loc="left", fontweight="bold", fontsize=9)
        for axis in axes[-1]:
            low, high = axis.get_xlim()
            spare = max(0.0, MIN_SPAN - (high - low)) / 2
            axis.set_xlim(low - spare, high + spare)
        axes[-1][0].set_xlabel("accuracy on the target\n(dashed: no target rows)")
        axes[-1][1].set_xlabel(f"accuracy on {rows['source'].iloc[0]} afterwards\n(dashed: before)")
        figure.suptitle(title, fontsize=10)
        figure.tight_layout()
    return figure


def _spans(axis: plt.Axes, rows: pd.DataFrame, arms: list, column: str) -> None:
    for number, (arm, depth) in enumerate(arms):
        same_depth = rows["depth"].isna() if pd.isna(depth) else rows["depth"] == depth
        values = rows[(rows["arm"] == arm) & same_depth][column]
        if len(values):
            axis.plot([values.min(), values.max()], [number, number], color=COLOURS[arm], linewidth=1)
            axis.plot(values.mean(), number, marker=MARKERS[arm], color=COLOURS[arm], markersize=6, linestyle="none")
    axis.set_ylim(len(arms) - 0.5, -0.5)


def save(figure: plt.Figure, path: Path) -> list[Path]:
    """Write `path`.png (200 dpi) and `path`.pdf, without a date inside, so that equal rows give equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    out = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "pdf")]
    figure.savefig(out[0], dpi=200, metadata={"Software": None})
    figure.savefig(out[1], metadata={"CreationDate": None})
    plt.close(figure)
    return out
