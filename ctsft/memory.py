"""Where memory runs out: the same work in smaller pieces, and a clear failure of one cell when there are none."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from ctsft.errors import CellFailed

Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Of the device, of torch's allocator on a CPU, or of Python."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


@contextmanager
def failing_without_memory() -> Iterator[None]:
    """CellFailed where memory runs out inside: one cell is too large, and others may fit."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise CellFailed(f"out of memory ({' '.join(str(error).splitlines()[:1])})") from error


def with_less(run: Callable[[int], Result], size: int, what: str) -> Result:
    """run(size), and each time memory runs out, run(half of it); CellFailed (not enough memory to `what`) after 1.

    `run` must give the same result for every size, and start anew each time.
    """
    while True:
        try:
            return run(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise CellFailed(f"not enough memory to {what}") from error
        # Out of the except block: the error held the frames, and with them the tensors, of the run that failed.
        size //= 2
        warnings.warn(f"out of memory: going on with {size} at a time", stacklevel=2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
