"""Scorers: how relevant is every head? All share one signature; a new scorer is one entry in SCORERS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ctsft.discovery.decompose import LINEAR, PAPER_RULES, Propagation, Rules, prop_norm
from ctsft.discovery.mean import LabelBalancedMean
from ctsft.discovery.relevance import Relevance
from ctsft.discovery.totals import record
from ctsft.errors import CellFailed, UserError
from ctsft.heads import Head
from ctsft.models.load import Loaded
from ctsft.tasks.prompts import Encoded, by_length, pad_left


@dataclass(frozen=True)
class Problem:
    """What is scored: rows whose answers the model gets right, and the mean that stands for "no information".

    label_tokens [C]: the token of each label word. `rows_per_pass` rows and `sources_per_pass` heads go through the
    propagation side by side; neither changes a score.
    """

    loaded: Loaded
    rows: Encoded
    label_tokens: Sequence[int]
    mean: LabelBalancedMean
    rules: Rules = PAPER_RULES
    rows_per_pass: int = 8
    sources_per_pass: int = 9


class Batch:
    """One batch of a Problem: its totals, beta of every layer, and the direction of the answer."""

    def __init__(self, problem: Problem, group: Sequence[int], rules: Rules):
        loaded, rows = problem.loaded, problem.rows
        device = next(loaded.model.parameters()).device
        tokens = pad_left([rows.prompts[i] for i in group], loaded.tokenizer.pad_token_id, device)
        self.anatomy, self.rules = loaded.anatomy, rules
        self.totals = record(loaded, tokens)
        self.propagation = Propagation(loaded.anatomy, self.totals, rules)
        real, width = self.totals.mask[..., None], self.totals.mask.shape[1]
        # beta = z - mu at real positions [B, T, heads * d]; a pad has no source.
        self.beta = [
            torch.where(real, layer.z - problem.mean.at(number, width), 0)
            for number, layer in enumerate(self.totals.layers)
        ]
        unembedding = loaded.anatomy.unembedding.weight[list(problem.label_tokens)]
        gold = torch.tensor([rows.labels[i] for i in group], device=device)
        others = (unembedding.sum(0) - unembedding[gold]) / (len(problem.label_tokens) - 1)
        self.answer = unembedding[gold] - others
        self.direction = self._through_final_norm()

    def _through_final_norm(self) -> Tensor:
        """v [B, hidden] with <rel, v> = the answer's share of the final norm of rel, its bias left out."""
        norm, total = self.anatomy.final_norm, self.totals.final[:, -1]
        v = self.answer * norm.weight
        if isinstance(norm, nn.LayerNorm):
            v = v - v.mean(-1, keepdim=True)
            return v * torch.rsqrt(total.var(-1, keepdim=True, unbiased=False) + norm.eps)
        return v * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)

    def to_logits(self, stream: Tensor) -> Tensor:
        """R(s) = rel logit of gold - mean rel logit of the others, [S, B], from the last stream [S, B, T, hidden]."""
        normed = prop_norm(stream[:, :, -1], self.totals.final[:, -1], self.anatomy.final_norm, self.rules)
        return (normed * self.answer).sum(-1)

    def to_heads(self, rel_z: Tensor, number: int) -> Tensor:
        """R(s, t) = <W_O^t rel_z(t), v> / |v| at the label position, [S, B, heads], for all heads t of a layer."""
        v = self.direction / self.direction.norm(dim=-1, keepdim=True)
        readers = (v @ self.anatomy.layers[number].o.weight).unflatten(-1, (-1, self.anatomy.head_dim))
        return torch.einsum("sbhd,bhd->sbh", rel_z[:, :, -1].unflatten(-1, (-1, self.anatomy.head_dim)), readers)


def _batches(problem: Problem, rules: Rules) -> Iterator[Batch]:
    for group in by_length(problem.rows.prompts, problem.rows_per_pass):
        yield Batch(problem, group, rules)


def _checked(scores: np.ndarray, what: str) -> np.ndarray:
    bad = np.argwhere(~np.isfinite(scores))
    if len(bad):
        raise CellFailed(
            f"{what} is not finite from layer {bad[0][0]} on. The inclusive gate needs the clean-up; otherwise use "
            "the linear gate (scorer cdt_linear)."
        )
    return scores


