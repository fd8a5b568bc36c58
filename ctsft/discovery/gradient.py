"""Scores from gradients: one backward pass gives <d answer / d z_s, beta_s> of every head s at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ctsft.discovery.problem import Batch, Problem, batches, checked
from ctsft.discovery.relevance import Relevance
from ctsft.heads import Head


class Response(NamedTuple):
    """How one batch answers to its heads: empty leaves added to z of every layer [1, B, T, heads * d], the answer they
    lead to (a scalar, summed over rows), and z of every layer, or its rel, as an inner target sees it."""

    leaves: list[Tensor]
    answer: Tensor
    z: Mapping[int, Tensor]


def scores_by_gradient(
    problem: Problem, relevance: Relevance | None, targets: Sequence[Head], respond: Callable[[Batch], Response]
) -> Relevance:
    """Complete `relevance` (or begin it) by the columns of `targets`, with one backward pass for each quantity."""
    anatomy, n_rows = problem.loaded.anatomy, len(problem.rows)
    shape = (len(anatomy.layers), anatomy.heads)
    wanted = [target for target in targets if relevance is None or target not in relevance.columns]
    if relevance is not None and not wanted:
        return relevance
    logits, columns = np.zeros(shape), {target: np.zeros(shape) for target in wanted}
    for batch in batches(problem):
        with torch.enable_grad():
            leaves, answer, z = respond(batch)
            if relevance is None:
                logits += _from_gradient(batch, answer, leaves, keep=bool(wanted))
            for target in (t for t in wanted if t.layer > 0):
                value = batch.to_heads(z[target.layer], target.layer)[..., target.index].sum()
                columns[target][: target.layer] += _from_gradient(batch, value, leaves[: target.layer], keep=True)
    known = Relevance(checked(logits, "the score to the logits") / n_rows) if relevance is None else relevance
    known.columns |= {t: checked(column, "the score to an inner head") / n_rows for t, column in columns.items()}
    return known


def empty_leaves(batch: Batch) -> list[Tensor]:
    """A zero to be added to z of every layer, so that autograd knows how each would reach the answer."""
    return [torch.zeros_like(beta)[None].requires_grad_() for beta in batch.beta]


def _from_gradient(batch: Batch, value: Tensor, leaves: list[Tensor], keep: bool) -> np.ndarray:
    """<d value / d z_s, beta_s> summed over rows and positions, [layers, heads]."""
    gradients = torch.autograd.grad(value, leaves, retain_graph=keep)
    scores = [
        (gradient[0] * beta).unflatten(-1, (-1, batch.anatomy.head_dim)).double().sum((0, 1, 3)).cpu().numpy()
        for gradient, beta in zip(gradients, batch.beta, strict=False)
    ]
    return np.stack(scores)
