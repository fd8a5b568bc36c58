"""A model that may have been tuned before, and then answers prompts of the length that it was tuned on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ctsft.commands.options import OnModel
from ctsft.tasks.task import MAX_TOKENS


@dataclass(frozen=True)
class OnTuned(OnModel):
    """The model, and where it runs."""

    max_tokens: int | None = None
    """Longest prompt; the text is cut, never the label field. Without it, that of the tuning that made the delta or
    checkpoint, else 128."""

    def longest(self, *about: Mapping) -> int:
        """The flag, else what the first that has it of `about` (a delta, a checkpoint) was tuned and calibrated at."""
        if self.max_tokens is not None:
            return self.max_tokens
        return next((known["max_tokens"] for known in about if "max_tokens" in known), MAX_TOKENS)

    def longest_of_checkpoint(self) -> int:
        from ctsft.tuning.share import about_checkpoint

        return self.longest(about_checkpoint(self.model))
