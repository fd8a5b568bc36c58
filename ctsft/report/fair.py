"""Which learning rates make it fair to compare two arms: the one with more tries has the better chances."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from ctsft.report.choosing import SETTING, at_own_strength, at_validated_rate, texts_of


def rates_by_seed(some: pd.DataFrame, tried: pd.DataFrame) -> dict[int, set[float]]:
    """The learning rates that the settings of `some` were tried at, in all the rows `tried`; empty without a rate.

    Other strengths of a penalty count for none: nothing is chosen among them.
    """
    tried = at_own_strength(tried)
    keys = [*SETTING, "dtype", "seed"]
    near = tried["target"].isin(some["target"]) & tried["arm"].isin(some["arm"]) & tried["lr"].notna()
    rated = tried.loc[near, [*keys, "lr"]]  # only to be fast
    same = rated[texts_of(rated, keys).isin(set(texts_of(some, keys)))]
    return {int(seed): set(rates) for seed, rates in same.groupby("seed")["lr"]}


def equal_rates(first: pd.DataFrame, second: pd.DataFrame, tried: pd.DataFrame) -> bool:
    """Whether two arms had, on each seed of both, the same learning rates to choose from in the rows `tried`.

    The one with more tries has the better chances, so others are not compared. An arm without a rate fits every other.
    """
    one, other = rates_by_seed(first, tried), rates_by_seed(second, tried)
    return all(one[seed] == other[seed] for seed in one.keys() & other.keys())


def short_of_rates(arms: Sequence[Mapping[int, Collection[float]]]) -> list[bool]:
    """Of arms' rates by seed, whether each had fewer than another arm on some seed; an arm without a rate had not."""
    most: dict[int, int] = {}
    for rates in arms:
        for seed, own in rates.items():
            most[seed] = max(most.get(seed, 0), len(own))
    return [any(0 < len(own) < most[seed] for seed, own in rates.items()) for rates in arms]


def at_common_rates(rows: pd.DataFrame, arms: Sequence[str], within: Sequence[str] = ()) -> pd.DataFrame:
    """Without what one of `arms` was run at and another was not, by start, target, n and seed; other arms keep theirs.

    All are at their own strength. `within`: further columns by which arms are compared, such as their depth.

    A grid that is done for one arm and half done for another so still compares them, on what both had. An arm that has
    no rows there takes nothing from the others, nor does one without a rate.
    """
    rows = at_own_strength(rows)
    own = rows["arm"].isin(arms) & rows["lr"].notna()
    ground = texts_of(rows, ["task", "n_source", "target", "n_target", "dtype", "seed", *within])
    return rows[~own | had_by_all(rows["arm"].where(own), ground, rows["lr"])]


def at_rates_of_both(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The rows of two sides at the learning rates that every arm in them had on a target, n and seed.

    All are at their own strength. Rows of an arm without a rate stay, and take none from the other.
    """
    rows = at_own_strength(pd.concat([first, second]).drop_duplicates("cell"))
    rated = rows[rows["lr"].notna()]
    arms, ground = (texts_of(rated, names) for names in (["arm", "depth"], ["target", "n_target", "seed"]))
    return pd.concat([rows[rows["lr"].isna()], rated[had_by_all(arms, ground, rated["lr"])]])


def fair_pair(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two arms' rows, each at the one that validation prefers of the rates that both had; see `at_rates_of_both`."""
    chosen = at_validated_rate(at_rates_of_both(first, second))
    return chosen[chosen["cell"].isin(first["cell"])], chosen[chosen["cell"].isin(second["cell"])]


def had_by_all(arms: pd.Series, ground: pd.Series, rates: pd.Series) -> pd.Series:
    """Whether each row has a rate that all arms on its `ground` were run at there; a missing arm counts for none."""
    there = arms.groupby(ground).transform("nunique")
    having = arms.groupby(ground + " " + rates.astype(str)).transform("nunique")
    return having == there
