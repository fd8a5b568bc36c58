"""The two ways in which a run can end early: the user can mend it, or one cell went wrong."""

from collections.abc import Callable
from typing import TypeVar

Made = TypeVar("Made")


class UserError(Exception):
    """Something the user can mend. The message says what is wrong, where, and what to do."""


class CellFailed(Exception):
    """One cell of a study cannot give a number (a non-finite loss or score); the other cells go on."""


class Failures:
    """What failed once in this process fails again at once, with the same reason, and is not computed anew."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def remember(self, what: str, make: Callable[[], Made]) -> Made:
        """make(), or CellFailed with the reason that `what` gave before."""
        if what in self._reasons:
            raise CellFailed(self._reasons[what])
        try:
            return make()
        except CellFailed as error:
            self._reasons[what] = str(error)
            raise
