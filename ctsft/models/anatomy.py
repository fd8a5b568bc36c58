"""One model, seen through its family's entry: where each layer keeps its heads, norms and MLP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ctsft.heads import Slice
from ctsft.models.families import Family, family_of


@dataclass(frozen=True)
class Norm:
    """A LayerNorm or RMSNorm: out = direction(x) * scale(x) * weight (+ bias)."""

    module: nn.Module
    one_plus: bool = False

    @property
    def weight(self) -> Tensor | float:
        if self.module.weight is None:
            return 1.0
        return 1 + self.module.weight if self.one_plus else self.module.weight

    @property
    def bias(self) -> Tensor | None:
        return getattr(self.module, "bias", None)

    @property
    def centres(self) -> bool:
        """Whether the mean is taken off (LayerNorm)."""
        return isinstance(self.module, nn.LayerNorm)

    def scale(self, total: Tensor) -> Tensor:
        """1 / std(total), or 1 / rms(total), over the last dimension."""
        eps = self.module.variance_epsilon if hasattr(self.module, "variance_epsilon") else self.module.eps
        size = total.var(-1, keepdim=True, unbiased=False) if self.centres else total.pow(2).mean(-1, keepdim=True)
        return torch.rsqrt(size + eps)


@dataclass(frozen=True)
class Projection:
    """A linear map y = W x + b: the outputs `rows` of a (possibly fused) module, a Linear or a (transposed) Conv1D."""

    path: str
    module: nn.Module
    rows: slice | Tensor

    @property
    def transposed(self) -> bool:
        return isinstance(self.module, Conv1D)

    @property
    def weight(self) -> Tensor:
        """W [out, in]; a view of the module's own weight, unless its rows are scattered."""
        return (self.module.weight.T if self.transposed else self.module.weight)[self.rows]

    @property
    def bias(self) -> Tensor | None:
        return None if self.module.bias is None else self.module.bias[self.rows]

    def row_slices(self, start: int, stop: int) -> list[Slice]:
        """The slices of weight and bias that give outputs start:stop."""
        size = self.module.weight.shape[1 if self.transposed else 0]
        where = torch.arange(size)[self.rows if isinstance(self.rows, slice) else self.rows.cpu()][start:stop].tolist()
        breaks = [i + 1 for i, (one, two) in enumerate(pairwise(where)) if two != one + 1]
        slices = []
        for first, last in pairwise([0, *breaks, len(where)]):
            span = where[first], where[last - 1] + 1
            slices.append(Slice(f"{self.path}.weight", 1 if self.transposed else 0, *span))
            if self.module.bias is not None:
                slices.append(Slice(f"{self.path}.bias", 0, *span))
        return slices

    def column_slice(self, start: int, stop: int) -> Slice:
        """The slice of the weight that reads inputs start:stop."""
        return Slice(f"{self.path}.weight", 0 if self.transposed else 1, start, stop)


@dataclass(frozen=True)
class Layer:
    """The parts of one layer, in the order in which an activation meets them."""

    attention: nn.Module
    attention_norm: Norm
    q: Projection
    k: Projection
    v: Projection
    q_norm: Norm | None
    k_norm: Norm | None
    o: Projection
    post_attention: Norm | None
    mlp_norm: Norm
    gate: Projection | None
    up: Projection
    down: Projection
    activation: Callable[[Tensor], Tensor]
    post_mlp: Norm | None
    scaling: float
    softcap: float | None
    window: int | None
    parallel: bool
    post_norm: bool

    @property
    def norms(self) -> tuple[Norm, ...]:
        every = (self.attention_norm, self.q_norm, self.k_norm, self.post_attention, self.mlp_norm, self.post_mlp)
        return tuple(norm for norm in every if norm is not None)


@dataclass(frozen=True)
class Transform:
    """What a masked language model does between its last norm and the unembedding: norm(activation(dense(x)))."""

    dense: Projection
    activation: Callable[[Tensor], Tensor]
    norm: Norm


@dataclass(frozen=True)
class Anatomy:
    """One model, seen through its family's entry: everything that discovery and tuning need to know of it."""

    family: Family
    layers: tuple[Layer, ...]
    heads: int
    kv_heads: int
    head_dim: int
    final_norm: Norm
    transform: Transform | None
    unembedding: nn.Module
    norm_parameters: tuple[str, ...]

    @property
    def n_heads(self) -> int:
        """Number of query heads in the whole model."""
        return len(self.layers) * self.heads


