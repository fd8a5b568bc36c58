"""Contextual decomposition (CD-T, Hsu et al., ICLR 2025): every activation is total = rel + irrel, exactly.

The total is the model's own value (totals.py), so only rel is propagated, and irrel is total - rel. There is one
`prop_*` rule per kind of module. The rules for LayerNorm, activations and full attention are CD-T's; those for
RMSNorm, rotary positions, grouped keys and values, and gated MLPs are this project's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ctsft.discovery.totals import LayerTotals, Totals
from ctsft.models.anatomy import Anatomy, Layer, Norm, Projection, Transform


@dataclass(frozen=True)
class Rules:
    """The options of the decomposition, recorded with every score.

    attention: strict = softmax(rel_q rel_k) rel_v, pattern = P rel_v with the true pattern P. gate: inclusive or
    linear (first order). clean_up: where rel and irrel have opposite signs the larger takes the total. bias: split in
    proportion to |rel| and |irrel|, or wholly irrelevant.
    """

    attention: Literal["strict", "pattern"] = "strict"
    gate: Literal["inclusive", "linear"] = "inclusive"
    clean_up: bool = True
    bias: Literal["split", "irrelevant"] = "split"


PAPER_RULES = Rules()

# With these rules rel is a linear function of the source, so one backward pass gives the relevance of every head.
LINEAR = Rules(attention="pattern", gate="linear", clean_up=False, bias="irrelevant")


def share_bias(rel: Tensor, irrel: Tensor, bias: Tensor) -> Tensor:
    """b * |rel| / (|rel| + |irrel|): the part of a bias that rel takes; nothing where both are zero."""
    size = rel.abs() + irrel.abs()
    return bias * rel.abs() / torch.where(size > 0, size, 1)


def prop_linear(rel: Tensor, projection: Projection, total_out: Tensor | None, rules: Rules) -> Tensor:
    """W rel [.., out], plus rel's share of the bias."""
    out = nn.functional.linear(rel, projection.weight)
    bias = projection.bias
    if bias is None or rules.bias == "irrelevant":
        return out
    return out + share_bias(out, total_out - bias - out, bias)


def prop_norm(rel: Tensor, total: Tensor, norm: Norm, rules: Rules) -> Tensor:
    """RMSNorm: rel / rms(total) * w. LayerNorm: (rel - mean(rel)) / std(total) * w + rel's share of the bias."""
    factor = norm.scale(total) * norm.weight

    def linear(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True) if norm.centres else x) * factor

    out = linear(rel)
    if norm.bias is None or rules.bias == "irrelevant":
        return out
    return out + share_bias(out, linear(total) - out, norm.bias)


def clean_up(rel: Tensor, total: Tensor, rules: Rules) -> Tensor:
    """Where rel and irrel have opposite signs the larger takes the total and the other becomes zero.

    With irrel = total - rel that is a clamp: rel is kept between 0 and total, and cut to the nearer end outside. In
    place: rel is always the caller's own.
    """
    return rel.clamp_(total.clamp(max=0), total.clamp(min=0)) if rules.clean_up else rel


def slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f'(x), elementwise."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x).sum(), x)[0]


def prop_activation(rel: Tensor, total: Tensor, function: Callable[[Tensor], Tensor], rules: Rules) -> Tensor:
    """inclusive: f(total) - f(total - rel). linear: f'(total) rel."""
    if rules.gate == "linear":
        return slope(function, total) * rel
    # f(total) - f(total - 0) is zero only up to rounding: vector and scalar code differ in the last bit.
    return rel.any(-1, keepdim=True) * (function(total) - function(total - rel))


