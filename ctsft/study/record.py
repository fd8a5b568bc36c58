"""One row per cell: written last, whole, and atomically; and what every result says of where it came from."""

from __future__ import annotations

import csv
import datetime
import io
import json
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from ctsft.errors import UserError
from ctsft.storage import Damaged, digest, locked, read_json, set_aside, write_atomic, write_json
from ctsft.tasks.task import Rows, digits

COLUMNS = (
    "cell experiment preset model model_hash theta1 task source target n_source n_target arm depth share draw scorer "
    "kv_policy lr seed draw_seed order_seed accuracy macro_f1 full_vocab_accuracy valid_accuracy source_accuracy "
    "source_accuracy_before heads trainable trainable_share predictions source_predictions dtype device train_seconds "
    "eval_seconds peak_memory_mb git_commit created"
).split()
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
# What rows of a user's own files were made from: sha256 by task, then by language/split.
DATA = "data.json"
TABLES = {".csv": COLUMNS, PROBES: PROBE_COLUMNS, SETS: SET_COLUMNS, KNOWN: KNOWN_COLUMNS}


def _unit(row: Mapping[str, str], columns: Sequence[str]) -> str:
    """What is measured as one, and replaced as one: a cell, a set of heads, a known circuit with seed and scorer."""
    return "-".join(row[name] for name in (columns[:3] if columns == KNOWN_COLUMNS else columns[:1]))


def read_rows(path: Path, columns: Sequence[str] = COLUMNS) -> list[dict[str, str]]:
    """All rows of a results file as text; none where there is no file yet. Damaged names the first faulty line."""
    rows = []
    for line, row in _lines(path, columns):
        if isinstance(row, str):
            raise Damaged(f"{path}, line {line}: {row}. Run the script again: it sets the file aside and mends it.")
        rows.append(row)
    return rows


def _lines(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str] | str]]:
    """Every line after the header with its number: a row, or what is wrong with it."""
    if not path.is_file():
        return []
    header, *lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    expected = ",".join(columns)
    if header.rstrip("\r") != expected:
        if lines or not expected.startswith(header):
            raise UserError(
                f"{path} has other columns than this version writes. Move it away, or use another --output."
            )
        return [(1, "the file ends within its first line")]
    torn = lines.pop()
    rows = [_row(line.rstrip("\r"), columns) for line in lines] + (["the row is not whole"] if torn else [])
    found: dict[str, set[str]] = {}
    for line, row in zip(lines, rows, strict=False):
        if isinstance(row, dict):
            found.setdefault(_unit(row, columns), set()).add(digest(line.rstrip("\r")))
    sums = _sums(path)
    other = {unit for unit in found if sums.get(unit, found[unit]) != found[unit]}
    checked = [
        f"{_unit(row, columns)} does not have the checksum it was written with"
        if isinstance(row, dict) and _unit(row, columns) in other
        else row
        for row in rows
    ]
    return list(enumerate(checked, start=2))


def _row(line: str, columns: Sequence[str]) -> dict[str, str] | str:
    try:
        cells = next(csv.reader([line]), [])
    except csv.Error:
        cells = []
    return dict(zip(columns, cells, strict=True)) if len(cells) == len(columns) else "the row is not whole"


def _sums_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sums(path: Path) -> dict[str, set[str]]:
    """The checksums of the lines of each unit; rows from before there were checksums have none."""
    sums: dict[str, set[str]] = {}
    for line in _sums_path(path).read_text(errors="replace").splitlines() if _sums_path(path).is_file() else []:
        checksum, _, unit = line.partition("  ")
        sums.setdefault(unit, set()).add(checksum)
    return sums


def append_rows(
    path: Path, new: Sequence[dict[str, object]], columns: Sequence[str] = COLUMNS, order: Sequence[str] = ()
) -> None:
    """Add rows, all or none; a reader, a crash or another process never sees a part of them.

    A row goes before the first one whose cell comes later in `order`, so that a table does not depend on which process
    was faster; rows that stand there already keep their places. What was measured before is replaced: nothing is twice.
    """
    text = [{name: "" if row[name] is None else str(row[name]) for name in columns} for row in new]
    with locked(path):
        measured = {_unit(row, columns) for row in text}
        rows = [row for row in read_rows(path, columns) if _unit(row, columns) not in measured]
        rank = {cell: number for number, cell in enumerate(order)}
        for row in text:
            own = rank.get(_unit(row, columns), len(rank))
            later = (place for place, other in enumerate(rows) if rank.get(_unit(other, columns), -1) > own)
            rows.insert(next(later, len(rows)), row)
        table = _table(rows, columns)
        lines = table.split("\n")[1:-1]
        sums = sorted({f"{digest(line)}  {_unit(row, columns)}\n" for row, line in zip(rows, lines, strict=True)})
        # Checksums first: killed between the two, they name what is not there yet, and that is measured again.
        write_atomic(_sums_path(path), "".join(sums))
        write_atomic(path, table)


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
        if columns is None:
            continue
        with locked(path):
            lines = _lines(path, columns)
            faults = [f"{path}, line {line}: {row}." for line, row in lines if isinstance(row, str)]
            if faults:
                set_aside(path, faults[0], copy=True)
                write_atomic(path, _table([row for _, row in lines if isinstance(row, dict)], columns))


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


