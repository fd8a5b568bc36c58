"""A user's own data: a folder DATA_DIR/<task>/<language>/ of CSV, TSV or JSON lines files, or a `datasets` folder.

    reviews/
      task.json                        optional: see `Declaration`
      indonesian/{train,valid,test}.jsonl
      javanese/{train,valid,test}.csv
      madurese/                        as `DatasetDict.save_to_disk` wrote it

Every row has a text (or a premise and a hypothesis) and a label. Nothing is dropped in silence: a row that cannot be
used is an error that names its file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Literal

from ctsft.errors import UserError
from ctsft.tasks.formats import decode, holds_rows, parsed
from ctsft.tasks.tables import COLUMNS, Table, is_one_line, normal_label
from ctsft.tasks.task import Rows, Task

FEWEST_LABELS, MOST_LABELS = 2, 20
SPARE = 5  # one row in five of a parallel training split is a target row, as in NusaX (100 of 500)


@dataclass(frozen=True)
class Declaration:
    """What task.json may say. Every key is optional."""

    template: str = ""
    """The prompt, with {text} (and {pair}); without it "{text} | label:"."""
    labels: tuple[str, ...] = ()
    """The labels in order; without it, those of the training rows, sorted."""
    label_words: Mapping[str, str] = field(default_factory=dict)
    """The verbaliser table, label to word; a label that it lacks stands for itself, after a space."""
    several_tokens: Literal["refuse", "first"] = "refuse"
    """`first`: words may have several tokens, and the first that tells all of them apart decides."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Which columns hold text, pair, label, id and group, where they have other names."""
    parallel: bool = False
    """Every language has the same ids in the same order, and a row is the translation of its namesakes."""
    target_pool: int | None = None
    """With `parallel`: how many training ids are target rows only; without it, one in five."""

    @classmethod
    def read(cls, path: Path) -> Declaration:
        """The content of a task.json, checked; without the file, the defaults."""
        if not path.is_file():
            return cls()
        try:
            text = decode(path.read_bytes(), str(path)).removeprefix("\ufeff")  # as some editors begin a file
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}.") from error
        content = parsed(text, str(path), "One object is expected.")
        known = {entry.name: entry for entry in fields(cls)}
        if not isinstance(content, dict) or content.keys() - known.keys():
            odd = repr(min(content.keys() - known.keys())) if isinstance(content, dict) else "(no object)"
            raise UserError(f"{path}: unknown key {odd}. Valid: {', '.join(known)}.")
        checks: dict[str, Callable[[object], bool]] = {
            "template": lambda v: isinstance(v, str),
            "labels": _is_list,
            "label_words": _is_table,
            "several_tokens": lambda v: v in ("refuse", "first"),
            "columns": lambda v: _is_table(v) and not v.keys() - COLUMNS.keys(),
            "parallel": lambda v: isinstance(v, bool),
            "target_pool": lambda v: type(v) is int and v > 0,
        }
        expected = {
            "labels": "a list of different strings without line breaks",
            "label_words": "an object of label: word",
            "several_tokens": '"refuse" or "first"',
            "columns": f"an object with some of {', '.join(COLUMNS)}",
            "target_pool": "a whole number above zero",
        }
        for name, value in content.items():
            if not checks[name](value):
                raise UserError(f"{path}: '{name}' must be {expected.get(name, known[name].type)}, not {value!r}.")
        return cls(**content | ({"labels": tuple(content["labels"])} if "labels" in content else {}))


def _is_list(value: object) -> bool:
    """Different strings, whatever form their characters have, each of one line."""
    strings = isinstance(value, list) and all(isinstance(entry, str) and is_one_line(entry) for entry in value)
    return strings and len(set(map(normal_label, value))) == len(value)


def _is_table(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(entry, str) for entry in value.values())


