"""`ctsft predict`: text in, label and confidence out."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ctsft.commands.options import check_output, load_delta
from ctsft.commands.tuned import OnTuned
from ctsft.errors import UserError
from ctsft.tasks.formats import READERS, Records

if TYPE_CHECKING:
    from ctsft.tasks.task import Task


@dataclass(frozen=True)
class Predict:
    """Write the rows of a file, however long, as CSV with a label and a confidence beside each text."""

    using: OnTuned
    delta: str | None = None
    """Folder or hub id of a head delta; without it the checkpoint itself answers."""
    input: str = "-"
    """.csv or .tsv with a header, or .jsonl; - is standard input, as .csv."""
    output: str = "-"
    """Where the rows go, as .csv; - is standard output."""
    text: str = "text"
    """Column with the text (or premise)."""
    pair: str | None = None
    """Column with the second text, where the task has one."""
    with_source: bool = False
    """Also answer without the delta, in source_label and source_confidence (calibrated on the source, if at all)."""

    def run(self) -> None:
        from ctsft.prediction import Labeller, Voice
        from ctsft.tasks.form import other_prompt, task_of, told_form
        from ctsft.tuning.share import about_checkpoint

        if self.output != "-":
            check_output(Path(self.output))
        delta = load_delta(self.delta) if self.delta else None
        loaded = self.using.load()
        checkpoint = about_checkpoint(self.using.model)
        about = delta.about if delta else checkpoint
        # A delta that was made in a loop of one's own may say nothing of the task that the checkpoint was tuned on.
        form = told_form(about) or told_form(checkpoint)
        if not form:
            raise UserError("neither a delta nor the checkpoint says which labels to give: tune with `ctsft tune`.")
        task = task_of(form)
        self._check_pair(task)
        if self.with_source and (other := other_prompt(task, checkpoint)):
            raise UserError(
                f"the checkpoint was tuned with another prompt than the delta, which asks {other}. Leave --with-source "
                "out, and predict without --delta to see what the checkpoint says."
            )
        longest = self.using.longest(about, checkpoint)
        voices = [Voice("", delta, _temperature(about, "the answers"), longest)]
        if self.with_source:
            longest = self.using.longest(checkpoint, about)
            voices.append(Voice("source_", None, _temperature(checkpoint, "the source's answers"), longest))
        labeller = Labeller(loaded, task, voices)
        with _reading(self.input) as file, _writing(self.output) as out:
            writer = None
            for row in labeller.run(self._records(file, labeller.columns), self.text, self.pair):
                if writer is None:
                    writer, quoted = (
                        csv.DictWriter(out, list(row), lineterminator="\n", quoting=quoting)
                        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
                    )
                    writer.writeheader()
                # A carriage return alone is not quoted by itself, and would end the row for some readers.
                (quoted if any("\r" in str(value) for value in row.values()) else writer).writerow(row)
        if writer is None:
            print("note: the input has no rows", file=sys.stderr)
        for rows, what in (
            (labeller.skipped, "have no text and got no label"),
            (
                labeller.cut,
                f"are longer than {voices[0].max_tokens} tokens with the prompt and were read without their end",
            ),
        ):
            if rows.number:
                print(f"note: {rows.number} rows {what} (lines {rows})", file=sys.stderr)

    def _check_pair(self, task: Task) -> None:
        if ("{pair}" in task.template) != (self.pair is not None):
            raise UserError(
                "this task has two texts: name the column of the second with --pair."
                if self.pair is None
                else "this task has one text, so --pair does not apply."
            )

    def _records(self, file: IO[str], new: list[str]) -> Records:
        """The rows, with the same columns everywhere, none of which has the name of a new one."""
        where = "standard input" if self.input == "-" else self.input
        kind = Path(self.input).suffix if self.input != "-" else ".csv"
        if kind not in READERS:
            raise UserError(f"{where}: expected a file that ends in {', '.join(READERS)}.")
        columns = None
        for line, row in READERS[kind](file, where, kind):
            columns = columns or list(row)
            if row.keys() != set(columns):
                raise UserError(f"{where}, line {line}: the fields {list(row)}, but those of the first are {columns}.")
            if taken := sorted(set(new) & row.keys()):
                raise UserError(f"the input has a column '{taken[0]}' already; rename it, so that nothing is lost.")
            yield line, {name: _as_text(row[name]) for name in columns}


def _as_text(value: object) -> str:
    """A field of a JSON object as a CSV file holds it; nothing for null."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _temperature(about: dict, what: str) -> float:
    if "temperature" not in about:
        print(f"note: no validation rows were seen, so the confidence of {what} is not calibrated", file=sys.stderr)
    return about.get("temperature", 1.0)


@contextlib.contextmanager
def _reading(name: str) -> Iterator[IO[str]]:
    where = "standard input" if name == "-" else name
    try:
        if name == "-":
            sys.stdin.reconfigure(encoding="utf-8-sig", newline="")
        with contextlib.nullcontext(sys.stdin) if name == "-" else open(name, encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 ({error.reason}). Save it as UTF-8.") from error
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"cannot open {error.filename}: {error.strerror}.") from error


@contextlib.contextmanager
def _writing(name: str) -> Iterator[IO[str]]:
    """Standard output, or a file that takes its name when it is whole; a run that stops leaves NAME.partial."""
    if name == "-":
        yield sys.stdout
        return
    path = Path(name).resolve()  # a link stays one, and what is no file (a pipe, /dev/null) is written into
    partial = path.with_name(f"{path.name}.partial") if path.is_file() or not path.exists() else path
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            yield file
        if partial != path:
            os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {name}: {error.strerror or error}.") from error
