"""How far a model's probabilities can be believed: expected calibration error and Brier score."""

from __future__ import annotations

import numpy as np

from ctsft.calibration import calibration_error, calibration_gaps


def brier(probabilities: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Per row [N], the squared distance of the probabilities [N, C] from the right answer: 0 at best, 2 at worst."""
    return ((probabilities - np.eye(probabilities.shape[1])[gold]) ** 2).sum(-1)


def expected_calibration_error(probabilities: np.ndarray, gold: np.ndarray) -> float:
    """That of the answers given: confidence is the probability of the likeliest label."""
    return calibration_error(probabilities.max(-1), probabilities.argmax(-1) == gold)


def gaps(probabilities: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """What that error is made of, [bins, N]."""
    return calibration_gaps(probabilities.max(-1), probabilities.argmax(-1) == gold)
