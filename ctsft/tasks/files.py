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

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Literal

from ctsft.errors import UserError
from ctsft.tasks.task import SPLITS, Example, Rows, Task

NAMES = {"train": ("train",), "valid": ("valid", "validation", "dev"), "test": ("test",)}
# The names that a column has without a declaration.
COLUMNS = {
    "text": ("text", "premise"),
    "pair": ("pair", "hypothesis"),
    "label": ("label",),
    "id": ("id",),
    "group": ("group",),
}
REQUIRED = ("text", "label")
FEWEST_LABELS, MOST_LABELS = 2, 20
LONGEST_FIELD = 2**24  # characters; the csv module's own limit of 131,072 is shorter than some documents
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
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not JSON: {error}.") from error
        known = {entry.name: entry for entry in fields(cls)}
        if not isinstance(content, dict) or content.keys() - known.keys():
            odd = sorted(content.keys() - known.keys())[0] if isinstance(content, dict) else "no object"
            raise UserError(f"{path}: unknown key '{odd}'. Valid: {', '.join(known)}.")
        checks: dict[str, Callable[[object], bool]] = {
            "template": lambda v: isinstance(v, str),
            "labels": lambda v: isinstance(v, list) and all(isinstance(i, str) for i in v) and len(set(v)) == len(v),
            "label_words": _is_table,
            "several_tokens": lambda v: v in ("refuse", "first"),
            "columns": lambda v: _is_table(v) and not v.keys() - COLUMNS.keys(),
            "parallel": lambda v: isinstance(v, bool),
            "target_pool": lambda v: type(v) is int and v > 0,
        }
        expected = {
            "labels": "a list of different strings",
            "label_words": "an object of label: word",
            "several_tokens": '"refuse" or "first"',
            "columns": f"an object with some of {', '.join(COLUMNS)}",
            "target_pool": "a whole number above zero",
        }
        for name, value in content.items():
            if not checks[name](value):
                raise UserError(f"{path}: '{name}' must be {expected.get(name, known[name].type)}, not {value!r}.")
        return cls(**content | ({"labels": tuple(content["labels"])} if "labels" in content else {}))


def _is_table(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(entry, str) for entry in value.values())


def own_task(name: str, folder: Path) -> Task:
    """The task that DATA_DIR/<name> holds; its languages are the folders inside, its labels those of the rows."""
    declared = Declaration.read(folder / "task.json")
    languages = tuple(path.name for path in sorted(folder.iterdir()) if path.is_dir() and _holds_rows(path))
    if not languages:
        raise UserError(
            f"{folder} holds no language. Expected folders such as {name}/javanese/ with train, valid and test as "
            ".csv, .tsv or .jsonl, or as datasets' save_to_disk writes them."
        )

    @cache
    def table(language: str, split: str) -> Table:
        return Table.read(folder / language, split, declared.columns)

    labels = declared.labels or _labels_of({language: table(language, "train") for language in languages})
    if not FEWEST_LABELS <= len(labels) <= MOST_LABELS:
        raise UserError(
            f"{folder} has {len(labels)} labels ({', '.join(labels[:8])}{', ...' if len(labels) > 8 else ''}); "
            f"from {FEWEST_LABELS} to {MOST_LABELS} are supported."
        )
    unknown = sorted(declared.label_words.keys() - set(labels))
    if unknown:
        raise UserError(f"{folder / 'task.json'}: label_words names '{unknown[0]}', but the labels are: {labels}.")
    paired = table(languages[0], "train").has_pairs

    def read(language: str, split: str, data_dir: Path | None) -> Rows:
        return table(language, split).rows(language, split, labels, paired)

    size = len(table(languages[0], "train").lines)
    return Task(
        name=name,
        languages=languages,
        labels=labels,
        label_words=tuple(declared.label_words.get(label, f" {label}") for label in labels),
        template=_template(declared, paired, folder / "task.json"),
        read=read,
        target_pool=declared.target_pool or max(1, size // SPARE),
        parallel=declared.parallel,
        several_tokens=declared.several_tokens,
        published=False,
    )


def _template(declared: Declaration, paired: bool, where: Path) -> str:
    template = declared.template or ("{text} | {pair} | label:" if paired else "{text} | label:")
    wanted = {"text", "pair"} if paired else {"text"}
    try:
        found = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise UserError(f"{where}: the template '{template}' cannot be read: {error}.") from error
    if found != wanted:
        wanted_names = " and ".join(f"{{{name}}}" for name in sorted(wanted, reverse=True))
        raise UserError(f"{where}: the template '{template}' must hold {wanted_names}, and no other field.")
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
        source = _saved(folder, split) if (folder / "dataset_dict.json").is_file() else _file(folder, split)
        where, sha256, records = source
        lines: list[Line] = []
        chosen: dict[str, str] = {}
        for number, record in records:
            chosen = chosen or _columns(record, columns, where)
            values = {name: _text(record, column, where, number) for name, column in chosen.items()}
            for name in REQUIRED + (("pair",) if "pair" in chosen else ()):
                if not values[name]:
                    raise UserError(f"{where}, line {number}: the field '{chosen[name]}' is empty.")
            line = {"pair": "", "group": ""} | values | {"id": values.get("id") or f"{split}-{len(lines) + 1}"}
            lines.append(Line(number, **line))
        if not lines:
            raise UserError(f"{where} has no rows.")
        return cls(where, tuple(lines), "pair" in chosen, sha256)

    def rows(self, language: str, split: str, labels: tuple[str, ...], paired: bool) -> Rows:
        """The rows with their labels as numbers."""
        if self.has_pairs != paired:
            raise UserError(f"{self.where}: some files of this task have a second text and some have not.")
        for line in self.lines:
            if line.label not in labels:
                raise UserError(
                    f"{self.where}, line {line.number}: unknown label '{line.label}'. Valid: {', '.join(labels)}."
                )
        examples = tuple(Example(e.id, e.text, labels.index(e.label), e.pair, e.group) for e in self.lines)
        return Rows(language, split, examples, self.sha256)


Records = Iterator[tuple[int, Mapping[str, object]]]


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
                f"{where}: no column '{candidates[0] if candidates else name}'; found {list(record)}. "
                f'Rename one, or declare it in task.json: {{"columns": {{"{name}": "..."}}}}.'
            )
    return chosen


