"""In which precision a model computes. Its weights are float32 always."""

from __future__ import annotations

import statistics
import time
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]
Asked = Literal["auto", "float32", "bfloat16"]


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


def warning_of(precision: Precision, device: torch.device) -> str | None:
    """What to tell where bfloat16 is a loss: on a CPU that has no instructions for it."""
    if precision == "float32" or device.type != "cpu" or (times := slowness(device)) < 2:
        return None
    return (
        f"a product in bfloat16 takes about {times:.0f} times as long as one in float32 on this CPU, which has no "
        "instructions for it. float32 is faster here; its rows are tables of their own, never compared with bfloat16's."
    )
