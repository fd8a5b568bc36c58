"""An answer to a reader's situation, and how an arm is named in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from ctsft.report.outcomes import Outcome
from ctsft.tuning.arms import ARMS

ON_TEST = "on test rows"
# Behind an arm that had fewer learning rates than another on some seed, and so worse chances to be picked.
SHORT_OF_RATES = "†"
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


def named(arm: str, depth: float | None, mark: str = "") -> str:
    return f"`{arm}`{mark}{'' if pd.isna(depth) else f' at depth {depth:.0f}'} ({ARMS[arm].words})"


def told_by_name(one: Outcome) -> str:
    """Its arm in full, marked where it was short of rates."""
    return named(one.arm, one.depth, SHORT_OF_RATES if one.short_of_rates else "")


def tag(one: Outcome) -> str:
    """The same in one word."""
    return f"`{one.arm}`{SHORT_OF_RATES if one.short_of_rates else ''}"


def tags(some: Sequence[Outcome]) -> str:
    """Their arms, each once; `none` of nothing."""
    return ", ".join(dict.fromkeys(map(tag, some))) or "none"


def lowest(some: Sequence[Outcome], value: Callable[[Outcome], float]) -> list[Outcome]:
    """All that share the lowest value: the order of a list must not pick one of them."""
    least = min(map(value, some), default=0.0)
    return [one for one in some if value(one) <= least + EQUAL]
