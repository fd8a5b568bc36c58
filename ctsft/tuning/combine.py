"""The sum of two deltas of one base model, and where the two want different things."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ctsft.errors import UserError
from ctsft.models.load import weight_hash
from ctsft.tuning.delta import HeadDelta
from ctsft.tuning.sound import refuse_misfit


class Conflict(NamedTuple):
    """One parameter that both deltas move.

    `both`: weights moved by both; `opposed`: the share of them that move in opposite directions; `cosine`: of the two
    changes there, 1 when they agree.
    """

    parameter: str
    both: int
    opposed: float
    cosine: float


def add(first: HeadDelta, second: HeadDelta, model: nn.Module) -> tuple[HeadDelta, list[Conflict]]:
    """base + (first - base) + (second - base), and the conflicts, worst first.

    Where only one of them moves a weight, its value is kept exactly. `model` holds the base's weights and is not
    changed. The sum was not tuned as such: evaluate it before you rely on it.
    """
    if first.base != second.base:
        raise UserError(f"the deltas were made on different weights ({first.base} and {second.base}).")
    here = weight_hash(model)
    if here != first.base:
        raise UserError(f"the deltas were made on the weights {first.base}, and the model has {here}: take deltas off.")
    for delta in (first, second):
        refuse_misfit(model, delta.values)
    moved, conflicts = {}, []
    for name in sorted({piece.parameter for delta in (first, second) for piece in delta.values}):
        base = model.get_parameter(name).detach()
        one, other = (_placed(delta, name, base) for delta in (first, second))
        both = (one != base) & (other != base)
        moved[name] = torch.where(both, one + other - base, torch.where(one == base, other, one))
        if both.any():
            conflicts.append(_conflict(name, (one - base)[both], (other - base)[both]))
    pieces = dict.fromkeys((*first.values, *second.values))
    values = {piece: piece.of(moved[piece.parameter]).clone() for piece in pieces}
    about = {name: value for name, value in first.about.items() if second.about.get(name) == value}
    about |= {"parts": [first.about, second.about]}
    return HeadDelta(first.base, values, about), sorted(conflicts, key=lambda c: -c.opposed)


def _placed(delta: HeadDelta, name: str, base: Tensor) -> Tensor:
    """The parameter with the delta's values in it."""
    full = base.clone()
    for piece, value in delta.values.items():
        if piece.parameter == name:
            piece.of(full).copy_(value)
    return full


def _conflict(name: str, one: Tensor, other: Tensor) -> Conflict:
    product = one.double() * other.double()
    norms = one.double().norm() * other.double().norm()
    cosine = float(product.sum() / norms) if norms > 0 else 0.0
    return Conflict(name, one.numel(), float((product < 0).double().mean()), cosine)
