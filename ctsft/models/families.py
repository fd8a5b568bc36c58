"""Where a model family keeps its heads, norms and MLP. A new family is one entry in FAMILIES, and nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ctsft.errors import UserError


@dataclass(frozen=True)
class MaskHead:
    """Module paths of a masked language model's head: logits = unembedding(norm(activation(dense(x)))).

    `path` is the whole head. No path for the activation: it is a plain GELU.
    """

    path: str
    dense: str
    norm: str
    activation: str | None = None


@dataclass(frozen=True)
class Family:
    """Module paths inside one decoder layer (or inside the model, for `layers` and `final_norm`).

    Equal paths for q, k and v mean one fused projection: queries, keys and values in this order, or head by head with
    `per_head_qkv`. Equal paths for gate and up: the gate is the first half. `gate` is None for an MLP without a gate.
    q_norm and k_norm act on every head before the positions; post_attention and post_mlp on what is written to the
    stream. `one_plus`: norms multiply by 1 + weight. `capped_attention`: attention logits have the soft cap that the
    layer names. `parallel(config)`: the MLP reads the stream before attention. `window(config, attention)`: how many
    positions a layer sees back, or None. `refuse` returns why a configuration cannot be decomposed, or None.

    `embedding_norm`, a path inside the model, marks post-norm residuals, which carry what leaves a norm and not what
    enters it. Their norms come in the same order (before attention, before the MLP, at the end), but `attention_norm`
    stands at the end of a layer, for the next one, and `embedding_norm` before the first; there is no `final_norm`.
    `mask_head` marks a masked language model: it reads in both directions, and the label word stands at a mask token.
    `first_position(config)` is the position id of the first token.
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
    capped_attention: bool = False
    embedding_norm: str | None = None
    mask_head: MaskHead | None = None
    first_position: Callable[[object], int] = lambda config: 0
    parallel: Callable[[object], bool] = lambda config: False
    window: Callable[[object, nn.Module], int | None] = lambda config, attention: getattr(
        attention, "sliding_window", None
    )
    refuse: Callable[[object], str | None] = lambda config: None

    @property
    def masked(self) -> bool:
        """Whether this is a masked language model, and not one that predicts the next token."""
        return self.mask_head is not None


def _gpt2_variants(config) -> str | None:
    return "cross-attention layers" if config.add_cross_attention else None


def _opt_variants(config) -> str | None:
    if not config.do_layer_norm_before:
        return "norms behind the blocks (OPT-350m)"
    return "projected embeddings" if config.word_embed_proj_dim != config.hidden_size else None


def _bert_variants(config) -> str | None:
    if config.is_decoder:
        return "a decoder's causal mask (is_decoder)"
    # transformers 5 has no relative positions for these models any more, and would leave them out without a word.
    positions = getattr(config, "position_embedding_type", "absolute")
    return None if positions == "absolute" else f"positions of type '{positions}'"


def _everywhere(config, attention: nn.Module) -> int | None:
    return getattr(config, "sliding_window", None)


_GEMMA = dict(
    mlp_norm="pre_feedforward_layernorm",
    post_attention="post_attention_layernorm",
    post_mlp="post_feedforward_layernorm",
    one_plus=True,
)

_BERT = dict(
    attention="attention.self",
    attention_norm="output.LayerNorm",
    mlp_norm="attention.output.LayerNorm",
    q="attention.self.query",
    k="attention.self.key",
    v="attention.self.value",
    o="attention.output.dense",
    gate=None,
    up="intermediate.dense",
    down="output.dense",
    activation="intermediate.intermediate_act_fn",
    refuse=_bert_variants,
)
_ROBERTA = dict(
    layers="roberta.encoder.layer",
    embedding_norm="roberta.embeddings.LayerNorm",
    mask_head=MaskHead("lm_head", "lm_head.dense", "lm_head.layer_norm"),
    first_position=lambda config: config.pad_token_id + 1,
    **_BERT,
)

FAMILIES = (
    Family("Llama", ("llama",)),
    Family("Mistral", ("mistral",), window=_everywhere),
    Family("Qwen2", ("qwen2",)),
    Family("Qwen3", ("qwen3",), q_norm="self_attn.q_norm", k_norm="self_attn.k_norm"),
    Family("Gemma 2", ("gemma2",), capped_attention=True, **_GEMMA),
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
    Family(
        "BERT",
        ("bert",),
        layers="bert.encoder.layer",
        embedding_norm="bert.embeddings.LayerNorm",
        mask_head=MaskHead(
            "cls",
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.transform.transform_act_fn",
        ),
        **_BERT,
    ),
    Family("RoBERTa", ("roberta",), **_ROBERTA),
    Family("XLM-RoBERTa", ("xlm-roberta",), **_ROBERTA),
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


def family_of(config) -> Family:
    """The entry for a configuration; a family that cannot be decomposed exactly is refused by name."""
    for family in FAMILIES:
        if config.model_type in family.model_types:
            reason = family.refuse(config)
            if not family.masked and (
                getattr(config, "use_bidirectional_attention", False) or not getattr(config, "is_causal", True)
            ):
                reason = "attention in both directions"
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
