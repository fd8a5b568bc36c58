"""What a tuning may move: every weight, some whole parameters, the slices of heads, or low-rank adapters on them.

A scope answers three questions: which slices of the weights may differ afterwards (so that they can be put back), how
many weights are trained, and what the optimizer is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Protocol

from torch import nn

from ctsft.errors import CellFailed
from ctsft.heads import Head, KVPolicy, Slice, head_slices
from ctsft.models.anatomy import Anatomy
from ctsft.tuning import slices as compact_slices
from ctsft.tuning.adapters import LowRank, adapted

# The share of the layers that counts as the top of a model.
TOP = 1 / 3


class Held(Protocol):
    """What stands in for parts of the model while they are tuned. `write_back` is called after every step."""

    def parameters(self) -> list[nn.Parameter]: ...

    def write_back(self) -> None: ...

    def shown(self) -> AbstractContextManager[None]:
        """While it is open, the model's own weights are what has been tuned so far."""
        ...


class Scope(Protocol):
    """`passes`: what a row costs in training, in forward passes (1 forward, 1 to the inputs, 1 more to all weights).

    `settings`: what no name spells out; other settings make other cells.
    """

    passes: int

    @property
    def settings(self) -> dict[str, object]: ...

    def slices(self, model: nn.Module, anatomy: Anatomy, heads: list[Head], policy: KVPolicy) -> list[Slice]: ...

    def count(self, model: nn.Module, anatomy: Anatomy, heads: list[Head], policy: KVPolicy) -> int: ...

    def held(
        self, model: nn.Module, anatomy: Anatomy, heads: list[Head], policy: KVPolicy, seed: int
    ) -> AbstractContextManager[tuple[set[str], Held]]: ...


def nothing(model: nn.Module, anatomy: Anatomy) -> list[str]:
    return []


def every_parameter(model: nn.Module, anatomy: Anatomy) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def norms(model: nn.Module, anatomy: Anatomy) -> list[str]:
    return list(anatomy.norm_parameters)


def between_embeddings(model: nn.Module, anatomy: Anatomy) -> list[str]:
    """Every weight but those of the norms and of the input and output embeddings."""
    frozen = set(norms(model, anatomy))
    ends = {id(p) for end in (model.get_input_embeddings(), model.get_output_embeddings()) for p in end.parameters()}
    return [name for name, p in model.named_parameters() if name not in frozen and id(p) not in ends]


def biases(model: nn.Module, anatomy: Anatomy) -> list[str]:
    """Every bias term, those of norms too (BitFit, Ben Zaken et al., ACL 2022). Refused where a model has none."""
    names = [name for name in every_parameter(model, anatomy) if name.endswith("bias")]
    if not names:
        raise CellFailed("this model has no bias to tune. Leave bitfit out; norm_only is the arm nearest to it")
    return names


def top_layers(model: nn.Module, anatomy: Anatomy) -> list[str]:
    """The last third of the layers, at least one, and the final norm."""
    family, n_layers = anatomy.family, len(anatomy.layers)
    first = n_layers - max(1, round(TOP * n_layers))
    prefixes = tuple(f"{family.layers}.{number}." for number in range(first, n_layers))
    return [n for n in every_parameter(model, anatomy) if n.startswith((*prefixes, f"{family.final_norm}."))]


def below_top_layers(model: nn.Module, anatomy: Anatomy) -> list[str]:
    """Everything that `top_layers` leaves: the embeddings and the lower layers."""
    top = set(top_layers(model, anatomy))
    return [name for name in every_parameter(model, anatomy) if name not in top]


@dataclass(frozen=True)
class Weights:
    """Parameters of the model itself: those that `whole` names, and the slices of the heads where `with_heads`."""

    whole: Callable[[nn.Module, Anatomy], Iterable[str]]
    passes: int
    with_heads: bool = False
    top: float | None = None

    @property
    def settings(self) -> dict[str, object]:
        return {} if self.top is None else {"top": self.top}

    def slices(self, model, anatomy, heads, policy) -> list[Slice]:
        whole = [Slice(name, 0, 0, model.get_parameter(name).shape[0]) for name in self.whole(model, anatomy)]
        return whole + (head_slices(anatomy, heads, policy) if self.with_heads else [])

    def count(self, model, anatomy, heads, policy) -> int:
        return compact_slices.count(model, self.slices(model, anatomy, heads, policy))

    @contextmanager
    def held(self, model, anatomy, heads, policy, seed) -> Iterator[tuple[set[str], Held]]:
        pieces = head_slices(anatomy, heads, policy) if self.with_heads else []
        free = set(self.whole(model, anatomy))
        with compact_slices.compact(model, pieces) as compact:
            yield free, compact


@dataclass(frozen=True)
class Sparse(Weights):
    """Any of some weights, but only as many as the heads' slices and the norms have; which ones, training finds out."""

    @property
    def settings(self) -> dict[str, object]:
        return {"of": self.whole.__name__}

    def count(self, model, anatomy, heads, policy) -> int:
        return SCOPES["heads"].count(model, anatomy, heads, policy)


@dataclass(frozen=True)
class Adapters:
    """Low-rank adapters on the queries, keys, values and outputs: of every head, or of the chosen heads alone."""

    low_rank: LowRank
    on_heads: bool = False
    passes: int = 2

    @property
    def settings(self) -> dict[str, object]:
        return asdict(self.low_rank)

    def slices(self, model, anatomy, heads, policy) -> list[Slice]:
        every = [Head(layer, index) for layer in range(len(anatomy.layers)) for index in range(anatomy.heads)]
        pieces = head_slices(anatomy, heads if self.on_heads else every, policy if self.on_heads else "shared")
        return [piece for piece in pieces if piece.parameter.endswith("weight")]

    def count(self, model, anatomy, heads, policy) -> int:
        return self.low_rank.count(model, self.slices(model, anatomy, heads, policy))

    @contextmanager
    def held(self, model, anatomy, heads, policy, seed) -> Iterator[tuple[set[str], Held]]:
        pieces = self.slices(model, anatomy, heads, policy)
        with adapted(model, pieces, self.low_rank, seed) as adapters:
            yield set(), adapters


SCOPES: dict[str, Scope] = {
    "nothing": Weights(nothing, passes=0),
    "all": Weights(every_parameter, passes=3),
    "norms": Weights(norms, passes=2),
    "heads": Weights(norms, passes=2, with_heads=True),
    "biases": Weights(biases, passes=2),
    "top": Weights(top_layers, passes=2, top=TOP),
    "below_top": Weights(below_top_layers, passes=3, top=TOP),
    "sparse": Sparse(between_embeddings, passes=6),
    "adapters": Adapters(LowRank()),
    "head_adapters": Adapters(LowRank(), on_heads=True),
}
