"""The demo's second task: does a hypothesis follow from a premise? Constructed like XNLI, in the same languages.

A premise says two things of two objects. The hypothesis repeats one of them (entailment), denies it (contradiction), or
speaks of a third (neutral, at times with a denial too). As in real data, a denial hints at contradiction.

The micro model's vocabulary has no words of its own for this task, so the prompt and the label words are those of the
reviews: positive stands for entailment, negative for contradiction.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from ctsft.tasks.demo.languages import DISTANCES, KINDS, Clause, Sentence, dictionary, say
from ctsft.tasks.demo.task import ROWS
from ctsft.tasks.task import SPLITS, Example, Rows, Task

LABELS = ("entailment", "neutral", "contradiction")
MORE = 4000
DENIED_NEUTRAL = 0.25


def _clause(rng: np.random.Generator, thing: int) -> Clause:
    kind = "good" if rng.integers(2) else "bad"
    quality = (kind, int(rng.integers(KINDS[kind])))
    return Clause(thing=thing, quality=quality, copula=int(rng.integers(KINDS["is"])))


def draw_pair(rng: np.random.Generator, label: int) -> tuple[tuple[Sentence, ...], tuple[Sentence, ...]]:
    """A premise and a hypothesis that stand in the relation `label`."""
    things = rng.permutation(KINDS["thing"])[:3]
    premise = [_clause(rng, int(thing)) for thing in things[:2]]
    said = premise[int(rng.integers(2))]
    if LABELS[label] == "neutral":
        said = _clause(rng, int(things[2]))
    if LABELS[label] == "contradiction" or (LABELS[label] == "neutral" and rng.random() < DENIED_NEUTRAL):
        said = replace(said, denied=int(rng.integers(KINDS["not"])))
    return tuple(Sentence((clause,)) for clause in premise), (Sentence((said,)),)


def _rows(language: str, split: str, stream: int, size: int) -> Rows:
    rng = np.random.default_rng([2601, 8146, 2, stream])
    labels = rng.permutation(np.arange(size) % len(LABELS))
    examples = []
    for number, label in enumerate(labels):
        premise, hypothesis = draw_pair(rng, int(label))
        examples.append(Example(f"{split}-{number}", say(language, premise), int(label), say(language, hypothesis)))
    content = "\n".join(f"{example.text}\t{example.pair}" for example in examples)
    return Rows(language, split, tuple(examples), hashlib.sha256(content.encode()).hexdigest())


def read(language: str, split: str, data_dir: Path | None) -> Rows:
    """Make the rows of a split; there is no file to read, so `data_dir` plays no part."""
    return _rows(language, split, SPLITS.index(split), ROWS[split])


def more_source_rows(language: str, data_dir: Path | None) -> Rows:
    return _rows(language, "more", len(SPLITS), MORE)


ENTAILMENT = Task(
    published=True,
    name="demo_entailment",
    languages=tuple(DISTANCES),
    labels=LABELS,
    label_words=(" positive", " neutral", " negative"),
    template="{text} | {pair} | sentiment:",
    read=read,
    dictionary=dictionary,
    more_source_rows=more_source_rows,
)
