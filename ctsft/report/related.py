"""Answers to related tests from the files of script 06, as the lines that script 04's probes are."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ctsft.report.stored import damage_told
from ctsft.study.measure_files import measures_of
from ctsft.tuning.arms import ARMS


def fitting(folder: Path, rows: pd.DataFrame) -> dict[str, dict]:
    """What script 06 measured of models that answer as their `rows` do, by cell."""
    with damage_told():
        return measures_of(folder, dict(zip(rows["cell"], rows["predictions"], strict=True)))


def related_lines(folder: Path, rows: pd.DataFrame) -> list[dict[str, object]]:
    """One line per measured cell and related test; what was before is the zero-shot cell of the same theta1.

    An arm that starts from the base model is compared with theta1 of its seed, from the most source rows, as in script
    04. Script 06 measures at the end alone, and not how far the weights moved: `epoch` is 0, the distances are empty.
    """
    known = fitting(folder, rows)
    here = rows[rows["cell"].isin(known.keys())]
    before: dict[object, dict[str, str]] = {}
    for _, row in here[here["arm"] == "zero_shot"].sort_values("n_source").iterrows():
        before[row["theta1"]] = before[row["dtype"], row["seed"]] = known[row["cell"]]["related"]
    starts = here["theta1"].where(here["theta1"].notna(), list(zip(here["dtype"], here["seed"], strict=True)))
    return [
        {
            "cell": row["cell"],
            "epoch": 0,
            "test": test,
            "role": "related",
            "predictions_before": before[start][test],
            "predictions": answers,
            "distance": None,
            "relative_distance": None,
        }
        for (_, row), start in zip(here.iterrows(), starts, strict=True)
        for test, answers in known[row["cell"]]["related"].items()
        if test in before.get(start, {}) and ARMS[row["arm"]].classifier is None
    ]
