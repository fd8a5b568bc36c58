"""Tuning heads in a loop of one's own: any optimizer, any loss, any schedule."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

import torch
from torch import nn

from ctsft.errors import UserError, refuse_other
from ctsft.heads import Head, KVPolicy
from ctsft.models.load import Loaded, weight_hash
from ctsft.tuning.arms import get_arm, moving_slices, trainable
from ctsft.tuning.delta import HeadDelta
from ctsft.tuning.slices import write_slices


class HeadTuning:
    """While the block lasts, `heads` and the norms of `loaded` have gradients, and nothing else has.

        with HeadTuning(loaded, heads) as tuning:
            optimizer = tuning.follow(torch.optim.AdamW(tuning.parameters(), lr=1e-3))
            ...                                   # forward, backward, clip tuning.parameters(), optimizer.step()
        delta = tuning.delta()

    Gradients exist for the chosen slices alone, so clipping and accumulation see exactly these. Afterwards the model is
    tuned; `tuning.revert()` takes that back.
    """

    def __init__(self, loaded: Loaded, heads: Iterable[Head], kv_policy: KVPolicy = "shared"):
        refuse_other("kv_policy", kv_policy, KVPolicy)
        self.loaded, self.heads, self.kv_policy = loaded, sorted({Head(*head) for head in heads}), kv_policy
        self._arm = get_arm("circuit" if self.heads else "norm_only")
        self._slices = moving_slices(loaded.model, loaded.anatomy, self._arm, self.heads, kv_policy)
        self._before: HeadDelta | None = None
        self._inside = ExitStack()
        self._followed = self._ended = self._reverted = False

    def __enter__(self) -> HeadTuning:
        if self._before is not None:
            raise UserError("this tuning has run before; make a new HeadTuning for another one.")
        model = self.loaded.model
        self._before = HeadDelta.of(model, self._slices, weight_hash(model))
        parts = trainable(model, self.loaded.anatomy, self._arm, self.heads, self.kv_policy)
        self._parameters, self._compact = self._inside.enter_context(parts)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._inside.close()
        self._ended = True
        if kind is None and not self._followed:
            self.revert()  # the norms move in place, whoever follows
            raise UserError("no optimizer was followed, so the model saw no step: call follow(optimizer) before it.")

    def parameters(self) -> list[nn.Parameter]:
        """What to optimize and to clip."""
        return self._parameters

    def follow(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Let the model's forward pass see every step of `optimizer`, which is returned."""
        self._followed = True
        optimizer.register_step_post_hook(lambda *_: self._compact.write_back())
        return optimizer

    def delta(self, **about: object) -> HeadDelta:
        """What was tuned; `about` is kept beside it. Raises UserError before the block has ended, and after revert."""
        before = self._stood("delta")
        if before is None:
            raise UserError("nothing has been tuned yet.")
        if self._reverted:
            raise UserError("what was tuned has been taken back: call delta() before revert().")
        facts = {"heads": [str(head) for head in self.heads], "arm": self._arm.name, "kv_policy": self.kv_policy}
        return HeadDelta.of(self.loaded.model, self._slices, before.base, facts | about)

    def revert(self) -> None:
        """Put back what stood there before the block, bit for bit. Raises UserError inside the block."""
        if before := self._stood("revert"):
            write_slices(self.loaded.model, before.values)
            self._reverted = True

    def _stood(self, asked: str) -> HeadDelta | None:
        """What stood there before the block; None before it has begun."""
        if self._before is not None and not self._ended:
            raise UserError(f"inside the block the slices stand apart from the model: call {asked}() after it.")
        return self._before
