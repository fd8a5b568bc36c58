"""`ctsft merge`: a checkpoint that plain transformers loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ctsft
from ctsft.commands.options import OnModel, load_delta


@dataclass(frozen=True)
class Merge:
    """Write the model with a head delta in it as a full checkpoint, which needs no ctsft to be loaded."""

    using: OnModel
    delta: str
    """Folder or hub id of a head delta."""
    output: Path
    """A new folder."""

    def run(self) -> None:
        from ctsft.tuning.share import new_folder

        new_folder(self.output)  # before the model is loaded
        delta = load_delta(self.delta)
        ctsft.merge(self.using.load(), delta, self.output)
        print(f"checkpoint: {self.output}")