def own_task(name: str, folder: Path) -> Task:
    """The task that DATA_DIR/<name> holds; its languages are the folders inside, its labels those of the rows."""
    declared = Declaration.read(folder / "task.json")
    languages = tuple(path.name for path in sorted(folder.iterdir()) if path.is_dir() and holds_rows(path))
    _refuse_unread(folder)
    if not languages:
        raise UserError(
            f"{folder} holds no language. Expected folders such as {name}/javanese/ with train, valid and test as "
            ".csv, .tsv or .jsonl, or as datasets' save_to_disk writes them."
        )

    @cache
    def table(language: str, split: str) -> Table:
        return Table.read(folder / language, split, declared.columns)

    found = tuple(map(normal_label, declared.labels))
    labels = found or _labels_of({language: table(language, "train") for language in languages})
    if not FEWEST_LABELS <= len(labels) <= MOST_LABELS:
        raise UserError(
            f"{folder} has {len(labels)} labels ({', '.join(labels[:8])}{', ...' if len(labels) > 8 else ''}); "
            f"from {FEWEST_LABELS} to {MOST_LABELS} are supported."
        )
    words = {normal_label(label): word for label, word in declared.label_words.items()}
    unknown = sorted(words.keys() - set(labels))
    if unknown:
        raise UserError(f"{folder / 'task.json'}: label_words names {unknown[0]!r}, but the labels are: {labels}.")
    paired = table(languages[0], "train").has_pairs

    def read(language: str, split: str, data_dir: Path | None) -> Rows:
        rows = table(language, split).rows(language, split, labels, paired)
        return _groups_by_id(rows) if declared.parallel else rows

    size = len(table(languages[0], "train").lines)
    return Task(
        name=name,
        languages=languages,
        labels=labels,
        label_words=tuple(words.get(label, f" {label}") for label in labels),
        template=_template(declared, paired, folder / "task.json"),
        read=read,
        target_pool=declared.target_pool or max(1, size // SPARE),
        parallel=declared.parallel,
        several_tokens=declared.several_tokens,
    )


def _groups_by_id(rows: Rows) -> Rows:
    """Every group under the id of its first row: read off a text, as a premise, it has another name in each language,
    and pools that are split by a hash of names would differ between languages."""
    first: dict[str, str] = {}
    for e in rows.examples:
        first.setdefault(e.group, e.id)
    return replace(rows, examples=tuple(replace(e, group=first[e.group] if e.group else "") for e in rows.examples))


def _refuse_unread(folder: Path) -> None:
    """UserError for what would be passed over: a language's rows under another name, and a task.json in its folder."""
    for language in (path for path in sorted(folder.iterdir()) if path.is_dir()):
        if (language / "task.json").is_file():
            raise UserError(f"{language / 'task.json'} is not read: it belongs beside the languages, in {folder}.")
        names = sorted(path.name for path in language.iterdir())
        splits = [name for name in names if name.lower().startswith(("train", "valid", "dev", "test"))]
        if splits and not holds_rows(language):
            raise UserError(
                f"{language} has no train.csv, train.tsv or train.jsonl (and is no datasets folder of splits); found: "
                f"{', '.join(splits)}. Unpack or rename it."
            )


def _template(declared: Declaration, paired: bool, where: Path) -> str:
    template = declared.template or ("{text} | {pair} | label:" if paired else "{text} | label:")
    wanted = {"text", "pair"} if paired else {"text"}
    try:
        found = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UserError(f"{where}: the template {template!r} cannot be read: {error}.") from error
    if sorted(found) != sorted(wanted):
        wanted_names = " and ".join(f"{{{name}}}" for name in sorted(wanted, reverse=True))
        raise UserError(f"{where}: the template {template!r} must hold {wanted_names} once, and no other field.")
    return template


def _labels_of(tables: Mapping[str, Table]) -> tuple[str, ...]:
    """The labels of all languages, which must have the same ones; whole numbers are sorted as numbers."""
    sets = {language: {line.label for line in table.lines} for language, table in tables.items()}
    everywhere = set.intersection(*sets.values())
    for language, own in sets.items():
        for label in sorted(own - everywhere):
            without = next(other for other, labels in sets.items() if label not in labels)
            lines = [line.number for line in tables[language].lines if line.label == label]
            raise UserError(
                f"the languages' labels differ: {tables[language].where} has '{label}' ({len(lines)} rows, the first "
                f"in line {lines[0]}), {tables[without].where} has not. Mend the label, or collect rows of it; every "
                f"language needs every label. Common to all: {', '.join(sorted(everywhere)) or 'none'}."
            )
    numbers = all(label.removeprefix("-").isdecimal() for label in everywhere)
    return tuple(sorted(everywhere, key=int if numbers else None))
