"""How far a model's probabilities can be believed: expected calibration error and Brier score."""

from __future__ import annotations

import numpy as np

BINS = 10


def brier(probabilities: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Per row [N], the squared distance of the probabilities [N, C] from the right answer: 0 at best, 2 at worst."""
    return ((probabilities - np.eye(probabilities.shape[1])[gold]) ** 2).sum(-1)


def expected_calibration_error(probabilities: np.ndarray, gold: np.ndarray) -> float:
    """|accuracy - confidence| over BINS bins of equal width in the confidence, weighted by their rows.

    Confidence is the probability of the answer given (Guo et al., ICML 2017).
    """
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == gold
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return float(sum(abs((right[bins == b] - confidence[bins == b]).sum()) for b in range(BINS)) / len(gold))
