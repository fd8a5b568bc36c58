"""The demo task: sentiment of constructed reviews, 500/100/400 rows, parallel over the languages like NusaX."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ctsft.tasks.demo.languages import DISTANCES, LABELS, dictionary, draw_review, openings, say
from ctsft.tasks.task import SPLITS, Example, Rows, Task

ROWS = {"train": 500, "valid": 100, "test": 400}
SHARES = (0.38, 0.24, 0.38)  # of NusaX


def read(language: str, split: str, data_dir: Path | None) -> Rows:
    """Make the rows of a split; there is no file to read, so `data_dir` plays no part."""
    rng = np.random.default_rng([2601, 8146, SPLITS.index(split)])
    labels = rng.permutation(np.repeat(range(3), [round(share * ROWS[split]) for share in SHARES]))
    examples = tuple(
        Example(f"{split}-{number}", say(language, draw_review(rng, int(label))), int(label))
        for number, label in enumerate(labels)
    )
    return Rows(language, split, examples, hashlib.sha256("\n".join(e.text for e in examples).encode()).hexdigest())


DEMO = Task(
    published=True,
    name="demo",
    languages=tuple(DISTANCES),
    labels=LABELS,
    label_words=tuple(f" {label}" for label in LABELS),
    template="{text} | sentiment:",
    read=read,
    dictionary=dictionary,
    openings=openings,
)
