"""Models whose circuits are known: the yardstick for scorers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ctsft.heads import Head
from ctsft.models.load import Loaded
from ctsft.tasks.prompts import Encoded


@dataclass(frozen=True)
class KnownCircuit:
    """A model, rows that it answers, and the heads that must be there.

    `against` are heads that are known to work against the answer: their scores should be the lowest. `rows(n, seed)`
    draws n rows, labels in turn; label_tokens [C] are the tokens of the answers.
    """

    loaded: Loaded
    rows: Callable[[int, int], Encoded]
    label_tokens: tuple[int, ...]
    heads: tuple[Head, ...]
    against: tuple[Head, ...] = ()