def _qkv_rows(family: Family, heads: int, kv_heads: int, size: int) -> dict[str, slice | Tensor]:
    """Which outputs of their modules are the queries, keys and values."""
    counts = {"q": heads, "k": kv_heads, "v": kv_heads}
    if family.per_head_qkv:
        order = torch.arange(3 * heads * size).view(heads, 3, size)
        return {name: order[:, number].flatten() for number, name in enumerate(counts)}
    if family.q != family.k:
        return {name: slice(0, count * size) for name, count in counts.items()}
    ends = {"q": heads * size, "k": (heads + kv_heads) * size, "v": (heads + 2 * kv_heads) * size}
    return {name: slice(ends[name] - counts[name] * size, ends[name]) for name in counts}


def _layer(family: Family, config: object, module: nn.Module, prefix: str, qkv: dict[str, slice | Tensor]) -> Layer:
    """The parts of the layer `module`, which the model calls `prefix`."""

    def project(path: str, rows: slice | Tensor = slice(None)) -> Projection:
        return Projection(f"{prefix}.{path}", module.get_submodule(path), rows)

    def norm(path: str | None) -> Norm | None:
        return None if path is None else Norm(module.get_submodule(path), family.one_plus)

    attention = module.get_submodule(family.attention)
    half = module.get_submodule(family.down).weight.shape[1]
    fused = family.gate == family.up
    return Layer(
        attention=attention,
        attention_norm=norm(family.attention_norm),
        q=project(family.q, qkv["q"]),
        k=project(family.k, qkv["k"]),
        v=project(family.v, qkv["v"]),
        q_norm=norm(family.q_norm),
        k_norm=norm(family.k_norm),
        o=project(family.o),
        post_attention=norm(family.post_attention),
        mlp_norm=norm(family.mlp_norm),
        gate=None if family.gate is None else project(family.gate, slice(0, half) if fused else slice(None)),
        up=project(family.up, slice(half, 2 * half) if fused else slice(None)),
        down=project(family.down),
        activation=module.get_submodule(family.activation),
        post_mlp=norm(family.post_mlp),
        scaling=attention.scaling,
        softcap=attention.attn_logit_softcapping if family.capped_attention else None,
        window=family.window(config, attention),
        parallel=family.parallel(config),
        post_norm=family.embedding_norm is not None,
    )


def _transform(family: Family, model: nn.Module) -> Transform | None:
    head = family.mask_head
    if head is None:
        return None
    return Transform(
        dense=Projection(head.dense, model.get_submodule(head.dense), slice(None)),
        activation=nn.functional.gelu if head.activation is None else model.get_submodule(head.activation),
        norm=Norm(model.get_submodule(head.norm)),
    )


def anatomy(model: nn.Module) -> Anatomy:
    """Find the heads, norms and MLPs of a Hugging Face language model, causal or masked."""
    config = model.config
    family = family_of(config)
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    device = next(model.parameters()).device
    qkv = {
        name: rows if isinstance(rows, slice) else rows.to(device)
        for name, rows in _qkv_rows(family, heads, kv_heads, head_dim).items()
    }
    layers = [
        _layer(family, config, module, f"{family.layers}.{number}", qkv)
        for number, module in enumerate(model.get_submodule(family.layers))
    ]
    if family.embedding_norm is None:
        final_norm = Norm(model.get_submodule(family.final_norm), family.one_plus)
    else:
        # A layer's attention reads from the norm that ends the layer before it.
        ends = [layer.attention_norm for layer in layers]
        before = [Norm(model.get_submodule(family.embedding_norm), family.one_plus), *ends]
        layers = [replace(layer, attention_norm=norm) for layer, norm in zip(layers, before, strict=False)]
        final_norm = ends[-1]
    transform = _transform(family, model)
    norms = {id(norm.module) for layer in layers for norm in layer.norms} | {id(final_norm.module)}
    norms |= {id(transform.norm.module)} if transform else set()
    norm_parameters = tuple(
        f"{name}.{leaf}"
        for name, module in model.named_modules()
        if id(module) in norms
        for leaf, _ in module.named_parameters(recurse=False)
    )
    return Anatomy(
        family=family,
        layers=tuple(layers),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        final_norm=final_norm,
        transform=transform,
        unembedding=model.get_output_embeddings(),
        norm_parameters=norm_parameters,
    )
