"""Scorers: how relevant is every head? All share one signature; a new scorer is one entry in SCORERS.

A name may carry options, `cdt+pattern+pooled`: see OPTIONS.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import psutil
import torch
from torch import Tensor

from ctsft.discovery.decompose import LINEAR, PAPER_RULES, Rules
from ctsft.discovery.gradient import Response, empty_leaves, scores_by_gradient
from ctsft.discovery.patching import ablation, attribution
from ctsft.discovery.problem import Batch, Problem, batches, refuse_infinite
from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError
from ctsft.heads import Head
from ctsft.memory import is_out_of_memory, with_less


def sources_that_fit(batch: Batch) -> int:
    """How many heads of a layer may go side by side: a quarter of the free memory, by the widest activations."""
    device = batch.beta[0].device
    if device.type == "cuda":  # what torch holds and does not use is free too
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + held
    else:
        free = psutil.virtual_memory().available
    rows, width, _ = batch.beta[0].shape
    anatomy = batch.anatomy
    layer = anatomy.layers[0]
    per_token = 4 * layer.up.weight.shape[0] + 6 * layer.o.weight.shape[0] + 3 * anatomy.heads * width
    return int(max(1, min(anatomy.heads, free / 4 / (4 * rows * width * per_token))))


# What is read off the propagated rel: to the logits [S, B] from the last stream [S, B, T, hidden], and to the heads of
# a layer [S, B, heads] from their rel_z [S, B, T, heads * d].
ToLogits = Callable[[Batch, Tensor], Tensor]
ToHeads = Callable[[Batch, Tensor, int], Tensor]


def cdt(problem: Problem, relevance: Relevance | None, targets: Sequence[Head]) -> Relevance:
    """The paper's scores, in the direction of the answer: Batch.to_logits, Batch.to_heads.

    The clean-up leaves few of them below zero, whichever way a head pushes: see docs/scores.md.
    """
    return relevance or _by_propagation(problem, Batch.to_logits, Batch.to_heads)


def magnitude(problem: Problem, relevance: Relevance | None, targets: Sequence[Head]) -> Relevance:
    """|rel| / (|rel| + |irrel|) in L1, of the label words' logits and of z of every later head.

    How much of an activation comes from the source, whichever answer it speaks for. It orders a row's heads as CD-T's
    unsigned ratio |rel| / |irrel| does, and stays finite where a source is all there is.
    """
    return relevance or _by_propagation(problem, _share_of_logits, _share_of_heads)


def _share_of_logits(batch: Batch, stream: Tensor) -> Tensor:
    rel = batch.to_label_words(stream)
    return _share(rel, batch.totals.logits[:, batch.label_tokens])


def _share_of_heads(batch: Batch, rel_z: Tensor, number: int) -> Tensor:
    size = batch.anatomy.head_dim
    z = batch.totals.layers[number].z[:, -1].unflatten(-1, (-1, size))
    return _share(rel_z[:, :, -1].unflatten(-1, (-1, size)), z)


def _share(rel: Tensor, total: Tensor) -> Tensor:
    size = rel.abs().sum(-1)
    both = size + (total - rel).abs().sum(-1)
    return size / both.clamp(min=torch.finfo(both.dtype).tiny)


@torch.no_grad()
def _by_propagation(problem: Problem, to_logits: ToLogits, to_heads: ToHeads) -> Relevance:
    """One propagation per source gives its score to the logits and to every later head at once.

    The sources of a layer go side by side; where memory runs out, half as many.
    """
    anatomy, n_rows = problem.loaded.anatomy, len(problem.rows)
    n_layers, heads = len(anatomy.layers), anatomy.heads
    logits = np.zeros((n_layers, heads))
    inner = np.zeros((n_layers, heads, n_layers, heads))
    for batch in batches(problem):
        at_once = problem.sources_per_pass or sources_that_fit(batch)
        for layer in range(n_layers):
            first = 0
            while first < heads:
                chunk = range(first, min(first + at_once, heads))
                try:
                    reached = propagate(batch, layer, chunk, to_logits, to_heads)
                except RuntimeError as error:
                    if len(chunk) == 1 or not is_out_of_memory(error):
                        raise
                    at_once = len(chunk) // 2
                    warnings.warn(f"out of memory: going on with {at_once} heads at a time", stacklevel=2)
                    continue
                logits[layer, chunk] += reached[0]
                inner[layer, chunk] += reached[1]
                first = chunk.stop
    columns = {Head(t, h): inner[:, :, t, h] / n_rows for t in range(n_layers) for h in range(heads)}
    return Relevance(logits / n_rows, columns, {"rules": asdict(problem.rules)})


def propagate(
    batch: Batch,
    layer: int,
    chunk: range,
    to_logits: ToLogits = Batch.to_logits,
    to_heads: ToHeads = Batch.to_heads,
) -> tuple[np.ndarray, np.ndarray]:
    """R of the heads `chunk` of a layer to the logits [S] and to all heads [S, layers, heads], summed over rows.

    Raises CellFailed naming the first layer behind which something is not finite.
    """
    size, beta = batch.anatomy.head_dim, batch.beta[layer]
    source = beta.new_zeros(len(chunk), *beta.shape)
    for row, head in enumerate(chunk):
        part = slice(head * size, (head + 1) * size)
        source[row, ..., part] = beta[..., part]
    inner = torch.zeros(len(chunk), len(batch.beta), batch.anatomy.heads, dtype=torch.float64)
    stream = source
    for number, rel_z, stream in batch.propagation.run(layer, source):
        if number > layer:
            inner[:, number] = to_heads(batch, rel_z, number).double().sum(1).cpu()
        refuse_infinite(layer, number, batch.rules, stream)
    logits = to_logits(batch, stream).double().sum(1).cpu()
    # What scores are read by comes from the end of the model, so that they cannot tell where it broke.
    refuse_infinite(layer, number, batch.rules, logits, inner)
    return logits.numpy(), inner.numpy()


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

    known = scores_by_gradient(replace(problem, rules=LINEAR), relevance, targets, respond)
    known.about["rules"] = asdict(LINEAR)
    return known


@dataclass(frozen=True)
class Scorer:
    """A way to score, with its options: the `rules` of the propagation (None: the problem's own), and whether the mean
    is `aligned` by offset or pooled over all positions."""

    score: Callable[[Problem, Relevance | None, Sequence[Head]], Relevance]
    rules: Rules | None = None
    aligned: bool = True

    def __call__(self, problem: Problem, relevance: Relevance | None, targets: Sequence[Head]) -> Relevance:
        """Complete `relevance` (None: begin it) by the columns of the inner heads `targets`.

        Where memory runs out, with fewer rows side by side; CellFailed when one is too many.
        """
        problem = problem if self.rules is None else replace(problem, rules=self.rules)

        def run(rows: int) -> Relevance:
            return self.score(replace(problem, rows_per_pass=rows), relevance, targets)

        return with_less(run, problem.rows_at_once, "score one head on one row; score on fewer or shorter rows")


SCORERS = {
    "cdt": cdt,
    "cdt_linear": cdt_linear,
    "magnitude": magnitude,
    "attribution": attribution,
    "ablation": ablation,
}
# Options behind a name. Those of the rules are for the scorers that choose none by themselves.
OPTIONS: dict[str, dict[str, str | bool]] = {
    "pattern": {"attention": "pattern"},
    "linear": {"gate": "linear"},
    "raw": {"clean_up": False},
    "pooled": {},
}


def get_scorer(name: str) -> Scorer:
    """`cdt`, or with options: `+pattern` (attention P rel_v), `+linear` (first-order gate), `+raw` (no clean-up),
    `+pooled` (one mean for all positions)."""
    base, *options = name.split("+")
    if base not in SCORERS:
        raise UserError(f"unknown scorer '{base}'. Valid: {', '.join(SCORERS)}.")
    changes = {}
    for option in options:
        if option not in OPTIONS or options.count(option) > 1:
            raise UserError(f"scorer '{name}': '{option}' is no option, or given twice. Valid: {', '.join(OPTIONS)}.")
        if OPTIONS[option] and base not in ("cdt", "magnitude"):
            raise UserError(f"scorer '{name}': '{option}' changes the rules of cdt and magnitude, not of {base}.")
        changes |= OPTIONS[option]
    if options != (usual := [option for option in OPTIONS if option in options]):
        raise UserError(f"scorer '{name}' is spelt {'+'.join([base, *usual])}: rows are told apart by that name.")
    rules = replace(PAPER_RULES, **changes) if changes else None
    return Scorer(SCORERS[base], rules, aligned="pooled" not in options)
