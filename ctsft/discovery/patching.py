"""Scorers that run the model itself: attribution patching (a gradient) and ablation (the causal yardstick)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ctsft.discovery.gradient import Response, empty_leaves, scores_by_gradient
from ctsft.discovery.problem import Batch, Problem, batches, checked
from ctsft.discovery.relevance import Relevance
from ctsft.heads import Head
from ctsft.models.load import Loaded


@contextmanager
def editing_z(loaded: Loaded, edits: dict[int, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Let `edits[layer]` change z [B, T, heads * d] on its way into the output projection of that layer."""
    hooks = [
        loaded.anatomy.layers[layer].o.module.register_forward_pre_hook(
            lambda module, args, edit=edit: (edit(args[0]), *args[1:])
        )
        for layer, edit in edits.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def attribution(problem: Problem, relevance: Relevance | None, targets: Sequence[Head]) -> Relevance:
    """R(s) = <d margin / d z_s, z_s - mu_s>: the first-order effect of putting head s to its mean, all else following.

    One forward and one backward pass of the model, and one more backward pass for each inner target.
    """

    def respond(batch: Batch) -> Response:
        leaves, z = empty_leaves(batch), {}
        with editing_z(problem.loaded, {number: _adding(leaf, z, number) for number, leaf in enumerate(leaves)}):
            out = problem.loaded.model(**batch.tokens, logits_to_keep=1, use_cache=False).logits[:, -1]
        return Response(leaves, batch.margin(out).sum(), z)

    return scores_by_gradient(problem, relevance, targets, respond)


def _adding(leaf: Tensor, seen: dict[int, Tensor], number: int) -> Callable[[Tensor], Tensor]:
    """An edit that adds `leaf` [1, B, T, heads * d] to z and keeps z itself in `seen`, in the leaf's shape."""

    def edit(z: Tensor) -> Tensor:
        seen[number] = z[None]
        return z + leaf[0]

    return edit


@torch.no_grad()
def ablation(problem: Problem, relevance: Relevance | None, targets: Sequence[Head]) -> Relevance:
    """R(s) = margin of the model - margin with head s at its mean: what the head does, by taking it away.

    One forward pass per head; each gives the effect on every later head too.
    """
    if relevance is not None:
        return relevance
    anatomy, n_rows = problem.loaded.anatomy, len(problem.rows)
    n_layers, heads, size = len(anatomy.layers), anatomy.heads, anatomy.head_dim
    logits = np.zeros((n_layers, heads))
    inner = np.zeros((n_layers, heads, n_layers, heads))
    for batch in batches(problem):
        whole = _margin(problem, batch)
        read_whole = [batch.to_heads(layer.z[None], number) for number, layer in enumerate(batch.totals.layers)]
        for layer in range(n_layers):
            for head in range(heads):
                read, without = _without(problem, batch, layer, slice(head * size, (head + 1) * size))
                logits[layer, head] += float((whole - without).double().sum())
                for number in range(layer + 1, n_layers):
                    effect = (read_whole[number] - read[number]).double().sum((0, 1))
                    inner[layer, head, number] += effect.cpu().numpy()
    checked(logits, "the score to the logits")
    columns = {Head(t, h): inner[:, :, t, h] / n_rows for t in range(n_layers) for h in range(heads)}
    return Relevance(logits / n_rows, columns)


def _without(problem: Problem, batch: Batch, layer: int, part: slice) -> tuple[dict[int, Tensor], Tensor]:
    """What the later heads write towards the answer, and the margin [B], with one head at its mean."""
    read: dict[int, Tensor] = {}

    def reading(number: int) -> Callable[[Tensor], Tensor]:
        def edit(z: Tensor) -> Tensor:
            read[number] = batch.to_heads(z[None], number)
            return z

        return edit

    def at_mean(z: Tensor) -> Tensor:
        z = z.clone()
        z[..., part] -= batch.beta[layer][..., part]
        return z

    edits = {number: reading(number) for number in range(layer + 1, len(batch.beta))} | {layer: at_mean}
    with editing_z(problem.loaded, edits):
        return read, _margin(problem, batch)


def _margin(problem: Problem, batch: Batch) -> Tensor:
    """The margin [B] of the model's own answer, after its final soft cap where it has one."""
    return batch.margin(problem.loaded.model(**batch.tokens, logits_to_keep=1, use_cache=False).logits[:, -1])
