"""Intervals and tests, paired on rows: what 400 test rows and a handful of seeds can tell apart.

Values are [seeds, rows]: what each seed got on each test row. An interval is the middle 95 % of a bootstrap that draws
rows (the same for all seeds, which answer the same rows) and seeds. Drawing S seeds of S would show (S - 1) / S of the
variance between seeds, so their weights are stretched (as in the rescaling bootstrap of Rao and Wu, JASA 1988). With
two seeds that variance itself is hardly known; the tables say how many there are. Every generator is explicit, so equal
rows give equal intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from math import lcm, sqrt
from typing import NamedTuple

import numpy as np
from scipy import stats

DRAWS = 2000
SEED = 8146
DIGITS = 9
Z = 1.959964  # standard deviations on either side that hold 95 % of a normal distribution


class Interval(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """A paired difference with its 95 % interval, and the p value of a paired permutation of rows."""

    value: float
    low: float
    high: float
    p: float


@lru_cache(maxsize=32)
def _weights(size: int, stream: int) -> np.ndarray:
    """How much each of `size` units weighs in each bootstrap draw, [DRAWS, size]; every line sums to 1."""
    generator = np.random.default_rng([SEED, stream, size])
    return generator.multinomial(size, np.full(size, 1 / size), DRAWS) / size


def _stretched(size: int, stream: int) -> np.ndarray:
    """The same of few units, stretched about 1 / size: so draws vary as much as the mean of that many units does."""
    even = 1 / size
    return even + (_weights(size, stream) - even) * sqrt(size / max(1, size - 1))


def _seed_weights(seeds: int) -> np.ndarray:
    return _stretched(seeds, 1)


def mean_draws(values: np.ndarray) -> np.ndarray:
    """The mean of values [seeds, rows] in every bootstrap draw [DRAWS]."""
    return ((_weights(values.shape[1], 0) @ values.T) * _seed_weights(len(values))).sum(1)


def _middle(value: float, draws: np.ndarray) -> Interval:
    # Bounds often lie half-way between two printed digits, or at 0: the last bits, which differ by processor, must not
    # choose the digit or the sign (adding 0 makes -0 to 0).
    return _middle_of(value, *np.percentile(draws, [2.5, 97.5]))


def _middle_of(*bounds: float) -> Interval:
    return Interval(*(np.round(bounds, DIGITS) + 0.0).tolist())


def mean_interval(values: np.ndarray) -> Interval:
    """Mean of values [seeds, rows] from -1 to 1.

    Where all are equal no draw differs, and yet rows that are not there might: what so many rows can have missed with
    a chance of 2.5 % bounds them on either side (the rule of three).
    """
    if np.ptp(values) == 0:
        value, missed = float(values.flat[0]), 1 - 0.025 ** (1 / values.shape[1])
        return _middle_of(value, max(-1.0, value - missed), min(1.0, value + missed))
    return _middle(values.mean(), mean_draws(values))


def mean_over(settings: Sequence[np.ndarray]) -> Interval:
    """Mean over settings of values, each [seeds, rows], for others like them: settings are drawn as well.

    Settings of as many rows draw the same rows. Rows count in the spread of settings too, so it is rather too wide.
    """
    draws = np.stack([mean_draws(values) for values in settings], axis=1)
    return _middle(
        float(np.mean([values.mean() for values in settings])), (draws * _stretched(len(settings), 2)).sum(1)
    )


def fraction_interval(values: np.ndarray) -> Interval:
    """Mean of values [seeds, rows] from 0 to 1, whose bounds are such too."""
    return Interval(*np.clip(mean_interval(values), 0, 1).tolist())


def share_interval(right: np.ndarray) -> Interval:
    """The share of `right` [rows] with Wilson's interval (1927), which is one for few rows and for all right too."""
    n, value = len(right), float(np.mean(right))
    middle = (value + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * sqrt(value * (1 - value) / n + Z**2 / (4 * n**2))
    return _middle_of(value, middle - half, middle + half)


def ratio_interval(over: np.ndarray, under: np.ndarray) -> Interval:
    """mean(over) / mean(under), both [seeds, rows] and paired: retention is accuracy after over accuracy before."""
    return _middle(over.mean() / under.mean(), mean_draws(over) / mean_draws(under))


def combined(function: Callable[..., np.ndarray], *values: np.ndarray | Sequence[np.ndarray]) -> Interval:
    """function(means of values...), each [seeds, rows] and paired: it is applied to every bootstrap draw's means."""
    arrays = [np.asarray(value) for value in values]
    point = function(*(array.mean() for array in arrays))
    return _middle(point, function(*(mean_draws(array) for array in arrays)))


def kept_share(kept: np.ndarray, none: np.ndarray, whole: np.ndarray) -> Interval:
    """(m(C) - m(none)) / (m(all) - m(none)) of margins [seeds, rows]: what a set of heads keeps of the answer."""
    return combined(lambda c, n, w: (c - n) / (w - n), kept, none, whole)


def macro_f1_interval(answers: np.ndarray, gold: np.ndarray) -> Interval:
    """Macro-F1 of answers [seeds, rows], averaged over seeds."""
    return _middle(*_macro_f1(answers, gold))


def macro_f1_difference(pairs: Sequence[tuple[np.ndarray, np.ndarray]], gold: Sequence[np.ndarray]) -> Interval:
    """Macro-F1 of the first answers minus that of the second, both [seeds, rows]; the mean over settings.

    `gold` has each setting's labels. Settings of as many rows draw the same rows, as those of parallel languages must.
    """
    one, other = ([_macro_f1(pair[i], labels) for pair, labels in zip(pairs, gold, strict=True)] for i in (0, 1))
    value, draws = (np.mean([a[i] - b[i] for a, b in zip(one, other, strict=True)], axis=0) for i in (0, 1))
    return _middle(value, draws)


def _macro_f1(answers: np.ndarray, gold: np.ndarray) -> tuple[float, np.ndarray]:
    """The value, and that of every bootstrap draw. F1 of a class is 2 TP / (answers of it + rows of it)."""
    rows, seeds = _weights(answers.shape[1], 0), _seed_weights(len(answers))
    even = np.full((1, answers.shape[1]), 1 / answers.shape[1])

    def score(weights: np.ndarray) -> np.ndarray:
        classes = []
        for label in np.unique(gold):
            hit = weights @ ((answers == label) & (gold == label)).T
            size = weights @ (answers == label).T + (weights @ (gold == label))[:, None]
            classes.append(2 * hit / np.maximum(size, 1e-12))
        return np.mean(classes, axis=0)

    return score(even).mean(), (score(rows) * seeds).sum(1)


def calibration_interval(gaps: Sequence[np.ndarray]) -> Interval:
    """Expected calibration error, averaged over seeds, of gaps [bins, rows] a seed: see `_calibration`."""
    value, draws = _calibration(gaps)
    return _middle(value, np.maximum(draws, 0))


def calibration_difference(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Interval:
    """That of the first minus that of the second, on the same seeds and rows."""
    one, other = _calibration(first), _calibration(second)
    return _middle(one[0] - other[0], one[1] - other[1])


def _calibration(gaps: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
    """The value, and that of every bootstrap draw. Gaps are right minus confidence in a row's own bin, 0 in the others.

    What drawing rows adds to a bin's gap adds to its size as often as not, and always to a gap near zero. So draws lie
    too high, and are moved back by as much as their mean is.
    """
    values = [np.abs(gap.mean(-1)).sum() for gap in gaps]
    drawn = np.stack([np.abs(_weights(gap.shape[-1], 0) @ gap.T).sum(-1) for gap in gaps], axis=-1)
    value, draws = float(np.mean(values)), (drawn * _seed_weights(len(gaps))).sum(-1)
    return value, draws - (draws.mean() - value)


def paired_difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """mean(first - second), both [seeds, rows] on the same seeds and rows.

    The permutation swaps the two arms on whole rows (all seeds together), two-sided: it asks whether the arms could be
    exchanged on these checkpoints, and says nothing of other seeds.
    """
    apart = first - second
    return Difference(*mean_interval(apart), permutation_p(apart.mean(0)))


def permutation_p(differences: np.ndarray) -> float:
    """P(|sum of +-d| >= |sum of d|) over all 2^N signs of the differences d [N], exactly.

    Accuracies of a few seeds differ by multiples of a common fraction, so the sum lives on a lattice, and its
    distribution is built row by row: adding a row moves half of the mass up by d and half of it down. With one seed
    this is McNemar's exact test.
    """
    values = np.round(differences, 9)
    unit = lcm(*(Fraction(value).limit_denominator(5040).denominator for value in np.unique(values)))
    steps = np.abs(np.rint(values * unit)).astype(int)
    reach = int(steps.sum())
    mass = np.zeros(2 * reach + 1)
    mass[reach] = 1.0
    for step in steps[steps > 0]:
        mass = (np.roll(mass, step) + np.roll(mass, -step)) / 2
    observed = abs(int(np.rint(values * unit).sum()))
    return float(min(1.0, mass[: reach - observed + 1].sum() + mass[reach + observed :].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: the i-th smallest of m p values times (m - i), never below a smaller one's, at most 1."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(order))
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted.tolist()


def spearman(x: np.ndarray, y: np.ndarray) -> Interval | None:
    """Spearman's correlation of x and y, both [targets, seeds], with a bootstrap over targets and seeds.

    As few as both are, it is too narrow: what is drawn twice cannot be stretched in a rank. None for fewer than three
    targets, or where all x or all y are equal. Draws without variation are left out.
    """
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    generator = np.random.default_rng(SEED)
    draws: list[tuple[np.ndarray, np.ndarray]] = []
    while len(draws) < DRAWS:
        pick = np.ix_(generator.integers(len(x), size=len(x)), generator.integers(x.shape[1], size=x.shape[1]))
        if np.ptp(x[pick]) > 0 and np.ptp(y[pick]) > 0:
            draws.append((x[pick].ravel(), y[pick].ravel()))
    drawn = _rank_correlation(*(np.stack(side) for side in zip(*draws, strict=True)))
    return _middle(float(_rank_correlation(x.ravel(), y.ravel())), drawn)


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's of each line of x and y, [..., N], where neither is constant: all draws in one go."""
    ranks = [stats.rankdata(values, axis=-1) for values in (x, y)]
    one, other = (rank - rank.mean(-1, keepdims=True) for rank in ranks)
    return (one * other).sum(-1) / np.sqrt((one**2).sum(-1) * (other**2).sum(-1))
