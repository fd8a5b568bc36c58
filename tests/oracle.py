"""The plain reference for the decomposition: two streams, one source at a time, nothing cached.

Written from the rules alone and without the code under test: rel and irrel are both carried through every module, and
rel + irrel must be the model's own value at the end. Slow on purpose.
"""

from __future__ import annotations

import torch
from torch import nn


def head_outputs(layer, z, head_dim):
    """W_O^h z_h of every head, [..., heads, hidden]; their sum (plus the bias) is the attention output."""
    split = z.unflatten(-1, (-1, head_dim))
    columns = layer.o.weight.unflatten(1, (-1, head_dim))
    return torch.einsum("...hd,ohd->...ho", split, columns)


def give_bias(rel, irrel, bias, split):
    if bias is None:
        return rel, irrel
    size = rel.abs() + irrel.abs()
    share = torch.where(size > 0, rel.abs() / size.clamp(min=1e-38), torch.zeros_like(size))
    if not split:
        share = torch.zeros_like(share)
    return rel + bias * share, irrel + bias * (1 - share)


def linear(rel, irrel, projection, rules):
    w = projection.weight
    return give_bias(rel @ w.T, irrel @ w.T, projection.bias, rules.bias == "split")


def norm(rel, irrel, module, rules):
    """Every module is asked what it does to the total: the two parts take the same scale."""
    total, inner = rel + irrel, module.module
    if isinstance(inner, nn.LayerNorm):
        std = (total.var(-1, unbiased=False, keepdim=True) + inner.eps).sqrt()
        rel, irrel = ((part - part.mean(-1, keepdim=True)) / std * inner.weight for part in (rel, irrel))
        return give_bias(rel, irrel, inner.bias, rules.bias == "split")
    # Per coordinate, an RMSNorm multiplies by one number; where the total is zero so are both parts.
    factor = inner(total) / torch.where(total == 0, 1, total)
    return rel * factor, irrel * factor


def clean(rel, irrel, rules):
    if not rules.clean_up:
        return rel, irrel
    total = rel + irrel
    opposite = rel * irrel < 0
    larger = rel.abs() >= irrel.abs()
    zero = torch.zeros_like(rel)
    return (
        torch.where(opposite, torch.where(larger, total, zero), rel),
        torch.where(opposite, torch.where(larger, zero, total), irrel),
    )


