"""The files measures/<cell>.json: what script 06 leaves beside a row, as it is kept and read without a model.

One file per cell; of an arm's learning rates, the one that validation prefers (see preferred.py). "Before" is not in
it: the file of zero_shot's cell has the same of theta1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.special import softmax

from ctsft.storage import Damaged, read_or_aside, read_sealed
from ctsft.tasks.task import from_digits

MEASURES = {"target_probabilities", "train_accuracy", "related", "bits_per_byte", "audit"}


def path_of(folder: Path, key: str) -> Path:
    return folder / "measures" / f"{key}.json"


def measured(folder: Path) -> set[str]:
    """The cells that have a file."""
    return {path.stem for path in (folder / "measures").glob("*.json")}


def read_measures(folder: Path) -> dict[str, dict]:
    """All files, by cell; Damaged names one that is not what was written."""
    return {path.stem: read_measure(path) for path in sorted((folder / "measures").glob("*.json"))}


def measures_of(folder: Path, predictions: Mapping[str, str]) -> dict[str, dict]:
    """The files of cells with these answers on the target, by cell.

    Where a row was known and its cell was tuned again, as on another machine, the measures may be of a model that
    answers otherwise: such a file is none of the row's, and left out.
    """
    found = read_measures(folder)
    return {cell: found[cell] for cell in found.keys() & predictions.keys() if _answers(found[cell], predictions[cell])}


def read_measure(path: Path) -> dict:
    content = read_sealed(path)
    if not content.keys() >= MEASURES:
        raise Damaged(f"{path} lacks some of a cell's measures.")
    return content


def related_by_cell(folder: Path) -> dict[str, set[str]]:
    """The related tests in each cell's file; a damaged file is set aside, and its cell has none."""
    paths = sorted((folder / "measures").glob("*.json"))
    return {path.stem: set(known["related"]) for path in paths if (known := read_or_aside(path, read_measure))}


def _thousandths(text: str) -> np.ndarray:
    return np.array([int(text[i : i + 3]) for i in range(1, len(text), 3)])


def _answers(content: dict, predictions: str) -> bool:
    """Whether no answer is less likely than another label by more than rounding: probabilities are thousandths."""
    given = from_digits(predictions)
    values = _thousandths(content["target_probabilities"]).reshape(len(given), -1)
    return bool((values[np.arange(len(given)), given] >= values.max(-1) - 1).all())


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the label words [N, C]; a label of logit -inf has probability 0."""
    return softmax(logits.astype(np.float64), axis=-1)


def per_mille(values: np.ndarray) -> str:
    """`p` and three digits a probability [N, C], row by row; 1 is written as 999."""
    return "p" + "".join(f"{min(999, round(1000 * value)):03d}" for value in values.ravel().tolist())


def from_per_mille(text: str, n_labels: int) -> np.ndarray:
    """The probabilities [N, C], each row summing to one again."""
    values = _thousandths(text).reshape(-1, n_labels)
    return values / values.sum(-1, keepdims=True)
