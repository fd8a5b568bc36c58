"""Every task by name. A new task is one entry here."""

from __future__ import annotations

from ctsft.errors import UserError
from ctsft.tasks.demo.entailment import ENTAILMENT
from ctsft.tasks.demo.task import DEMO
from ctsft.tasks.nusax import NUSAX
from ctsft.tasks.smsa import SMSA
from ctsft.tasks.task import Task
from ctsft.tasks.xnli import XNLI

TASKS = {task.name: task for task in (NUSAX, XNLI, SMSA, DEMO, ENTAILMENT)}


def get_task(name: str) -> Task:
    if name not in TASKS:
        raise UserError(f"unknown task '{name}'. Valid: {', '.join(TASKS)}.")
    return TASKS[name]
