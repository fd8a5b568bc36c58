"""Where a model family keeps its heads, norms and MLP. A new family is one entry in FAMILIES, and nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ctsft.errors import UserError
from ctsft.heads import Slice


@dataclass(frozen=True)
class Family:
    """Module paths inside one decoder layer (or inside the model, for the first four fields).

    Equal paths for q, k and v mean one fused projection that holds queries, keys and values in this order.
    `gate` is None for an MLP without a gate. `refuse` returns why a configuration cannot be decomposed, or None.
    """

    name: str
    model_types: tuple[str, ...]
    layers: str = "model.layers"
    final_norm: str = "model.norm"
    rotary: str | None = "model.rotary_emb"
    attention: str = "self_attn"
    attention_norm: str = "input_layernorm"
    mlp_norm: str = "post_attention_layernorm"
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    o: str = "self_attn.o_proj"
    gate: str | None = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    activation: str = "mlp.act_fn"
    refuse: Callable[[object], str | None] = lambda config: None


def _sliding(config) -> str | None:
    return "sliding-window attention" if getattr(config, "use_sliding_window", False) else None


def _gpt2_variants(config) -> str | None:
    return "cross-attention layers" if config.add_cross_attention else None


FAMILIES = (
    Family("Llama", ("llama",)),
    Family("Qwen2", ("qwen2",), refuse=_sliding),
    Family(
        "GPT-2",
        ("gpt2",),
        layers="transformer.h",
        final_norm="transformer.ln_f",
        rotary=None,
        attention="attn",
        attention_norm="ln_1",
        mlp_norm="ln_2",
        q="attn.c_attn",
        k="attn.c_attn",
        v="attn.c_attn",
        o="attn.c_proj",
        gate=None,
        up="mlp.c_fc",
        down="mlp.c_proj",
        activation="mlp.act",
        refuse=_gpt2_variants,
    ),
)


@dataclass(frozen=True)
class Projection:
    """A linear map y = W x + b: outputs start:stop of a (possibly fused) module, a Linear or a (transposed) Conv1D."""

    path: str
    module: nn.Module
    start: int
    stop: int

    @property
    def transposed(self) -> bool:
        return isinstance(self.module, Conv1D)

    @property
    def weight(self) -> Tensor:
        """W [out, in], a view of the module's own weight."""
        full = self.module.weight.T if self.transposed else self.module.weight
        return full[self.start : self.stop]

    @property
    def bias(self) -> Tensor | None:
        return None if self.module.bias is None else self.module.bias[self.start : self.stop]

    def row_slices(self, start: int, stop: int) -> list[Slice]:
        """The slices of weight and bias that give outputs start:stop."""
        start, stop = start + self.start, stop + self.start
        slices = [Slice(f"{self.path}.weight", 1 if self.transposed else 0, start, stop)]
        if self.module.bias is not None:
            slices.append(Slice(f"{self.path}.bias", 0, start, stop))
        return slices

    def column_slice(self, start: int, stop: int) -> Slice:
        """The slice of the weight that reads inputs start:stop."""
        return Slice(f"{self.path}.weight", 0 if self.transposed else 1, start, stop)


@dataclass(frozen=True)
class Layer:
    """The parts of one decoder layer, in the order in which an activation meets them."""

    attention_norm: nn.Module
    q: Projection
    k: Projection
    v: Projection
    o: Projection
    mlp_norm: nn.Module
    gate: Projection | None
    up: Projection
    down: Projection
    activation: Callable[[Tensor], Tensor]
    scaling: float


@dataclass(frozen=True)
class Anatomy:
    """One model, seen through its family's entry: everything that discovery and tuning need to know of it."""

    family: Family
    layers: tuple[Layer, ...]
    heads: int
    kv_heads: int
    head_dim: int
    final_norm: nn.Module
    rotary: nn.Module | None
    unembedding: nn.Module
    norm_parameters: tuple[str, ...]

    @property
    def n_heads(self) -> int:
        """Number of query heads in the whole model."""
        return len(self.layers) * self.heads


def family_of(config) -> Family:
    """The entry for a configuration; a family that cannot be decomposed exactly is refused by name."""
    for family in FAMILIES:
        if config.model_type in family.model_types:
            reason = family.refuse(config)
            if reason:
                raise UserError(f"{family.name} with {reason} is not supported: it cannot be decomposed exactly yet.")
            return family
    known = ", ".join(f"{f.name} ({'/'.join(f.model_types)})" for f in FAMILIES)
    raise UserError(f"model family '{config.model_type}' is not supported. Supported: {known}.")


def anatomy(model: nn.Module) -> Anatomy:
    """Find the heads, norms and MLPs of a Hugging Face causal language model."""
    config = model.config
    family = family_of(config)
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    sizes = {"q": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim}
    layers = []
    for number, module in enumerate(model.get_submodule(family.layers)):
        prefix = f"{family.layers}.{number}"

        def project(path: str, start: int = 0, size: int | None = None, module=module, prefix=prefix) -> Projection:
            part = module.get_submodule(path)
            if size is None:
                size = part.weight.shape[1 if isinstance(part, Conv1D) else 0]
            return Projection(f"{prefix}.{path}", part, start, start + size)

        fused = family.q == family.k
        k_start, v_start = (sizes["q"], sizes["q"] + sizes["k"]) if fused else (0, 0)
        layers.append(
            Layer(
                attention_norm=module.get_submodule(family.attention_norm),
                q=project(family.q, 0, sizes["q"]),
                k=project(family.k, k_start, sizes["k"]),
                v=project(family.v, v_start, sizes["v"]),
                o=project(family.o),
                mlp_norm=module.get_submodule(family.mlp_norm),
                gate=None if family.gate is None else project(family.gate),
                up=project(family.up),
                down=project(family.down),
                activation=module.get_submodule(family.activation),
                scaling=module.get_submodule(family.attention).scaling,
            )
        )
    norms = {id(layer.attention_norm) for layer in layers} | {id(layer.mlp_norm) for layer in layers}
    final_norm = model.get_submodule(family.final_norm)
    norms.add(id(final_norm))
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
        rotary=None if family.rotary is None else model.get_submodule(family.rotary),
        unembedding=model.get_output_embeddings(),
        norm_parameters=norm_parameters,
    )


def head_outputs(layer: Layer, z: Tensor, head_dim: int) -> Tensor:
    """W_O^h z_h of every head, [..., heads, hidden]; their sum (plus the bias) is the attention output."""
    split = z.unflatten(-1, (-1, head_dim))
    columns = layer.o.weight.unflatten(1, (-1, head_dim))
    return torch.einsum("...hd,ohd->...ho", split, columns)
