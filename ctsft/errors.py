"""The two ways in which a run can end early: the user can mend it, or one cell went wrong."""

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar, get_args

Made = TypeVar("Made")


class UserError(Exception):
    """Something the user can mend. The message says what is wrong, where, and what to do."""


def refuse_other(name: str, value: str, valid: object) -> None:
    """UserError unless `value` is one of the Literal `valid`: a typo must not stand for a default."""
    if value not in get_args(valid):
        raise UserError(f"{name} is '{value}'. Valid: {', '.join(get_args(valid))}.")


def refuse_negative_seed(seed: int) -> None:
    """UserError for a seed that no generator takes."""
    if seed < 0:
        raise UserError(f"the seed is {seed}; it must not be negative.")


def tell_in_a_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An `excepthook`: of a UserError that nobody caught, its message and status 2 instead of a stack trace."""
    if not issubclass(kind, UserError):
        return sys.__excepthook__(kind, error, trace)
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)


def first_line(error: BaseException) -> str:
    """What an error says first; its kind, where it says nothing."""
    return next(iter(str(error).splitlines()), f"{type(error).__name__}.")


@contextmanager
def ending_in_a_line() -> Iterator[None]:
    """The entry point of a program: what the user can mend ends it with one sentence and status 2."""
    try:
        yield
    except (UserError, CellFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def nobody_reads() -> bool:
    """After a BrokenPipeError: whether the reader of our output has gone (`| head`); the rest then goes nowhere."""
    output = select.poll()
    output.register(sys.stdout, 0)  # nothing but errors and a closed other end
    if not output.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


class CellFailed(Exception):
    """One cell of a study cannot give a number (a non-finite loss or score); the other cells go on."""


class OutOfMemory(CellFailed):
    """A cell that may succeed where there is more memory."""


class Failures:
    """What failed once in this process fails again at once, with the same reason, and is not computed anew."""

    def __init__(self) -> None:
        self._failed: dict[str, CellFailed] = {}

    def remember(self, what: str, make: Callable[[], Made]) -> Made:
        """make(), or the CellFailed that `what` gave before."""
        if known := self._failed.get(what):
            raise type(known)(str(known))
        try:
            return make()
        except CellFailed as error:
            # Anew, without its trace, which would hold on to the tensors of what failed.
            self._failed[what] = type(error)(str(error))
            raise
