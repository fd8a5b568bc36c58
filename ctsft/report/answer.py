"""An answer to a reader's situation, and how an arm is named in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from ctsft.report.outcomes import Outcome
from ctsft.tuning.arms import ARMS

ON_TEST = "on test rows"
# Less apart than any two shares of rows: equal but for the last bits.
EQUAL = 1e-9


@dataclass(frozen=True)
class Answer:
    """`taken`: the arm and its number, for the page's table; empty where the sentence alone answers. `by`: what picks,
    if not the target's validation split."""

    situation: str
    told: str
    taken: str = ""
    by: str = ""

    @property
    def line(self) -> str:
        return f"- *{self.situation}*{f' ({self.by})' if self.by else ''}: {self.told}"


def named(arm: str, depth: float | None) -> str:
    return f"`{arm}`{'' if pd.isna(depth) else f' at depth {depth:.0f}'} ({ARMS[arm].words})"


def listed(some: Sequence[Outcome]) -> str:
    """Their arms, each once; `none` of nothing."""
    return ", ".join(dict.fromkeys(f"`{one.arm}`" for one in some)) or "none"


def lowest(some: Sequence[Outcome], value: Callable[[Outcome], float]) -> list[Outcome]:
    """All that share the lowest value: the order of a list must not pick one of them."""
    least = min(map(value, some), default=0.0)
    return [one for one in some if value(one) <= least + EQUAL]
