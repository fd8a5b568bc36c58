"""Bring the rows of machines without a common disk into one results folder.

python -m ctsft.study.gather results/small /mnt/a/small /mnt/b/small     # into the first, from each of the others
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from ctsft.discovery.relevance import Relevance, files_of
from ctsft.errors import UserError, ending_in_a_line
from ctsft.storage import Damaged, locked, read_json, read_sealed, write_atomic, write_json
from ctsft.study.beside import (
    DATA,
    GOLD,
    add_gold,
    hashes_by_task,
    keep_hashes,
    models_of,
    read_gold,
    refuse_other_data,
    runs_of,
    told_by_the_last,
)
from ctsft.study.config import StudyConfig
from ctsft.study.faithfulness import FaithfulnessConfig
from ctsft.study.measure_files import path_of, read_measure
from ctsft.study.record import (
    COLUMNS,
    PROBE_COLUMNS,
    SET_COLUMNS,
    TABLES,
    append_rows,
    digits_of,
    read_cells,
    read_rows,
    told_apart_by_nothing,
)

Row = dict[str, str]

SETTINGS = {field.name for kind in (StudyConfig, FaithfulnessConfig) for field in fields(kind)}
# Sub-folders of files that are the same wherever their name is, up to the time they took.
SEALED = ("theta1", "circuits")
ANSWERS = ("theta1", "predictions", "source_predictions")


@dataclass(frozen=True)
class Folder:
    """What a results folder has for a gather, read and verified; nothing in it is renamed or written."""

    path: Path
    tables: dict[str, list[Row]]
    settings: dict[str, dict]
    gold: dict[str, dict]
    cells: dict[str, Row]

    @classmethod
    def read(cls, path: Path) -> Folder:
        tables = {file.name: read_rows(file, _columns(file.name)) for file in path.glob("*.csv") if _columns(file.name)}
        settings = {file.name: _settings(file) for file in path.glob("*.config.json")}
        gold = read_gold(path / GOLD) if (path / GOLD).is_file() else {}
        return cls(path, dict(sorted(tables.items())), dict(sorted(settings.items())), gold, read_cells(path))

    @property
    def hashes(self) -> dict[str, dict[str, str]]:
        """What the rows were made from, by task."""
        said = read_sealed(self.path / DATA) if (self.path / DATA).is_file() else {}
        return hashes_by_task(self.settings.values(), said)

    @property
    def starts(self) -> dict[tuple[str, ...], set[str]]:
        """The weights of theta1 by what it is theta1 of; `direct` and `ngrams` have none.

        Sets of heads that script 05 asked have a theta1 of their own where that script made it.
        """
        found: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for row in self.cells.values():
            found["cells", row["task"], row["source"], row["n_source"], row["dtype"], row["seed"]].add(row["theta1"])
        sets = (row for name, rows in self.tables.items() if _columns(name) is SET_COLUMNS for row in rows)
        for row in sets:
            if not row["circuit"]:
                found["sets of heads", row["task"], row["source"], row["dtype"], row["seed"]].add(row["theta1"])
        return {start: weights - {""} for start, weights in found.items() if weights != {""}}

    @property
    def digits(self) -> dict[tuple[str, ...], dict[str, str]]:
        """The digits at the end of keys, each with such a key, by all else that tells rows apart but the seed."""
        return digits_of((cell, row) for cell, row in self.cells.items() if row["theta1"])


def gather(into: Path, source: Path) -> str:
    """Add what `source` has and `into` lacks: rows, and what lies beside them; returns a line that says how much.

    What both have stays as it is in `into`, so a gather may be repeated, also one that was cut short, and while
    `source` is still being filled. All that comes, and the rows of `into`, are read before anything is written. Rows
    are appended. Scripts 07 and 08 keep what they measure in sub-folders of their own, which are left where they are,
    as are the weights of theta1.

    Raises UserError for a folder without rows, labels or settings, for rows of other weights, data, labels or settings
    than those in `into`, or from another start (theta1 of a seed with other weights); Damaged, which is one, for a file
    that is not what was written.
    """
    if into.resolve() == source.resolve():
        raise UserError(f"{source} cannot be brought into itself. Name the folder that is to have all rows first.")
    ours, theirs = Folder.read(into), Folder.read(source)
    _refuse_parts(theirs)
    _refuse_others(ours, theirs)
    sealed = [path for folder in SEALED for path in sorted((source / folder).glob("*.json")) if read_sealed(path)]
    maps = {path: Relevance.load(path.with_suffix("")) for path in sorted((source / "relevance").glob("*.json"))}
    # Cells that `into` answered in another way: what was measured of their model is not of its row.
    other = {cell for cell, row in theirs.cells.items() if not _same(row, ours.cells.get(cell, row))}
    measures = _measures(source, theirs.cells)
    known_measures = _measures(into, measures)

    add_gold(into, theirs.gold)
    for task, hashes in theirs.hashes.items():
        keep_hashes(into, task, hashes)
    for path in sealed:
        if not (target := into / path.relative_to(source)).exists():
            write_atomic(target, path.read_bytes())
    for path, relevance in maps.items():
        _bring_map(relevance, (into / path.relative_to(source)).with_suffix(""))
    for cell in measures.keys() - other:
        # What was asked of more related tests takes the place of what was asked of fewer.
        if cell not in known_measures or known_measures[cell]["related"].keys() < measures[cell]["related"].keys():
            write_atomic(path_of(into, cell), path_of(source, cell).read_bytes())
    for name in theirs.settings:
        _add_runs(into / name, theirs.settings[name])
    added = sum(_bring_rows(ours, name, rows, other) for name, rows in theirs.tables.items())
    count = sum(map(len, theirs.tables.values()))
    return f"{source}: {added} rows came into {into}, {count - added} stay (known there, or of a cell that differs)"


def _columns(name: str) -> list[str] | None:
    """Of a table by its file's name; None for a file that is no table (NAME.earlier.csv)."""
    return TABLES.get("".join(Path(name).suffixes))


