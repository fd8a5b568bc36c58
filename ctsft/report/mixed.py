"""Rows that no table can tell apart are refused, so that no mean mixes two studies."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ctsft.errors import UserError

# What a reader can set, and rows of one unit may differ in.
SETTINGS = (
    "model task source n_source target n_target arm depth share scorer score_rows ties kv_policy lr rates dtype device "
    "theta1"
).split()


def refuse_mixed(rows: pd.DataFrame, unit: Sequence[str]) -> None:
    """UserError where two rows are of the same `unit` (columns of `rows`), naming the settings that they differ in."""
    twice = rows[rows.duplicated([*unit], keep=False)]
    if twice.empty:
        return
    _, same = next(iter(twice.groupby([*unit], dropna=False, sort=False)))
    found = {name: sorted(set(same[name].astype(str))) for name in SETTINGS if name in same}
    told = "; ".join(f"{name} ({', '.join(values)})" for name, values in found.items() if len(values) > 1)
    raise UserError(
        f"rows of the same {', '.join(unit)} differ in {told or 'settings that no column has'}, and a table would mix "
        "them. Give each kind an --output of its own, or move one to another folder."
    )
