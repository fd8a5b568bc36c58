"""Bring the rows of machines without a common disk into one results folder.

python -m ctsft.study.gather results/small /mnt/a/small /mnt/b/small     # into the first, from each of the others
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError, ending_in_a_line
from ctsft.storage import locked, read_json, read_sealed, write_atomic, write_json
from ctsft.study.beside import (
    GOLD,
    add_gold,
    keep_hashes,
    known_hashes,
    models_of,
    read_gold,
    refuse_other_data,
    runs_of,
    told_by_the_last,
)
from ctsft.study.config import StudyConfig
from ctsft.study.faithfulness import FaithfulnessConfig
from ctsft.study.measure_files import path_of, read_measure
from ctsft.study.record import COLUMNS, TABLES, append_rows, read_cells, read_rows, unit_of

Row = dict[str, str]

# What a start is the start of: all rows of one must have been tuned from the same weights.
START = "task source n_source seed dtype".split()
# Sub-folders whose files are the same wherever their name is, up to the time they took.
SEALED = ("theta1", "circuits")
SETTINGS = {field.name for kind in (StudyConfig, FaithfulnessConfig) for field in fields(kind)}


def gather(into: Path, source: Path) -> str:
    """Add what `source` has and `into` lacks: rows, and what lies beside them; returns a line that says how much.

    What both have stays as it is in `into`, so to gather again, or in another order, is safe. Rows come last: a gather
    that was cut short is made good by another one. Nothing is written where anything is refused. Scripts 07 and 08
    keep what they measure in sub-folders of their own, which are left where they are.

    Raises UserError for a folder without rows, for rows of other weights, data, labels, or starts (theta1 of a seed
    with other weights), and Damaged, which is one, for a file that is not what was written.
    """
    tables = _tables(source)
    if into.resolve() == source.resolve():
        raise UserError(f"{source} cannot be brought into itself. Name the folder that is to have all rows first.")
    if not any(tables.values()):
        raise UserError(f"no result rows in {source}: name a results folder, such as results/small.")
    gold = read_gold(source / GOLD) if (source / GOLD).is_file() else {}
    _refuse_others(into, source)
    beside = list(_beside(source))
    there = read_cells(into)
    add_gold(into, gold)
    for task, hashes in known_hashes(source).items():
        keep_hashes(into, task, hashes)
    for path in beside:
        _copy(path, into / path.relative_to(source))
    for path in sorted(source.glob("*.config.json")):
        _add_runs(path, into / path.name)
    added = known = 0
    for path, rows in tables.items():
        columns = _columns(path)
        old = {unit_of(row, columns) for row in read_rows(into / path.name, columns)}
        new = [row for row in rows if unit_of(row, columns) not in old]
        if columns is COLUMNS:
            new = [row for row in new if row["cell"] not in there]
            for row in new:
                if path_of(source, row["cell"]).is_file():
                    _copy(path_of(source, row["cell"]), path_of(into, row["cell"]))
        if new:
            append_rows(into / path.name, new, columns)
        added, known = added + len(new), known + len(rows) - len(new)
    return f"{source}: {added} rows came into {into}, which had {known} already"


def _columns(path: Path) -> list[str] | None:
    return TABLES.get("".join(path.suffixes))


def _tables(folder: Path) -> dict[Path, list[Row]]:
    """The rows of every table in `folder`; files of other kinds (NAME.earlier.csv) are no tables."""
    found = sorted(path for path in folder.glob("*.csv") if _columns(path))
    return {path: read_rows(path, _columns(path)) for path in found}


def _refuse_others(into: Path, source: Path) -> None:
    """UserError where rows of both in one folder would be of two models, data, or starts."""
    models = {
        weights: f"{name} (weights {weights})" for folder in (into, source) for name, weights in models_of(folder)
    }
    if len(models) > 1:
        raise UserError(f"the rows in {into} and {source} are of several models: {', '.join(models.values())}.")
    for task, hashes in known_hashes(source).items():
        refuse_other_data(into, task, hashes)
    ours = _starts(read_cells(into).values())
    for start, weights in _starts(read_cells(source).values()).items():
        if start in ours and not weights <= ours[start]:
            told = ", ".join(f"{name} {value}" for name, value in zip(START, start, strict=True))
            raise UserError(
                f"theta1 of {told} has other weights in {source} ({', '.join(sorted(weights))}) than in {into} "
                f"({', '.join(sorted(ours[start]))}): another machine or library rounds in another way. Differences "
                "between arms would then be between starts as well; keep these folders apart."
            )


def _starts(rows: Iterable[Row]) -> dict[tuple[str, ...], set[str]]:
    """The weights of theta1 that rows were tuned from, by start; `direct` and `ngrams` have none."""
    found: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for row in rows:
        if row["theta1"]:
            found[tuple(row[name] for name in START)].add(row["theta1"])
    return found


def _beside(source: Path) -> Iterator[Path]:
    """What circuits and starts of the rows are, read once, so that nothing damaged is brought along."""
    for folder in SEALED:
        for path in sorted((source / folder).glob("*.json")):
            read_sealed(path)
            yield path
    for path in sorted((source / "relevance").glob("*.json")):
        Relevance.load(path.with_suffix(""))
        yield from (path.with_suffix(".safetensors"), path)
    for path in sorted((source / "measures").glob("*.json")):
        read_measure(path)  # goes with its row


def _copy(path: Path, target: Path) -> None:
    if not target.exists():
        write_atomic(target, path.read_bytes())


def _add_runs(path: Path, target: Path) -> None:
    """The runs that both settings files tell of, by their time; the data are those of all of them."""
    with locked(target):
        known = read_json(target) if target.is_file() else {}
        runs = sorted(runs_of(known) + runs_of(read_json(path)), key=lambda run: run["created"])
        data = {name: sha256 for run in runs for name, sha256 in run["data_sha256"].items()}
        last = runs[-1] | {"data_sha256": dict(sorted(data.items()))}
        write_json(target, told_by_the_last([*runs[:-1], last], [name for name in last if name in SETTINGS]))


@ending_in_a_line()
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ctsft.study.gather", description=__doc__.splitlines()[0])
    parser.add_argument("into", type=Path, help="the results folder that is to have all rows")
    parser.add_argument("source", nargs="+", type=Path, help="results folders to take rows from; they stay as they are")
    arguments = parser.parse_args()
    for source in arguments.source:
        print(gather(arguments.into, source))


if __name__ == "__main__":
    main()