def prop_mlp(rel: Tensor, layer: Layer, totals: LayerTotals, rules: Rules) -> Tensor:
    """From the MLP's normed input to its output. With a = act(g) the hidden value is h = a u, or h = act(u) ungated.

    inclusive: h - act(g - rel_g) (u - rel_u), or act(u) - act(u - rel_u).
    linear: act'(g) u rel_g + act(g) rel_u, or act'(u) rel_u.
    A norm behind the MLP is the last step.
    """
    rel_up = clean_up(prop_linear(rel, layer.up, totals.up, rules), totals.up, rules)
    if layer.gate is None:
        hidden = prop_activation(rel_up, totals.up, layer.activation, rules)
    else:
        rel_gate = clean_up(prop_linear(rel, layer.gate, totals.gate, rules), totals.gate, rules)
        if rules.gate == "linear":
            hidden = (
                slope(layer.activation, totals.gate) * totals.up * rel_gate + layer.activation(totals.gate) * rel_up
            )
        else:
            whole = layer.activation(totals.gate) * totals.up
            alive = rel.any(-1, keepdim=True)  # as in prop_activation
            hidden = (whole - layer.activation(totals.gate - rel_gate).mul_(totals.up - rel_up)).mul_(alive)
    out = clean_up(prop_linear(hidden, layer.down, totals.mlp_out, rules), totals.mlp_out, rules)
    return out if layer.post_mlp is None else prop_norm(out, totals.mlp_out, layer.post_mlp, rules)


def prop_transform(rel: Tensor, total: Tensor, transform: Transform, rules: Rules) -> Tensor:
    """Through the head of a masked language model up to the unembedding; `total` leaves its dense map.

    The dense map and its activation are the first half of an MLP, and follow the rules of one.
    """
    rel = clean_up(prop_linear(rel, transform.dense, total, rules), total, rules)
    rel = prop_activation(rel, total, transform.activation, rules)
    return prop_norm(rel, transform.activation(total), transform.norm, rules)


