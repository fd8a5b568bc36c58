"""One row per cell: written last, whole, and atomically."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path

from ctsft.errors import UserError
from ctsft.storage import Damaged, digest, locked, set_aside, write_atomic

COLUMNS = (
    "cell experiment preset model model_hash theta1 task source target n_source n_target arm depth share draw scorer "
    "ties kv_policy lr seed draw_seed order_seed accuracy macro_f1 full_vocab_accuracy valid_accuracy source_accuracy "
    "source_accuracy_before heads trainable trainable_share predictions source_predictions dtype device train_seconds "
    "eval_seconds peak_memory_mb git_commit created"
).split()
# What tells rows apart besides what their key spells out; the digits at its end stand for all other settings.
TOLD = "task source n_source share scorer ties kv_policy dtype".split()
PROBE_COLUMNS = (
    "cell epoch test role accuracy_before accuracy predictions_before predictions distance relative_distance same_row "
    "git_commit created"
).split()
PROBES = ".probes.csv"
# One line per set of heads whose faithfulness was asked.
SET_COLUMNS = (
    "set preset model model_hash theta1 task source language seed scorer score_rows selection direction size heads "
    "draw circuit accuracy margin answers margins error dtype device seconds git_commit created"
).split()
SETS = ".sets.csv"
KNOWN_COLUMNS = "circuit seed scorer roc_auc heads ranks of seconds git_commit created".split()
KNOWN = ".known.csv"
# Columns that came later, and what the rows of older files, which lack them, have in their place.
LATE = {"rows": "same"}
# So many characters of a header may differ before it is taken for that of another table.
FEW = 3
TABLES = {".csv": COLUMNS, PROBES: PROBE_COLUMNS, SETS: SET_COLUMNS, KNOWN: KNOWN_COLUMNS}


def unit_of(row: Mapping[str, str], columns: Sequence[str]) -> str:
    """What is measured as one, and replaced as one: a cell, its answers to a test after an epoch, a set of heads, a
    known circuit with seed and scorer."""
    return "-".join(row[name] for name in (columns[:3] if columns in (KNOWN_COLUMNS, PROBE_COLUMNS) else columns[:1]))


def read_rows(path: Path, columns: Sequence[str] = COLUMNS) -> list[dict[str, str]]:
    """All rows of a results file as text; none where there is no file yet. Damaged names the first faulty line."""
    try:
        return _whole(path, columns)
    except Damaged:
        with locked(path):  # another process may have been between its two writes, of checksums and of rows
            return _whole(path, columns)


def _whole(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    rows = []
    for line, row in _lines(path, columns)[1]:
        if isinstance(row, str):
            raise Damaged(f"{path}, line {line}: {row}. Run the script again: it sets the file aside and mends it.")
        rows.append({name: row.get(name, LATE.get(name, "")) for name in columns})
    return rows


def _lines(path: Path, columns: Sequence[str]) -> tuple[Sequence[str], list[tuple[int, dict[str, str] | str]]]:
    """The columns that a file has, which in one from before the late ones are fewer; and all lines with their numbers:
    a row, or what is wrong with it. A whole header is left out."""
    if not path.is_file():
        return columns, []
    header, *lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    if not lines and ",".join(columns).startswith(header):
        return columns, [(1, "the file ends within its first line")]
    header, sums = header.rstrip("\r"), _sums(path)
    versions = (columns, [name for name in columns if name not in LATE])
    whole = [own for own in versions if header == ",".join(own)]
    found = whole or [own for own in versions if _was_header_of(header, lines, own, sums or {})]
    if not found:
        raise UserError(
            f"{path} has other columns than this version writes. Is this a results folder (the one named "
            "after the preset)? Else move the file away, or use another --output."
        )
    faults = [] if whole else [(1, "the names of the columns are not as they were written")]
    return found[0], faults + list(enumerate(_checked(lines or [""], found[0], sums), start=2))


def _was_header_of(header: str, lines: Sequence[str], columns: Sequence[str], sums: Mapping[str, set[str]]) -> bool:
    """Whether a first line is that of these columns, damaged, and not that of a table with others."""
    names = ",".join(columns)
    as_many = header.count(",") == names.count(",")
    if as_many and abs(len(header) - len(names)) <= FEW:
        same = SequenceMatcher(None, header, names, autojunk=False).get_matching_blocks()
        if max(len(header), len(names)) - sum(block.size for block in same) <= FEW:
            return True
    # A table of as many columns with names of their own is another one, though its rows have checksums too.
    if as_many and re.fullmatch(r"\w+(,\w+)*", header, re.ASCII):
        return False
    rows = ((line.rstrip("\r"), _row(line.rstrip("\r"), columns)) for line in lines)
    return any(isinstance(row, dict) and digest(line) in sums.get(unit_of(row, columns), ()) for line, row in rows)


def _checked(
    lines: Sequence[str], columns: Sequence[str], sums: Mapping[str, set[str]] | None
) -> Iterator[dict[str, str] | str]:
    """The rows of the lines behind the header, or what is wrong with them; `sums` is None where there are none."""
    *lines, torn = (line.rstrip("\r") for line in lines)
    rows = [_row(line, columns) for line in lines]
    found: dict[str, set[str]] = {}
    for line, row in zip(lines, rows, strict=True):
        if isinstance(row, dict):
            found.setdefault(unit_of(row, columns), set()).add(digest(line))
    for row in rows:
        unit = unit_of(row, columns) if isinstance(row, dict) else None
        if unit is None or sums is None or sums.get(unit) == found[unit]:
            yield row
        elif unit in sums:
            yield f"{unit} does not have the checksum it was written with"
        else:  # every write names all rows: this one was renamed, or the checksums are not whole
            yield f"{unit} has no checksum in the .sha256 file beside it"
    if torn:
        yield "the row is not whole"


def _row(line: str, columns: Sequence[str]) -> dict[str, str] | str:
    try:
        cells = next(csv.reader([line]), [])
    except csv.Error:
        cells = []
    return dict(zip(columns, cells, strict=True)) if len(cells) == len(columns) else "the row is not whole"


def _sums_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sums(path: Path) -> dict[str, set[str]] | None:
    """The checksums of the lines of each unit; None where all rows are from before there were checksums."""
    if not _sums_path(path).is_file():
        return None
    sums: dict[str, set[str]] = {}
    for line in _sums_path(path).read_text(errors="replace").splitlines():
        checksum, _, unit = line.partition("  ")
        sums.setdefault(unit, set()).add(checksum)
    return sums


def append_rows(
    path: Path,
    new: Sequence[dict[str, object]],
    columns: Sequence[str] = COLUMNS,
    order: Sequence[str] = (),
    keep: bool = False,
) -> int:
    """Add rows, all or none; a reader, a crash or another process never sees a part of them. Returns how many.

    A row goes before the first one whose cell comes later in `order`, so that a table does not depend on which process
    was faster; rows that stand there already keep their places. What was measured before is replaced (with `keep`, it
    stays as it is): nothing is twice.
    """
    text = [{name: "" if row[name] is None else str(row[name]) for name in columns} for row in new]
    with locked(path):
        rows = _whole(path, columns)
        if keep:
            known = {unit_of(row, columns) for row in rows}
            text = [row for row in text if unit_of(row, columns) not in known]
            if not text:
                return 0
        measured = {unit_of(row, columns) for row in text}
        rows = [row for row in rows if unit_of(row, columns) not in measured]
        rank = {cell: number for number, cell in enumerate(order)}
        for row in text:
            own = rank.get(row[columns[0]], len(rank))
            later = (place for place, other in enumerate(rows) if rank.get(other[columns[0]], -1) > own)
            rows.insert(next(later, len(rows)), row)
        table = _table(rows, columns)
        lines = table.split("\n")[1:-1]
        sums = sorted({f"{digest(line)}  {unit_of(row, columns)}\n" for row, line in zip(rows, lines, strict=True)})
        # Checksums first: killed between the two, they name what is not there yet, and that is measured again.
        write_atomic(_sums_path(path), "".join(sums))
        write_atomic(path, table)
    return len(text)


def _table(rows: Sequence[dict[str, str]], columns: Sequence[str]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def mend(folder: Path) -> None:
    """Set damaged results files of `folder` aside, and keep their good rows; the other cells are then run again."""
    for path in sorted(folder.glob("*.csv")):
        columns = TABLES.get("".join(path.suffixes))
        if columns is not None:
            mend_table(path, columns)


def mend_table(path: Path, columns: Sequence[str]) -> None:
    """The same for one file of these columns."""
    with locked(path):
        own, lines = _lines(path, columns)
        faults = [f"{path}, line {line}: {row}." for line, row in lines if isinstance(row, str)]
        if faults:
            set_aside(path, faults[0], copy=True)
            # With the columns that its checksums were made of.
            write_atomic(path, _table([row for _, row in lines if isinstance(row, dict)], own))


def read_cells(folder: Path, first: str = "") -> dict[str, dict[str, str]]:
    """The rows of all experiments in a results folder, by cell: what one script ran, the others need not run again.

    Where two files have a cell (run on two machines), the row of the experiment `first` counts, else the first file's.
    A file NAME.KIND.csv holds something else that was measured beside them.
    """
    files = [path for path in sorted(folder.glob("*.csv")) if "." not in path.stem]
    found: dict[str, dict[str, str]] = {}
    for path in sorted(files, key=lambda path: path.stem != first):
        for row in read_rows(path):
            found.setdefault(row["cell"], row)
    return found


def digits_of(cells: Iterable[tuple[str, Mapping[str, object]]]) -> dict[tuple[str, ...], dict[str, str]]:
    """The digits at the end of keys, each with such a key, by all else that tells rows apart but the seed.

    `cells`: keys, each with what its row says of TOLD and the seed.
    """
    found: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for key, row in cells:
        spelt, digits = key.rsplit("-", 1)
        told = ("" if row[name] is None else str(row[name]) for name in TOLD)
        found[spelt.removesuffix(f"-s{row['seed']}"), *told][digits] = key
    return found


def told_apart_by_nothing(
    known: Mapping[tuple[str, ...], Mapping[str, str]], new: Mapping[tuple[str, ...], Mapping[str, str]]
) -> tuple[str, str] | None:
    """Of `digits_of` two groups of cells, a key of each that only digits tell apart; None without one."""
    for spelt, found in new.items():
        if spelt in known and not found.keys() <= known[spelt].keys():
            return next(iter(known[spelt].values())), next(iter(found.values()))
    return None
