"""`ctsft evaluate`: how good are the answers?"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import ctsft
from ctsft.commands.options import OnTask, load_delta
from ctsft.commands.tuned import OnTuned
from ctsft.errors import UserError
from ctsft.tasks.form import other_prompt

if TYPE_CHECKING:
    from ctsft.models.load import Loaded
    from ctsft.tasks.task import Task
    from ctsft.tuning.delta import HeadDelta


@dataclass(frozen=True)
class Evaluate:
    """Accuracy with its interval, macro-F1 and calibration on a split; with --delta before and after."""

    using: OnTuned
    data: OnTask
    language: str
    """The language to answer in."""
    delta: str | None = None
    """Folder or hub id of a head delta."""
    split: Literal["train", "valid", "test"] = "test"
    """Which rows to answer."""

    def run(self) -> None:
        from ctsft.tuning.share import about_checkpoint

        delta = load_delta(self.delta) if self.delta else None  # first: a wrong name must not cost minutes of scoring
        task = self.data.load()
        checkpoint, tuned = about_checkpoint(self.using.model), delta.about if delta else {}
        for name, about in ((self.using.model, checkpoint), (self.delta, tuned)):
            if other := other_prompt(task, about):
                raise UserError(
                    f"{name} was tuned on another prompt: this one has {other}. Give the same --label-words, or the "
                    "task.json of that time; `ctsft predict` takes the prompt that it was tuned on by itself."
                )
        loaded = self.using.load()
        if delta:
            with delta.on(loaded.model):  # one of another checkpoint is refused here, before minutes of scoring
                pass
        self._answer("model", loaded, task, None, checkpoint, self.using.longest(checkpoint, tuned))
        if delta:
            self._answer("with delta", loaded, task, delta, tuned, self.using.longest(tuned, checkpoint))

    def _answer(
        self, name: str, loaded: Loaded, task: Task, delta: HeadDelta | None, about: dict, max_tokens: int
    ) -> None:
        with delta.on(loaded.model) if delta else contextlib.nullcontext():
            found = ctsft.evaluate(
                loaded,
                task,
                self.language,
                split=self.split,
                temperature=about.get("temperature", 1.0),
                max_tokens=max_tokens,
            )
        # A temperature is a promise about the language that it was fitted on, and about no other.
        fitted = f"calibrated on {about.get('language')}" if "temperature" in about else "not calibrated"
        seen = {"train": "the model was tuned"}
        if "temperature" in about:
            seen["valid"] = "the temperature was fitted"
        if about.get("language") == self.language and self.split in seen:
            fitted = f"no evidence: {seen[self.split]} on this split"
        print(f"{name}: {found}")
        print(f"{name}: calibration error {found.calibration_error:.3f} ({fitted})")
