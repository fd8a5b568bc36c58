"""Training rows that an arm adds to its n target rows. A new kind is one frozen dataclass with a method `examples`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ctsft.errors import CellFailed
from ctsft.tasks.task import Example

# Source word -> its words in the target language, all in lower case.
Dictionary = Mapping[str, Sequence[str]]
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Material:
    """What added rows are made of: labelled rows of target and source, and the dictionary between the two.

    `source_rows` are those that theta1 was tuned on. `dictionary` reads it when called, because few arms need one.
    """

    target_rows: Sequence[Example]
    source_rows: Sequence[Example]
    dictionary: Callable[[], Dictionary]
    seed: int


class ExtraRows(Protocol):
    def examples(self, material: Material) -> list[Example]: ...


@dataclass(frozen=True)
class Replay:
    """One source row for every `every` target rows, drawn from those that theta1 was tuned on."""

    every: int = 4

    def examples(self, material: Material) -> list[Example]:
        order = np.random.default_rng(material.seed).permutation(len(material.source_rows))
        return [material.source_rows[i] for i in order[: len(material.target_rows) // self.every]]


@dataclass(frozen=True)
class Lexicon:
    """Rows by a bilingual dictionary, of two kinds: at most as many of each as there are target rows.

    Source rows with each known word put into the target language, and target rows with each known word replaced by
    another that translates the same source word. Rows that no entry touches are left out.
    """

    def examples(self, material: Material) -> list[Example]:
        dictionary = material.dictionary()
        if not dictionary:
            raise CellFailed("the dictionary between source and target has no entry")
        rng = np.random.default_rng(material.seed)
        order = rng.permutation(len(material.source_rows))[: len(material.target_rows)]
        made = [_replaced(material.source_rows[i], dictionary, rng) for i in order]
        others = synonyms(dictionary)
        made += [_replaced(row, others, rng) for row in material.target_rows]
        return [row for row in made if row is not None]


def synonyms(dictionary: Dictionary) -> dict[str, tuple[str, ...]]:
    """Target word -> the other words of the target language that translate the same source word."""
    found: dict[str, dict[str, None]] = {}
    for words in dictionary.values():
        for word in words:
            found.setdefault(word, {}).update((other, None) for other in words if other != word)
    return {word: tuple(others) for word, others in found.items() if others}


def _replaced(row: Example, dictionary: Dictionary, rng: np.random.Generator) -> Example | None:
    """The row with every word that the dictionary knows replaced by one of its choices; None where it knows none."""
    known = 0

    def swap(match: re.Match) -> str:
        nonlocal known
        choices = dictionary.get(match[0].lower())
        if not choices:
            return match[0]
        known += 1
        return choices[rng.integers(len(choices))]

    text, pair = WORD.sub(swap, row.text), WORD.sub(swap, row.pair)
    return replace(row, id=f"{row.id}+lexicon", text=text, pair=pair) if known else None
