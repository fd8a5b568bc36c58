"""In which precision a model computes. Its weights are float32 always."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Literal

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

Precision = Literal["float32", "bfloat16"]
Asked = Literal["auto", "float32", "bfloat16"]

INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # two of x86, and ARM's
PRODUCTS = {getattr(torch.ops.aten, name).default for name in ("mm", "bmm", "addmm", "baddbmm")}


def resolved(asked: Asked, device: torch.device) -> Precision:
    """`auto` is bfloat16 on a GPU and float32 elsewhere."""
    if asked == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return asked


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context of every forward pass."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@cache
def lacks_bfloat16() -> bool:
    """Whether this CPU has no instructions for bfloat16: torch's own products are many times slower then."""
    found = torch.cpu.get_capabilities()
    return not any(found.get(name, False) for name in INSTRUCTIONS)


class RoundedProducts(TorchDispatchMode):
    """Products of bfloat16 matrices, taken in float32 and rounded to bfloat16, forwards and backwards.

    A product of two bfloat16 numbers is exact in float32, and the instructions too sum in float32, so the results are
    theirs up to the order of the sums.
    """

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if operation in PRODUCTS and arguments[0].dtype == torch.bfloat16:
            return operation(*(one.float() for one in arguments), **(options or {})).bfloat16()
        return operation(*arguments, **(options or {}))


def products(autocast: torch.autocast) -> AbstractContextManager[object]:
    """The context of what computes under `autocast`: on a CPU without instructions for bfloat16, `RoundedProducts`."""
    return RoundedProducts() if _is_low(autocast) and lacks_bfloat16() else nullcontext()


@contextmanager
def unrounded_logits(model: nn.Module, autocast: torch.autocast) -> Iterator[None]:
    """Within it the product with the unembedding is taken in float32, also under `autocast`.

    bfloat16 keeps 8 binary digits of a logit: near 20, label words that are less than 0.125 apart become equal, and
    their order would decide the answer. The states before it are float32 (each layer adds to the stream in float32).
    """
    unembedding = model.get_output_embeddings()
    if not _is_low(autocast, unembedding.weight.device.type):
        yield
        return
    product = unembedding.forward

    def exact(states: torch.Tensor) -> torch.Tensor:
        with torch.autocast(states.device.type, enabled=False):
            return product(states.float())

    unembedding.forward = exact
    try:
        yield
    finally:
        del unembedding.forward  # the class's own is seen again


@contextmanager
def with_gradients(autocast: torch.autocast) -> Iterator[None]:
    """The same for forward and backward passes: torch's fused attention on a CPU goes backwards slowly in bfloat16.

    As products it is faster there.
    """
    attention = sdpa_kernel(SDPBackend.MATH) if _is_low(autocast) else nullcontext()
    with products(autocast), attention:
        yield


def _is_low(autocast: torch.autocast, device: str = "cpu") -> bool:
    """Whether products on this kind of device are taken in bfloat16."""
    with autocast:
        return torch.is_autocast_enabled(device)


def leave_out_cudnn_attention(device: torch.device) -> None:
    """On a GPU: of torch's kernels for attention, do not take cuDNN's, for this process.

    On H100 and H200 its backward pass gives NaN for batches padded to 64, 192, ... tokens where attention scores are
    low (pytorch/pytorch#196678; torch takes it by default there). It ended two of four competence stages on XNLI,
    at the step after the first such batch. A switch of the process, so that loops and trainers of a user's own are as
    safe.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def rounds(precision: Precision, device: torch.device) -> bool:
    """Whether a model on `device` computes in bfloat16 without instructions for it."""
    return precision == "bfloat16" and device.type == "cpu" and lacks_bfloat16()


def note_on(precision: Precision, device: torch.device) -> str | None:
    """What to tell where bfloat16 is no gain."""
    if not rounds(precision, device):
        return None
    return (
        "this CPU has no instructions for bfloat16: its products are taken in float32 and rounded, which gives the "
        "same rows up to the order of sums, in up to twice the time that float32 takes. Large --eval-batch and "
        "--micro-batch help."
    )
