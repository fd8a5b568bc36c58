"""Which rows: by their columns, by arm, by the script that wrote them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ctsft.tuning.arms import ARMS

EXPERIMENT = "01_nusax_transfer"
ENTAILMENT = "02_xnli_generalization"


def pick(rows: pd.DataFrame, /, **wanted: object) -> pd.DataFrame:
    """The rows whose columns have these values; None or NA stands for an empty field."""
    keep = pd.Series(True, index=rows.index)
    for name, value in wanted.items():
        keep &= rows[name].isna() if pd.isna(value) else rows[name] == value
    return rows[keep]


def arms_in_order(rows: pd.DataFrame) -> list[tuple[str, object]]:
    """Every (arm, depth) of the rows, in the order of ARMS, ct_sft last."""
    order = [*ARMS, "ct_sft"]
    pairs = rows[["arm", "depth"]].drop_duplicates().itertuples(index=False, name=None)
    return sorted(pairs, key=lambda pair: (order.index(pair[0]), -1 if pd.isna(pair[1]) else pair[1]))


def by_a_model(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of arms in which a model answers: a classifier in its place had no source to keep."""
    return rows[np.array([arm not in ARMS or ARMS[arm].classifier is None for arm in rows["arm"]], dtype=bool)]
