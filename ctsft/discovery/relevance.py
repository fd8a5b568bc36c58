"""Relevance of every head to the logits, and to the heads that a deeper circuit starts from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from ctsft.heads import Head
from ctsft.storage import write_atomic, write_json


@dataclass
class Relevance:
    """Signed scores, averaged over the scored rows.

    logits [layers, heads]: R(s) of every head s to the answer. columns[t] [layers, heads]: R(s, t) of every head s to
    an inner head t, zero where s does not come before t. `about` records scorer, rules, rows and model.
    """

    logits: np.ndarray
    columns: dict[Head, np.ndarray] = field(default_factory=dict)
    about: dict = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """`path`.json holds the scores to the logits and what they came from; .safetensors beside it, the columns."""
        columns = {str(target): np.ascontiguousarray(column) for target, column in sorted(self.columns.items())}
        write_atomic(path.with_suffix(".safetensors"), save(columns))
        scores = [[round(float(value), 9) for value in row] for row in self.logits]
        write_json(path.with_suffix(".json"), {**self.about, "logits": scores})

    @classmethod
    def load(cls, path: Path) -> Relevance:
        about = json.loads(path.with_suffix(".json").read_text())
        logits = np.array(about.pop("logits"))
        columns = {Head.parse(name): column for name, column in load_file(path.with_suffix(".safetensors")).items()}
        return cls(logits, columns, about)
