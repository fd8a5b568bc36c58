"""Figure of script 08: what becomes of generations that learn from the last one's labels."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import FigureBase

from ctsft.report.figures.style import WIDTH, arm_label, legend_below, look_of, style, widen
from ctsft.report.select import arms_in_order, pick
from ctsft.report.self_training import by_ground, labelled_text, read_self_training

PANELS = ("accuracy", "label_entropy", "confidence", "diversity")
HEIGHT = 4.2  # inches, of the four panels


def self_training_figure(folder: Path) -> plt.Figure | None:
    """Accuracy, label entropy, confidence and diversity by generation: one line an arm; dashed without human rows.

    Chains that label the same rows and those that label fresh ones have panels of their own.
    """
    rows = read_self_training(folder)
    if rows.empty:
        return None
    rows = rows.assign(accuracy=[right.mean() for right in rows["right"]])
    modes = list(dict.fromkeys(rows["rows"]))
    with style():
        figure = plt.figure(figsize=(WIDTH, HEIGHT * len(modes)), layout="constrained")
        parts = [figure] if len(modes) == 1 else figure.subfigures(len(modes), 1)
        for part, mode in zip(parts, modes, strict=True):
            _panels(part, by_ground(pick(rows, rows=mode))[0])
        legend_below(figure, figure.axes[:1], 2)
    return figure


def _panels(part: FigureBase, rows: pd.DataFrame) -> None:
    """The four panels of chains that may be compared."""
    axes = part.subplots(2, 2, sharex=True)
    for axis, column in zip(axes.flat, PANELS, strict=True):
        for arm, depth in arms_in_order(rows):
            chains = pick(rows, arm=arm, depth=depth)
            for human in sorted(set(chains["human"]), reverse=True):
                mine = pick(chains, human=human).groupby("generation")[column].mean()
                label = f"{arm_label(arm, depth)}, human rows {'kept' if human else 'first only'}"
                axis.plot(mine.index, mine, label=label, linestyle="-" if human else "--", **look_of(arm, 4))
        axis.set_ylabel(column.replace("_", " "))
    widen(axes[0][0], "y")
    for axis in axes[-1]:
        axis.set_xlabel("generation")
    one = rows.iloc[0]
    labelled = f"{labelled_text(one)} {'rows ' if one['rows'] == 'fresh' else ''}without labels"
    part.suptitle(f"{one['target']}, {one['n_target']} human rows, {labelled}", fontsize=10)
