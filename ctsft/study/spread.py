"""How varied a model's answers are: what narrows when it learns from its own labels."""

from __future__ import annotations

import numpy as np

from ctsft.study.measure_files import probabilities


def spread(logits: np.ndarray) -> dict[str, float]:
    """How varied the answers with logits [N, C] are, in bits but for `confidence`, the mean of the largest probability.

    `label_entropy`: of the shares of the labels given; zero where every row gets the same one. `diversity`: the mutual
    information of row and answer, H(mean p) - mean H(p); zero where every row gets the same probabilities.
    """
    chances = probabilities(logits)
    shares = np.bincount(chances.argmax(-1), minlength=chances.shape[1]) / len(chances)
    values = {
        "label_entropy": entropy(shares),
        "confidence": chances.max(-1).mean(),
        "diversity": entropy(chances.mean(0)) - entropy(chances).mean(),
    }
    return {name: round(float(value), 6) for name, value in values.items()}


def entropy(p: np.ndarray) -> np.ndarray:
    """In bits, over the last dimension; 0 log 0 is 0."""
    return -(p * np.log2(np.where(p > 0, p, 1))).sum(-1) + 0.0
