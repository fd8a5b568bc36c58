"""From rows of a results folder to [seeds, rows] arrays, aligned so that arms are compared on the same ground."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

from ctsft.report.mixed import refuse_mixed
from ctsft.stats import (
    Difference,
    Interval,
    fraction_interval,
    macro_f1_difference,
    macro_f1_interval,
    mean_interval,
    mean_over,
    paired_difference,
)

TARGET = ("answers", "gold")
SOURCE = ("source_answers", "source_gold")


def right(rows: pd.DataFrame, columns: tuple[str, str] = TARGET) -> dict[int, np.ndarray]:
    """Per seed, whether each test row was answered right [N], averaged over the draws of a random control."""
    answers, gold = columns
    refuse_mixed(rows, ["seed", "draw"])
    draws: dict[int, list[np.ndarray]] = {}
    for seed, answer, label in zip(rows["seed"], rows[answers], rows[gold], strict=True):
        draws.setdefault(int(seed), []).append(answer == label)
    return {seed: np.mean(draws[seed], axis=0) for seed in sorted(draws)}


def stack(by_seed: dict[int, np.ndarray], seeds: list[int] | None = None) -> np.ndarray:
    """[seeds, N], for the seeds given or all."""
    return np.stack([by_seed[seed] for seed in (seeds or sorted(by_seed))])


def accuracy(rows: pd.DataFrame, columns: tuple[str, str] = TARGET) -> Interval | None:
    """Accuracy with its interval; None where there is no row."""
    return fraction_interval(stack(right(rows, columns))) if len(rows) else None


def macro_f1(rows: pd.DataFrame) -> Interval | None:
    """Of one draw a seed: an average of draws has no macro-F1, and counted as seeds they would narrow the interval."""
    if rows.empty or rows["seed"].duplicated().any():
        return None
    return macro_f1_interval(np.stack(list(rows["answers"])), rows["gold"].iloc[0])


def of_one_start(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both without the seeds on which they began from theta1 of different weights: that would be compared too.

    An arm without one fits every other, and so do lines that name none.
    """
    if "theta1" not in first or "theta1" not in second:
        return first, second
    starts = [dict(zip(rows["seed"], rows["theta1"], strict=True)) for rows in (first, second)]
    known = ({seed: start for seed, start in own.items() if pd.notna(start)} for own in starts)
    one, other = known
    apart = {seed for seed in one.keys() & other.keys() if one[seed] != other[seed]}
    return (first, second) if not apart else tuple(rows[~rows["seed"].isin(apart)] for rows in (first, second))


def on_common_seeds(
    first: pd.DataFrame, second: pd.DataFrame, columns: tuple[str, str] = TARGET
) -> tuple[np.ndarray, np.ndarray] | None:
    """What each side got right, both [seeds, N], on the seeds that both have; None where they share none."""
    one, two = (right(rows, columns) for rows in of_one_start(first, second))
    seeds = sorted(one.keys() & two.keys())
    return (stack(one, seeds), stack(two, seeds)) if seeds else None


def paired(first: pd.DataFrame, second: pd.DataFrame, columns: tuple[str, str] = TARGET) -> Difference | None:
    """Accuracy of `first` minus that of `second` on the seeds that both have; None where they share none."""
    sides = on_common_seeds(first, second, columns)
    return sides and paired_difference(*sides)


def pooled(pairs: list[tuple[pd.DataFrame, pd.DataFrame]], columns: tuple[str, str] = TARGET) -> Interval | None:
    """The `mean_difference` of settings, on the seeds that every setting has in both arms; None where they share none.

    Test rows of the same labels correspond (the languages of a task are parallel).
    """
    pairs = [of_one_start(*pair) for pair in pairs]
    apart = _apart(pairs, columns)
    return mean_difference(apart, [rows[columns[1]].iloc[0].tobytes() for rows, _ in pairs]) if apart else None


def pooled_over(pairs: list[tuple[pd.DataFrame, pd.DataFrame]], columns: tuple[str, str] = TARGET) -> Interval | None:
    """As `pooled`, with an interval for other settings (languages) like these."""
    apart = _apart([of_one_start(*pair) for pair in pairs], columns)
    return mean_over(apart) if apart else None


def _apart(pairs: list[tuple[pd.DataFrame, pd.DataFrame]], columns: tuple[str, str]) -> list[np.ndarray]:
    """The differences of each setting [seeds, N], on the seeds that all of them have; none where they share none."""
    sides = [(right(first, columns), right(second, columns)) for first, second in pairs]
    seeds = sorted(set.intersection(*(set(one) & set(two) for one, two in sides))) if sides else []
    return [stack(one, seeds) - stack(two, seeds) for one, two in sides] if seeds else []


def mean_difference(apart: Sequence[np.ndarray], tests: Sequence[Hashable]) -> Interval:
    """The mean over settings of paired differences, each [seeds, N] of its own N; every setting weighs the same.

    Settings of equal `tests` have rows that correspond, and a row is drawn in all of them. Those of other tests are
    put beside them, and all rows are drawn as one sample, in which the row of a short test weighs more.
    """
    by_test: dict[Hashable, list[np.ndarray]] = {}
    for values, test in zip(apart, tests, strict=True):
        by_test.setdefault(test, []).append(values)
    sums = [np.sum(values, axis=0) for values in by_test.values()]
    rows = sum(values.shape[1] for values in sums)
    weighted = [values * (rows / values.shape[1] / len(apart)) for values in sums]
    return mean_interval(np.concatenate(weighted, axis=1))


def macro_f1_gap(pairs: list[tuple[pd.DataFrame, pd.DataFrame]]) -> Interval | None:
    """As `pooled`, for the macro-F1 of arms that have one draw a seed."""
    pairs = [of_one_start(*pair) for pair in pairs]
    sides = [tuple(dict(zip(rows["seed"], rows["answers"], strict=True)) for rows in pair) for pair in pairs]
    seeds = sorted(set.intersection(*(set(one) & set(two) for one, two in sides))) if sides else []
    if not seeds:
        return None
    answers = [(stack(one, seeds), stack(two, seeds)) for one, two in sides]
    return macro_f1_difference(answers, [first["gold"].iloc[0] for first, _ in pairs])
