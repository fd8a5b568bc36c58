"""Relevance of every head to the logits, and to the heads that a deeper circuit starts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import floor, log10
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ctsft.heads import Head
from ctsft.storage import Damaged, digest, read_sealed, write_atomic, write_sealed

Ties = Literal["logits", "index"]
SCORE_ROWS = 48  # that the protocol scores


def files_of(path: str | Path) -> tuple[Path, Path]:
    """Of the scores at `path`, a name without ending or that of the first: what they are, and the columns."""
    path = Path(path)
    path = path.with_suffix("") if path.suffix == ".json" else path
    return path.with_name(f"{path.name}.json"), path.with_name(f"{path.name}.safetensors")


def _kept(value: float) -> float:
    """Nine decimals; of a smaller number nine digits, so that scores of any scale keep their order."""
    return round(value, max(9, 8 - floor(log10(abs(value))))) if value else 0.0


@dataclass
class Relevance:
    """Scores, averaged over the scored rows.

    logits [layers, heads]: R(s) of every head s to the answer. columns[t] [layers, heads]: R(s, t) of every head s to
    an inner head t, zero where s does not come before t. `about` records scorer, rules, rows and model. `ties`: what
    decides between heads of equal R to inner ones, R to the logits or the earlier place (as in files that do not say).
    """

    logits: np.ndarray
    columns: dict[Head, np.ndarray] = field(default_factory=dict)
    about: dict = field(default_factory=dict)
    ties: Ties = "logits"

    def save(self, path: str | Path) -> None:
        """`path`.json holds the scores to the logits and what they came from; .safetensors beside it, the columns."""
        columns = {str(target): np.ascontiguousarray(column) for target, column in sorted(self.columns.items())}
        content = save(columns)
        about_path, columns_path = files_of(path)
        write_atomic(columns_path, content)
        scores = [[_kept(float(value)) for value in row] for row in self.logits]
        about = {**self.about, "ties": self.ties, "columns_sha256": digest(content), "logits": scores}
        write_sealed(about_path, about)

    @classmethod
    def load(cls, path: str | Path) -> Relevance:
        """What `save` wrote, verified; Damaged names the file that is not it."""
        about_path, columns_path = files_of(path)
        about = read_sealed(about_path)
        if not columns_path.is_file():
            raise Damaged(f"{columns_path}, which belongs to {about_path.name}, is gone.")
        content = columns_path.read_bytes()
        if about.pop("columns_sha256", digest(content)) != digest(content):
            raise Damaged(f"{columns_path} is not the file that {about_path.name} was written with.")
        try:
            logits = np.array(about.pop("logits"), dtype=float)
            columns = {Head.parse(name): column for name, column in load(content).items()}
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise Damaged(f"{path}: the scores cannot be read ({error}).") from error
        shapes = {logits.shape, *(column.shape for column in columns.values())}
        finite = all(np.isfinite(scores).all() for scores in (logits, *columns.values()))
        whole = logits.ndim == 2 and len(shapes) == 1 and finite
        if not whole or any(not (0 <= t.layer < logits.shape[0] and 0 <= t.index < logits.shape[1]) for t in columns):
            raise Damaged(f"{path}: the scores are not one finite number for every head.")
        return cls(logits, columns, about, about.pop("ties", "index"))
