"""A cheap look at a setting before any target row is trained on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ctsft import library
from ctsft.answers import encode_rows, evaluate
from ctsft.discovery.circuits import PAPERS_SHARE, heads_per_depth
from ctsft.discovery.relevance import Relevance
from ctsft.errors import CellFailed, UserError
from ctsft.models.load import Loaded
from ctsft.stats import Interval, share_interval
from ctsft.tasks.prompts import label_tokens
from ctsft.tasks.task import MAX_TOKENS, Example, Task
from ctsft.tuning.ngrams import NGrams


@dataclass(frozen=True)
class Probe:
    """What is known before the model is trained on any target row; accuracies are those of validation splits.

    `source_majority` and `majority`: what always giving the commonest label would score on the source and the target.
    `rarest`: the scarcest label of the `rows` target rows, and how many of them have it. `ngrams`: what logistic
    regression on the character n-grams of these rows scores, which no model has a part in; None where they have one
    label.
    """

    source: Interval
    source_majority: float
    zero_shot: Interval
    majority: float
    rows: int
    rarest: tuple[str, int]
    concentration: float | None = None
    ngrams: Interval | None = None

    @property
    def transfer(self) -> float:
        """The share of the source's accuracy that the target has without training."""
        return self.zero_shot.value / self.source.value if self.source.value else 0.0


def concentration(relevance: Relevance, share: float = PAPERS_SHARE) -> float:
    """The share of all positive relevance that the best `share` of the heads hold."""
    positive = np.sort(relevance.logits.clip(min=0).ravel())[::-1]
    total = positive.sum()
    return float(positive[: heads_per_depth(positive.size, share)].sum() / total) if total > 0 else 0.0


def probe(
    loaded: Loaded,
    task: Task,
    source: str,
    target: str,
    relevance: Relevance | None = None,
    rows: int | None = None,
    max_tokens: int = MAX_TOKENS,
) -> Probe:
    """Two evaluations, a fit of seconds and some counting; the test split is not touched.

    `rows` of the target's training rows are looked at (all, without a number). Raises UserError where there are fewer,
    and for a target that is the source.
    """
    if target == source:
        raise UserError(f"source and target are both {target}: name the language to adapt to as the target.")
    drawn = library.drawn_rows(library.training_rows(task, target, "target"), rows)
    counts = Counter(example.label for example in drawn)
    label = min(range(len(task.labels)), key=lambda number: counts[number])
    known, found = (
        evaluate(loaded, task, language, split="valid", max_tokens=max_tokens) for language in (source, target)
    )
    return Probe(
        known.accuracy,
        known.majority,
        found.accuracy,
        found.majority,
        len(drawn),
        (task.labels[label], counts[label]),
        None if relevance is None else concentration(relevance),
        ngrams(loaded, task, target, drawn, max_tokens),
    )


def ngrams(
    loaded: Loaded, task: Task, target: str, rows: list[Example], max_tokens: int = MAX_TOKENS
) -> Interval | None:
    """Accuracy on the validation split, by which its regularisation was chosen: a little too good."""
    train, valid = (encode_rows(loaded, task, part, max_tokens) for part in (rows, task.load(target, "valid").examples))
    try:
        fitted = NGrams().fit(train, valid, lambda prompt: str(loaded.tokenizer.decode(list(prompt))))
    except CellFailed:
        return None
    answers = fitted.answer(valid, label_tokens(loaded.tokenizer, task, loaded.layout)).labels
    return share_interval(answers == np.array(valid.labels))
