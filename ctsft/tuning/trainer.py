"""The Hugging Face Trainer, tuning only heads and norms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from transformers.trainer_utils import TrainOutput

from ctsft.errors import UserError
from ctsft.heads import Head, KVPolicy
from ctsft.models.load import Loaded
from ctsft.tuning.delta import HeadDelta
from ctsft.tuning.own_loop import HeadTuning

if TYPE_CHECKING:
    from transformers import Trainer as _Before  # what a mixin's `super()` is, once it stands before one
else:
    _Before = object


class HeadTrainerMixin(_Before):
    """Put it before Trainer, or a trainer of your own; `loaded` and `heads` take the place of the model.

        class HeadTrainer(HeadTrainerMixin, Trainer): ...

        trainer = HeadTrainer(loaded=model, heads=heads, args=TrainingArguments(..., save_strategy="no"), ...)
        trainer.train()
        delta = trainer.head_delta(language="javanese")

    Loss, schedule, accumulation, clipping and logging stay the trainer's own: it sees a model in which only the chosen
    slices have gradients. Checkpoints in between are refused, because the slices stand apart while they are tuned.
    """

    def __init__(
        self, *args: Any, loaded: Loaded, heads: Iterable[Head], kv_policy: KVPolicy = "shared", **kwargs: Any
    ) -> None:
        self.tuning = HeadTuning(loaded, heads, kv_policy)
        super().__init__(loaded.model, *args, **kwargs)
        if self.args.save_strategy != "no":
            raise UserError('set save_strategy="no" and keep head_delta() instead of checkpoints.')
        if self.args.n_gpu > 1:
            raise UserError(
                "the Trainer would copy the model to several GPUs, and the tuned slices are in one. Show it one (with "
                "CUDA_VISIBLE_DEVICES=0), or start one process a GPU with torchrun."
            )
        if self.optimizer is not None:
            raise UserError("give no ready optimizer, because the weights to tune exist only while train() runs.")

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        model = self.tuning.loaded.model
        try:
            with self.tuning:
                return super().train(*args, **kwargs)
        finally:
            # accelerate leaves its autocast in the model, where it would go on to answer questions of others.
            for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
                vars(model).pop(name, None)
            model.eval()

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        return self.tuning.follow(super().create_optimizer(*args, **kwargs))

    def head_delta(self, **about: object) -> HeadDelta:
        """What was tuned; `about` is kept beside it."""
        return self.tuning.delta(**about)
