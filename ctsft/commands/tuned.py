"""A model that may have been tuned before, and then answers prompts of the length that it was tuned on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctsft.commands.options import OnModel
from ctsft.tasks.form import other_prompt
from ctsft.tasks.task import MAX_TOKENS

if TYPE_CHECKING:
    from ctsft.tasks.task import Task


@dataclass(frozen=True)
class OnTuned(OnModel):
    """The model, and where it runs."""

    max_tokens: int | None = None
    """Longest prompt; the text is cut, never the label field. Without it, that of the tuning, else 128."""

    def longest(self, *about: Mapping) -> int:
        """The flag, else what the first that has it of `about` (a delta, a checkpoint) was tuned and calibrated at."""
        if self.max_tokens is not None:
            return self.max_tokens
        return next((known["max_tokens"] for known in about if "max_tokens" in known), MAX_TOKENS)

    def tell_other_prompt(self, task: Task) -> None:
        """A note where the checkpoint was tuned on this task by another prompt or other label words."""
        from ctsft.tuning.share import about_checkpoint

        if other := other_prompt(task, about_checkpoint(self.model)):
            print(f"note: {self.model} was tuned on another prompt: this one has {other}. See --label-words, task.json")

    def longest_of_checkpoint(self) -> int:
        from ctsft.tuning.share import about_checkpoint

        return self.longest(about_checkpoint(self.model))
