"""LoRA (Hu et al., ICLR 2022) by peft: y = W x + (alpha / r) B A x, with A [r, in] random, B [out, r] zero at first.

On slices of the weights, rows of B (for rows of W) or columns of A (for columns of W) outside the slices are zero and
stay zero: their gradients are, and AdamW without weight decay does not move an entry that never had a gradient.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ctsft.heads import Slice
from ctsft.tuning.slices import by_module


@dataclass(frozen=True)
class LowRank:
    """Rank r and the scale alpha / r of the update; no dropout."""

    r: int = 8
    alpha: int = 16

    def count(self, model: nn.Module, pieces: Iterable[Slice]) -> int:
        """Number of trained weights: r per row of B that may move and per column of A that may."""
        total = 0
        for path, (outputs, index) in by_module(model, pieces).items():
            n_out, n_in = _shape(model.get_submodule(path))
            total += self.r * (len(index) + (n_in if outputs else n_out))
        return total


def _shape(module: nn.Module) -> tuple[int, int]:
    """(outputs, inputs) of a Linear or a (transposed) Conv1D."""
    shape = tuple(module.weight.shape)
    return shape[::-1] if isinstance(module, Conv1D) else shape


@dataclass(frozen=True)
class AdapterLayers:
    """peft's layers in the places of the model's own."""

    layers: tuple[nn.Module, ...]

    def parameters(self) -> list[nn.Parameter]:
        return [p for layer in self.layers for p in (*layer.lora_A.parameters(), *layer.lora_B.parameters())]

    def write_back(self) -> None:
        """Adapters are added in every forward pass; nothing is written until the end."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Merge into the weights, and put the weights' own bits back at the end (subtracting would lose the last)."""
        kept = [layer.get_base_layer().weight.detach().clone() for layer in self.layers]
        for layer in self.layers:
            layer.merge()
        try:
            yield
        finally:
            for layer, weight in zip(self.layers, kept, strict=True):
                layer.get_base_layer().weight.data.copy_(weight)
                layer.merged_adapters.clear()


@contextmanager
def adapted(model: nn.Module, pieces: Iterable[Slice], low_rank: LowRank, seed: int) -> Iterator[AdapterLayers]:
    """Put adapters on the pieces' modules; at the end they are merged into the weights and the modules come back.

    `read_slices` before and `write_slices` after revert the merge.
    """
    # A second to import, and only these arms need it.
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    wanted = by_module(model, pieces)
    transposed = isinstance(model.get_submodule(next(iter(wanted))), Conv1D)
    config = LoraConfig(r=low_rank.r, lora_alpha=low_rank.alpha, target_modules=list(wanted), fan_in_fan_out=transposed)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            inject_adapter_in_model(config, model)
        layers = [model.get_submodule(path) for path in wanted]
        for layer, (outputs, index) in zip(layers, wanted.values(), strict=True):
            matrix = (layer.lora_B if outputs else layer.lora_A)["default"].weight
            keep = torch.zeros(matrix.shape[0 if outputs else 1], dtype=matrix.dtype, device=matrix.device)
            keep[index] = 1
            _confine(matrix, keep[:, None] if outputs else keep[None, :])
        yield AdapterLayers(tuple(layers))
    finally:
        for path in wanted:
            layer = model.get_submodule(path)
            if isinstance(layer, BaseTunerLayer):  # not so where memory ran out before its turn came
                _merge(layer)
                parent, _, name = path.rpartition(".")
                setattr(model.get_submodule(parent), name, layer.get_base_layer())
        if hasattr(model, "peft_config"):
            del model.peft_config


@torch.no_grad()
def _merge(layer: nn.Module) -> None:
    """Add the update to the weights, where there is one: elsewhere +0 would turn a -0 of theirs into +0."""
    weight = layer.get_base_layer().weight
    before = weight.clone()
    layer.merge()
    weight.copy_(torch.where(weight == before, before, weight))


def _confine(matrix: nn.Parameter, keep: Tensor) -> None:
    """Zero the entries outside `keep`, now and in every gradient."""
    matrix.data.mul_(keep)
    matrix.register_hook(lambda gradient: gradient * keep)