def heads_first(x, heads):
    b, t, d = x.shape
    return x.view(b, t, heads, d // heads).transpose(1, 2)


def rotate(x, rotary):
    if rotary is None:
        return x
    cos, sin = rotary[0][:, None], rotary[1][:, None]
    size = cos.shape[-1]
    turned, half = x[..., :size], size // 2
    turned = turned * cos + torch.cat((-turned[..., half:], turned[..., :half]), -1) * sin
    return torch.cat((turned, x[..., size:]), -1)


def pattern(q, k, anatomy, layer, rotary, mask):
    q, k = rotate(q, rotary), rotate(k, rotary)
    k = k.repeat_interleave(anatomy.heads // anatomy.kv_heads, 1)
    scores = q @ k.transpose(-1, -2) * layer.scaling
    if layer.softcap:
        scores = torch.tanh(scores / layer.softcap) * layer.softcap
    t = scores.shape[-1]
    back = torch.arange(t)[:, None] - torch.arange(t)[None, :]
    seen = torch.ones_like(back, dtype=torch.bool) if anatomy.family.masked else back >= 0
    allowed = seen & mask[:, None, None, :].bool()
    if layer.window:
        allowed = allowed & (back < layer.window)
    allowed = allowed | (back == 0)
    return scores.masked_fill(~allowed, -torch.inf).softmax(-1)


def attention(rel, irrel, anatomy, layer, rotary, mask, rules):
    """z of both streams: strict gives rel the softmax of its own queries and keys, pattern the true softmax."""
    parts = [linear(rel, irrel, p, rules) for p in (layer.q, layer.k, layer.v)]
    counts = (anatomy.heads, anatomy.kv_heads, anatomy.kv_heads)
    parts = [[heads_first(x, n) for x in pair] for pair, n in zip(parts, counts, strict=True)]
    for i, head_norm in enumerate((layer.q_norm, layer.k_norm)):
        if head_norm is not None:
            parts[i] = norm(*parts[i], head_norm, rules)
    (rq, iq), (rk, ik), (rv, iv) = parts
    repeat = anatomy.heads // anatomy.kv_heads
    true = pattern(rq + iq, rk + ik, anatomy, layer, rotary, mask)
    mine = true if rules.attention == "pattern" else pattern(rq, rk, anatomy, layer, rotary, mask)
    total = true @ (rv + iv).repeat_interleave(repeat, 1)
    part = mine @ rv.repeat_interleave(repeat, 1)
    rel_z, total_z = (x.transpose(1, 2).flatten(2) for x in (part, total))
    return rel_z, total_z - rel_z


def derivative(f, x):
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        f(x).sum().backward()
    return x.grad


def mlp(rel, irrel, layer, rules):
    act = layer.activation
    ru, iu = clean(*linear(rel, irrel, layer.up, rules), rules)
    if layer.gate is None:
        total = act(ru + iu)
        part = derivative(act, ru + iu) * ru if rules.gate == "linear" else total - act(iu)
    else:
        rg, ig = clean(*linear(rel, irrel, layer.gate, rules), rules)
        g, u = rg + ig, ru + iu
        total = act(g) * u
        part = derivative(act, g) * u * rg + act(g) * ru if rules.gate == "linear" else total - act(ig) * iu
    out = clean(*linear(part, total - part, layer.down, rules), rules)
    return out if layer.post_mlp is None else norm(*out, layer.post_mlp, rules)


@torch.no_grad()
def two_streams(loaded, batch, embedded, start, source, rules, rotary):
    """Propagate `source` [B, T, H d], injected as rel_z of layer `start`, through the whole model.

    embedded: the stream before layer 0, all of it irrelevant. rotary: cosines and sines of every layer. Returns
    (rel logits, irrel logits) at the label position, and rel_z of the layers from `start` on.
    """
    anatomy, mask = loaded.anatomy, batch["attention_mask"]
    rel, irrel = torch.zeros_like(embedded), embedded
    rel_zs = {}
    for number, layer in enumerate(anatomy.layers):
        normed = norm(rel, irrel, layer.attention_norm, rules)
        rel_z, irrel_z = attention(*normed, anatomy, layer, rotary[number], mask, rules)
        if number == start:
            rel_z, irrel_z = source, rel_z + irrel_z - source
        if number >= start:
            rel_zs[number] = rel_z
        rel_o, irrel_o = linear(rel_z, irrel_z, layer.o, rules)
        if layer.post_attention is not None:
            rel_o, irrel_o = norm(rel_o, irrel_o, layer.post_attention, rules)
        # The residual runs past the norms, or (post-norm) through them.
        before = normed if layer.post_norm else (rel, irrel)
        rel, irrel = before[0] + rel_o, before[1] + irrel_o
        read = norm(*(before if layer.parallel else (rel, irrel)), layer.mlp_norm, rules)
        if layer.post_norm:
            rel, irrel = read
        rel_m, irrel_m = mlp(*read, layer, rules)
        rel, irrel = clean(rel + rel_m, irrel + irrel_m, rules)
    rel, irrel = norm(rel, irrel, anatomy.final_norm, rules)
    if anatomy.transform:
        rel, irrel = clean(*linear(rel, irrel, anatomy.transform.dense, rules), rules)
        f, total = anatomy.transform.activation, rel + irrel
        part = derivative(f, total) * rel if rules.gate == "linear" else f(total) - f(irrel)
        rel, irrel = norm(part, f(total) - part, anatomy.transform.norm, rules)
    w, bias = anatomy.unembedding.weight, anatomy.unembedding.bias
    return rel[:, -1] @ w.T, irrel[:, -1] @ w.T + (0 if bias is None else bias), rel_zs


def straight_way(written, loaded, totals, start):
    """What [B, hidden], written by attention in layer `start`, adds to the logits along the residuals alone.

    Scales of norms and slopes of activations are those of the totals, and biases are left out: a linear map.
    """
    anatomy = loaded.anatomy

    def scaled(x, total, module):
        inner = module.module
        if not isinstance(inner, nn.LayerNorm):
            return x * inner(total) / total
        return (
            (x - x.mean(-1, keepdim=True))
            / (total.var(-1, unbiased=False, keepdim=True) + inner.eps).sqrt()
            * (inner.weight)
        )

    x = written
    for number in range(start, len(anatomy.layers)):
        layer, kept = anatomy.layers[number], totals.layers[number]
        if layer.post_norm:
            x = x if number == start else scaled(x, kept.x[:, -1], layer.attention_norm)
            x = scaled(x, kept.mid[:, -1], layer.mlp_norm)
    x = scaled(x, totals.final[:, -1], anatomy.final_norm)
    if anatomy.transform:
        f = anatomy.transform.activation
        x = derivative(f, totals.transform) * (x @ anatomy.transform.dense.weight.T)
        x = scaled(x, f(totals.transform), anatomy.transform.norm)
    return x @ anatomy.unembedding.weight.T


def turns(totals):
    """The cosines and sines of every layer."""
    return [layer.rotary for layer in totals.layers]
