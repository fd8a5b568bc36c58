"""A model's answers to labelled rows, and how good they are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from ctsft.calibration import calibration_error, confidence
from ctsft.errors import UserError
from ctsft.evaluation import Predictions, scores
from ctsft.evaluation import predict as predict_encoded
from ctsft.models.load import Loaded
from ctsft.models.precision import autocast
from ctsft.stats import Interval, share_interval
from ctsft.tasks.prompts import Encoded, cut_rows, encode, label_tokens
from ctsft.tasks.task import MAX_TOKENS, SPLITS, Example, Task

EVAL_BATCH = 32


def encode_rows(loaded: Loaded, task: Task, rows: Sequence[Example], max_tokens: int) -> Encoded:
    """The rows as this model's prompts; refused where its positions end before `max_tokens`."""
    loaded.refuse_prompts_of(max_tokens, "max_tokens")
    return encode(loaded.tokenizer, task, rows, max_tokens, loaded.layout)


def answer(loaded: Loaded, task: Task, rows: Sequence[Example], max_tokens: int) -> Predictions:
    """The model's answers as it is now, in float32, whatever it was tuned in."""
    device = next(loaded.model.parameters()).device
    encoded = encode_rows(loaded, task, rows, max_tokens)
    exact = autocast("float32", device)
    tokens = label_tokens(loaded.tokenizer, task, loaded.layout)
    return predict_encoded(loaded.model, encoded, tokens, loaded.layout, EVAL_BATCH, exact)


class Answer(NamedTuple):
    """A label's name, and its probability among the label words."""

    label: str
    confidence: float


def predict(
    loaded: Loaded,
    task: Task,
    texts: Sequence[str],
    *,
    pairs: Sequence[str] = (),
    temperature: float = 1.0,
    max_tokens: int = MAX_TOKENS,
) -> list[Answer]:
    """The model's answer to every text, as it is now; use `with delta.on(model):` around it.

    `pairs`: the second texts, of a task that has two. `temperature`: with a delta's own, `about["temperature"]`, the
    confidence can be believed. Warns where texts lose their end at `max_tokens`. Raises UserError for an empty text,
    and where second texts lack or are too many.
    """
    if isinstance(texts, str) or isinstance(pairs, str):
        raise UserError("give a list of texts, not one text.")
    if len(pairs) != (wanted := len(texts) if "{pair}" in task.template else 0):
        raise UserError(f"pairs are {len(pairs)}; this task asks for {wanted} with {len(texts)} texts.")
    if any(not text.strip() for text in (*texts, *pairs)):
        raise UserError("a text is empty, so there is nothing to answer; leave it out.")
    _refuse_temperature(temperature)
    if not texts:
        return []
    both = zip_longest(texts, pairs, fillvalue="")
    rows = [Example(str(number), text, 0, pair) for number, (text, pair) in enumerate(both)]
    if cut := cut_rows(loaded.tokenizer, task, rows, max_tokens, loaded.layout):
        warnings.warn(
            f"{len(cut)} of {len(rows)} texts (the first is number {cut[0]}) are longer than {max_tokens} tokens with "
            "the prompt and are read without their end.",
            stacklevel=2,
        )
    found = answer(loaded, task, rows, max_tokens)
    sure = confidence(found.logits, temperature)
    return [Answer(task.labels[label], value) for label, value in zip(found.labels, sure.tolist(), strict=True)]


def _refuse_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:  # so that NaN is refused too
        raise UserError(f"temperature is {temperature}; it must be a finite number above zero.")


@dataclass(frozen=True)
class Evaluation:
    """Answers and labels [N] of one split; confidences are those at `temperature`."""

    predictions: Predictions
    gold: np.ndarray
    temperature: float = 1.0

    @property
    def accuracy(self) -> Interval:
        """A fraction with its 95 % interval (Wilson's, over rows)."""
        return share_interval(self.predictions.labels == self.gold)

    @property
    def macro_f1(self) -> float:
        return scores(self.predictions.labels.tolist(), self.gold.tolist())["macro_f1"]

    @property
    def majority(self) -> float:
        """What always giving the commonest label would score."""
        return float(np.bincount(self.gold).max() / len(self.gold))

    @property
    def confidence(self) -> np.ndarray:
        """Probability of each answer among the label words, [N]."""
        return confidence(self.predictions.logits, self.temperature)

    @property
    def calibration_error(self) -> float:
        return calibration_error(self.confidence, self.predictions.labels == self.gold)

    def __str__(self) -> str:
        value, low, high = self.accuracy
        return (
            f"accuracy {value:.3f} [{low:.3f}, {high:.3f}], macro-F1 {self.macro_f1:.3f}, majority class "
            f"{self.majority:.3f}, {len(self.gold)} rows"
        )


def evaluate(
    loaded: Loaded,
    task: Task,
    language: str,
    *,
    split: str = "test",
    temperature: float = 1.0,
    max_tokens: int = MAX_TOKENS,
) -> Evaluation:
    """Answer every row of a split with the model as it is now; use `with delta.on(model.model):` around it.

    Raises UserError for a split that the task lacks and a temperature that is no finite number above zero, CellFailed
    where a logit is not finite.
    """
    if split not in SPLITS:
        raise UserError(f"split is '{split}'. Valid: {', '.join(SPLITS)}.")
    _refuse_temperature(temperature)
    rows = task.load(language, split).examples
    return Evaluation(
        answer(loaded, task, rows, max_tokens), np.array([example.label for example in rows]), temperature
    )
