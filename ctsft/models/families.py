"""Where a model family keeps its heads, norms and MLP. A new family is one entry in FAMILIES, and nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ctsft.errors import UserError
from ctsft.heads import Slice


@dataclass(frozen=True)
class Family:
    """Module paths inside one decoder layer (or inside the model, for `layers` and `final_norm`).

    Equal paths for q, k and v mean one fused projection: queries, keys and values in this order, or head by head with
    `per_head_qkv`. Equal paths for gate and up: the gate is the first half. `gate` is None for an MLP without a gate.
    q_norm and k_norm act on every head before the positions; post_attention and post_mlp on what is written to the
    stream. `one_plus`: norms multiply by 1 + weight. `parallel(config)`: the MLP reads the stream before attention.
    `window(config, attention)`: how many positions a layer sees back, or None. `refuse` returns why a configuration
    cannot be decomposed, or None.
    """

    name: str
    model_types: tuple[str, ...]
    layers: str = "model.layers"
    final_norm: str = "model.norm"
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
    q_norm: str | None = None
    k_norm: str | None = None
    post_attention: str | None = None
    post_mlp: str | None = None
    per_head_qkv: bool = False
    one_plus: bool = False
    parallel: Callable[[object], bool] = lambda config: False
    window: Callable[[object, nn.Module], int | None] = lambda config, attention: getattr(
        attention, "sliding_window", None
    )
    refuse: Callable[[object], str | None] = lambda config: None


def _gpt2_variants(config) -> str | None:
    return "cross-attention layers" if config.add_cross_attention else None


def _opt_variants(config) -> str | None:
    if not config.do_layer_norm_before:
        return "norms behind the blocks (OPT-350m)"
    return "projected embeddings" if config.word_embed_proj_dim != config.hidden_size else None


def _everywhere(config, attention: nn.Module) -> int | None:
    return getattr(config, "sliding_window", None)


_GEMMA = dict(
    mlp_norm="pre_feedforward_layernorm",
    post_attention="post_attention_layernorm",
    post_mlp="post_feedforward_layernorm",
    one_plus=True,
)

FAMILIES = (
    Family("Llama", ("llama",)),
    Family("Mistral", ("mistral",), window=_everywhere),
    Family("Qwen2", ("qwen2",)),
    Family("Qwen3", ("qwen3",), q_norm="self_attn.q_norm", k_norm="self_attn.k_norm"),
    Family("Gemma 2", ("gemma2",), **_GEMMA),
    Family("Gemma 3", ("gemma3_text",), q_norm="self_attn.q_norm", k_norm="self_attn.k_norm", **_GEMMA),
    Family(
        "Phi-3",
        ("phi3",),
        q="self_attn.qkv_proj",
        k="self_attn.qkv_proj",
        v="self_attn.qkv_proj",
        gate="mlp.gate_up_proj",
        up="mlp.gate_up_proj",
        activation="mlp.activation_fn",
        window=_everywhere,
    ),
    Family(
        "GPT-2",
        ("gpt2",),
        layers="transformer.h",
        final_norm="transformer.ln_f",
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
    Family(
        "GPT-NeoX",
        ("gpt_neox",),
        layers="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        attention="attention",
        q="attention.query_key_value",
        k="attention.query_key_value",
        v="attention.query_key_value",
        o="attention.dense",
        gate=None,
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
        activation="mlp.act",
        per_head_qkv=True,
        parallel=lambda config: config.use_parallel_residual,
    ),
    Family(
        "OPT",
        ("opt",),
        layers="model.decoder.layers",
        final_norm="model.decoder.final_layer_norm",
        attention_norm="self_attn_layer_norm",
        mlp_norm="final_layer_norm",
        o="self_attn.out_proj",
        gate=None,
        up="fc1",
        down="fc2",
        activation="activation_fn",
        refuse=_opt_variants,
    ),
)

# What these have cannot be decomposed exactly by the rules of decompose.py.
REFUSED = {
    "a mixture of experts": ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "gpt_oss", "llama4_text", "dbrx"),
    "latent attention": ("deepseek_v2", "deepseek_v3", "minicpm3"),
    "state-space or recurrent layers": (
        "mamba",
        "mamba2",
        "falcon_mamba",
        "jamba",
        "zamba2",
        "recurrent_gemma",
        "rwkv",
    ),
}


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
    """The parts of one decoder layer, in the order in which an activation meets them."""

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

    @property
    def norms(self) -> tuple[Norm, ...]:
        every = (self.attention_norm, self.q_norm, self.k_norm, self.post_attention, self.mlp_norm, self.post_mlp)
        return tuple(norm for norm in every if norm is not None)


@dataclass(frozen=True)
class Anatomy:
    """One model, seen through its family's entry: everything that discovery and tuning need to know of it."""

    family: Family
    layers: tuple[Layer, ...]
    heads: int
    kv_heads: int
    head_dim: int
    final_norm: Norm
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
    for reason, types in REFUSED.items():
        if config.model_type in types:
            raise UserError(
                f"model family '{config.model_type}' has {reason}, which cannot be decomposed exactly. "
                f"Supported: {known}."
            )
    raise UserError(f"model family '{config.model_type}' is not supported. Supported: {known}.")


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


def anatomy(model: nn.Module) -> Anatomy:
    """Find the heads, norms and MLPs of a Hugging Face causal language model."""
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
    layers = []
    for number, module in enumerate(model.get_submodule(family.layers)):
        prefix = f"{family.layers}.{number}"

        def project(
            path: str, rows: slice | Tensor = slice(None), module: nn.Module = module, prefix: str = prefix
        ) -> Projection:
            return Projection(f"{prefix}.{path}", module.get_submodule(path), rows)

        def norm(path: str | None, module: nn.Module = module) -> Norm | None:
            return None if path is None else Norm(module.get_submodule(path), family.one_plus)

        attention = module.get_submodule(family.attention)
        half = module.get_submodule(family.down).weight.shape[1]
        fused = family.gate == family.up
        layers.append(
            Layer(
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
                softcap=getattr(attention, "attn_logit_softcapping", None),
                window=family.window(config, attention),
                parallel=family.parallel(config),
            )
        )
    final_norm = Norm(model.get_submodule(family.final_norm), family.one_plus)
    norms = {id(norm.module) for layer in layers for norm in layer.norms} | {id(final_norm.module)}
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
        unembedding=model.get_output_embeddings(),
        norm_parameters=norm_parameters,
    )


def head_outputs(layer: Layer, z: Tensor, head_dim: int) -> Tensor:
    """W_O^h z_h of every head, [..., heads, hidden]; their sum (plus the bias) is the attention output."""
    split = z.unflatten(-1, (-1, head_dim))
    columns = layer.o.weight.unflatten(1, (-1, head_dim))
    return torch.einsum("...hd,ohd->...ho", split, columns)