class Propagation:
    """Propagates rel through one batch of totals.

    Activations are [S, B, T, .]: S sources side by side on B rows of T tokens, the last one the label position. In the
    last layer only the label position matters any more, so there T is 1.
    """

    def __init__(self, anatomy: Anatomy, totals: Totals, rules: Rules):
        self.anatomy, self.totals, self.rules = anatomy, totals, rules
        self.end = len(anatomy.layers) - 1
        real = totals.mask
        every = torch.ones(real.shape[1], real.shape[1], dtype=torch.bool, device=real.device)
        before = every if anatomy.family.masked else every.tril()
        # A pad position may look at itself: a row of the softmax must not be empty. No real position looks at a pad.
        itself = torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
        seen = before & real[:, None, :]
        # Which keys a query does not see [B, 1, T, T]; with a window it sees only the last `window` positions.
        self.hidden = {
            window: ~((seen if window is None else seen & every.triu(1 - window)) | itself)[:, None]
            for window in {layer.window for layer in anatomy.layers}
        }

    def at(self, number: int) -> LayerTotals:
        """The totals of a layer, at the label position alone for the last."""
        return self.totals.layers[number].label_position() if number == self.end else self.totals.layers[number]

    def reach(self, x: Tensor, number: int) -> Tensor:
        """The positions of x [.., T, .] that still matter in a layer."""
        return x[..., -1:, :] if number == self.end else x

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        """[.., T, heads * d] -> [.., heads, T, d]"""
        return x.unflatten(-1, (heads, self.anatomy.head_dim)).transpose(-3, -2)

    def _positioned(self, rel: Tensor, total: Tensor, heads: int, norm: Norm | None, rotary: tuple | None) -> Tensor:
        """Queries or keys [.., T, heads * d] with their norm and rotary positions, [.., heads, T, d].

        Positions may turn only the first dimensions of a head.
        """
        x = self._heads(rel, heads)
        if norm is not None:
            x = prop_norm(x, self._heads(total, heads), norm, self.rules)
        if rotary is None:
            return x
        cos, sin = (part[:, None, -x.shape[-2] :] for part in rotary)
        turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        first, second = turned.chunk(2, dim=-1)
        turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
        return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned

    def _pattern(self, q: Tensor, k: Tensor, number: int) -> Tensor:
        """softmax(mask(q k^T scaling)) [.., heads, T, T]; keys are repeated over the query heads of their group."""
        layer, totals, anatomy = self.anatomy.layers[number], self.totals.layers[number], self.anatomy
        q = self._positioned(q, self.at(number).q, anatomy.heads, layer.q_norm, totals.rotary)
        k = self._positioned(k, totals.k, anatomy.kv_heads, layer.k_norm, totals.rotary)
        k = k.repeat_interleave(anatomy.heads // anatomy.kv_heads, dim=-3)
        scores = (q @ k.transpose(-1, -2)) * layer.scaling
        if layer.softcap is not None:
            scores = layer.softcap * torch.tanh(scores / layer.softcap)
        hidden = self.hidden[layer.window][..., -q.shape[-2] :, :]
        return scores.masked_fill_(hidden, torch.finfo(scores.dtype).min).softmax(-1)

    def prop_attention(self, rel: Tensor, number: int) -> Tensor:
        """From the layer's normed input to rel_z [S, B, T, heads * d]."""
        layer, totals, rules = self.anatomy.layers[number], self.totals.layers[number], self.rules
        value = self._heads(prop_linear(rel, layer.v, totals.v, rules), self.anatomy.kv_heads)
        value = value.repeat_interleave(self.anatomy.heads // self.anatomy.kv_heads, dim=-3)
        if rules.attention == "pattern":
            pattern = self._pattern(self.at(number).q, totals.k, number)
        else:
            q = prop_linear(self.reach(rel, number), layer.q, self.at(number).q, rules)
            pattern = self._pattern(q, prop_linear(rel, layer.k, totals.k, rules), number)
        return (pattern @ value).transpose(-3, -2).flatten(-2)

    def to_z(self, rel: Tensor, number: int) -> Tensor:
        """From the residual stream before a layer to rel_z of its heads, [S, B, T, heads * d]."""
        layer, totals = self.anatomy.layers[number], self.totals.layers[number]
        return self.prop_attention(prop_norm(rel, totals.x, layer.attention_norm, self.rules), number)

    def after_z(self, rel: Tensor | None, rel_z: Tensor, number: int) -> Tensor:
        """From rel_z and the stream before a layer (None: nothing yet) to the stream behind the layer."""
        layer, totals, rules = self.anatomy.layers[number], self.at(number), self.rules
        written, written_total = prop_linear(rel_z, layer.o, totals.attention_out, rules), totals.attention_out
        if layer.post_attention is not None:
            written = prop_norm(written, written_total, layer.post_attention, rules)
            written_total = layer.post_attention.module(written_total)
        before = torch.zeros_like(written) if rel is None else self.reach(rel, number)
        if layer.post_norm:
            before = prop_norm(before, totals.x, layer.attention_norm, rules)
        mid = written + before
        # Beside attention, the MLP reads the stream as it was before.
        read = before if layer.parallel else mid
        normed = prop_norm(read, totals.mid, layer.mlp_norm, rules)
        out = prop_mlp(normed, layer, totals, rules)
        mlp_total = totals.mlp_out if layer.post_mlp is None else layer.post_mlp.module(totals.mlp_out)
        kept, kept_total = (normed, layer.mlp_norm.module(totals.mid)) if layer.post_norm else (mid, totals.mid)
        behind = kept_total + mlp_total + (written_total if layer.parallel else 0)
        return clean_up(kept + out, behind, rules)

    def run(self, start: int, source: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Inject `source` as rel_z of layer `start` [S, B, T, heads * d] and propagate to the end.

        Yields (layer, rel_z, stream behind the layer) for every layer from `start` on.
        """
        source = self.reach(source, start)
        stream = self.after_z(None, source, start)
        yield start, source, stream
        for number in range(start + 1, self.end + 1):
            rel_z = self.to_z(stream, number)
            stream = self.after_z(stream, rel_z, number)
            yield number, rel_z, stream
