"""Rules that change the gradients of a tuning: penalties add to them, masks zero some. A new rule is one dataclass.

`begin` is called before the first step and returns what the loop calls on whole gradients before they are clipped; what
that returns is added to the loss. A penalty is compared with other arms at the one strength that bears its name; the
variants that `arms.py` lists stand beside it in the tables of every learning rate, and nothing is chosen among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from ctsft.models.precision import with_gradients
from ctsft.tasks.prompts import Encoded, Layout
from ctsft.tuning.loop import label_loss


@dataclass(frozen=True)
class Job:
    """One cell's tuning as a rule sees it.

    `source`: the rows that theta1 was tuned on. `weights`: how many weights the arm may train. `train()` does the whole
    tuning without the rule.
    """

    model: nn.Module
    parameters: Sequence[nn.Parameter]
    source: Encoded
    label_tokens: Sequence[int]
    layout: Layout
    autocast: torch.autocast
    weights: int
    train: Callable[[], object]


class GradientRule(Protocol):
    def begin(self, job: Job) -> Callable[[], float]: ...


def copies(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


@torch.no_grad()
def _pull(parameters: Sequence[nn.Parameter], start: Sequence[Tensor], weights: Sequence[Tensor | float]) -> float:
    """Add the gradient of 1/2 sum w (p - start)^2 to every parameter's own; returns that sum."""
    value = 0.0
    for parameter, then, weight in zip(parameters, start, weights, strict=True):
        if parameter.grad is not None:
            moved = parameter - then
            force = moved * weight
            parameter.grad.add_(force)
            value += 0.5 * float((moved * force).sum())
    return value


@dataclass(frozen=True)
class L2SP:
    """A penalty on the squared distance from theta1 (L2-SP, Li et al., ICML 2018): strength / 2 |p - theta1|^2."""

    strength: float

    def begin(self, job: Job) -> Callable[[], float]:
        start = copies(job.parameters)
        return lambda: _pull(job.parameters, start, [self.strength] * len(start))


@dataclass(frozen=True)
class EWC:
    """Elastic weight consolidation (Kirkpatrick et al., PNAS 2017): strength / 2 sum F (p - theta1)^2.

    F is the diagonal of the Fisher matrix on (at most `rows`) source rows: the mean over rows of sum_y p(y) g(y)^2,
    with p the model's own probabilities of the label words and g(y) the gradient of the loss if y were the label. With
    the rows' labels in place of p (the "empirical" Fisher) it would all but vanish, because theta1 is sure of the rows
    that it was tuned on. F is then divided by its mean, so that a strength means the same to models of any size, and
    F = 1 throughout would be L2-SP.
    """

    strength: float
    rows: int = 64

    def begin(self, job: Job) -> Callable[[], float]:
        start, fisher = copies(job.parameters), self.fisher(job)
        return lambda: _pull(job.parameters, start, [self.strength * f for f in fisher])

    def fisher(self, job: Job) -> list[Tensor]:
        """As many tensors as there are parameters, of their shapes; their mean over all weights is 1."""
        with with_gradients(job.autocast):
            totals = self._summed(job)
        mean = sum(float(total.double().sum()) for total in totals) / sum(total.numel() for total in totals)
        return [total / mean if mean else total for total in totals]

    def _summed(self, job: Job) -> list[Tensor]:
        totals = [torch.zeros_like(parameter) for parameter in job.parameters]
        for number in range(min(self.rows, len(job.source))):
            row = job.source.subset([number])
            as_each_label = [replace(row, labels=(label,)) for label in range(len(job.label_tokens))]
            losses = [label_loss(job.model, one, job.label_tokens, job.layout, job.autocast) for one in as_each_label]
            chances = torch.stack(losses).detach().neg().softmax(0)
            for loss, chance in zip(losses, chances.tolist(), strict=True):
                loss.backward()
                for parameter, total in zip(job.parameters, totals, strict=True):
                    if parameter.grad is not None:
                        total.addcmul_(parameter.grad, parameter.grad, value=chance)
                        parameter.grad = None
        return totals


@dataclass(frozen=True)
class LotteryTicket:
    """Lottery-ticket sparse fine-tuning (LT-SFT, Ansell et al., ACL 2022), with as many weights as the circuit has.

    Tune everything once, note which weights moved farthest, put all back, and tune those alone. The authors' scripts
    (github.com/cambridgeltl/composable-sft) freeze the norms throughout, and the output embeddings where a language
    model is tuned, which they untie from the input's for that. Untying would make another model of theta1, so the arm
    freezes both (`scopes.between_embeddings`). Left free, tied embeddings took nearly all of the weights: AdamW moves
    whatever has a steady gradient equally far, and the rows of the label words have the steadiest. Like the authors'
    for tasks, neither tuning is regularised.
    """

    def begin(self, job: Job) -> Callable[[], float]:
        start = copies(job.parameters)
        job.train()
        with torch.no_grad():
            moved = torch.cat([(p - then).abs().flatten() for p, then in zip(job.parameters, start, strict=True)])
            for parameter, then in zip(job.parameters, start, strict=True):
                parameter.copy_(then)
        keep = torch.zeros_like(moved)
        keep[moved.topk(job.weights).indices] = 1
        parts = keep.split([parameter.numel() for parameter in job.parameters])
        masks = [part.view_as(parameter) for part, parameter in zip(parts, job.parameters, strict=True)]

        def mask() -> float:
            for parameter, wanted in zip(job.parameters, masks, strict=True):
                if parameter.grad is not None:
                    parameter.grad.mul_(wanted)
            return 0.0

        return mask
