"""The shared vocabulary: a head, and the slices of the weights that belong to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

from ctsft.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from ctsft.models.anatomy import Anatomy

KVPolicy = Literal["shared", "frozen", "all"]


class Head(NamedTuple):
    """A query head. Its activation z is its slice of the *input* of the attention output projection."""

    layer: int
    index: int  # type: ignore[assignment]  # the field's name for it, though tuples have a method of that name

    def __str__(self) -> str:
        return f"{self.layer}.{self.index}"

    @classmethod
    def parse(cls, text: str) -> Head:
        layer, index = text.split(".")
        return cls(int(layer), int(index))


class Slice(NamedTuple):
    """Entries start:stop of one parameter along its dimension `dim`."""

    parameter: str
    dim: int
    start: int
    stop: int

    def of(self, tensor: Tensor) -> Tensor:
        """These entries of the parameter, or of a tensor of its shape: a view."""
        return tensor.narrow(self.dim, self.start, self.stop - self.start)


def kv_groups(anatomy: Anatomy, heads: Iterable[Head], policy: KVPolicy) -> set[tuple[int, int]]:
    """The (layer, key/value head) pairs that move with `heads`.

    shared: any chosen query head of the group moves its keys and values; all: only a wholly chosen group does;
    frozen: none does.
    """
    chosen = set(heads)
    per_group = anatomy.heads // anatomy.kv_heads
    touched = {(head.layer, head.index // per_group) for head in chosen}
    if policy == "frozen":
        return set()
    if policy == "all":
        return {
            (layer, group)
            for layer, group in touched
            if all(Head(layer, group * per_group + i) in chosen for i in range(per_group))
        }
    return touched


def head_slices(anatomy: Anatomy, heads: Iterable[Head], policy: KVPolicy = "shared") -> list[Slice]:
    """What moves when `heads` are tuned: rows of W_Q, columns of W_O, and the K/V rows that `policy` names.

    Biases of Q, K and V move with their rows; the bias of the output projection belongs to no head and stays. Raises
    UserError for a head that the model does not have.
    """
    heads = sorted(set(heads))
    for head in heads:
        if not (0 <= head.layer < len(anatomy.layers) and 0 <= head.index < anatomy.heads):
            raise UserError(f"no head {head}: the model has {len(anatomy.layers)} layers of {anatomy.heads} heads.")
    size = anatomy.head_dim
    slices: list[Slice] = []
    for head in heads:
        parts = anatomy.layers[head.layer]
        slices += parts.q.row_slices(head.index * size, (head.index + 1) * size)
        slices.append(parts.o.column_slice(head.index * size, (head.index + 1) * size))
    for layer, group in sorted(kv_groups(anatomy, heads, policy)):
        for projection in (anatomy.layers[layer].k, anatomy.layers[layer].v):
            slices += projection.row_slices(group * size, (group + 1) * size)
    return slices
