"""In which precision a model computes. Its weights are float32 always."""

from __future__ import annotations

import statistics
import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Precision = Literal["float32", "bfloat16"]
Asked = Literal["auto", "float32", "bfloat16"]

SLOW = (
    2  # times as long as float32: a product in bfloat16 takes half of it where there are instructions, else ten or more
)
PRODUCTS = {getattr(torch.ops.aten, name).default for name in ("mm", "bmm", "addmm", "baddbmm")}


def resolved(asked: Asked, device: torch.device) -> Precision:
    """`auto` is bfloat16 on a GPU and float32 elsewhere."""
    if asked == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return asked


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context of every forward pass."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def slowness(device: torch.device) -> float:
    """How many times as long a product takes in bfloat16 as in float32, measured on one: medians of five each."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        factor = torch.ones(512, 512, dtype=dtype, device=device)
        times = []
        for _ in range(6):
            start = time.perf_counter()
            factor @ factor
            times.append(time.perf_counter() - start)
        seconds[dtype] = statistics.median(times[1:])  # the first warms up
    return seconds[torch.bfloat16] / seconds[torch.float32]


@cache
def lacks_bfloat16() -> bool:
    """Whether this CPU has no instructions for bfloat16, measured once a process: with them a product gains."""
    return slowness(torch.device("cpu")) >= SLOW


class RoundedProducts(TorchDispatchMode):
    """Products of bfloat16 matrices, taken in float32 and rounded to bfloat16, forwards and backwards.

    A product of two bfloat16 numbers is exact in float32, and the instructions too sum in float32, so the results are
    theirs up to the order of the sums. On a CPU without them torch's own products are many times slower.
    """

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if operation in PRODUCTS and arguments[0].dtype == torch.bfloat16:
            return operation(*(one.float() for one in arguments), **(options or {})).bfloat16()
        return operation(*arguments, **(options or {}))


def products(autocast: torch.autocast) -> AbstractContextManager[object]:
    """The context of all that computes under `autocast`, gradients included: it makes bfloat16 bearable everywhere."""
    with autocast:
        low = torch.is_autocast_enabled("cpu")
    return RoundedProducts() if low and lacks_bfloat16() else nullcontext()


def rounds(precision: Precision, device: torch.device) -> bool:
    """Whether a model on `device` computes in bfloat16 without instructions for it."""
    return precision == "bfloat16" and device.type == "cpu" and lacks_bfloat16()


def note_on(precision: Precision, device: torch.device) -> str | None:
    """What to tell where bfloat16 is no gain."""
    if not rounds(precision, device):
        return None
    return (
        "this CPU has no instructions for bfloat16: its products are taken in float32 and rounded, which gives the "
        "same rows up to the order of sums, in a little more time than float32 takes."
    )
