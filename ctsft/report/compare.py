"""From rows of a results folder to [seeds, rows] arrays, aligned so that arms are compared on the same ground."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ctsft.report.stats import Difference, Interval, macro_f1_interval, mean_interval, paired_difference

TARGET = ("answers", "gold")
SOURCE = ("source_answers", "source_gold")


def right(rows: pd.DataFrame, columns: tuple[str, str] = TARGET) -> dict[int, np.ndarray]:
    """Per seed, whether each test row was answered right [N], averaged over the draws of a random control."""
    answers, gold = columns
    return {
        int(seed): np.mean([a == g for a, g in zip(group[answers], group[gold], strict=True)], axis=0)
        for seed, group in rows.groupby("seed")
    }


def stack(by_seed: dict[int, np.ndarray], seeds: list[int] | None = None) -> np.ndarray:
    """[seeds, N], for the seeds given or all."""
    return np.stack([by_seed[seed] for seed in (seeds or sorted(by_seed))])


def accuracy(rows: pd.DataFrame, columns: tuple[str, str] = TARGET) -> Interval | None:
    """Accuracy with its interval; None where there is no row."""
    return mean_interval(stack(right(rows, columns))) if len(rows) else None


def macro_f1(rows: pd.DataFrame) -> Interval | None:
    return macro_f1_interval(np.stack(list(rows["answers"])), rows["gold"].iloc[0]) if len(rows) else None


def paired(first: pd.DataFrame, second: pd.DataFrame, columns: tuple[str, str] = TARGET) -> Difference | None:
    """Accuracy of `first` minus that of `second` on the seeds that both have; None where they share none."""
    one, two = right(first, columns), right(second, columns)
    seeds = sorted(one.keys() & two.keys())
    return paired_difference(stack(one, seeds), stack(two, seeds)) if seeds else None


def pooled(pairs: list[tuple[pd.DataFrame, pd.DataFrame]], columns: tuple[str, str] = TARGET) -> Difference | None:
    """The mean over settings of paired differences, on the seeds that every setting has in both arms.

    The settings' test rows must correspond (the languages of a task are parallel): a row is drawn in all of them.
    """
    sides = [(right(first, columns), right(second, columns)) for first, second in pairs]
    if not sides:
        return None
    seeds = sorted(set.intersection(*(set(one) & set(two) for one, two in sides)))
    if not seeds:
        return None
    first, second = (np.mean([stack(side[i], seeds) for side in sides], axis=0) for i in (0, 1))
    return paired_difference(first, second)
