"""What script 06 measured, beside the rows that it chose from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ctsft.report.choosing import ODYSSEY, SETTING, at_own_strength, at_papers_share, at_validated_rate, texts_of
from ctsft.report.rows import Results, joined, labels_by_test
from ctsft.report.stored import damage_told
from ctsft.study.measure_files import measured, measures_of
from ctsft.tuning.arms import ARMS


def fitting(folder: Path, rows: pd.DataFrame) -> dict[str, dict]:
    """What script 06 measured of models that answer as their `rows` do, by cell."""
    with damage_told():
        return measures_of(folder, dict(zip(rows["cell"], rows["predictions"], strict=True)))


def odyssey_results(folder: Path) -> Results | None:
    """What script 06 ran from the most source rows.

    Of cells that another script ran too, its own rows, which fit its measurements.
    """
    results = Results.read(folder, ODYSSEY)
    found = results.only(_asked(results.rows, measured(folder))).of(ODYSSEY)
    return found and found.from_most_source_rows()


def odyssey_rows(results: Results) -> pd.DataFrame:
    """The rows that script 06 measured, every arm at its validated rate, with what lies in their files.

    `rates`: those that each was chosen from.
    """
    known = fitting(results.folder, results.rows)
    rows = at_own_strength(results.rows[_asked(results.rows, known.keys())])
    setting = rows.groupby([*SETTING, "draw", "seed"], dropna=False)
    tried = {number: tuple(sorted(set(group["lr"].dropna()))) for _, group in setting for number in group.index}
    rows = rows.assign(rates=pd.Series(tried, dtype=object))
    rows = at_papers_share(at_validated_rate(rows))
    rows = rows[rows["cell"].isin(known.keys())]  # of a run that was stopped, the rate that is preferred now may wait
    return rows.assign(measures=[known[cell] for cell in rows["cell"]])


def strayed(results: Results) -> pd.DataFrame:
    """The rows whose measures are left out: of a model that was tuned again, and answers otherwise."""
    gone = measured(results.folder) - fitting(results.folder, results.rows).keys()
    return results.rows[results.rows["cell"].isin(gone)]


def _asked(rows: pd.DataFrame, cells: Collection[str]) -> pd.Series:
    """The cells that script 06 measured, and those of the same arms at other rates of its, which validation refused.

    Whichever script ran them first; but not those at rates that script 06 never tried on that target.
    """
    here = rows["cell"].isin(cells)
    setting = texts_of(rows, [*SETTING, "dtype", "draw", "seed"])
    at_rate = texts_of(rows, ["task", "source", "target", "n_target", "dtype", "lr"])
    tried = at_rate[here | (rows["experiment"] == ODYSSEY)]
    return here | (setting.isin(setting[here]) & rows["lr"].notna() & at_rate.isin(tried))


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


def measured_lines(results: Results) -> pd.DataFrame:
    """What script 06 measured of the related tests, as probe lines, whether or not script 04 has run."""
    folder, rows = results.folder, results.rows
    return joined(related_lines(folder, rows), folder, labels_by_test(folder), rows)


def with_related(results: Results) -> Results | None:
    """Results whose probes answer related tests: the same where script 04 has run, else what script 06 measured.

    None where neither has.
    """
    if len(results.probes):
        return results
    found = odyssey_results(results.folder)
    if found is None:
        return None
    lines = measured_lines(found)
    return replace(found, probes=lines[lines["cell"].isin(odyssey_rows(found)["cell"])])
