"""When does training on a model's own labels collapse, and does the circuit slow it down (script 08)?

A chain has collapsed at the first generation whose accuracy on the target is below generation 0's with its whole paired
95 % interval, and whose answers have less than half of the gold labels' entropy; it has decayed where the first alone
holds.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ctsft.report.figures.style import COLOURS, MARKERS, WIDTH, arm_label, style
from ctsft.report.render import GAP, Table, change, interval, markdown
from ctsft.report.stats import mean_interval, paired_difference
from ctsft.report.transfer import arms_in_order, pick

EXPERIMENT = "08_self_training"
KEYS = ["target", "n_target", "lr", "arm", "depth", "human"]


def read_self_training(folder: Path) -> pd.DataFrame:
    """One line per chain and generation, with `right` and `source_right` [N]; empty where script 08 has not run."""
    path = folder / "self_training" / f"{EXPERIMENT}.csv"
    if not path.is_file():
        return pd.DataFrame()
    rows = pd.read_csv(path)
    gold = {test: _digits(entry["labels"]) for test, entry in json.loads((folder / "gold.json").read_text()).items()}
    for column, of in (("predictions", "target"), ("source_predictions", "source")):
        tests = rows["task"] + "/" + rows[of]
        right = [_digits(text) == gold[test] for text, test in zip(rows[column], tests, strict=True)]
        rows[column.replace("predictions", "right")] = right
    rows["gold_entropy"] = [_entropy(gold[test]) for test in rows["task"] + "/" + rows["target"]]
    return rows


def _digits(text: str) -> np.ndarray:
    return np.array([int(digit) for digit in text[1:]])


def _entropy(labels: np.ndarray) -> float:
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(shares * np.log2(shares)).sum())


def _stack(rows: pd.DataFrame, column: str = "right") -> np.ndarray:
    """[seeds, N]"""
    return np.stack(list(rows.sort_values("seed")[column])).astype(float)


def fate(chain: pd.DataFrame) -> str:
    """What became of a chain (all seeds of one setting): collapsed or decayed, and at which generation; or neither."""
    first, decayed = pick(chain, generation=0), None
    for generation in range(1, int(chain["generation"].max()) + 1):
        here = pick(chain, generation=generation)
        if paired_difference(_stack(here), _stack(first)).high < 0:
            if here["label_entropy"].mean() < here["gold_entropy"].mean() / 2:
                return f"collapsed at {generation}"
            decayed = decayed or generation
    return f"decayed from {decayed}" if decayed else "held"


def self_training_cells(folder: Path) -> pd.DataFrame:
    """One line per setting and generation."""
    rows = read_self_training(folder)
    table = []
    for _, setting in rows[KEYS].drop_duplicates().iterrows() if len(rows) else []:
        chain = pick(rows, **setting.to_dict())
        first = pick(chain, generation=0)
        end = fate(chain)
        for generation, here in chain.groupby("generation"):
            against = paired_difference(_stack(here), _stack(first)) if generation else None
            table.append(
                {
                    "target": setting["target"],
                    "n": setting["n_target"],
                    "arm": setting["arm"],
                    "depth": GAP if pd.isna(setting["depth"]) else int(setting["depth"]),
                    "human rows": "kept" if setting["human"] else "first only",
                    "generation": generation,
                    "accuracy": interval(mean_interval(_stack(here))),
                    "against generation 0": change(against),
                    "source": interval(mean_interval(_stack(here, "source_right"))),
                    "labels learned from": GAP if generation == 0 else f"{here['pseudo_accuracy'].mean():.3f}",
                    "label entropy": f"{here['label_entropy'].mean():.2f}",
                    "confidence": f"{here['confidence'].mean():.3f}",
                    "diversity": f"{here['diversity'].mean():.3f}",
                    "chain": end,
                    "seeds": here["seed"].nunique(),
                }
            )
    return pd.DataFrame(table)


def self_training_tables(folder: Path) -> list[Table]:
    rows = read_self_training(folder)
    if rows.empty:
        return []
    one = rows.iloc[0]
    rates = ", ".join(f"{rate:g}" for rate in sorted(set(rows["lr"])))
    return [
        Table(
            f"{one['preset']}_{EXPERIMENT}",
            f"Generations that learn from the last one's labels, preset {one['preset']}",
            f"Model `{one['model']}`, source {one['source']}, learning rate {rates}, seeds "
            f"{', '.join(str(seed) for seed in sorted(set(rows['seed'])))}. Every generation starts from theta1; 0 "
            "learns from the human rows, the others from labels that the last one gave to target rows of pool A (whose "
            "translations theta1 has seen with their labels), with the human rows or without them. Labels learned "
            "from: how many of those are right. Entropy and diversity in bits; the gold labels have "
            f"{one['gold_entropy']:.2f}. A chain *collapsed* where the accuracy is below generation 0's with its whole "
            "paired 95 % interval and the label entropy is less than half of the gold labels'; *decayed*: the first "
            "alone; else it *held*.",
            self_training_cells(folder),
        )
    ]


def self_training(folder: Path) -> str:
    """What script 08 prints at the end."""
    return markdown(self_training_cells(folder))


def self_training_figure(folder: Path) -> plt.Figure | None:
    """Accuracy, label entropy, confidence and diversity by generation: one line an arm; dashed without human rows."""
    rows = read_self_training(folder)
    if rows.empty:
        return None
    rows = rows[(rows["target"] == rows["target"].iloc[0]) & (rows["n_target"] == rows["n_target"].max())]
    rows = rows.assign(accuracy=[right.mean() for right in rows["right"]])
    panels = ("accuracy", "label_entropy", "confidence", "diversity")
    with style():
        figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.2), sharex=True, layout="constrained")
        for axis, column in zip(axes.flat, panels, strict=True):
            for arm, depth in arms_in_order(rows):
                for human, line in ((True, "-"), (False, "--")):
                    mine = pick(rows, arm=arm, depth=depth, human=human).groupby("generation")[column].mean()
                    label = f"{arm_label(arm, depth)}, human rows {'kept' if human else 'first only'}"
                    look = dict(color=COLOURS[arm], marker=MARKERS[arm], markersize=4, linewidth=1, linestyle=line)
                    axis.plot(mine.index, mine, label=label, **look)
            axis.set_ylabel(column.replace("_", " "))
        for axis in axes[-1]:
            axis.set_xlabel("generation")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(f"{rows['target'].iloc[0]}, {rows['n_target'].iloc[0]} human rows", fontsize=10)
    return figure
