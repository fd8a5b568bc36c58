"""How sure is an answer? Temperature scaling (Guo et al., ICML 2017), and how far confidence is from accuracy."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

BINS = 10
LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(logits: np.ndarray, gold: np.ndarray) -> float:
    """The T > 0 that minimises the cross-entropy of softmax(logits / T) [N, C] on held-out labels [N].

    It never changes an answer. A label counts as (N + 1) / (N + C) sure and every other as 1 / (N + C), as Platt (1999)
    has it for two classes: N rows that are all right are no evidence for more, and without this the best T would be 0
    and every confidence 1. Kept within [0.05, 20].
    """
    rows, classes = logits.shape
    sure = (rows * np.eye(classes)[gold] + 1) / (rows + classes)

    def loss(log_t: float) -> float:
        return -float((sure * log_softmax(logits / np.exp(log_t), axis=1)).sum(axis=1).mean())

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x))


def confidence(logits: np.ndarray, temperature: float) -> np.ndarray:
    """The probability of the answer among the label words, [N], from logits [N, C]."""
    return softmax(logits.astype(np.float64) / temperature, axis=1).max(axis=1)


def brier(probabilities: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Per row [N], the squared distance of the probabilities [N, C] from the right answer: 0 at best, 2 at worst."""
    return ((probabilities - np.eye(probabilities.shape[1])[gold]) ** 2).sum(-1)


def calibration_error(confidences: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: |accuracy - mean confidence| over ten equal bins, weighted by their rows."""
    return float(np.abs(calibration_gaps(confidences, right).mean(-1)).sum())


def calibration_gaps(confidences: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Right minus confidence in each row's own of ten equal bins and 0 in the others, [bins, N]."""
    bins = np.minimum((confidences * BINS).astype(int), BINS - 1)
    return (bins == np.arange(BINS)[:, None]) * (right - confidences)
