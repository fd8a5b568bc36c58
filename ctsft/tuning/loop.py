"""The one training loop: AdamW, linear decay after a warm-up, clipping, loss on the label token (or on all text)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctsft.errors import CellFailed, UserError
from ctsft.memory import with_less
from ctsft.models.precision import with_gradients
from ctsft.tasks.prompts import Encoded, Layout, by_length, pad_left
from ctsft.tuning.team import ALONE, Team


@dataclass(frozen=True)
class Recipe:
    """How to train: the protocol's values are the defaults. `micro_batch` rows go through the model at a time.

    `warmup`: the share of all steps in which the rate rises. `clip`: the largest norm of a step's whole gradient (inf:
    any). Raises UserError for a rate that is no finite number above zero, for counts below 1, and for a warm-up, clip
    or decay that cannot be meant.
    """

    lr: float = 5e-5
    epochs: int = 5
    batch_size: int = 16
    warmup: float = 0.1
    clip: float = 1.0
    weight_decay: float = 0.0
    micro_batch: int = 4

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 0 < self.lr < math.inf:  # so that NaN is refused too
            raise UserError(f"the learning rate is {self.lr}; it must be a finite number above zero.")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"warmup is {self.warmup}; it is a share of all steps, from 0 to 1.")
        if not self.clip > 0:
            raise UserError(f"clip is {self.clip}; no weight would move. Give inf to clip nothing.")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay is {self.weight_decay}; it must be a finite number, at least zero.")


def learning_rate_factor(step: int, total: int, warmup: float) -> float:
    """Linear warm-up over `warmup` of the steps, then linear decay to zero."""
    rising = max(1, math.ceil(warmup * total))
    return min((step + 1) / rising, (total - step) / max(1, total - rising + 1))


Objective = Callable[[nn.Module, Encoded, Sequence[int], Layout, torch.autocast], Tensor]


def label_loss(
    model: nn.Module, rows: Encoded, label_tokens: Sequence[int], layout: Layout, autocast: torch.autocast
) -> Tensor:
    """Cross-entropy of the label token (over the whole vocabulary) at the label position, summed over rows."""
    device = next(model.parameters()).device
    gold = torch.tensor([label_tokens[label] for label in rows.labels], device=device)
    with autocast:
        logits = model(**pad_left(rows.prompts, layout, device), logits_to_keep=1, use_cache=False).logits[:, -1]
    return nn.functional.cross_entropy(logits.float(), gold, reduction="sum")


def text_loss(
    model: nn.Module, rows: Encoded, label_tokens: Sequence[int], layout: Layout, autocast: torch.autocast
) -> Tensor:
    """Language modelling: of every row the mean cross-entropy of its tokens after the first, summed over rows."""
    losses, real = token_losses(model, rows.prompts, layout, autocast)
    return (losses.sum(-1) / real.sum(-1).clamp(min=1)).sum()


def token_losses(
    model: nn.Module, texts: Sequence[Sequence[int]], layout: Layout, autocast: torch.autocast
) -> tuple[Tensor, Tensor]:
    """-log p of every token given those before it, in nats [B, T - 1], and which of them are real.

    Zero at pads and at a text's first token, which nothing comes before.
    """
    batch = pad_left(texts, layout, next(model.parameters()).device)
    with autocast:
        logits = model(**batch, use_cache=False).logits[:, :-1]
    following = batch["input_ids"][:, 1:]
    # A row per token: with the vocabulary in the middle, torch walks through memory across it, which is slow.
    losses = nn.functional.cross_entropy(logits.float().flatten(0, 1), following.flatten(), reduction="none")
    losses = losses.view_as(following)
    real = batch["attention_mask"][:, :-1] == 1
    return losses * real, real


def train(
    gradients: Gradients,
    recipe: Recipe,
    order_seed: int,
    after_step: Callable[[], None],
    after_epoch: Callable[[int], None] | None = None,
    adjust: Callable[[], float] | None = None,
) -> None:
    """Minimise the objective of `gradients` over its parameters, on its rows in an order of `order_seed`.

    `adjust` is called when the gradients are whole and not clipped yet: it may change them, and returns what it adds to
    the loss. `after_epoch` is called with 1, 2, ... and the model in evaluation mode. The first process of a team
    calls this; the others call `help_train`. Raises CellFailed when a loss or a gradient is not finite.
    """
    model, parameters, n_rows = gradients.model, gradients.parameters, len(gradients.rows)
    # Fused, and nothing compiled: a short run does not win back what torch.compile takes for every shape of a batch.
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    generator = torch.Generator().manual_seed(order_seed)
    total = recipe.epochs * math.ceil(n_rows / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, total, recipe.warmup)
    )
    steps = 0
    model.train()
    try:
        for epoch in range(1, recipe.epochs + 1):
            order = torch.randperm(n_rows, generator=generator).tolist()
            for start in range(0, n_rows, recipe.batch_size):
                batch = order[start : start + recipe.batch_size]
                gradients.team.announce(batch, parameters)
                loss = gradients.of(batch)
                if adjust is not None:
                    loss += adjust()
                # A loss may be finite where its gradient is not, and one step would leave no finite weight.
                size = float(torch.nn.utils.clip_grad_norm_(parameters, recipe.clip))
                for what, value in (("loss", loss), ("gradient", size)):
                    if not math.isfinite(value):
                        step = f"step {steps + 1} of {total}"
                        raise CellFailed(f"the {what} became {value} at {step}; try a lower learning rate")
                optimizer.step()
                after_step()
                schedule.step()
                steps += 1
            if after_epoch is not None:
                model.eval()
                after_epoch(epoch)
                model.train()
    finally:
        model.eval()


@dataclass
class Gradients:
    """The gradient of a batch, taken on `micro_batch` rows at a time (fewer where memory runs out).

    `objective`: by default the cross-entropy of the label token at the label position.
    """

    model: nn.Module
    parameters: Sequence[nn.Parameter]
    rows: Encoded
    label_tokens: Sequence[int]
    layout: Layout
    autocast: torch.autocast
    micro_batch: int
    objective: Objective = label_loss
    team: Team = ALONE

    def of(self, batch: Sequence[int]) -> float:
        """Leave the gradient of the mean loss of the rows numbered `batch` in the parameters; returns that loss.

        The batch is cut into micro-batches of rows of similar length; their losses are summed and divided by the size
        of the batch, so the gradient is that of the whole batch while little of the work is padding. Of a team, every
        process calls this with the same numbers.
        """
        rows = self.rows.subset(batch)
        mine = rows.subset(self.team.own([i for [i] in by_length(rows.prompts, 1)]))

        def run(size: int) -> tuple[float, int]:
            for parameter in self.parameters:
                parameter.grad = None  # also what a try without enough memory left behind
            return self._accumulate(mine, size, len(rows)), size

        def gradients() -> float:
            loss, self.micro_batch = with_less(
                run,
                self.micro_batch,
                "train on one row at a time; shorter prompts, or --checkpointing in a study, take less",
            )
            return loss

        return self.team.summed(self.parameters, gradients)

    def _accumulate(self, rows: Encoded, micro_batch: int, whole: int) -> float:
        """Backward through rows of a batch of `whole`, by micro-batches; returns their part of its mean loss."""
        total = 0.0
        with with_gradients(self.autocast):
            for group in by_length(rows.prompts, micro_batch):
                asked = self.model, rows.subset(group), self.label_tokens, self.layout, self.autocast
                loss = self.objective(*asked) / whole
                loss.backward()
                total += loss.item()
        return total


def help_train(gradients: Gradients, after_step: Callable[[], None]) -> None:
    """What the other processes of a team do while the first calls `train`: they take their share of every batch."""
    team = gradients.team
    gradients.model.train()
    try:
        while (batch := team.receive()) is not None:
            team.spread(gradients.parameters)
            after_step()
            try:
                gradients.of(batch)
            except CellFailed:
                continue  # the first process has it too, and goes on to another cell
    finally:
        gradients.model.eval()