def keep_gold(folder: Path, tests: dict[str, Rows]) -> None:
    """Write the labels of the test rows beside the results (`task/language` -> `p` and a digit per row).

    With them every accuracy, interval and paired test follows from the committed files alone.
    """
    path = folder / "gold.json"
    with locked(path):
        try:
            known = read_json(path) if path.is_file() else {}
        except Damaged as error:
            set_aside(path, error)
            known = {}
        new = {
            name: {"labels": digits([example.label for example in rows.examples]), "sha256": rows.sha256}
            for name, rows in tests.items()
        }
        for name in known.keys() & new.keys():
            if known[name]["labels"] != new[name]["labels"]:
                raise UserError(
                    f"the labels of {name} are others than those that rows in {folder} were scored by, so the data are "
                    "not the same (XNLI from the hub is split by other ids than from files). Give another --output."
                )
        if known != known | new:
            write_json(path, dict(sorted((known | new).items())))


def refuse_other_model(folder: Path, model: str, weights: str) -> None:
    """Stop where `folder` has rows of other weights than these: a table would take them for one model's."""
    sets = [row for path in sorted(folder.glob(f"*{SETS}")) for row in read_rows(path, SET_COLUMNS)]
    for row in (*read_cells(folder).values(), *sets):
        if row["model_hash"] != weights:
            raise UserError(
                f"the rows in {folder} are of {row['model']} (weights {row['model_hash']}), and this run's model is "
                f"{model} (weights {weights}). Name that model with --model, or give another --output."
            )


def refuse_other_data(folder: Path, task: str, hashes: dict[str, str]) -> None:
    """Stop where `folder` has rows of this task that were made from files with another content.

    `hashes` are the sha256 of the files by language/split.
    """
    known = read_json(folder / DATA).get(task, {}) if (folder / DATA).is_file() else {}
    if not known:  # rows from before there was such a file: their settings say it
        settings = [read_json(path) for path in sorted(folder.glob("*.config.json"))]
        known = {k: v for one in settings if one["task"] == task for k, v in one["data_sha256"].items()}
    for name, sha256 in known.items():
        if hashes.get(name, sha256) != sha256:
            raise UserError(
                f"the file of {task}/{name} has changed since the rows in {folder} were made (see {DATA} there). "
                "Rows of both would be mixed: give another --output, or move the old rows away."
            )


def keep_hashes(folder: Path, task: str, hashes: dict[str, str]) -> None:
    """Add these files of a task to those that rows in `folder` were made from."""
    path = folder / DATA
    with locked(path):
        known = read_json(path) if path.is_file() else {}
        if known.get(task, {}) != known.get(task, {}) | hashes:
            write_json(path, known | {task: known.get(task, {}) | hashes})


def write_settings(path: Path, settings: Mapping[str, object], about: Mapping[str, object]) -> None:
    """Write beside a table what the last run asked for (`settings`) and where it ran; `earlier` has the other runs.

    Of each of these, what it asked for in another way than the last, when, and by which code.
    """
    with locked(path):
        try:
            known = read_json(path) if path.is_file() else None
        except Damaged as error:
            set_aside(path, error)
            known = None
        settings = json.loads(json.dumps(settings))
        told: list[tuple[dict, dict]] = []
        # What an earlier run says in another way than `known` is a whole run again, to be told against this one.
        for run in [*(known | run for run in known.pop("earlier", [])), known] if known else []:
            other = {name: run.get(name) for name, value in settings.items() if run.get(name, value) != value}
            if other and other not in [asked for asked, _ in told]:
                told.append((other, {name: run[name] for name in ("created", "git_commit") if name in run}))
        earlier = {"earlier": [other | when for other, when in told]} if told else {}
        write_json(path, {**settings, **about, "created": now(), **earlier})


def git_commit() -> str:
    """The commit of this code, with `+` when the working tree differs; `unknown` outside git."""
    here = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    names = ("torch", "transformers", "tokenizers", "datasets", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def peak_memory_mb(device: torch.device) -> int:
    """Highest memory so far: of the device on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
