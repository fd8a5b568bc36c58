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
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from ctsft.errors import UserError
from ctsft.storage import locked, write_atomic, write_json
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


def read_rows(path: Path, columns: Sequence[str] = COLUMNS) -> list[dict[str, str]]:
    """All rows of a results file as text; none where there is no file yet."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != list(columns):
            raise UserError(
                f"{path} has other columns than this version writes. Move it away, or use another --output."
            )
        rows = list(reader)
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UserError(f"{path}, line {line}: the row is not whole. Restore the file or remove that line.")
    return rows


def append_rows(path: Path, new: Sequence[dict[str, object]], columns: Sequence[str] = COLUMNS) -> None:
    """Add rows, all or none; a reader, a crash or another process never sees a part of them."""
    with locked(path):
        rows = read_rows(path, columns)
        out = io.StringIO()
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, *({name: "" if row[name] is None else row[name] for name in columns} for row in new)])
        write_atomic(path, out.getvalue())


def read_cells(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of all experiments in a results folder, by cell: what one script ran, the others need not run again.

    A file NAME.KIND.csv holds something else that was measured beside them.
    """
    files = [path for path in sorted(folder.glob("*.csv")) if "." not in path.stem]
    return {row["cell"]: row for path in files for row in read_rows(path)}


def keep_gold(folder: Path, tests: dict[str, Rows]) -> None:
    """Write the labels of the test rows beside the results (`task/language` -> `p` and a digit per row).

    With them every accuracy, interval and paired test follows from the committed files alone.
    """
    path = folder / "gold.json"
    with locked(path):
        known = json.loads(path.read_text()) if path.is_file() else {}
        new = {
            name: {"labels": digits([example.label for example in rows.examples]), "sha256": rows.sha256}
            for name, rows in tests.items()
        }
        if known != known | new:
            write_json(path, dict(sorted((known | new).items())))


def refuse_other_data(folder: Path, task: str, hashes: dict[str, str]) -> None:
    """Stop where `folder` has rows of this task that were made from files with another content.

    `hashes` are the sha256 of the files by language/split, as in the settings beside the rows.
    """
    for path in sorted(folder.glob("*.config.json")):
        settings = json.loads(path.read_text())
        if settings["task"] != task:
            continue
        for name, sha256 in settings["data_sha256"].items():
            if hashes.get(name, sha256) != sha256:
                raise UserError(
                    f"the file of {task}/{name} has changed since the rows in {folder} were made (see {path.name}). "
                    "Rows of both would be mixed: give another --output, or move the old rows away."
                )


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
