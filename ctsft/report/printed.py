"""What scripts 01 and 02 print at the end: their table, and the paper's number where it has one of that setting."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ctsft.discovery.circuits import PAPERS_DEPTH
from ctsft.report.paper import BEST, TABLES, published
from ctsft.report.render import GAP, fraction, markdown
from ctsft.report.rows import Results
from ctsft.report.transfer import transfer_cells

COLUMN = "paper, Qwen2.5-0.5B"


def transfer(results: Results) -> str:
    """The table of the rows as Markdown."""
    return markdown(beside_the_paper(results))


def beside_the_paper(results: Results) -> pd.DataFrame:
    """The table with a column of the paper's accuracies, where any line is of a task, source, target, n and arm of its.

    Its `ct_sft` is the better of two means on test, ours the choice of validation.
    """
    cells, rows = transfer_cells(results), results.rows
    known = dict(_published(rows["task"].iloc[0], rows["source"].iloc[0]))
    keys = zip(cells["source rows"], cells["target"], cells["n"], cells["arm"], cells["depth"], strict=True)
    found = [known.get((None, *key), known.get((n_source, *key))) for n_source, *key in keys]
    if any(value is not None for value in found):
        cells.insert(cells.columns.get_loc("accuracy") + 1, COLUMN, [fraction(value) for value in found])
    return cells


def _published(task: str, source: str) -> Iterator[tuple[tuple, float]]:
    """(source rows, target, n, arm, depth) -> accuracy; without source rows where the paper has one start alone."""
    for name in TABLES.get(task, ()):
        table = published(name)
        for line in table[table["source"] == source].to_dict("records"):
            best = line["arm"] == BEST
            depth = PAPERS_DEPTH if best else line.get("depth")
            where = line["target"], line["n_target"], "ct_sft" if best else line["arm"]
            yield (line.get("n_source"), *where, GAP if pd.isna(depth) else depth), line["accuracy"]
