"""What is scored, and one batch of it: totals, deviations from the mean, and the direction of the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctsft.discovery.decompose import PAPER_RULES, Propagation, Rules, prop_norm, prop_transform, slope
from ctsft.discovery.mean import LabelBalancedMean
from ctsft.discovery.totals import record
from ctsft.errors import CellFailed
from ctsft.models.anatomy import Norm
from ctsft.models.load import Loaded
from ctsft.tasks.prompts import Encoded, by_length, pad_left

AT_FAULT = "The model's own activations are likely at fault: see whether its weights are finite."


@dataclass(frozen=True)
class Problem:
    """What is scored: rows (see `scoring_rows`), and the mean that stands for "no information".

    label_tokens [C]: the token of each label word. `rows_per_pass` rows (None: 4 on a CPU, whose caches hold no more,
    else 16) and `sources_per_pass` heads (None: as many of a layer as memory allows) go through the propagation side
    by side; neither changes a score.
    """

    loaded: Loaded
    rows: Encoded
    label_tokens: Sequence[int]
    mean: LabelBalancedMean
    rules: Rules = PAPER_RULES
    rows_per_pass: int | None = None
    sources_per_pass: int | None = None

    @property
    def rows_at_once(self) -> int:
        on_cpu = next(self.loaded.model.parameters()).device.type == "cpu"
        return self.rows_per_pass or (4 if on_cpu else 16)


class Batch:
    """One batch of a Problem: its totals, beta of every layer, and the direction of the answer."""

    def __init__(self, problem: Problem, group: Sequence[int]):
        loaded, rows, rules = problem.loaded, problem.rows, problem.rules
        device = next(loaded.model.parameters()).device
        self.tokens = pad_left([rows.prompts[i] for i in group], loaded.layout, device)
        self.anatomy, self.rules = loaded.anatomy, rules
        self.totals = record(loaded, self.tokens)
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
        self.gold, self.label_tokens = gold, list(problem.label_tokens)
        self.directions = self._directions()

    def _directions(self) -> list[Tensor]:
        """v / |v| [B, hidden] of every layer: <rel, v> is the answer's share of what `rel`, written there, becomes.

        It goes the straight way, along the residuals: through the final norm (and a masked language model's head, to
        first order), their biases left out. On that way post-norm models have the norms of all later layers too.
        """
        transform, totals = self.anatomy.transform, self.totals
        v = self.answer
        if transform is not None:
            v = back_through(v, transform.activation(totals.transform), transform.norm)
            v = (v * slope(transform.activation, totals.transform)) @ transform.dense.weight
        v = back_through(v, totals.final[:, -1], self.anatomy.final_norm)
        directions = []
        for layer, kept in zip(reversed(self.anatomy.layers), reversed(totals.layers), strict=True):
            if layer.post_norm:
                v = back_through(v, kept.mid[:, -1], layer.mlp_norm)
            directions.insert(0, v / v.norm(dim=-1, keepdim=True))
            if layer.post_norm:
                v = back_through(v, kept.x[:, -1], layer.attention_norm)
        return directions

    def _before_unembedding(self, stream: Tensor) -> Tensor:
        """rel behind the final norm and a masked language model's head, at the label position [S, B, hidden]."""
        rel = prop_norm(stream[:, :, -1], self.totals.final[:, -1], self.anatomy.final_norm, self.rules)
        if self.anatomy.transform is None:
            return rel
        return prop_transform(rel, self.totals.transform, self.anatomy.transform, self.rules)

    def to_logits(self, stream: Tensor) -> Tensor:
        """R(s) = rel logit of gold - mean rel logit of the others, [S, B], from the last stream [S, B, T, hidden].

        A bias of the unembedding is no head's doing: it counts as irrelevant.
        """
        return (self._before_unembedding(stream) * self.answer).sum(-1)

    def to_label_words(self, stream: Tensor) -> Tensor:
        """The rel logit of every label word, [S, B, C]."""
        return self._before_unembedding(stream) @ self.anatomy.unembedding.weight[self.label_tokens].T

    def margin(self, logits: Tensor) -> Tensor:
        """Logit of the gold label word - mean logit of the others, [B], from the model's logits [B, vocabulary]."""
        words = logits[:, self.label_tokens]
        right = words.gather(1, self.gold[:, None])[:, 0]
        return right - (words.sum(1) - right) / (len(self.label_tokens) - 1)

    def to_heads(self, rel_z: Tensor, number: int) -> Tensor:
        """R(s, t) = <W_O^t rel_z(t), v> / |v| at the label position, [S, B, heads], for all heads t of a layer.

        Where the attention output is normed on its way to the stream, v goes back through that norm.
        """
        v, layer = self.directions[number], self.anatomy.layers[number]
        if layer.post_attention is not None:
            v = back_through(v, self.totals.layers[number].attention_out[:, -1], layer.post_attention)
        readers = (v @ layer.o.weight).unflatten(-1, (-1, self.anatomy.head_dim))
        return torch.einsum("sbhd,bhd->sbh", rel_z[:, :, -1].unflatten(-1, (-1, self.anatomy.head_dim)), readers)


def back_through(v: Tensor, total: Tensor, norm: Norm) -> Tensor:
    """w with <rel, w> = <norm of rel, v>, the norm's scale that of `total` and its bias left out; all [B, hidden]."""
    v = v * norm.weight
    return (v - v.mean(-1, keepdim=True) if norm.centres else v) * norm.scale(total)


def batches(problem: Problem) -> Iterator[Batch]:
    for group in by_length(problem.rows.prompts, problem.rows_at_once):
        yield Batch(problem, group)


def checked(scores: np.ndarray, what: str) -> np.ndarray:
    """The scores of the model's own passes [layers, heads], or CellFailed naming the layers of heads without one."""
    bad = np.argwhere(~np.isfinite(scores))
    if len(bad):
        first, last = bad[:, 0].min(), bad[:, 0].max()
        raise CellFailed(f"{what} is not finite for heads of layers {first} to {last}. {AT_FAULT}")
    return scores


def refuse_infinite(layer: int, number: int, rules: Rules, *values: Tensor) -> None:
    """CellFailed where what heads of `layer` send through the propagation is not finite behind layer `number`."""
    # A sum is one pass over the activations and holds no other; in double precision it does not overflow by itself.
    if all(value.sum(dtype=torch.float64).isfinite() for value in values):
        return
    raw = rules.gate == "inclusive" and not rules.clean_up
    raise CellFailed(
        f"the relevance of heads of layer {layer} is not finite from layer {number} on. "
        + ("The inclusive gate needs the clean-up, or take the linear gate (scorer cdt_linear)." if raw else AT_FAULT)
    )
