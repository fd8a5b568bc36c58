"""Where memory runs out: the same work in smaller pieces, and a clear failure of one cell when there are none; and how
much of it was needed."""

from __future__ import annotations

import ctypes
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch

from ctsft.errors import OutOfMemory

Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Of the device, of torch's allocator on a CPU, or of Python."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


@contextmanager
def failing_without_memory() -> Iterator[None]:
    """OutOfMemory where memory runs out inside: one cell is too large, and others may fit."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory ({' '.join(str(error).splitlines()[:1])})") from error


def with_less(run: Callable[[int], Result], size: int, what: str) -> Result:
    """run(size), and each time memory runs out, run(half of it); OutOfMemory (to `what`) after 1.

    `run` must give the same result for every size, and start anew each time.
    """
    while True:
        try:
            return run(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise OutOfMemory(f"not enough memory to {what}") from error
        # Out of the except block: the error held the frames, and with them the tensors, of the run that failed.
        size //= 2
        warnings.warn(f"out of memory: going on with {size} at a time", stacklevel=2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def peak_memory_mb(device: torch.device) -> int:
    """Highest memory so far: of the device on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def start_memory(device: torch.device) -> None:
    """Start the mark of the highest memory afresh, where the system can: Linux, or a GPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        # The C library keeps freed memory, several GB of it, which would count for what comes next. musl has no such
        # function, and keeps none.
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        with suppress(OSError):  # a kernel without it: the mark stays that of the process
            Path("/proc/self/clear_refs").write_text("5")


def highest_memory_mb(device: torch.device) -> int:
    """The highest memory since `start_memory`: of the device on a GPU, else of the process (the kernel's VmHWM).

    Of the process from its start, where the system has no mark that can be started afresh.
    """
    status = Path("/proc/self/status")
    if device.type == "cuda" or not status.is_file():
        return peak_memory_mb(device)
    marks = [int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return marks[0] // 2**10 if marks else peak_memory_mb(device)
