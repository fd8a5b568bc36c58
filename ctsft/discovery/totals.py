"""The cache of totals: the model's own forward values at the places where the decomposition needs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsft.models.load import Loaded


@dataclass
class LayerTotals:
    """Values of one layer, [B, T, .].

    x and mid enter the two norms; q, k, v, gate and up leave their projections; z enters the attention output
    projection; attention_out and mlp_out leave the last projections. rotary: the cosines and sines of the layer's
    positions [B, T, rotated dimensions], None where positions are not rotated.
    """

    x: Tensor | None = None
    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None
    z: Tensor | None = None
    attention_out: Tensor | None = None
    mid: Tensor | None = None
    gate: Tensor | None = None
    up: Tensor | None = None
    mlp_out: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None

    def label_position(self) -> LayerTotals:
        """The same, at the label position alone [B, 1, .]."""
        last = {name: x[:, -1:] for name, x in vars(self).items() if isinstance(x, Tensor)}
        return LayerTotals(**last, rotary=self.rotary)


@dataclass
class Totals:
    """One forward pass: per layer, the input of the final norm, the logits at the label position [B, V] (before a
    soft cap, where the model has one), and which positions are real [B, T].

    transform: what leaves the dense map of a masked language model's head, at the label position [B, hidden].
    """

    layers: list[LayerTotals]
    mask: Tensor
    final: Tensor | None = None
    transform: Tensor | None = None
    logits: Tensor | None = None


@torch.no_grad()
def record(loaded: Loaded, batch: dict[str, Tensor], only_z: bool = False) -> Totals:
    """Run the model once on a left-padded batch and keep its values (only z of every layer with `only_z`)."""
    totals = Totals([LayerTotals() for _ in loaded.anatomy.layers], batch["attention_mask"].bool())
    shape, hooks = batch["attention_mask"].shape, []

    def shaped(x: Tensor) -> Tensor:
        """Some models flatten rows and positions for their MLP."""
        return x.unflatten(0, shape) if x.ndim == 2 else x

    def keep_input(target: object, name: str) -> Callable:
        def hook(module, args):
            setattr(target, name, shaped(args[0]))

        return hook

    def keep_output(target: object, name: str, rows: slice | Tensor) -> Callable:
        def hook(module, args, output):
            setattr(target, name, shaped(output)[..., rows])

        return hook

    def keep_rotary(target: LayerTotals) -> Callable:
        def hook(module, args, kwargs):
            target.rotary = kwargs.get("position_embeddings")

        return hook

    def keep_label_position(name: str) -> Callable:
        def hook(module, args, output):
            setattr(totals, name, output if output.ndim == 2 else output[:, -1])

        return hook

    for layer, kept in zip(loaded.anatomy.layers, totals.layers, strict=True):
        hooks.append(layer.o.module.register_forward_pre_hook(keep_input(kept, "z")))
        if only_z:
            continue
        hooks.append(layer.attention.register_forward_pre_hook(keep_rotary(kept), with_kwargs=True))
        hooks.append(layer.attention_norm.module.register_forward_pre_hook(keep_input(kept, "x")))
        hooks.append(layer.mlp_norm.module.register_forward_pre_hook(keep_input(kept, "mid")))
        outputs = {"q": layer.q, "k": layer.k, "v": layer.v, "attention_out": layer.o}
        outputs |= {"gate": layer.gate, "up": layer.up, "mlp_out": layer.down}
        for name, projection in outputs.items():
            if projection is not None:
                hook = keep_output(kept, name, projection.rows)
                hooks.append(projection.module.register_forward_hook(hook))
    if not only_z:
        hooks.append(loaded.anatomy.final_norm.module.register_forward_pre_hook(keep_input(totals, "final")))
        hooks.append(loaded.anatomy.unembedding.register_forward_hook(keep_label_position("logits")))
        if loaded.anatomy.transform is not None:
            dense = loaded.anatomy.transform.dense.module
            hooks.append(dense.register_forward_hook(keep_label_position("transform")))
    try:
        loaded.model(**batch, logits_to_keep=1, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
        hooks.clear()
    return totals
