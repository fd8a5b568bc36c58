"""The rows of a user's file: which column holds what, and what a row must have."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ctsft.errors import UserError
from ctsft.tasks.formats import split_of
from ctsft.tasks.task import Example, Rows

# The names that a column has without a declaration.
COLUMNS = {
    "text": ("text", "premise"),
    "pair": ("pair", "hypothesis"),
    "label": ("label",),
    "id": ("id",),
    "group": ("group",),
}
REQUIRED = ("text", "label")
APART = ("text", "pair", "label")  # a column has one of these roles; an id or a group may be read off any, as a premise


@dataclass(frozen=True)
class Line:
    """One row as it stands in a file."""

    number: int
    text: str
    pair: str
    label: str
    id: str
    group: str


@dataclass(frozen=True)
class Table:
    """The rows of one language and split, before their labels are known to be the task's."""

    where: str
    lines: tuple[Line, ...]
    has_pairs: bool
    sha256: str

    @classmethod
    def read(cls, folder: Path, split: str, columns: Mapping[str, str]) -> Table:
        """Find the split in a language's folder, in whatever form, and read its columns."""
        where, sha256, records = split_of(folder, split)
        lines: list[Line] = []
        chosen: dict[str, str] = {}
        for number, record in records:
            chosen = chosen or _columns(record, columns, where)
            _refuse_late(record, chosen, where, number)
            values = {name: _text(record, column, where, number) for name, column in chosen.items()}
            for name in REQUIRED + (("pair",) if "pair" in chosen else ()):
                if not values[name]:
                    raise UserError(f"{where}, line {number}: the field {chosen[name]!r} is empty.")
            values["label"] = normal_label(values["label"])
            if not is_one_line(values["label"]):
                raise UserError(
                    f"{where}, line {number}: a line break in label {values['label']!r}. Is a quotation mark missing?"
                )
            line = {"pair": "", "group": ""} | values | {"id": values.get("id") or f"{split}-{len(lines) + 1}"}
            lines.append(Line(number, **line))
        if not lines:
            raise UserError(f"{where} has no rows.")
        if columns:  # the same file, read in another way, has other rows
            sha256 = hashlib.sha256(json.dumps([sha256, dict(columns)], sort_keys=True).encode()).hexdigest()
        return cls(where, tuple(lines), "pair" in chosen, sha256)

    def rows(self, language: str, split: str, labels: tuple[str, ...], paired: bool) -> Rows:
        """The rows with their labels as numbers."""
        if self.has_pairs != paired:
            raise UserError(f"{self.where}: some files of this task have a second text and some have not.")
        for line in self.lines:
            if line.label not in labels:
                raise UserError(
                    f"{self.where}, line {line.number}: unknown label {line.label!r}. Valid: {', '.join(labels)}."
                )
        examples = tuple(Example(e.id, e.text, labels.index(e.label), e.pair, e.group) for e in self.lines)
        return Rows(language, split, examples, self.sha256)


def normal_label(label: str) -> str:
    """One form of every character (NFC): two forms look the same, and would be two labels."""
    return unicodedata.normalize("NFC", label)


def is_one_line(label: str) -> bool:
    return len(label.splitlines()) <= 1


def _split_by(record: Mapping[str, object]) -> str:
    """A hint for a header that is one column, because another character than ours stands between the names."""
    only, *others = [*record] or [""]
    other = next((name for name, mark in (("semicolons", ";"), ("tabs", "\t"), ("commas", ",")) if mark in only), None)
    return "" if others or other is None else f"It has {other} between the names: save it with those of its ending. "


def _columns(record: Mapping[str, object], declared: Mapping[str, str], where: str) -> dict[str, str]:
    """Which column holds what, by declaration or by name."""
    chosen = {}
    for name, usual in COLUMNS.items():
        candidates = [declared[name]] if name in declared else [column for column in usual if column in record]
        if len(candidates) > 1:
            raise UserError(f"{where} has the columns {candidates}; say in task.json which of them is the {name}.")
        if candidates and candidates[0] in record:
            chosen[name] = candidates[0]
        elif name in REQUIRED or name in declared:
            raise UserError(
                f"{where}: no column {candidates[0] if candidates else name!r}; found {list(record)}. "
                f'{_split_by(record)}Rename one, or declare it in task.json: {{"columns": {{"{name}": "..."}}}}.'
            )
    roles: dict[str, str] = {}
    for name in APART:
        if name in chosen and (other := roles.setdefault(chosen[name], name)) != name:
            raise UserError(
                f'{where}: the column {chosen[name]!r} cannot be both the {other} and the {name}. Mend "columns" in '
                "task.json."
            )
    return chosen


def _refuse_late(record: Mapping[str, object], chosen: Mapping[str, str], where: str, number: int) -> None:
    """UserError for a column that the first row lacked: in JSON rows may differ, and nothing would read it."""
    late = [column for name, usual in COLUMNS.items() if name not in chosen for column in usual if column in record]
    if late:
        raise UserError(
            f"{where}, line {number}: a column '{late[0]}', which the first row lacks. Give it to the first row too "
            "(null, where it has none), or rename it."
        )


def _text(record: Mapping[str, object], column: str, where: str, number: int) -> str:
    value = record.get(column)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where}, line {number}: the field {column!r} must be text, not {value!r}.")
    return str(value).strip()
