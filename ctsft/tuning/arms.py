"""The arms of the study: what each one starts from, and what it lets move. A new arm is one entry in ARMS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import nn

from ctsft.discovery.circuits import SELECTIONS
from ctsft.errors import UserError
from ctsft.heads import Head, KVPolicy, Slice, head_slices
from ctsft.models.anatomy import Anatomy
from ctsft.tuning import slices as compact_slices


@dataclass(frozen=True)
class Arm:
    """`moves`: nothing, all weights, the norms, or the norms and the slices of a selection of heads.

    `start`: theta1 (tuned on the source) or the base model. `words` names the arm in figures.
    """

    name: str
    words: str
    moves: Literal["nothing", "all", "norms", "heads"]
    start: Literal["theta1", "base"] = "theta1"

    @property
    def needs_heads(self) -> bool:
        return self.moves == "heads"


ARMS = {
    arm.name: arm
    for arm in (
        Arm("zero_shot", "no target rows", "nothing"),
        Arm("full", "all weights", "all"),
        Arm("direct", "all weights, no source", "all", start="base"),
        Arm("circuit", "circuit heads + norms", "heads"),
        Arm("near_zero", "near-zero heads + norms", "heads"),
        Arm("bottom", "most negative heads + norms", "heads"),
        Arm("random", "random heads + norms", "heads"),
        Arm("norm_only", "norms only", "norms"),
    )
}
assert {arm.name for arm in ARMS.values() if arm.needs_heads} == set(SELECTIONS)


def get_arm(name: str) -> Arm:
    if name not in ARMS:
        raise UserError(f"unknown arm '{name}'. Valid: {', '.join(ARMS)}.")
    return ARMS[name]


def moving_slices(model: nn.Module, anatomy: Anatomy, arm: Arm, heads: list[Head], policy: KVPolicy) -> list[Slice]:
    """Everything that `arm` may change, as slices; for an arm that moves all weights, every parameter whole."""
    if arm.moves == "nothing":
        return []
    names = [n for n, _ in model.named_parameters()] if arm.moves == "all" else list(anatomy.norm_parameters)
    whole = [Slice(name, 0, 0, model.get_parameter(name).shape[0]) for name in names]
    return whole + (head_slices(anatomy, heads, policy) if arm.needs_heads else [])


@contextmanager
def trainable(
    model: nn.Module, anatomy: Anatomy, arm: Arm, heads: list[Head], policy: KVPolicy
) -> Iterator[tuple[list[nn.Parameter], compact_slices.CompactSlices]]:
    """Prepare `model` so that exactly the arm's weights have gradients; yields the parameters to optimize."""
    free = {n for n, _ in model.named_parameters()} if arm.moves == "all" else set(anatomy.norm_parameters)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in free)
    parameters = [p for p in model.parameters() if p.requires_grad]
    pieces = head_slices(anatomy, heads, policy) if arm.needs_heads else []
    try:
        with compact_slices.compact(model, pieces) as compact:
            yield parameters + compact.parameters(), compact
    finally:
        model.zero_grad(set_to_none=True)
        model.requires_grad_(False)