@torch.no_grad()
def cdt(problem: Problem, relevance: Relevance | None, targets: Sequence[Head]) -> Relevance:
    """The paper's scores: one propagation per source gives R to the logits and to every later head at once.

    The sources of a layer go side by side. Called again for inner targets, it returns what the first pass found.
    """
    if relevance is not None:
        return relevance
    anatomy, n_rows = problem.loaded.anatomy, len(problem.rows)
    n_layers, heads, size = len(anatomy.layers), anatomy.heads, anatomy.head_dim
    logits = np.zeros((n_layers, heads))
    inner = np.zeros((n_layers, heads, n_layers, heads))
    for batch in _batches(problem, problem.rules):
        for layer in range(n_layers):
            for first in range(0, heads, problem.sources_per_pass):
                chunk = range(first, min(first + problem.sources_per_pass, heads))
                source = torch.zeros(len(chunk), *batch.beta[layer].shape, device=batch.beta[layer].device)
                for row, head in enumerate(chunk):
                    part = slice(head * size, (head + 1) * size)
                    source[row, ..., part] = batch.beta[layer][..., part]
                for number, rel_z, stream in batch.propagation.run(layer, source):  # noqa: B007
                    if number > layer:
                        inner[layer, chunk, number] += batch.to_heads(rel_z, number).double().sum(1).cpu().numpy()
                logits[layer, chunk] += batch.to_logits(stream).double().sum(1).cpu().numpy()
    _checked(logits, "the score to the logits")
    _checked(inner, "the score to an inner head")
    columns = {Head(t, h): inner[:, :, t, h] / n_rows for t in range(n_layers) for h in range(heads)}
    return Relevance(logits / n_rows, columns)


def cdt_linear(problem: Problem, relevance: Relevance | None, targets: Sequence[Head]) -> Relevance:
    """R(s) = <dR/dz_s, beta_s>: with attention patterns, norm scales and gate slopes held fixed, rel is linear.

    One backward pass gives every head's relevance to the logits, and one more its relevance to each inner target.
    """
    anatomy = problem.loaded.anatomy
    n_layers, n_rows = len(anatomy.layers), len(problem.rows)
    wanted = [target for target in targets if relevance is None or target not in relevance.columns]
    logits = np.zeros((n_layers, anatomy.heads))
    columns = {target: np.zeros((n_layers, anatomy.heads)) for target in wanted}
    for batch in _batches(problem, LINEAR):
        with torch.enable_grad():
            leaves, rel_zs, stream = _linear_response(batch)
            if relevance is None:
                logits += _from_gradient(batch, batch.to_logits(stream).sum(), leaves, anatomy.head_dim, bool(wanted))
            for target in wanted:
                if target.layer > 0:
                    value = batch.to_heads(rel_zs[target.layer], target.layer)[..., target.index].sum()
                    before = leaves[: target.layer]
                    columns[target][: target.layer] += _from_gradient(batch, value, before, anatomy.head_dim, True)
    known = Relevance(_checked(logits, "the score to the logits") / n_rows) if relevance is None else relevance
    known.columns |= {t: _checked(column, "the score to an inner head") / n_rows for t, column in columns.items()}
    return known


def _linear_response(batch: Batch) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Propagate an empty source of every layer, so that autograd knows how each would reach the answer."""
    leaves = [torch.zeros_like(beta)[None].requires_grad_() for beta in batch.beta]
    rel_zs = [leaves[0]]
    stream = batch.propagation.after_z(None, batch.propagation.reach(leaves[0], 0), 0)
    for number in range(1, len(leaves)):
        rel_zs.append(batch.propagation.to_z(stream, number))
        leaf = batch.propagation.reach(leaves[number], number)
        stream = batch.propagation.after_z(stream, rel_zs[-1] + leaf, number)
    return leaves, rel_zs, stream


def _from_gradient(batch: Batch, value: Tensor, leaves: list[Tensor], size: int, keep: bool) -> np.ndarray:
    """<d value / d z_s, beta_s> summed over rows and positions, [layers, heads]."""
    gradients = torch.autograd.grad(value, leaves, retain_graph=keep)
    scores = [
        (gradient[0] * beta).unflatten(-1, (-1, size)).double().sum((0, 1, 3)).cpu().numpy()
        for gradient, beta in zip(gradients, batch.beta, strict=False)
    ]
    return np.stack(scores)


Scorer = Callable[[Problem, Relevance | None, Sequence[Head]], Relevance]
SCORERS: dict[str, Scorer] = {"cdt": cdt, "cdt_linear": cdt_linear}


def get_scorer(name: str) -> Scorer:
    if name not in SCORERS:
        raise UserError(f"unknown scorer '{name}'. Valid: {', '.join(SCORERS)}.")
    return SCORERS[name]
