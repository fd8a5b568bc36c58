"""What several commands ask for: the model, the labelled rows, files that were made before.

Whatever loads a model library is imported when a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ctsft
from ctsft.errors import UserError
from ctsft.tasks.form import told_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctsft.discovery.relevance import Relevance
    from ctsft.models.load import Loaded
    from ctsft.tasks.task import Task
    from ctsft.tuning.delta import HeadDelta


@dataclass(frozen=True)
class OnModel:
    """The model, and where it runs."""

    model: str
    """Hub id, folder (such as `ctsft tune --arm full` writes), .gguf file, or demo."""
    revision: str | None = None
    """Hub revision of the model."""
    device: str = "auto"
    """cpu, cuda, or auto."""

    def load(self) -> Loaded:
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()  # that of reading weights; downloads keep theirs
        return ctsft.load_model(self.model, self.revision, self.device)


@dataclass(frozen=True)
class OnTask:
    """The labelled rows."""

    task: str
    """nusax, xnli, smsa, demo, demo_entailment, or a folder in --data-dir that holds your own files."""
    data_dir: Path | None = None
    """Folder with the data; without it CTSFT_DATA_DIR, else published data are downloaded."""
    label_words: tuple[str, ...] = ()
    """One word per label, in the order of the labels; without them, the task's own."""

    def load(self) -> Task:
        return ctsft.load_task(self.task, self.data_dir, self.label_words)


def tell_checks(task: Task, source: str, targets: Sequence[str] = ()) -> None:
    """Print how a user's own rows are asked and what is odd about them, before anything is made of them."""
    for line in told_words(task):
        print(line, flush=True)
    for finding in ctsft.check(task, source, targets):
        print(f"check: {finding}", flush=True)


def check_output(path: Path, folder: bool = False) -> None:
    """UserError where nothing can be written to `path`, before the work whose result should lie there."""
    if path.is_dir() and not folder:
        raise UserError(f"{path} is a folder; give the name of a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path if path.is_dir() else path.parent):
            pass
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from error


def load_scores(path: Path) -> Relevance:
    """What `ctsft discover` wrote; `path` may lack the ending."""
    from ctsft.discovery.relevance import files_of

    files = files_of(path)
    path = files[0]
    if not all(file.is_file() for file in files):
        raise UserError(
            f"no scores at {path}: both the .json and the .safetensors that `ctsft discover` writes are needed."
        )
    return ctsft.Relevance.load(path)


def load_delta(name: str) -> HeadDelta:
    """From a folder or file, else from the hub."""
    if Path(name).exists():
        return ctsft.HeadDelta.load(Path(name))
    try:
        return ctsft.pull(name)
    except UserError as error:
        raise UserError(
            f"no folder {name}, and the hub gives no delta of that name ({error}). Give the folder that `ctsft tune` "
            "wrote, or owner/name of a repository."
        ) from error


def in_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
