"""The forms that files of rows have: CSV, TSV, JSON lines, and what `datasets` saves."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from ctsft.errors import UserError

Records = Iterator[tuple[int, Mapping[str, object]]]  # (line, fields by name)
LONGEST_FIELD = 2**24  # characters; the csv module's own limit of 131,072 is shorter than some documents
NAMES = {"train": ("train",), "valid": ("valid", "validation", "dev"), "test": ("test",)}


def decode(content: bytes, where: str) -> str:
    """The text of a file, which must be UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{where}, line {line}: not UTF-8 ({error.reason}). Save the file as UTF-8.") from error


def parsed(text: str, where: str, expected: str) -> object:
    """The JSON value of a text; UserError for what is none, or holds half of a character, which no file could keep."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: half of a character (a lone surrogate), as of a cut emoji.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}). {expected}") from error
    return value


def json_lines(lines: Iterable[str], where: str, kind: str = ".jsonl") -> Records:
    """One object a line; empty lines are passed over."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = parsed(line, f"{where}, line {number}", "One object a line is expected.")
        if not isinstance(record, dict):
            raise UserError(f"{where}, line {number}: expected an object with text and label.")
        yield number, record


def separated(lines: Iterable[str], where: str, kind: str) -> Records:
    """Rows of text with a header, .csv or .tsv, one at a time; a row of another width is refused.

    Tab-separated text has no quoting: a quotation mark is a character like any other, so no row can swallow the next.
    Under a header of one column an empty line is a row with an empty field; under a longer one it is no row.
    """
    csv.field_size_limit(LONGEST_FIELD)
    form = dict(delimiter="\t", quoting=csv.QUOTE_NONE) if kind == ".tsv" else dict(delimiter=",", strict=True)
    reader = csv.reader(lines, **form)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise UserError(f"{where}: the header names a column twice: {header}.")
        for row in reader:
            if not row and len(header) == 1:
                row = [""]
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


READERS: dict[str, Callable[[Iterable[str], str, str], Records]] = {
    ".csv": separated,
    ".tsv": separated,
    ".jsonl": json_lines,
}


def split_of(folder: Path, split: str) -> tuple[str, str, Records]:
    """A split in a language's folder, in whatever form: (its name for messages, its sha256, its rows)."""
    return _saved(folder, split) if (folder / "dataset_dict.json").is_file() else _file(folder, split)


def holds_rows(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or any((folder / f"train{kind}").is_file() for kind in READERS)


def _file(folder: Path, split: str) -> tuple[str, str, Records]:
    paths = [folder / f"{name}{kind}" for name in NAMES[split] for kind in READERS]
    found = [path for path in paths if path.is_file()]
    if len(found) != 1:
        problem = f"both {found[0].name} and {found[1].name}" if found else f"no {split} file"
        raise UserError(f"{folder} holds {problem}; exactly one of {', '.join(p.name for p in paths)} is needed.")
    [path] = found
    content = path.read_bytes()
    return str(path), hashlib.sha256(content).hexdigest(), _decoded(path, content)


def _decoded(path: Path, content: bytes) -> Records:
    text = decode(content, str(path)).removeprefix("\ufeff")
    yield from READERS[path.suffix](io.StringIO(text, newline=""), str(path), path.suffix)


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
