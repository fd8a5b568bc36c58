"""Ctrl-C and SIGTERM: what is being written is written, then the run ends and says how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The run was asked to end by the signal `number`."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def _stop(number: int, frame: object) -> None:
    raise Stopped(number)


@contextmanager
def _handled_by(handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python gives signals to the main thread alone
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, both signals raise Stopped."""
    with _handled_by(_stop):
        yield


@contextmanager
def finishing() -> Iterator[None]:
    """Inside, a signal waits until the block is done."""
    late: list[int] = []
    with _handled_by(lambda number, frame: late.append(number)):
        yield
    if late:
        signal.raise_signal(late[0])
