"""Kinds of rows that are never compared: of two tasks, precisions or sources, under two rules for keys and values."""

from __future__ import annotations

import pandas as pd

# What makes two rows belong to two studies, and how a reader is told.
KINDS = {"task": "of {}", "dtype": "in {}", "source": "from {}", "kv_policy": "with {} keys and values"}


def kinds(rows: pd.DataFrame) -> list[dict[str, str]]:
    """The values of KINDS that occur together, those of the most rows first.

    Arms without heads have no keys and values to take along, and belong to every kind of them.
    """
    filled = rows.assign(kv_policy=rows["kv_policy"].fillna(rows["kv_policy"].mode().get(0, "")))
    found = [dict(zip(KINDS, values, strict=True)) for values in filled[[*KINDS]].value_counts().index]
    return [{name: value for name, value in kind.items() if value} for kind in found]


def is_of(rows: pd.DataFrame, kind: dict[str, str]) -> pd.Series:
    """True for rows that have all values of `kind`, or none in a column."""
    return pd.concat([rows[name].isna() | (rows[name] == value) for name, value in kind.items()], axis=1).all(axis=1)


def other_kinds(rows: pd.DataFrame, kind: dict[str, str]) -> list[tuple[str, int]]:
    """What the rows of other kinds are, and how many, each told by the first that sets it apart."""
    found = []
    for name, value in kind.items():
        other = rows[name].notna() & (rows[name] != value)
        found += [(KINDS[name].format(one), count) for one, count in rows.loc[other, name].value_counts().items()]
        rows = rows[~other]
    return found


def apart_from(main: pd.DataFrame, other: pd.DataFrame) -> dict[str, str]:
    """What sets the rows of two `Results.studies` apart: words by the value that differs (float32: in float32)."""
    of_main, of_other = (kinds(rows)[0] for rows in (main, other))
    return {value: KINDS[name].format(value) for name, value in of_other.items() if of_main.get(name) != value}
