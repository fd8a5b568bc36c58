"""SmSA (IndoNLU, Wilie et al., AACL 2020): sentiment of Indonesian reviews, a task related to NusaX-Senti. Apache-2.0.

NusaX was drawn from SmSA, so rows that are in NusaX (word overlap of one half or more) are left out here.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

from ctsft.errors import UserError
from ctsft.tasks.download import fetch
from ctsft.tasks.formats import decode
from ctsft.tasks.nusax import LABELS, NUSAX
from ctsft.tasks.task import SPLITS, Example, Rows, Task

COMMIT = "ce728f6926a36174b9923dfe49d6a6839b6e9bb7"
URL = f"https://raw.githubusercontent.com/IndoNLP/indonlu/{COMMIT}/dataset/smsa_doc-sentiment-prosa"
OVERLAP = 0.5


def read(language: str, split: str, data_dir: Path | None) -> Rows:
    """Read DATA_DIR/smsa/<split>.no_nusax.tsv.gz (text TAB label, no header), or download and filter the original."""
    if data_dir is None:
        content = fetch(f"{URL}/{split}_preprocess.tsv", None).read_bytes()
        where = f"{split}_preprocess.tsv"
        text = decode(content, where)
    else:
        path = data_dir / "smsa" / f"{split}.no_nusax.tsv.gz"
        if not path.is_file():
            raise UserError(
                f"no file {path}. The probe smsa/indonesian needs it: text TAB label, gzipped, without the rows that "
                "are in NusaX. Put it there, leave the probe out, or give no data folder: then it is downloaded."
            )
        content = path.read_bytes()
        where = str(path)
        try:
            text = decode(gzip.decompress(content), where)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{where}: not a whole gzip file ({error}). Fetch it again.") from error
    examples = parse_tsv(text, where, f"{split}-")
    if data_dir is None:
        examples = without_nusax(examples)
    return Rows(language, split, tuple(examples), hashlib.sha256(content).hexdigest())


def parse_tsv(content: str, where: str, prefix: str) -> list[Example]:
    """One row a line, text TAB label; a fault is named with its file and line."""
    examples = []
    for number, line in enumerate(content.rstrip("\n").split("\n"), start=1):
        text, tab, label = line.rpartition("\t")
        if not tab or not text.strip() or label not in LABELS:
            raise UserError(f"{where}, line {number}: expected text TAB label, the label one of {', '.join(LABELS)}.")
        examples.append(Example(f"{prefix}{number}", text, LABELS.index(label)))
    return examples


def without_nusax(examples: list[Example], data_dir: Path | None = None) -> list[Example]:
    """The rows that share less than half of their words (Jaccard) with every Indonesian row of NusaX."""
    known = [
        set(example.text.lower().split())
        for split in SPLITS
        for example in NUSAX.load("indonesian", split, data_dir).examples
    ]

    def overlap(words: set[str]) -> float:
        return max(len(words & other) / len(words | other) for other in known)

    return [example for example in examples if overlap(set(example.text.lower().split())) < OVERLAP]


SMSA = Task(
    published=True,
    name="smsa",
    languages=("indonesian",),
    labels=LABELS,
    label_words=NUSAX.label_words,
    template=NUSAX.template,
    read=read,
)
