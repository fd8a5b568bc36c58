"""One row per cell: written last, whole, and atomically; and what every result says of where it came from."""

from __future__ import annotations

import csv
import datetime
import io
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from ctsft.errors import UserError
from ctsft.storage import locked, write_atomic

COLUMNS = (
    "cell experiment preset model model_hash task source target n_source n_target arm depth draw scorer lr seed "
    "draw_seed order_seed accuracy macro_f1 full_vocab_accuracy valid_accuracy source_accuracy source_accuracy_before "
    "heads trainable trainable_share predictions source_predictions dtype device train_seconds eval_seconds "
    "peak_memory_mb git_commit created"
).split()


def read_rows(path: Path) -> list[dict[str, str]]:
    """All rows of a results file as text; none where there is no file yet."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != list(COLUMNS):
            raise UserError(
                f"{path} has other columns than this version writes. Move it away, or use another --output."
            )
        rows = list(reader)
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UserError(f"{path}, line {line}: the row is not whole. Restore the file or remove that line.")
    return rows


def append_row(path: Path, row: dict[str, object]) -> None:
    """Add one row; a reader, a crash or another process never sees a part of it."""
    with locked(path):
        rows = read_rows(path)
        out = io.StringIO()
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, {name: "" if row[name] is None else row[name] for name in COLUMNS}])
        write_atomic(path, out.getvalue())


def git_commit() -> str:
    """The commit of this code, with `+` when the working tree differs; `unknown` outside git."""
    here = Path(__file__).parent

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
