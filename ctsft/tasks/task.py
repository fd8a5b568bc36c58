"""A task: prompts, label words, and rows split into pools by id, so that parallel languages never leak."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ctsft.errors import UserError

SPLITS = ("train", "valid", "test")
MAX_TOKENS = 128  # of a prompt, as in the paper
SEED = 31  # draws and orders rows where no other is given; the first of the paper's four


@dataclass(frozen=True)
class Example:
    """One labelled row; `label` indexes the task's labels.

    `pair` is the second text of tasks that have two. Rows of one `group` (by default a row is its own) say much the
    same, so they never stand in both pools.
    """

    id: str
    text: str
    label: int
    pair: str = ""
    group: str = ""


@dataclass(frozen=True)
class Rows:
    """The rows of one language and split in the official order, with the sha256 of the file they came from."""

    language: str
    split: str
    examples: tuple[Example, ...]
    sha256: str

    def by_id(self, ids: Sequence[str]) -> list[Example]:
        index = {example.id: example for example in self.examples}
        return [index[i] for i in ids]


@dataclass(frozen=True)
class Task:
    """How rows become prompts: `template` holds {text} (and {pair}); the answer is the likeliest of `label_words`.

    `read(language, split, data_dir)` returns the rows; `more_source_rows(language, data_dir)` gives rows for a start
    that pool A is too small for. `parallel`: every language has the same ids, and a row is the translation of its
    namesakes; then `target_pool` training ids form pool B. Otherwise each language's training rows are its own pool.
    `several_tokens`: what to do with label words of several tokens; `first` puts the tokens that all of them begin with
    into the prompt and lets the next one decide. `published` data sets were checked once, and their prompts stay as
    they are; others are checked before every run, and their prompt is a part of every key.
    `checksum(language, split)` is the sha256 of the published file, where one is known.
    `dictionary(source, target, data_dir)` gives the known translations of words, all in lower case.
    `openings(language)` gives pairs of ways to open a text that must not change its label, each as (kind, one, other).
    """

    name: str
    languages: tuple[str, ...]
    labels: tuple[str, ...]
    label_words: tuple[str, ...]
    template: str
    read: Callable[[str, str, Path | None], Rows]
    target_pool: int = 100
    more_source_rows: Callable[[str, Path | None], Rows] | None = None
    parallel: bool = True
    several_tokens: Literal["refuse", "first"] = "refuse"
    published: bool = False
    checksum: Callable[[str, str], str] | None = None
    dictionary: Callable[[str, str, Path | None], Mapping[str, Sequence[str]]] | None = None
    openings: Callable[[str], Sequence[tuple[str, str, str]]] | None = None

    def load(self, language: str, split: str, data_dir: Path | None = None) -> Rows:
        """Read and check one split: known language, unique ids, every label present.

        A task of one's own needs every label in train alone: with many labels and few rows, valid and test may lack one
        (`checks.findings` tells it).
        """
        if language not in self.languages:
            raise UserError(f"unknown language '{language}' for {self.name}. Valid: {', '.join(self.languages)}.")
        rows = self.read(language, split, data_dir)
        where = f"{self.name}/{language}/{split}"
        repeated = [i for i, count in Counter(e.id for e in rows.examples).items() if count > 1]
        if repeated:
            raise UserError(f"{where}: the id {repeated[0]!r} occurs more than once; ids must be unique.")
        missing = set(range(len(self.labels))) - {e.label for e in rows.examples}
        if missing and (self.published or split == "train"):
            raise UserError(f"{where}: no row has the label '{self.labels[min(missing)]}'.")
        return rows


DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def digits(labels: Sequence[int]) -> str:
    """`p` and one digit a row; from the eleventh label on, the letters a, b, ... go on where 9 ends.

    The leading letter keeps spreadsheets from reading a number of 400 digits.
    """
    return "p" + "".join(DIGITS[label] for label in labels)


def from_digits(text: str) -> np.ndarray:
    """The labels [N] that `digits` wrote; ValueError for anything else."""
    if text[:1] != "p" or set(text[1:]) - set(DIGITS):
        raise ValueError(f"not p and one digit a row: '{text[:12]}...'")
    codes = np.frombuffer(text[1:].encode("ascii"), np.uint8)
    return np.where(codes < ord("a"), codes - ord("0"), codes - ord("a") + 10)


def check_aligned(first: Rows, second: Rows) -> None:
    """Refuse two languages whose ids, labels or groups differ: they split the pools, and no translation may cross."""
    if [(e.id, e.label, e.group) for e in first.examples] != [(e.id, e.label, e.group) for e in second.examples]:
        raise UserError(
            f"{first.language} and {second.language} ({first.split}) do not hold the same ids, labels and groups in "
            "the same order, as those of a parallel task do: one of the files is another one, or lacks rows. Languages "
            'that are no translations of each other, row by row, are declared by "parallel": false.'
        )


def split_pools(rows: Rows, size_b: int, n_labels: int) -> tuple[list[str], list[str]]:
    """Ids of pool A (competence, mean, discovery) and pool B (`size_b` target rows), the same for every language.

    Each label gives pool B its share. Within a label the order is that of a hash of the group (the id, where rows have
    none), so that the split depends on ids and labels alone: not on the seed, the language, or the order of the file.
    """
    if size_b >= len(rows.examples):
        raise UserError(f"{rows.language}/{rows.split} has {len(rows.examples)} rows; pool B alone needs {size_b}.")
    ranked = {
        label: sorted(
            ((e.group or e.id, e.id) for e in rows.examples if e.label == label),
            key=lambda pair: hashlib.sha256(f"pool:{pair[0]}".encode()).digest(),
        )
        for label in range(n_labels)
    }
    exact = {label: size_b * len(ids) / len(rows.examples) for label, ids in ranked.items()}
    share = {label: int(value) for label, value in exact.items()}
    by_remainder = sorted(exact, key=lambda label: (share[label] - exact[label], label))
    for label in by_remainder[: size_b - sum(share.values())]:
        share[label] += 1
    pool_b = {i for label, pairs in ranked.items() for _, i in pairs[: share[label]]}
    near = {e.group or e.id for e in rows.examples if e.id in pool_b}
    pool_a = [e.id for e in rows.examples if (e.group or e.id) not in near]
    return pool_a, [e.id for e in rows.examples if e.id in pool_b]


def pools(task: Task, source: Rows, targets: Mapping[str, Rows]) -> tuple[list[str], dict[str, list[str]]]:
    """Ids of pool A (source rows), and for each target those of pool B (target rows), out of the training rows."""
    if not task.parallel:
        return [e.id for e in source.examples], {name: [e.id for e in rows.examples] for name, rows in targets.items()}
    pool_a, pool_b = split_pools(source, task.target_pool, len(task.labels))
    return pool_a, dict.fromkeys(targets, pool_b)


def _permutation(size: int, seed: int) -> np.ndarray:
    if seed < 0:
        raise UserError(f"the seed is {seed}; it must not be negative.")
    return np.random.default_rng(seed).permutation(size)


def draw(ids: Sequence[str], n: int, seed: int) -> list[str]:
    """The first n of a permutation of `ids` by `seed`: draws of one seed are nested (25 within 50 within 100).

    Raises UserError where n is not between 1 and the number of ids, or the seed is negative.
    """
    order = _permutation(len(ids), seed)
    if n < 1:
        raise UserError(f"{n} rows were asked for. Ask for at least 1.")
    if n > len(ids):
        raise UserError(f"{n} rows were asked for, but the pool has {len(ids)}. Ask for at most {len(ids)}.")
    return [ids[i] for i in order[:n]]


def draw_balanced(examples: Sequence[Example], per_label: int, n_labels: int, seed: int) -> list[Example]:
    """`per_label` rows of each label, drawn by `seed`; fewer of every label where the scarcest has fewer."""
    order = _permutation(len(examples), seed)
    by_label = [[examples[i] for i in order if examples[i].label == label] for label in range(n_labels)]
    size = min(per_label, *(len(group) for group in by_label))
    return [example for group in by_label for example in group[:size]]
