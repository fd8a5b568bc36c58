"""Which rows a language gives to training: as the source that a model is made competent on, or as a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ctsft.errors import refuse_other
from ctsft.tasks.task import SEED, Example, Task, check_aligned, draw, pools

Role = Literal["source", "target"]


def training_rows(task: Task, language: str, role: Role, at_least: int = 0) -> list[Example]:
    """The rows that a language may be trained on in its role.

    In a parallel task a source language has pool A and a target language pool B, so that no target row translates a
    source row; otherwise both have all training rows. A source that needs `at_least` more than its pool takes the
    task's further source rows, where it has some. Raises UserError where your own parallel task is none, row by row:
    every language is compared with the task's first.
    """
    refuse_other("role", role, Role)
    rows = task.load(language, "train")
    if task.parallel and not task.published:
        check_aligned(rows, task.load(task.languages[0], "train"))
    pool_a, pools_b = pools(task, rows, {language: rows})
    if role == "source" and at_least > len(pool_a) and task.more_source_rows is not None:
        return list(task.more_source_rows(language, None).examples)
    return rows.by_id(pool_a if role == "source" else pools_b[language])


def drawn_rows(examples: Sequence[Example], n: int | None, seed: int = SEED) -> list[Example]:
    """`n` of the rows (all, without a number) in the order of `seed`."""
    by_id = {example.id: example for example in examples}
    return [by_id[i] for i in draw(list(by_id), len(by_id) if n is None else n, seed)]
