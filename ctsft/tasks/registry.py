"""Every task by name. A new task is one entry here, or a folder of files in the data folder."""

from __future__ import annotations

import os
from pathlib import Path

from ctsft.errors import UserError
from ctsft.tasks.demo.entailment import ENTAILMENT
from ctsft.tasks.demo.task import DEMO
from ctsft.tasks.files import own_task
from ctsft.tasks.nusax import NUSAX
from ctsft.tasks.smsa import SMSA
from ctsft.tasks.task import Task
from ctsft.tasks.xnli import XNLI

TASKS = {task.name: task for task in (NUSAX, XNLI, SMSA, DEMO, ENTAILMENT)}


def data_folder(given: str | Path | None = None) -> Path | None:
    """Where the data lie: the folder given, else CTSFT_DATA_DIR, else None (published data are then downloaded)."""
    folder = given or os.environ.get("CTSFT_DATA_DIR") or None
    return None if folder is None else Path(folder).expanduser()


def get_task(name: str, data_dir: Path | None = None) -> Task:
    """The task of that name; one that is not listed here is looked for in the folder DATA_DIR/<name>."""
    if name in TASKS:
        return TASKS[name]
    if data_dir is not None and Path(name).name == name and (data_dir / name).is_dir():
        return own_task(name, data_dir / name)
    where = "a folder in data_dir (in a script; or CTSFT_DATA_DIR)" if data_dir is None else f"a folder in {data_dir}"
    if data_dir is not None and not data_dir.is_dir():
        where += " (which is not there)"
    raise UserError(f"unknown task '{name}'. Valid: {', '.join(TASKS)}, or {where} that holds your own files.")