def _text(record: Mapping[str, object], column: str, where: str, number: int) -> str:
    value = record.get(column)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where}, line {number}: the field '{column}' must be text, not {value!r}.")
    return str(value).strip()


# ---- the forms that files have ------------------------------------------------------------------------------------


def _json_lines(path: Path) -> Records:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: not JSON ({error}). One object a line is expected.") from error
            if not isinstance(record, dict):
                raise UserError(f"{path}, line {number}: expected an object with text and label.")
            yield number, record


def _separated(path: Path) -> Records:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from separated(file, str(path), path.suffix)


def separated(lines: Iterator[str], where: str, kind: str) -> Records:
    """Rows of text with a header, .csv or .tsv, one at a time; a row of another width is refused.

    Tab-separated text has no quoting: a quotation mark is a character like any other, so no row can swallow the next.
    """
    csv.field_size_limit(LONGEST_FIELD)
    form = dict(delimiter="\t", quoting=csv.QUOTE_NONE) if kind == ".tsv" else dict(delimiter=",", strict=True)
    reader = csv.reader(lines, **form)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise UserError(f"{where}: the header names a column twice: {header}.")
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{where}, line {reader.line_num}: {len(row)} fields, but the header has {len(header)} {header}. "
                    "Is a comma or a line break in a text without quotation marks?"
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{where}, line {reader.line_num}: {error}.") from error


READERS: dict[str, Callable[[Path], Records]] = {
    ".csv": _separated,
    ".tsv": _separated,
    ".jsonl": _json_lines,
}


def _holds_rows(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or any((folder / f"train{kind}").is_file() for kind in READERS)


def _file(folder: Path, split: str) -> tuple[str, str, Records]:
    """(its name for messages, its sha256, its rows)."""
    paths = [folder / f"{name}{kind}" for name in NAMES[split] for kind in READERS]
    found = [path for path in paths if path.is_file()]
    if len(found) != 1:
        problem = f"both {found[0].name} and {found[1].name}" if found else f"no {split} file"
        raise UserError(f"{folder} holds {problem}; exactly one of {', '.join(p.name for p in paths)} is needed.")
    [path] = found
    return str(path), hashlib.sha256(path.read_bytes()).hexdigest(), _decoded(path)


def _decoded(path: Path) -> Records:
    try:
        yield from READERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8.") from error


def _saved(folder: Path, split: str) -> tuple[str, str, Records]:
    """A split of a folder that `DatasetDict.save_to_disk` wrote; class numbers become their names."""
    import datasets

    try:
        splits = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot read the datasets folder {folder}: {error}.") from error
    names = [name for name in NAMES[split] if name in splits]
    if len(names) != 1:
        raise UserError(f"{folder} has the splits {list(splits)}; exactly one of {list(NAMES[split])} is needed.")
    rows = splits[names[0]]
    digest = hashlib.sha256()
    for path in sorted((folder / names[0]).glob("*.arrow")):
        digest.update(path.read_bytes())
    classes = {name: kind for name, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)}

    def records() -> Records:
        for number, record in enumerate(rows, start=1):
            yield number, record | {name: _class_name(kind, record[name]) for name, kind in classes.items()}

    return str(folder / names[0]), digest.hexdigest(), records()


def _class_name(kind, number: int | None) -> str:
    """An empty string for a row without a class (which `datasets` writes as None or -1)."""
    return kind.int2str(number) if number is not None and number >= 0 else ""


assert set(NAMES) == set(SPLITS)
