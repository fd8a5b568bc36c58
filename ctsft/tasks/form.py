"""What a task asks, without its rows: enough to put a new text to a model, and small enough to travel with a delta."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ctsft.errors import UserError
from ctsft.tasks.task import Rows, Task

FIELDS = ("name", "labels", "label_words", "template", "several_tokens")


def form_of(task: Task) -> dict[str, object]:
    """The prompt, the labels and their words, as JSON takes them."""
    return {name: list(v) if isinstance(v := getattr(task, name), tuple) else v for name in FIELDS}


def told_words(task: Task) -> list[str]:
    """How a task of one's own is asked, a line each: nothing else shows words that stand in another order."""
    if task.published:
        return []
    words = zip(task.labels, task.label_words, strict=True)
    return [f"prompt: {task.template}", *(f"label {label}: '{word}'" for label, word in words)]


def told_form(about: Mapping[str, object]) -> Mapping[str, object]:
    """What a delta or checkpoint says of its task as `form_of` gives it; empty for nothing, or a name in free text."""
    told = about.get("task")
    return told if isinstance(told, Mapping) else {}


def other_prompt(task: Task, about: Mapping[str, object]) -> str:
    """In what `task` asks otherwise than what was tuned on the task of its name (`about`); empty where in nothing."""
    known, own = told_form(about), form_of(task)
    if not known or known.get("name") != task.name:
        return ""
    return "; ".join(
        f"{name} {own[name]!r}, not {known.get(name)!r}" for name in FIELDS if known.get(name) != own[name]
    )


def task_of(form: Mapping[str, object]) -> Task:
    """A task that can make prompts of new texts and has no rows of its own."""
    missing = [name for name in FIELDS if name not in form]
    if missing:
        raise UserError(f"the description of the task lacks '{missing[0]}'; tune again with this version.")
    settings = {name: tuple(form[name]) if isinstance(form[name], list) else form[name] for name in FIELDS}
    return Task(languages=(), read=_no_rows, **settings)


def _no_rows(language: str, split: str, data_dir: Path | None) -> Rows:
    raise UserError("this task came with a delta or checkpoint and has no rows; load it by its name and data folder.")
