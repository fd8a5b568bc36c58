"""One loaded model and its data, and the states that its weights go through.

The model is loaded once. The stages of a study move it between three states (base, theta1 of a seed, a tuned cell),
always by writing weights in place; nothing is reloaded between cells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ctsft.errors import Failures
from ctsft.heads import Head
from ctsft.memory import failing_without_memory
from ctsft.models.load import device_of
from ctsft.models.precision import rounds
from ctsft.provenance import git_commit, gpu, now, versions
from ctsft.study.answering import Answering
from ctsft.study.competence import read_or_make
from ctsft.study.config import StudyConfig
from ctsft.study.grid import Cell
from ctsft.tasks.prompts import Encoded
from ctsft.tuning.arms import Arm, FurtherPretraining, get_arm, moving_slices, trainable, trained_weights
from ctsft.tuning.gradients import Job
from ctsft.tuning.loop import Gradients, Objective, Recipe, help_train, label_loss, text_loss, train
from ctsft.tuning.slices import read_slices, write_slices
from ctsft.tuning.team import team_on


@dataclass(frozen=True)
class Training:
    """One call of the training loop, as the other processes of a team need it to take part."""

    arm: Arm
    heads: list[Head]
    rows: Encoded
    micro_batch: int
    seed: int
    objective: Objective


class Workbench(Answering):
    """Holds the model, the data and the current state of the weights for `config`."""

    def __init__(self, config: StudyConfig):
        self.team = team_on(device_of(config.device))  # before the model: it says which GPU is this process's
        super().__init__(config)
        self.theta1_seed: int | None = None
        self.theta1: dict[str, Tensor] = {}
        self.failures, self.begun = Failures(), now()
        # What reading a target's texts led to: of which (target, seed, start, how), the weights, in how many seconds.
        self.read: tuple[tuple[str, int, str, FurtherPretraining], dict[str, Tensor], float] | None = None
        self.base = self.snapshot()

    # ---- weights ----------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}

    @torch.no_grad()
    def restore(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights[name])

    @contextmanager
    def tuned(
        self,
        cell: Cell,
        heads: list[Head],
        after_epoch: Callable[[int], None] | None = None,
        rows: Encoded | None = None,
    ) -> Iterator[tuple[int, float]]:
        """Tune the cell's arm on its target rows (or on `rows`); at the end theta1 is back, bit for bit (for an arm
        that does not start from it: the theta1 that was there, or the base model).

        Yields (number of trainable weights, seconds of training).
        """
        arm = get_arm(cell.arm)
        self.start_of(cell)
        policy = self.config.kv_policy
        moving = moving_slices(self.model, self.anatomy, arm, heads, policy)
        trained = trained_weights(self.model, self.anatomy, arm, heads, policy)
        everything = {piece.parameter for piece in moving} == self.base.keys()
        before = {} if everything else read_slices(self.model, moving)
        if arm.start == "base":
            self.restore(self.base)
        try:
            started = time.perf_counter()
            if arm.classifier is not None:
                rows = rows or self.training_rows(arm, cell)
                valid = self.prompts(cell.target, "valid")
                self.classifier = arm.classifier.fit(rows, valid, self.text_of)
                trained = self.classifier.weights
            if arm.first is not None:
                started -= self._read_target_text(arm, cell)
            if arm.uses_rate:
                rows = rows or self.training_rows(arm, cell)
                self.train_arm(arm, heads, rows, self.recipe(cell.lr), cell.seed, after_epoch)
            yield trained, time.perf_counter() - started
        finally:
            self.classifier = None
            if everything:
                self.restore(self.base if self.theta1_seed is None else self.theta1)
            else:
                write_slices(self.model, before)

    def _read_target_text(self, arm: Arm, cell: Cell) -> float:
        """Language modelling on the target's training texts, without their labels.

        It is the same for every rate and n, so what it led to is kept until another target or seed is read.
        Returns the seconds that are saved thereby, for an arm's time is that of all that it does.
        """
        wanted = (cell.target, cell.seed, arm.start, arm.first)
        if self.read is not None and self.read[0] == wanted:
            self.restore(self.read[1])
            return self.read[2]
        self.forget_reading()
        started = time.perf_counter()
        texts = self.texts(self.split(cell.target, "train").examples)
        recipe = replace(self.recipe(self.config.source_lr), epochs=arm.first.epochs)
        self.train_arm(get_arm("full"), [], texts, recipe, cell.seed, objective=text_loss)
        self.read = (wanted, self.snapshot(), time.perf_counter() - started)
        return 0.0

    def forget_reading(self) -> None:
        """Free the weights that are kept, a whole copy; the next cell that wants them reads again."""
        self.read = None

    def recipe(self, lr: float) -> Recipe:
        return Recipe(lr, self.config.epochs, self.config.batch_size, micro_batch=self.config.micro_batch)

    def train_arm(
        self,
        arm: Arm,
        heads: list[Head],
        rows: Encoded,
        recipe: Recipe,
        order_seed: int,
        after_epoch: Callable[[int], None] | None = None,
        objective: Objective = label_loss,
    ) -> None:
        policy = self.config.kv_policy
        training = Training(arm, heads, rows, recipe.micro_batch, order_seed, objective)
        weights = list(self.model.parameters())  # before the arm adds any
        with (
            self._checkpointing(),
            trainable(self.model, self.anatomy, arm, heads, policy, order_seed) as (parameters, held),
            self.team.leading(training, weights),
        ):
            gradients = self._gradients(parameters, training)

            def run(adjust: Callable[[], float] | None = None, look: Callable[[int], None] | None = None) -> None:
                train(gradients, recipe, order_seed, held.write_back, look, adjust)

            def look(epoch: int) -> None:
                with held.shown():
                    after_epoch(epoch)

            adjust = None
            if arm.gradient_rule is not None:
                source = self.encode(self.source_rows.by_id(self.competence_ids(order_seed)))
                trained = trained_weights(self.model, self.anatomy, arm, heads, policy)
                words, layout = self.label_tokens, self.loaded.layout
                job = Job(self.model, parameters, source, words, layout, self.autocast, trained, run)
                adjust = arm.gradient_rule.begin(job)
            run(adjust, after_epoch and look)

    def take_part(self, training: Training) -> None:
        """In the other processes of a team: do their share of what the first process trains in `train_arm`."""
        self.team.spread(self.model.parameters())
        policy = self.config.kv_policy
        with (
            self._checkpointing(),
            trainable(self.model, self.anatomy, training.arm, training.heads, policy, training.seed) as parts,
        ):
            parameters, held = parts
            help_train(self._gradients(parameters, training), held.write_back)

    def _gradients(self, parameters: list[nn.Parameter], training: Training) -> Gradients:
        return Gradients(
            self.model,
            parameters,
            training.rows,
            self.label_tokens,
            self.loaded.layout,
            self.autocast,
            training.micro_batch,
            training.objective,
            self.team,
        )

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """Recompute activations in backward passes, where --checkpointing asks for it."""
        if self.config.checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        try:
            yield
        finally:
            if self.config.checkpointing:
                self.model.activation_checkpointing_disable()

    # ---- stages -----------------------------------------------------------------------------------------------

    @cached_property
    def provenance(self) -> dict:
        """What every JSON file beside the results says of where it came from."""
        return {
            "model": self.loaded.name,
            "model_commit": self.loaded.commit,
            "data_sha256": self.data_sha256(),
            "versions": versions(),
            "git_commit": git_commit(),
            "device": str(self.device),
            **gpu(self.device),
            "dtype": self.config.dtype,
            "rounded_products": rounds(self.config.dtype, self.device),
        }

    def theta1_of(self, seed: int) -> dict:
        """Put the model into theta1 of `seed`: read it back if it was trained before, else train it.

        Returns what theta1 scores on the source: {"test_accuracy", "test_macro_f1", "test_predictions", ...}.
        """
        if self.theta1_seed != seed:
            self.theta1_seed = None
            self.forget_reading()
            make = failing_without_memory()(lambda: read_or_make(self, seed))
            about = self.failures.remember(f"theta1 of seed {seed}", make)
            self.theta1, self.theta1_seed, self.theta1_scores = self.snapshot(), seed, about
        return self.theta1_scores

    def start_of(self, cell: Cell) -> dict | None:
        """theta1 of the cell's seed, as in `theta1_of`, where its arm starts from it; None where it does not."""
        return self.theta1_of(cell.seed) if get_arm(cell.arm).start == "theta1" else None
