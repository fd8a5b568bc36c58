"""Is a set of heads the mechanism? Keep it and put every other head to its mean, or the reverse, and ask the model.

The mean is the label-balanced one, so a head at its mean still does what it does for every label, and tells nothing of
this row's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ctsft.discovery.mean import LabelBalancedMean
from ctsft.discovery.patching import editing_z
from ctsft.heads import Head
from ctsft.models.load import Loaded


@contextmanager
def heads_at_mean(loaded: Loaded, mean: LabelBalancedMean, replaced: np.ndarray) -> Iterator[None]:
    """While open, z of every head that `replaced` [layers, heads] names is its mean at that offset, in every row."""
    size = loaded.anatomy.head_dim

    def putting(layer: int):
        columns = torch.from_numpy(np.repeat(replaced[layer], size)).to(mean.pooled.device)

        def edit(z: Tensor) -> Tensor:
            return torch.where(columns, mean.at(layer, z.shape[-2]).to(z.dtype), z)

        return edit

    with editing_z(loaded, {layer: putting(layer) for layer in np.flatnonzero(replaced.any(1))}):
        yield


def marked(heads: Iterable[Head], shape: tuple[int, int]) -> np.ndarray:
    """[layers, heads], true at `heads`."""
    chosen = np.zeros(shape, dtype=bool)
    for head in heads:
        chosen[head] = True
    return chosen


def margins(logits: np.ndarray, labels: Iterable[int]) -> np.ndarray:
    """Logit of the gold label word - mean logit of the others, [N], from the label words' logits [N, C]."""
    logits = logits.astype(np.float64)
    right = np.take_along_axis(logits, np.fromiter(labels, int)[:, None], 1)[:, 0]
    return right - (logits.sum(1) - right) / (logits.shape[1] - 1)


def same_layers(heads: Iterable[Head], n_heads: int, seed: int) -> list[Head]:
    """Random heads, of every layer as many as `heads` has there; `n_heads` is the number in a layer."""
    generator = np.random.default_rng(seed)
    layers, sizes = np.unique([head.layer for head in heads], return_counts=True)
    return [
        Head(int(layer), int(index))
        for layer, size in zip(layers, sizes, strict=True)
        for index in sorted(generator.choice(n_heads, size, replace=False))
    ]
