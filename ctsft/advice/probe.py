"""A cheap look at a setting before any target row is trained on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ctsft import library
from ctsft.answers import evaluate
from ctsft.discovery.circuits import heads_per_depth
from ctsft.discovery.relevance import Relevance
from ctsft.models.load import Loaded
from ctsft.report.stats import Interval
from ctsft.tasks.task import Task


@dataclass(frozen=True)
class Probe:
    """What is known before any target row is trained on; accuracies are those of validation splits."""

    source: Interval
    zero_shot: Interval
    majority: float
    rows: int
    rarest: tuple[str, int]
    concentration: float | None = None

    @property
    def transfer(self) -> float:
        """The share of the source's accuracy that the target has without training."""
        return self.zero_shot.value / self.source.value if self.source.value else 0.0


def concentration(relevance: Relevance, share: float = 0.02) -> float:
    """The share of all positive relevance that the best `share` of the heads hold."""
    positive = np.sort(relevance.logits.clip(min=0).ravel())[::-1]
    total = positive.sum()
    return float(positive[: heads_per_depth(positive.size, share)].sum() / total) if total > 0 else 0.0


def probe(
    loaded: Loaded, task: Task, source: str, target: str, relevance: Relevance | None = None, rows: int | None = None
) -> Probe:
    """Two evaluations and some counting; the test split is not touched."""
    examples = library.training_rows(task, target, "target")
    counts = Counter(example.label for example in examples)
    label = min(range(len(task.labels)), key=lambda number: counts[number])
    found = evaluate(loaded, task, target, split="valid")
    return Probe(
        evaluate(loaded, task, source, split="valid").accuracy,
        found.accuracy,
        found.majority,
        len(examples) if rows is None else rows,
        (task.labels[label], counts[label]),
        None if relevance is None else concentration(relevance),
    )
