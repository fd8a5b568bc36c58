"""XNLI (Conneau et al., EMNLP 2018): does a premise entail a hypothesis? 15 parallel languages. CC BY-NC 4.0.

Its training rows are machine-translated, so the paper's split takes rows that people translated: 500 train and 100
valid rows from the published dev file, 400 test rows from the test file, the same ids in every language. Three rows
share a premise, and they stay together: no premise is in two splits, or in both pools of a split.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
from huggingface_hub import hf_hub_download

from ctsft.errors import UserError, first_line
from ctsft.hub import HUB_ERRORS, hub_answers
from ctsft.tasks import formats
from ctsft.tasks.task import Example, Rows, Task

REPOSITORY, REVISION = "facebook/xnli", "b8dd5d7af51114dbda02c0e3f6133f332186418e"
CODES = {
    "arabic": "ar",
    "bulgarian": "bg",
    "german": "de",
    "greek": "el",
    "english": "en",
    "spanish": "es",
    "french": "fr",
    "hindi": "hi",
    "russian": "ru",
    "swahili": "sw",
    "thai": "th",
    "turkish": "tr",
    "urdu": "ur",
    "vietnamese": "vi",
    "chinese": "zh",
}
Lines = list[tuple[int, Mapping]]  # (line, fields by name)
LABELS = ("entailment", "neutral", "contradiction")
# Rows of a file: of one cut short other rows would be drawn than in other languages.
PUBLISHED = {"dev": 2490, "test": 5010}
# The file, and which of its rows (in the order of `shuffled`): the paper's sizes.
SPLITS = {"train": ("dev", 0, 500), "valid": ("dev", 501, 601), "test": ("test", 0, 400)}


def parse(lines: Iterable[tuple[int, Mapping]], where: str) -> list[Example]:
    """Rows with premise, hypothesis and label, each with its line; a fault is named with its file and line."""
    examples = []
    for number, row in lines:
        for name in ("premise", "hypothesis", "label"):
            if not isinstance(row.get(name), str) or not row[name].strip():
                raise UserError(f"{where}, line {number}: the field '{name}' is missing or empty.")
        if row["label"] not in LABELS:
            raise UserError(
                f"{where}, line {number}: unknown label {row['label']!r}. Valid: {', '.join(LABELS)}; rows that "
                "annotators could not agree on ('-') must be left out."
            )
        identity = str(row.get("pair_id", number))
        label, premise = LABELS.index(row["label"]), str(row.get("prompt_id", identity))
        examples.append(Example(identity, row["premise"], label, row["hypothesis"], premise))
    return examples


def shuffled(examples: list[Example]) -> list[Example]:
    """The rows premise by premise, in an order that depends on the ids alone: the same in every language."""
    return sorted(examples, key=lambda e: (hashlib.sha256(f"xnli:{e.group}".encode()).digest(), e.group, e.label))


def read(language: str, split: str, data_dir: Path | None) -> Rows:
    """Read DATA_DIR/xnli/<code>.{dev,test}.jsonl.gz, or the hub's Parquet files; the paper's rows, balanced."""
    code, (file, start, stop) = CODES[language], SPLITS[split]
    content, lines, where = _hub(code, file) if data_dir is None else _folder(data_dir, code, file)
    whole = parse(lines, where)
    if len(whole) != PUBLISHED[file]:
        raise UserError(f"{where}: {len(whole)} rows; the published file has {PUBLISHED[file]}. Take it whole.")
    chosen = shuffled(whole)[start:stop]
    counts = Counter(example.label for example in chosen)
    if max(counts.values()) - min(counts.values()) > 1:
        raise UserError(f"{where}: {len(chosen)} rows with {dict(counts)} of each label; XNLI's files are balanced.")
    return Rows(language, split, tuple(chosen), hashlib.sha256(content).hexdigest())


def _folder(data_dir: Path, code: str, file: str) -> tuple[bytes, Lines, str]:
    path = data_dir / "xnli" / f"{code}.{file}.jsonl.gz"
    if not path.is_file():
        raise UserError(
            f"no file {path}. --data-dir must hold xnli/<code>.{{dev,test}}.jsonl.gz: one JSON object a line with "
            "pair_id, prompt_id, premise, hypothesis and label. Without --data-dir the hub's files are taken."
        )
    return path.read_bytes(), json_lines(path), str(path)


def json_lines(path: Path) -> Lines:
    """The objects of a gzipped JSON lines file, each with its line; a faulty line is named."""
    rows: Lines = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows.extend(formats.json_lines(file, str(path)))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"{path}, after line {len(rows)}: not gzipped JSON lines ({error}).") from error
    return rows


def _hub(code: str, file: str) -> tuple[bytes, Lines, str]:
    """The hub's Parquet file has no ids: three rows in turn share a premise, and the row number stands for the pair."""
    name = f"{code}/{'validation' if file == 'dev' else 'test'}-00000-of-00001.parquet"
    try:
        offline = not hub_answers()
        path = hf_hub_download(REPOSITORY, name, repo_type="dataset", revision=REVISION, local_files_only=offline)
        content = Path(path).read_bytes()
    except HUB_ERRORS as error:
        raise UserError(
            f"cannot download XNLI ({REPOSITORY}, {name}): {first_line(error)} Give a folder that holds xnli/ "
            "with --data-dir (or CTSFT_DATA_DIR), and a local model with --model."
        ) from error
    frame = pd.read_parquet(io.BytesIO(content))
    lines = [
        {
            "pair_id": str(number),
            "prompt_id": str(number // 3),
            "premise": row.premise,
            "hypothesis": row.hypothesis,
            "label": LABELS[row.label] if 0 <= row.label < len(LABELS) else "-",
        }
        for number, row in enumerate(frame.itertuples())
    ]
    return content, list(enumerate(lines, start=1)), f"{REPOSITORY}@{REVISION[:12]}/{name}"


def more_source_rows(language: str, data_dir: Path | None) -> Rows:
    """English rows of MultiNLI for a start that 400 rows cannot give: DATA_DIR/mnli_subset/train.jsonl.gz."""
    if language != "english" or data_dir is None:
        raise UserError("more source rows than pool A has are there for English alone, from --data-dir's mnli_subset/.")
    path = data_dir / "mnli_subset" / "train.jsonl.gz"
    if not path.is_file():
        raise UserError(f"no file {path}, which holds the source rows beyond pool A. Ask for fewer source rows.")
    examples = [Example(f"mnli-{e.id}", e.text, e.label, e.pair) for e in parse(json_lines(path), str(path))]
    return Rows(language, "mnli", tuple(examples), hashlib.sha256(path.read_bytes()).hexdigest())


XNLI = Task(
    published=True,
    name="xnli",
    languages=tuple(CODES),
    labels=LABELS,
    label_words=(" entail", " neutral", " contradiction"),
    template="Premise: {text} Hypothesis: {pair} Label:",
    read=read,
    more_source_rows=more_source_rows,
)
