"""Which learning rates make it fair to compare two arms: the one with more tries has the better chances."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ctsft.report.choosing import SETTING, texts_of


def rates_by_seed(some: pd.DataFrame, tried: pd.DataFrame) -> dict[int, set[float]]:
    """The learning rates that the settings of `some` were tried at, in all the rows `tried`; empty without a rate."""
    keys = [*SETTING, "dtype", "seed"]
    near = tried[tried["target"].isin(some["target"]) & tried["arm"].isin(some["arm"])]  # only to be fast
    same = near[texts_of(near, keys).isin(set(texts_of(some, keys)))]
    return {int(seed): set(rates) for seed, rates in same[same["lr"].notna()].groupby("seed")["lr"]}


def equal_rates(first: pd.DataFrame, second: pd.DataFrame, tried: pd.DataFrame) -> bool:
    """Whether two arms had, on each seed of both, the same learning rates to choose from in the rows `tried`.

    The one with more tries has the better chances, so others are not compared. An arm without a rate fits every other.
    """
    one, other = rates_by_seed(first, tried), rates_by_seed(second, tried)
    return all(one[seed] == other[seed] for seed in one.keys() & other.keys())


def lower_rates_besides(first: pd.DataFrame, second: pd.DataFrame, tried: pd.DataFrame) -> bool:
    """Whether the second arm had, on each seed of both, the rates of the first, and others only below all of them.

    For what the paper proposes, first, against all weights, which want a lower rate: further ones are on the hard side
    for it, on the target as further tries, and on the source because a low rate keeps more of it.
    """
    one, other = rates_by_seed(first, tried), rates_by_seed(second, tried)
    common = [seed for seed in one.keys() & other.keys() if one[seed] != other[seed]]
    return all(one[seed] < other[seed] and max(other[seed] - one[seed]) < min(one[seed]) for seed in common)


def without_higher_rates(rows: pd.DataFrame, arm: str, than: Sequence[str]) -> pd.DataFrame:
    """Without what `arm` was run at above all rates of the arms `than`, by start, target, n and seed.

    Such a rate would not be on the hard side for them: it costs the source more. See `lower_rates_besides`.
    """
    ground = texts_of(rows, ["n_source", "target", "n_target", "dtype", "seed"])
    highest = rows["lr"].where(rows["arm"].isin(than)).groupby(ground).transform("max")
    return rows[~((rows["arm"] == arm) & (rows["lr"] > highest))]


def unless_lacking(verdict: str, pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]], tried: pd.DataFrame) -> str:
    """Nothing is contradicted where the second arm had rates that the first lacked, and might have done better with."""
    equal = all(equal_rates(*pair, tried) for pair in pairs)
    return verdict if equal or verdict != "contradicted" else "undecided"
