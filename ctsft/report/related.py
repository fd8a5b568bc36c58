"""Answers to related tests from the files of script 06, as the lines that script 04's probes are."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ctsft.study.measures import read_measures
from ctsft.tuning.arms import ARMS


def related_lines(folder: Path, rows: pd.DataFrame) -> list[dict[str, object]]:
    """One line per measured cell and related test; what was before is the zero-shot cell of the same theta1.

    Script 06 measures at the end alone, and not how far the weights moved: `epoch` is 0, the distances are empty.
    """
    known = read_measures(folder)
    here = rows[rows["cell"].isin(known.keys())]
    before = {row["theta1"]: known[row["cell"]]["related"] for _, row in here[here["arm"] == "zero_shot"].iterrows()}
    return [
        {
            "cell": row["cell"],
            "epoch": 0,
            "test": test,
            "role": "related",
            "predictions_before": before[row["theta1"]][test],
            "predictions": answers,
            "distance": None,
            "relative_distance": None,
        }
        for _, row in here.iterrows()
        for test, answers in known[row["cell"]]["related"].items()
        if test in before.get(row["theta1"], {}) and ARMS[row["arm"]].classifier is None
    ]
