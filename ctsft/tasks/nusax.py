"""NusaX-Senti (Winata et al., EACL 2023): sentiment in 12 parallel languages, 500/100/400 rows each, CC BY-SA 4.0."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from ctsft.errors import UserError
from ctsft.tasks.download import fetch
from ctsft.tasks.formats import decode, separated
from ctsft.tasks.task import Example, Rows, Task

COMMIT = "75b0be5d982348332509f296e10d9bf9cb66d60f"
DATASETS = f"https://raw.githubusercontent.com/IndoNLP/nusax/{COMMIT}/datasets"
URL, LEXICON_URL = f"{DATASETS}/sentiment", f"{DATASETS}/lexicon"
LANGUAGES = (
    "acehnese balinese banjarese buginese english indonesian javanese madurese minangkabau ngaju sundanese toba_batak"
).split()
LABELS = ("negative", "neutral", "positive")
ROWS = {"train": 500, "valid": 100, "test": 400}


def parse_csv(content: str, where: str, labels: tuple[str, ...]) -> tuple[Example, ...]:
    """Rows of a CSV file with the columns id, text and label; a fault is named with its file and line."""
    examples = []
    for number, row in _rows(content, where, "id", "text", "label"):
        if not row["text"].strip():
            raise UserError(f"{where}, line {number}: the text is empty.")
        if row["label"] not in labels:
            raise UserError(f"{where}, line {number}: unknown label {row['label']!r}. Valid: {', '.join(labels)}.")
        examples.append(Example(row["id"], row["text"], labels.index(row["label"])))
    return tuple(examples)


def _rows(content: str, where: str, *columns: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The rows of a CSV file that has some, with these columns, each with its line."""
    number = 0
    for number, row in separated(io.StringIO(content, newline=""), where, ".csv"):
        missing = sorted(set(columns) - row.keys())
        if missing:
            raise UserError(f"{where}: the column '{missing[0]}' is missing; found {list(row)}.")
        yield number, row
    if not number:
        raise UserError(f"{where}: no rows below a header {','.join(columns)}.")


def read(language: str, split: str, data_dir: Path | None) -> Rows:
    """Read DATA_DIR/nusax_senti/<language>/<split>.csv, or download the published file at its pinned commit."""
    path = _download(language, split) if data_dir is None else data_dir / "nusax_senti" / language / f"{split}.csv"
    if not path.is_file():
        raise UserError(
            f"no file {path}. --data-dir must hold nusax_senti/<language>/{{train,valid,test}}.csv, as published at "
            f"github.com/IndoNLP/nusax in datasets/sentiment (commit {COMMIT[:7]})."
        )
    content = path.read_bytes()
    examples = parse_csv(decode(content, str(path)), str(path), LABELS)
    if len(examples) != ROWS[split]:
        raise UserError(f"{path}: {len(examples)} rows, but NusaX has {ROWS[split]} in {split}. Fetch the file again.")
    return Rows(language, split, examples, hashlib.sha256(content).hexdigest())


def dictionary(source: str, target: str, data_dir: Path | None) -> dict[str, tuple[str, ...]]:
    """The published sentiment lexicon from Indonesian, DATA_DIR/nusax_lexicon/<target>.csv, or a download of it.

    Single words and their translations, in lower case; phrases on the Indonesian side are left out.
    """
    if source != "indonesian":
        raise UserError(f"the lexicons of NusaX translate from Indonesian, not from {source}. Leave out that arm.")
    path = _download_lexicon(target) if data_dir is None else data_dir / "nusax_lexicon" / f"{target}.csv"
    if not path.is_file():
        raise UserError(
            f"no file {path}. The arms with a lexicon need nusax_lexicon/<language>.csv in --data-dir, as published at "
            f"github.com/IndoNLP/nusax in datasets/lexicon (commit {COMMIT[:7]}). Leave those arms out, or fetch it."
        )
    found: dict[str, dict[str, None]] = {}
    for _, row in _rows(decode(path.read_bytes(), str(path)), str(path), source, target):
        word, translation = (row[language].strip().lower() for language in (source, target))
        if word and translation and " " not in word:
            found.setdefault(word, {})[translation] = None
    return {word: tuple(translations) for word, translations in found.items()}


def openings(language: str) -> list[tuple[str, str, str]]:
    """Who speaks, before the text: a name or a group, which are the same words in every language of the task."""
    pairs = (
        ("name, man or woman", "Budi", "Siti"),
        ("name, Muslim or Christian", "Ahmad", "Yohanes"),
        ("name, Javanese or Batak", "Joko", "Tigor"),
        ("group, Muslim or Christian", "Muslim", "Kristen"),
        ("group, Javanese or Batak", "Jawa", "Batak"),
    )
    return [(kind, f"{one}: ", f"{other}: ") for kind, one, other in pairs]


def checksum(language: str, split: str) -> str:
    """The sha256 of a file as published: of a language's split, or of the `lexicon` of a language."""
    published = json.loads(files("ctsft.tasks").joinpath("nusax_sha256.json").read_text())
    return published[f"{language}/{split}.csv"]


def _download(language: str, split: str) -> Path:
    return fetch(f"{URL}/{language}/{split}.csv", checksum(language, split))


def _download_lexicon(language: str) -> Path:
    return fetch(f"{LEXICON_URL}/{language}.csv", checksum("lexicon", language))


NUSAX = Task(
    published=True,
    name="nusax",
    languages=tuple(LANGUAGES),
    labels=LABELS,
    label_words=tuple(f" {label}" for label in LABELS),
    template="{text} | sentiment:",
    read=read,
    checksum=checksum,
    dictionary=dictionary,
    openings=openings,
)
