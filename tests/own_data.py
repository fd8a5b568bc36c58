"""A data set that the package has never seen: what a constructed sentence is about, in four classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ctsft.tasks.demo.languages import KINDS, word

LABELS = ("animals", "food", "tools", "travel")
SIZES = {"train": 480, "valid": 60, "test": 100}
SPLITS = ("train", "valid", "test")


def sentences(language: str, split: str, size: int) -> list[dict[str, str]]:
    """Every class has five nouns of its own; the other words say nothing. No two languages share a meaning."""
    rng = np.random.default_rng([9, SPLITS.index(split), *language.encode()])
    rows = []
    for number in range(size):
        label = number % len(LABELS)
        noun = word(language, "thing", label * 5 + int(rng.integers(5)))
        name = word(language, "name", int(rng.integers(KINDS["name"])))
        deed = word(language, "deed", int(rng.integers(KINDS["deed"])))
        plain = word(language, "plain", int(rng.integers(KINDS["plain"])))
        copula = word(language, "is", 0)
        tail = " ".join(word(language, "name", int(i)) for i in rng.integers(KINDS["name"], size=3))
        rows.append({"text": f"{name} {deed} {noun} . {noun} {copula} {plain} . {tail}", "label": LABELS[label]})
    return rows


def label_words() -> tuple[str, ...]:
    """Words that the demo's micro model holds whole: the first noun of each class in the language d30's own words."""
    return tuple(f" {word('d90', 'deed', number)}" for number in range(len(LABELS)))


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_topics(data: Path, languages: tuple[str, ...] = ("d00", "d50"), **declared) -> Path:
    """DATA/topics with JSON lines files of every language."""
    for language in languages:
        for split, size in SIZES.items():
            write_jsonl(data / "topics" / language / f"{split}.jsonl", sentences(language, split, size))
    settings = {"template": "{text} | sentiment:"} | declared
    (data / "topics" / "task.json").write_text(json.dumps(settings))
    return data
