"""Compact head slices: only the chosen rows and columns have gradients and optimizer state.

y = x W^T + b is computed with the full matrix; backward computes dL/dx and, of dL/dW, the chosen part alone:
(dL/dy)[rows]^T x for rows, (dL/dy)^T x[columns] for columns. The chosen part is a small parameter; after every
optimizer step it is written into the full matrix, which is frozen and has no gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ctsft.heads import Slice


class _SlicedMap(torch.autograd.Function):
    """y = x W^T + b [.., in] -> [.., out] with gradients for x and for the chosen rows or columns only."""

    @staticmethod
    def forward(ctx, x, weight, bias, part, bias_part, index, outputs):
        # weight is [out, in]; `outputs` says whether `index` picks outputs (rows) or inputs (columns).
        y = nn.functional.linear(x, weight, bias)
        ctx.outputs = outputs
        ctx.save_for_backward(weight, index, x if outputs else x[..., index])
        return y

    @staticmethod
    def backward(ctx, grad):
        weight, index, x = ctx.saved_tensors
        grad_x = grad @ weight.to(grad.dtype)
        chosen = (grad[..., index] if ctx.outputs else grad).flatten(0, -2)
        grad_part = (chosen.T @ x.flatten(0, -2).to(grad.dtype)).to(weight.dtype)
        grad_bias = chosen.sum(0).to(weight.dtype) if ctx.outputs and ctx.needs_input_grad[4] else None
        return grad_x, None, None, grad_part, grad_bias, None, None


class SlicedLinear(nn.Module):
    """Stands in for a Linear or Conv1D while a part of it is tuned.

    The inner module is still called, with another forward, so hooks on it (those of discovery too) see every pass.
    """

    def __init__(self, inner: nn.Module, index: Tensor, outputs: bool):
        super().__init__()
        self.inner, self.outputs = inner, outputs
        self.register_buffer("index", index, persistent=False)
        self.part = nn.Parameter(self._matrix().index_select(0 if outputs else 1, index).clone())
        self.bias_part = nn.Parameter(inner.bias[index].clone()) if outputs and inner.bias is not None else None
        self._written = self._versions()
        inner.forward = self._map

    def _matrix(self) -> Tensor:
        weight = self.inner.weight.detach()
        return weight.T if isinstance(self.inner, Conv1D) else weight

    def _versions(self) -> tuple[int, ...]:
        """Which torch raises whenever a tensor is changed in place."""
        return tuple(part._version for part in (self.part, self.bias_part) if part is not None)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def taken_out(self) -> nn.Module:
        """The inner module, with its own forward again."""
        del self.inner.forward
        return self.inner

    def _map(self, x: Tensor) -> Tensor:
        if self._versions() != self._written:  # inside a step that asks for the loss again, as L-BFGS does
            self.write_back()
        bias = None if self.inner.bias is None else self.inner.bias.detach()
        return _SlicedMap.apply(x, self._matrix(), bias, self.part, self.bias_part, self.index, self.outputs)

    @torch.no_grad()
    def write_back(self) -> None:
        """Put the tuned part into the full matrix (and bias), in place."""
        self._matrix().index_copy_(0 if self.outputs else 1, self.index, self.part)
        if self.bias_part is not None:
            self.inner.bias.index_copy_(0, self.index, self.bias_part)
        self._written = self._versions()


@dataclass(frozen=True)
class CompactSlices:
    """The parts under training. Call `write_back` after every optimizer step."""

    modules: tuple[SlicedLinear, ...]

    def parameters(self) -> list[nn.Parameter]:
        return [p for module in self.modules for p in (module.part, module.bias_part) if p is not None]

    def write_back(self) -> None:
        for module in self.modules:
            module.write_back()

    def shown(self) -> AbstractContextManager[None]:
        """The model's own weights are what has been tuned so far: `write_back` has seen to that."""
        return nullcontext()


def by_module(model: nn.Module, slices: Iterable[Slice]) -> dict[str, tuple[bool, list[int]]]:
    """Per module: whether the slices are rows (outputs) of its map or columns (inputs), and which ones, in order."""
    wanted: dict[str, tuple[bool, list[int]]] = {}
    for piece in slices:
        path, _, leaf = piece.parameter.rpartition(".")
        if leaf == "bias":
            continue  # a bias moves with its rows
        outputs = (piece.dim == 0) != isinstance(model.get_submodule(path), Conv1D)
        wanted.setdefault(path, (outputs, []))[1].extend(range(piece.start, piece.stop))
    return {path: (outputs, sorted(index)) for path, (outputs, index) in wanted.items()}


@contextmanager
def compact(model: nn.Module, slices: Iterable[Slice]) -> Iterator[CompactSlices]:
    """Swap in a SlicedLinear wherever `slices` touch a module; the model's own modules come back at the end.

    The weights keep what training wrote into them; `read_slices` before and `write_slices` after revert it.
    """
    wanted = by_module(model, slices)
    swapped: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for path, (outputs, index) in wanted.items():
            parent, _, name = path.rpartition(".")
            inner = model.get_submodule(path)
            stand_in = SlicedLinear(inner, torch.tensor(index, device=inner.weight.device), outputs)
            setattr(model.get_submodule(parent), name, stand_in)
            swapped.append((model.get_submodule(parent), name, stand_in))
        yield CompactSlices(tuple(stand_in for _, _, stand_in in swapped))
    finally:
        for parent, name, stand_in in swapped:
            setattr(parent, name, stand_in.taken_out())


def read_slices(model: nn.Module, slices: Iterable[Slice]) -> dict[Slice, Tensor]:
    """Copies of the named entries of the weights."""
    return {s: s.of(model.get_parameter(s.parameter).detach()).clone() for s in slices}


@torch.no_grad()
def write_slices(model: nn.Module, values: dict[Slice, Tensor]) -> None:
    """Put `values` into the weights, in place."""
    for s, value in values.items():
        s.of(model.get_parameter(s.parameter)).copy_(value)


def count(model: nn.Module, slices: Iterable[Slice]) -> int:
    """Number of weights in `slices`."""
    total = 0
    for s in slices:
        parameter = model.get_parameter(s.parameter)
        total += parameter.numel() // parameter.shape[s.dim] * (s.stop - s.start)
    return total


@contextmanager
def put_back(model: nn.Module, slices: Sequence[Slice]) -> Iterator[None]:
    """Afterwards `slices` hold what they held before, bit for bit, however the block ends."""
    before = read_slices(model, slices)
    try:
        yield
    finally:
        write_slices(model, before)
