"""Answers to any number of texts, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from ctsft.answers import answer
from ctsft.calibration import confidence
from ctsft.errors import UserError
from ctsft.models.load import Loaded
from ctsft.tasks.prompts import cut_rows
from ctsft.tasks.task import MAX_TOKENS, Example, Task
from ctsft.tuning.delta import HeadDelta, Switch

CHUNK = 256  # rows in memory at a time
NAMED = 10  # rows of a kind whose lines are kept; the others are counted


@dataclass(frozen=True)
class Voice:
    """One state of the model that answers: the base's (`delta` None) or that with a delta.

    `prefix` goes before the names of its columns. `temperature` makes its confidence a probability, for prompts of up
    to `max_tokens`.
    """

    prefix: str
    delta: HeadDelta | None
    temperature: float
    max_tokens: int = MAX_TOKENS


@dataclass
class Lines:
    """How many rows, and the lines of the first of them."""

    number: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, lines: Sequence[int]) -> None:
        self.number += len(lines)
        self.first += lines[: NAMED - len(self.first)]

    def __str__(self) -> str:
        return ", ".join(map(str, self.first)) + (", ..." if self.number > len(self.first) else "")


@dataclass
class Labeller:
    """Puts a label and a confidence beside every row.

    `skipped` tells of the rows without a text so far, `cut` of those whose text the first voice reads without its end.
    """

    loaded: Loaded
    task: Task
    voices: Sequence[Voice]

    def __post_init__(self) -> None:
        self.skipped, self.cut = Lines(), Lines()
        deltas = {voice.prefix: voice.delta for voice in self.voices if voice.delta is not None}
        self._switch = Switch(self.loaded.model, deltas)

    @property
    def columns(self) -> list[str]:
        return [voice.prefix + name for voice in self.voices for name in ("label", "confidence")]

    def run(
        self, rows: Iterable[tuple[int, Mapping[str, object]]], text: str, pair: str | None, chunk: int = CHUNK
    ) -> Iterator[dict[str, object]]:
        """Each (line, row) with the new columns, in order; `chunk` rows are read ahead.

        A row whose text is empty keeps its place with an empty label and confidence.
        """
        rows = iter(rows)
        while part := list(islice(rows, chunk)):
            yield from self._chunk(part, text, pair)

    def _chunk(
        self, part: list[tuple[int, Mapping[str, object]]], text: str, pair: str | None
    ) -> Iterator[dict[str, object]]:
        examples = [Example(str(line), _field(row, text, line), 0, _field(row, pair, line)) for line, row in part]
        asked = [number for number, e in enumerate(examples) if e.text and (e.pair or pair is None)]
        skipped = [part[number][0] for number in sorted(set(range(len(part))) - set(asked))]
        self.skipped.add(skipped)
        given = [examples[number] for number in asked]
        self.cut.add(self._lines_cut(given))
        new: list[dict[str, object]] = [dict.fromkeys(self.columns, "") for _ in part]
        for voice in self.voices if given else ():
            labels, sure = self._ask(given, voice)
            for number, label, value in zip(asked, labels, sure, strict=True):
                new[number][f"{voice.prefix}label"] = self.task.labels[label]
                new[number][f"{voice.prefix}confidence"] = f"{value:.4f}"
        for (_, row), columns in zip(part, new, strict=True):
            yield dict(row) | columns

    def _lines_cut(self, examples: list[Example]) -> list[int]:
        if not examples:
            return []
        loaded, longest = self.loaded, self.voices[0].max_tokens
        return [int(line) for line in cut_rows(loaded.tokenizer, self.task, examples, longest, loaded.layout)]

    def _ask(self, examples: list[Example], voice: Voice) -> tuple[list[int], list[float]]:
        self._switch.to(voice.prefix if voice.delta is not None else None)
        try:
            found = answer(self.loaded, self.task, examples, voice.max_tokens)
        finally:
            self._switch.to(None)
        return found.labels.tolist(), confidence(found.logits, voice.temperature).tolist()


def _field(row: Mapping[str, object], column: str | None, line: int) -> str:
    if column is None:
        return ""
    if column not in row:
        raise UserError(f"line {line}: no column '{column}'; found {list(row)}. Name it with --text or --pair.")
    return str(row[column]).strip()
