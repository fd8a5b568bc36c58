"""Which of an arm's learning rates validation prefers: the only one that is worth measuring at length.

The same rule as `report.choosing.at_validated_rate`, asked while the rows are still being made.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ctsft.tuning.arms import ARMS

# What rows have in common that differ in the learning rate alone.
SAME = "theta1 task source n_source target n_target depth share draw scorer ties kv_policy seed dtype".split()


def preferred(rows: Mapping[str, Mapping[str, object]], rates: Collection[float]) -> set[str]:
    """Of rows by cell, for every arm and seed the cell that validation prefers (a tie goes to the lower rate).

    Only rows at one of `rates` count, and those of arms that use none; and of an arm with variants its own, because the
    tables compare no other strength.
    """
    best: dict[tuple, tuple[tuple[float, float], str]] = {}
    for cell, row in rows.items():
        rate = float(row["lr"] or 0)
        arm = str(row["arm"])
        if (rate and rate not in rates) or ARMS[arm].variant_of:
            continue
        setting = (arm, *("" if row[name] is None else str(row[name]) for name in SAME))
        worth = (float(row["valid_accuracy"]), -rate)
        if setting not in best or worth > best[setting][0]:
            best[setting] = (worth, cell)
    return {cell for _, cell in best.values()}
