"""Pooling over target languages whose test rows do not correspond."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ctsft.report.compare import pooled


def rows_of(gold: np.ndarray, hits: np.ndarray) -> pd.DataFrame:
    """One seed's row: right where `hits`, wrong elsewhere."""
    return pd.DataFrame({"seed": [31], "draw": [0], "gold": [gold], "answers": [np.where(hits, gold, 1 - gold)]})


def test_languages_that_are_not_parallel_weigh_the_same_whatever_their_size():
    rng = np.random.default_rng(0)
    pairs, apart = [], []
    for size, gain in ((100, 0.3), (40, 0.1)):
        gold = rng.integers(0, 2, size)
        before = np.arange(size) < 0.4 * size
        after = np.arange(size) < (0.4 + gain) * size
        pairs.append((rows_of(gold, after), rows_of(gold, before)))
        apart.append(after.mean() - before.mean())
    difference = pooled(pairs)
    assert difference.value == pytest.approx(np.mean(apart))
    assert difference.low < difference.value < difference.high
    swapped = pooled([(second, first) for first, second in pairs])
    assert swapped.value == pytest.approx(-difference.value)


def test_parallel_languages_are_drawn_row_by_row():
    gold = np.arange(80) % 2
    first, second = np.arange(80) < 60, np.arange(80) >= 20
    one = rows_of(gold, first), rows_of(gold, np.zeros(80, bool))
    other = rows_of(gold, second), rows_of(gold, np.zeros(80, bool))
    both = pooled([one, other])
    # A row that one language gets wrong the other gets right, so drawing rows jointly leaves less to chance.
    assert both.high - both.low < pooled([one]).high - pooled([one]).low
