"""Figure of script 08: what becomes of generations that learn from the last one's labels."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

from ctsft.report.figures.style import COLOURS, MARKERS, WIDTH, arm_label, style, widen
from ctsft.report.self_training import on_the_first_ground, read_self_training
from ctsft.report.transfer import arms_in_order, pick


def self_training_figure(folder: Path) -> plt.Figure | None:
    """Accuracy, label entropy, confidence and diversity by generation: one line an arm; dashed without human rows."""
    rows = read_self_training(folder)
    if rows.empty:
        return None
    rows = on_the_first_ground(rows)
    rows = rows.assign(accuracy=[right.mean() for right in rows["right"]])
    panels = ("accuracy", "label_entropy", "confidence", "diversity")
    with style():
        figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.2), sharex=True, layout="constrained")
        for axis, column in zip(axes.flat, panels, strict=True):
            for arm, depth in arms_in_order(rows):
                chains = pick(rows, arm=arm, depth=depth)
                for human in sorted(set(chains["human"]), reverse=True):
                    mine = pick(chains, human=human).groupby("generation")[column].mean()
                    label = f"{arm_label(arm, depth)}, human rows {'kept' if human else 'first only'}"
                    look = dict(color=COLOURS[arm], marker=MARKERS[arm], markersize=4, linewidth=1)
                    axis.plot(mine.index, mine, label=label, linestyle="-" if human else "--", **look)
            axis.set_ylabel(column.replace("_", " "))
        widen(axes[0][0], "y")
        for axis in axes[-1]:
            axis.set_xlabel("generation")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        target, human, unlabelled = rows[["target", "n_target", "unlabelled"]].iloc[0]
        figure.suptitle(f"{target}, {human} human rows, {unlabelled} without labels", fontsize=10)
    return figure
