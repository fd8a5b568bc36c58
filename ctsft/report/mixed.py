"""Rows that no table can tell apart are refused, so that no mean mixes two studies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ctsft.errors import UserError
from ctsft.study.record import TOLD

# What a reader can set, and rows of one unit may differ in.
SETTINGS = (
    "model task source n_source target n_target arm depth share scorer score_rows ties kv_policy lr rates dtype device "
    "theta1"
).split()
# What may differ in a row that was measured twice.
ASIDE = "cell experiment source_accuracy_before train_seconds eval_seconds peak_memory_mb git_commit created".split()


def refuse_mixed(rows: pd.DataFrame, unit: Sequence[str]) -> None:
    """UserError where two rows are of the same `unit` (columns of `rows`), naming the settings that they differ in."""
    twice = rows[[*unit]].duplicated(keep=False)  # a frame of all columns looks through all of them
    if not twice.any():
        return
    _, same = next(iter(rows[twice].groupby([*unit], dropna=False, sort=False)))
    found = {name: sorted(set(same[name].astype(str))) for name in SETTINGS if name in same}
    told = "; ".join(f"{name} ({', '.join(values)})" for name, values in found.items() if len(values) > 1)
    raise UserError(
        f"rows of the same {', '.join(unit)} differ in {told or 'settings that no column has'}, and a table would mix "
        "them. Give each kind an --output of its own, or move one to another folder."
    )


def measured_once(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without those that say again what another says: arms that start from no theta1 give the same under all
    settings of the source, yet are run again under each.
    """
    again = rows["theta1"].isna() & rows.duplicated([name for name in rows if name not in ASIDE])
    return rows[~again].reset_index(drop=True)


def refuse_same_names(rows: pd.DataFrame, folder: Path) -> None:
    """UserError where two rows differ in settings that no column has, only the digits at the end of a key."""
    spelt = rows["cell"].str.rsplit("-", n=1).str[0].rename("spelt")
    same = rows.groupby([*(rows[name] for name in TOLD), spelt], dropna=False)["cell"]
    mixed = next((sorted(set(cells)) for _, cells in same if cells.nunique() > 1), None)
    if mixed:
        raise UserError(
            f"{folder} has rows of the same arm, target, rate and seed that were made with other settings (epochs, "
            f"batch size, prompt, label words, rows to score on, ...): {mixed[0]} and {mixed[1]}. A table would mix "
            "them. Run each with an --output of its own, or move one kind to another folder."
        )
