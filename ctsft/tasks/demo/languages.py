"""Constructed languages: reviews from a small grammar of meanings, realised at a chosen distance from the source.

A meaning is drawn once and said in every language, so the languages are parallel. A language at distance d replaces a
share d of the source's words by its own (a farther language replaces a superset) and, from 0.5 on, orders its words
differently. The difficulty of a transfer is then a dial instead of a guess.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

DISTANCES = {"d00": 0.0, "d10": 0.1, "d30": 0.3, "d50": 0.5, "d70": 0.7, "d90": 0.9}
REORDERED_FROM = 0.5

# How many words the languages have of each kind.
KINDS = {
    "good": 18,
    "bad": 18,
    "plain": 12,  # adjectives that say nothing of the speaker's opinion
    "thing": 20,
    "name": 12,
    "deed": 8,
    "very": 4,
    "not": 2,
    "but": 2,
    "is": 2,
}
ONSETS, VOWELS, CODAS = (
    "b d f g h k l m n p r s t w y ng ny".split(),
    "a e i o u".split(),
    ["", "", "n", "r", "k", "ng"],
)
LABELS = ("negative", "neutral", "positive")


@cache
def word(language: str, kind: str, number: int) -> str:
    """How a language says the `number`-th meaning of a kind: as the source does unless the distance replaces it."""
    replaced = _unit(f"replace {kind} {number}") < DISTANCES[language]
    own = language if replaced else "d00"
    rng = np.random.default_rng(list(hashlib.sha256(f"{own} {kind} {number}".encode()).digest()))
    syllables = 2 if kind in ("is", "not", "but") else 3
    return "".join(str(rng.choice(part)) for _ in range(syllables) for part in (ONSETS, VOWELS)) + str(
        rng.choice(CODAS)
    )


def _unit(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def vocabulary() -> list[str]:
    """Every word of every language, each once, in a fixed order."""
    meanings = [(kind, number) for kind, size in KINDS.items() for number in range(size)]
    return list(dict.fromkeys(word(language, *meaning) for language in DISTANCES for meaning in meanings))


def dictionary(source: str, target: str, data_dir: Path | None = None) -> dict[str, tuple[str, ...]]:
    """A dictionary such as small languages have: half of the meanings, each with one word in both languages."""
    meanings = [(kind, number) for kind, size in KINDS.items() for number in range(size)]
    known = [meaning for meaning in meanings if _unit(f"dictionary {meaning[0]} {meaning[1]}") < 0.5]
    return {word(source, *meaning): (word(target, *meaning),) for meaning in known}


def openings(language: str) -> list[tuple[str, str, str]]:
    """Two pairs of names that a text can open with."""
    names = [f"{word(language, 'name', number)} . " for number in range(4)]
    return [("name, first pair", names[0], names[1]), ("name, second pair", names[2], names[3])]


@dataclass(frozen=True)
class Clause:
    """What is said of a thing: a quality (perhaps strengthened or denied), or a neutral deed of somebody."""

    thing: int
    quality: tuple[str, int] | None
    very: int | None = None
    denied: int | None = None
    name: int = 0
    deed: int = 0
    copula: int = 0


@dataclass(frozen=True)
class Sentence:
    """One clause, or two joined by "but", of which the last decides."""

    clauses: tuple[Clause, ...]
    but: int = 0


def draw_review(rng: np.random.Generator, label: int) -> tuple[Sentence, ...]:
    """Three sentences that keep one opinion, among neutral facts; a neutral review has only facts."""
    if label == 1:
        return tuple(Sentence((_fact(rng),)) for _ in range(3))
    opinions = rng.random(3) < 0.6
    opinions[rng.integers(3)] = True
    return tuple(_opinion(rng, label == 2) if opinion else Sentence((_fact(rng),)) for opinion in opinions)


def _opinion(rng: np.random.Generator, good: bool) -> Sentence:
    last = _judgement(rng, good)
    if rng.random() < 0.25:
        return Sentence((_judgement(rng, not good), last), int(rng.integers(KINDS["but"])))
    return Sentence((last,))


def _judgement(rng: np.random.Generator, good: bool) -> Clause:
    denied = rng.random() < 0.25
    kind = "good" if good != denied else "bad"
    return Clause(
        thing=int(rng.integers(KINDS["thing"])),
        quality=(kind, int(rng.integers(KINDS[kind]))),
        very=int(rng.integers(KINDS["very"])) if rng.random() < 0.4 else None,
        denied=int(rng.integers(KINDS["not"])) if denied else None,
        copula=int(rng.integers(KINDS["is"])),
    )


def _fact(rng: np.random.Generator) -> Clause:
    plain = ("plain", int(rng.integers(KINDS["plain"]))) if rng.random() < 0.5 else None
    return Clause(
        thing=int(rng.integers(KINDS["thing"])),
        quality=plain,
        name=int(rng.integers(KINDS["name"])),
        deed=int(rng.integers(KINDS["deed"])),
        copula=int(rng.integers(KINDS["is"])),
    )


def say(language: str, review: tuple[Sentence, ...]) -> str:
    """Realise a review in a language."""
    return " ".join(_sentence(language, sentence) + " ." for sentence in review)


def _sentence(language: str, sentence: Sentence) -> str:
    return f" {word(language, 'but', sentence.but)} ".join(_clause(language, clause) for clause in sentence.clauses)


def _clause(language: str, clause: Clause) -> str:
    reordered = DISTANCES[language] >= REORDERED_FROM
    thing = word(language, "thing", clause.thing)
    if clause.quality is None:
        parts = [word(language, "name", clause.name), word(language, "deed", clause.deed), thing]
        return " ".join([parts[0], parts[2], parts[1]] if reordered else parts)
    quality = [word(language, *clause.quality)]
    if clause.very is not None:
        quality.insert(0, word(language, "very", clause.very))
    if clause.denied is not None:
        quality.insert(len(quality) if reordered else 0, word(language, "not", clause.denied))
    copula = word(language, "is", clause.copula)
    return " ".join([*quality, thing, copula] if reordered else [thing, copula, *quality])
