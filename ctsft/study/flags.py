"""What the texts of --arms name, and which --seeds may stand beside each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from ctsft.errors import UserError
from ctsft.tuning.arms import get_arm


def refuse_shared_draws(seeds: Sequence[int], draws: int) -> None:
    """UserError where two seeds would draw the same random heads: draw d of a seed is drawn by seed + d."""
    near = next((pair for pair in pairwise(sorted(seeds)) if pair[1] - pair[0] < draws), None)
    if near:
        raise UserError(
            f"the seeds {near[0]} and {near[1]} would share random sets of heads, which would count twice: take seeds "
            f"that lie at least --random-draws ({draws}) apart."
        )


def arm_depths(arms: Sequence[str], usual: Sequence[int]) -> list[tuple[str, int | None]]:
    """Every (arm, depth) that texts such as "full" and "circuit:0,2" name, "circuit" at the `usual` depths.

    The depth is None for arms that choose no heads. Raises UserError for an unknown arm, or a depth that is none.
    """
    pairs: list[tuple[str, int | None]] = []
    for text in arms:
        name, _, own = text.partition(":")
        arm = get_arm(name)
        if own and not arm.needs_heads:
            raise UserError(f"'{text}': the arm '{name}' has no depth.")
        if own and not re.fullmatch(r"\d+(,\d+)*", own):
            raise UserError(f"'{text}': depths are whole numbers from 0 on, as in circuit:0,2.")
        depths = [int(depth) for depth in own.split(",")] if own else usual
        pairs += [(name, depth) for depth in depths] if arm.needs_heads else [(name, None)]
    return pairs