def _settings(path: Path) -> dict:
    found = read_json(path)
    if not found.keys() >= {"task", "data_sha256", "created"}:
        raise Damaged(f"{path} does not hold the settings of a run.")
    return found


def _same(row: Row, other: Row) -> bool:
    return all(row[name] == other[name] for name in ANSWERS)


def _refuse_parts(theirs: Folder) -> None:
    """UserError for tables that were copied without what lies beside them."""
    if not any(theirs.tables.values()):
        raise UserError(f"no result rows in {theirs.path}: name a results folder, such as results/small.")
    tests = {f"{row['task']}/{row[of]}" for row in theirs.cells.values() for of in ("source", "target")}
    hashes = theirs.hashes
    for test in sorted(tests):
        if test not in theirs.gold or test.split("/")[0] not in hashes:
            raise UserError(
                f"{theirs.path} has rows of {test}, but not its labels ({GOLD}) and settings (*.config.json), so it "
                "cannot be told whether the data are the same. Copy the results folder whole."
            )


def _refuse_others(ours: Folder, theirs: Folder) -> None:
    """UserError where rows of both in one folder would be of two models, data, settings, or starts."""
    models = {weights: name for folder in (ours, theirs) for name, weights in models_of(folder.path)}
    if len(models) > 1:
        told = ", ".join(f"{name} (weights {weights})" for weights, name in models.items())
        raise UserError(f"the rows in {ours.path} and {theirs.path} are of several models: {told}. Keep them apart.")
    for task, hashes in theirs.hashes.items():
        refuse_other_data(ours.path, task, hashes)
    if mixed := told_apart_by_nothing(ours.digits, theirs.digits):
        raise UserError(
            f"rows in {theirs.path} were made with other settings (epochs, batch size, prompt, label words, rows to "
            f"score on, ...) than those in {ours.path}: {' and '.join(mixed)}. A table would mix them: keep them apart."
        )
    starts = ours.starts
    for start, weights in theirs.starts.items():
        if start in starts and not weights <= starts[start]:
            raise UserError(
                f"theta1 of {', '.join(start)} has other weights in {theirs.path} ({', '.join(sorted(weights))}) than "
                f"in {ours.path} ({', '.join(sorted(starts[start]))}): another machine or library rounds in "
                "another way, or it was tuned with other settings. Differences between arms would then be between "
                "starts as well; keep these folders apart."
            )


def _measures(folder: Path, cells: Iterable[str]) -> dict[str, dict]:
    """What was measured of the models of these cells, verified; Damaged for a file that is not what was written."""
    return {cell: read_measure(path_of(folder, cell)) for cell in cells if path_of(folder, cell).is_file()}


def _bring_map(relevance: Relevance, target: Path) -> None:
    """Scores with more columns, for deeper circuits, take the place of those with fewer."""
    with locked(target):
        try:
            known = Relevance.load(target) if all(file.is_file() for file in files_of(target)) else None
        except Damaged:  # cut short between its two files
            known = None
        if known is None or len(known.columns) < len(relevance.columns):
            relevance.save(target)


def _add_runs(target: Path, settings: dict) -> None:
    """The runs that both settings files tell of, by their time; the data are those of all of them."""
    with locked(target):
        known = _settings(target) if target.is_file() else {}
        *others, last = sorted(runs_of(known) + runs_of(settings), key=lambda run: run["created"])
        alike = [run["data_sha256"] for run in (*others, last) if run["task"] == last["task"]]
        last["data_sha256"] = {name: sha256 for one in alike for name, sha256 in sorted(one.items())}
        write_json(target, told_by_the_last([*others, last], [name for name in last if name in SETTINGS]))


def _bring_rows(ours: Folder, name: str, rows: list[Row], other: set[str]) -> int:
    """Append those that no table in `ours` has as a cell, nor this one as another unit; returns how many.

    This table is read once more under its lock: a run may be filling it.
    """
    columns = _columns(name)
    if columns is COLUMNS:
        rows = [row for row in rows if row["cell"] not in ours.cells]
    if columns is PROBE_COLUMNS:
        rows = [row for row in rows if row["cell"] not in other]
    return append_rows(ours.path / name, rows, columns, keep=True) if rows else 0


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
