"""Predictions at the label position, and the metrics computed from them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import evaluate
import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from ctsft.errors import CellFailed
from ctsft.memory import with_less
from ctsft.models.precision import products, unrounded_logits
from ctsft.tasks.prompts import Encoded, Layout, by_length, pad_left
from ctsft.tasks.task import digits


@dataclass(frozen=True)
class Predictions:
    """Per row, in the order of the rows given: the best label word, the logits of all [N, C], the vocabulary's best."""

    labels: np.ndarray
    logits: np.ndarray
    vocabulary: np.ndarray

    @property
    def digits(self) -> str:
        return digits(self.labels)


def predict(
    model: nn.Module,
    rows: Encoded,
    label_tokens: Sequence[int],
    layout: Layout,
    batch_size: int,
    autocast: torch.autocast,
) -> Predictions:
    """Score the label words at the label position, in batches of similar length (smaller where memory runs out).

    Raises CellFailed where a logit is not finite.
    """

    def run(size: int) -> Predictions:
        return _predict(model, rows, label_tokens, layout, size, autocast)

    return with_less(run, batch_size, "answer one row")


@torch.no_grad()
def _predict(model, rows: Encoded, label_tokens, layout, batch_size, autocast) -> Predictions:
    device = next(model.parameters()).device
    logits = np.empty((len(rows), len(label_tokens)), dtype=np.float32)
    vocabulary = np.empty(len(rows), dtype=np.int64)
    for group in by_length(rows.prompts, batch_size):
        batch = pad_left([rows.prompts[i] for i in group], layout, device)
        with products(autocast), unrounded_logits(model, autocast), autocast:
            out = model(**batch, logits_to_keep=1, use_cache=False).logits[:, -1].float()
        logits[group] = out[:, list(label_tokens)].cpu().numpy()
        vocabulary[group] = out.argmax(-1).cpu().numpy()
    if not np.isfinite(logits).all():
        raise CellFailed("the model's answers are no finite numbers: its weights exploded. Try a lower learning rate")
    return Predictions(logits.argmax(-1), logits, vocabulary)


class LabelScores(evaluate.Metric):
    """Accuracy and macro-F1 (scikit-learn's), as an `evaluate` metric that needs no download."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy and macro-averaged F1 of label predictions.",
            citation="",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            # Over the labels that rows have: an answer that no row asks for must not change what the mean is over.
            "macro_f1": float(f1_score(references, predictions, labels=sorted(set(references)), average="macro")),
        }


def scores(predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
    """{"accuracy", "macro_f1"}, both fractions."""
    # A metric makes a folder for itself, even one that it keeps nothing in; a home directory may not be writable.
    metric = LabelScores(keep_in_memory=True, cache_dir=tempfile.gettempdir())
    return metric.compute(predictions=list(predictions), references=list(references))
