"""Scorers: how relevant is every head? All share one signature; a new scorer is one entry in SCORERS."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import psutil
import torch

from ctsft.discovery.decompose import LINEAR
from ctsft.discovery.gradient import Response, empty_leaves, scores_by_gradient
from ctsft.discovery.patching import ablation, attribution
from ctsft.discovery.problem import Batch, Problem, batches, checked
from ctsft.discovery.relevance import Relevance
from ctsft.errors import CellFailed, UserError
from ctsft.heads import Head


def sources_that_fit(batch: Batch) -> int:
    """How many heads of a layer may go side by side: a quarter of the free memory, by the widest activations."""
    device = batch.beta[0].device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    rows, width, _ = batch.beta[0].shape
    anatomy = batch.anatomy
    layer = anatomy.layers[0]
    per_token = 4 * layer.up.weight.shape[0] + 6 * layer.o.weight.shape[0] + 3 * anatomy.heads * width
    return int(max(1, min(anatomy.heads, free / 4 / (4 * rows * width * per_token))))


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@torch.no_grad()
def cdt(problem: Problem, relevance: Relevance | None, targets: Sequence[Head]) -> Relevance:
    """The paper's scores: one propagation per source gives R to the logits and to every later head at once.

    The sources of a layer go side by side; where memory runs out, half as many. Called again for inner targets, it
    returns what the first pass found.
    """
    if relevance is not None:
        return relevance
    anatomy, n_rows = problem.loaded.anatomy, len(problem.rows)
    n_layers, heads = len(anatomy.layers), anatomy.heads
    logits = np.zeros((n_layers, heads))
    inner = np.zeros((n_layers, heads, n_layers, heads))
    for batch in batches(problem, problem.rules):
        at_once = problem.sources_per_pass or sources_that_fit(batch)
        for layer in range(n_layers):
            first = 0
            while first < heads:
                chunk = range(first, min(first + at_once, heads))
                try:
                    to_logits, to_heads = propagate(batch, layer, chunk)
                except RuntimeError as error:
                    if not _is_out_of_memory(error):
                        raise
                    if len(chunk) == 1:
                        raise CellFailed(
                            "not enough memory to score one head; score on fewer or shorter rows"
                        ) from error
                    at_once = len(chunk) // 2
                    warnings.warn(f"out of memory: going on with {at_once} heads at a time", stacklevel=2)
                    continue
                logits[layer, chunk] += to_logits
                inner[layer, chunk] += to_heads
                first = chunk.stop
    checked(logits, "the score to the logits")
    checked(inner, "the score to an inner head")
    columns = {Head(t, h): inner[:, :, t, h] / n_rows for t in range(n_layers) for h in range(heads)}
    return Relevance(logits / n_rows, columns, {"rules": problem.rules.to_dict()})


def propagate(batch: Batch, layer: int, chunk: range) -> tuple[np.ndarray, np.ndarray]:
    """R of the heads `chunk` of a layer to the logits [S] and to all heads [S, layers, heads], summed over rows."""
    size, beta = batch.anatomy.head_dim, batch.beta[layer]
    source = torch.zeros(len(chunk), *beta.shape, device=beta.device)
    for row, head in enumerate(chunk):
        part = slice(head * size, (head + 1) * size)
        source[row, ..., part] = beta[..., part]
    to_heads = torch.zeros(len(chunk), len(batch.beta), batch.anatomy.heads, dtype=torch.float64)
    stream = source
    for number, rel_z, stream in batch.propagation.run(layer, source):  # noqa: B007
        if number > layer:
            to_heads[:, number] = batch.to_heads(rel_z, number).double().sum(1).cpu()
    return batch.to_logits(stream).double().sum(1).cpu().numpy(), to_heads.numpy()


def cdt_linear(problem: Problem, relevance: Relevance | None, targets: Sequence[Head]) -> Relevance:
    """R(s) = <dR/dz_s, beta_s>: with attention patterns, norm scales and gate slopes held fixed, rel is linear.

    One backward pass gives every head's relevance to the logits, and one more its relevance to each inner target.
    """

    def respond(batch: Batch) -> Response:
        leaves, propagation = empty_leaves(batch), batch.propagation
        z = {0: leaves[0]}
        stream = propagation.after_z(None, propagation.reach(leaves[0], 0), 0)
        for number in range(1, len(leaves)):
            z[number] = propagation.to_z(stream, number)
            stream = propagation.after_z(stream, z[number] + propagation.reach(leaves[number], number), number)
        return Response(leaves, batch.to_logits(stream).sum(), z)

    known = scores_by_gradient(problem, relevance, targets, respond)
    known.about["rules"] = LINEAR.to_dict()
    return known


Scorer = Callable[[Problem, Relevance | None, Sequence[Head]], Relevance]
SCORERS: dict[str, Scorer] = {
    "cdt": cdt,
    "cdt_linear": cdt_linear,
    "attribution": attribution,
    "ablation": ablation,
}


def get_scorer(name: str) -> Scorer:
    if name not in SCORERS:
        raise UserError(f"unknown scorer '{name}'. Valid: {', '.join(SCORERS)}.")
    return SCORERS[name]
