"""The arms of the study: what each one starts from, what it lets move, and what it adds. A new arm is one entry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Literal

from torch import nn

from ctsft.discovery.circuits import SELECTIONS
from ctsft.errors import UserError
from ctsft.heads import Head, KVPolicy, Slice
from ctsft.models.anatomy import Anatomy
from ctsft.tuning.extra_rows import ExtraRows, Lexicon, Replay
from ctsft.tuning.gradients import EWC, L2SP, GradientRule, LotteryTicket
from ctsft.tuning.ngrams import NGrams
from ctsft.tuning.scopes import SCOPES, Held, Scope


@dataclass(frozen=True)
class FurtherPretraining:
    """Language modelling of all weights on the target's training texts, without their labels, before the arm's own
    tuning, and after theta1. The rate is that of the competence stage.

    Gururangan et al. (ACL 2020) call it task-adaptive where the texts are those of the task, as here; their
    domain-adaptive stage (DAPT) reads a large corpus, and both come before any tuning on labels.
    """

    epochs: int = 2


@dataclass(frozen=True)
class Arm:
    """`moves`: an entry of SCOPES. `heads`: the selection whose heads it tunes, or whose size it takes.

    `start`: theta1 (tuned on the source), the base model, or no model at all. `words` names the arm in figures.
    `variant_of`: the arm that this one is with another number. Only the tables of every learning rate show it: arms are
    compared with as many tries each. The rest is what the arm adds: training rows, a rule for the
    gradients, a stage before, or a classifier that answers in the model's place.
    """

    name: str
    words: str
    moves: str
    start: Literal["theta1", "base", "none"] = "theta1"
    heads: str | None = None
    extra_rows: ExtraRows | None = None
    gradient_rule: GradientRule | None = None
    first: FurtherPretraining | None = None
    classifier: NGrams | None = None
    variant_of: str | None = None

    @property
    def needs_heads(self) -> bool:
        return self.heads is not None

    @property
    def takes_size_alone(self) -> bool:
        """Whether the heads only say how many weights it tunes."""
        return self.moves == "sparse"

    @property
    def uses_rate(self) -> bool:
        """Whether a learning rate means anything to it."""
        return self.moves != "nothing"

    @property
    def plain(self) -> bool:
        """Whether it only tunes weights of the model on the target's rows, and adds nothing."""
        added = (self.extra_rows, self.gradient_rule, self.first, self.classifier)
        return self.moves in ("all", "norms", "heads") and not any(added)

    @property
    def scope(self) -> Scope:
        """What the arm's own tuning moves; a stage before it may move everything."""
        return SCOPES[self.moves]

    @property
    def settings(self) -> dict[str, dict]:
        """The numbers of the arm that no configuration holds: other numbers make other cells."""
        added = {name: getattr(self, name) for name in ("extra_rows", "gradient_rule", "first", "classifier")}
        parts = {name: {type(part).__name__: asdict(part)} for name, part in added.items() if part is not None}
        return parts | ({"moves": self.scope.settings} if self.scope.settings else {})


def with_strengths(arm: Arm, *others: float) -> list[Arm]:
    """The arm, and its variants with other strengths of its penalty."""
    rules = {f"{arm.name}_{strength:g}": replace(arm.gradient_rule, strength=strength) for strength in others}
    return [arm, *(replace(arm, name=name, gradient_rule=r, variant_of=arm.name) for name, r in rules.items())]


ARMS = {
    arm.name: arm
    for arm in (
        Arm("zero_shot", "no target rows", "nothing"),
        Arm("full", "all weights", "all"),
        Arm("direct", "all weights, no source", "all", start="base"),
        Arm("circuit", "circuit heads + norms", "heads", heads="circuit"),
        Arm("near_zero", "near-zero heads + norms", "heads", heads="near_zero"),
        Arm("bottom", "lowest-scored heads + norms", "heads", heads="bottom"),
        Arm("random", "random heads + norms", "heads", heads="random"),
        Arm("norm_only", "norms only", "norms"),
        Arm("lora", "LoRA, all heads", "adapters"),
        Arm("lora_heads", "LoRA, circuit heads", "head_adapters", heads="circuit"),
        Arm("bitfit", "biases", "biases"),
        *with_strengths(Arm("l2sp", "all weights, L2-SP", "all", gradient_rule=L2SP(0.1)), 0.01, 1.0),
        *with_strengths(Arm("ewc", "all weights, EWC", "all", gradient_rule=EWC(1.0)), 0.1, 10.0),
        Arm("replay", "all weights, replay", "all", extra_rows=Replay()),
        Arm("circuit_replay", "circuit, replay", "heads", heads="circuit", extra_rows=Replay()),
        Arm("lt_sft", "lottery-ticket weights", "sparse", heads="circuit", gradient_rule=LotteryTicket()),
        Arm("layers_top", "top third of the layers", "top"),
        Arm("layers_below", "all but the top third", "below_top"),
        Arm("lexicon", "all weights, lexicon rows", "all", extra_rows=Lexicon()),
        Arm("circuit_lexicon", "circuit, lexicon rows", "heads", heads="circuit", extra_rows=Lexicon()),
        Arm("dapt", "target text, then all weights", "all", first=FurtherPretraining()),
        Arm("circuit_dapt", "target text, then circuit", "heads", heads="circuit", first=FurtherPretraining()),
        Arm("ngrams", "character n-grams, no model", "nothing", start="none", classifier=NGrams()),
    )
}
assert {arm.heads for arm in ARMS.values() if arm.needs_heads} == set(SELECTIONS)


def get_arm(name: str) -> Arm:
    if name not in ARMS:
        raise UserError(f"unknown arm '{name}'. Valid: {', '.join(ARMS)}.")
    return ARMS[name]


def plain_arm(arm: str) -> Arm:
    """The arm of that name, where it is one that tunes this model by itself; UserError for others."""
    if arm not in ARMS:
        plain = (name for name, one in ARMS.items() if one.plain and one.start == "theta1")
        raise UserError(f"unknown arm '{arm}'. Valid: {', '.join(plain)}.")
    chosen = ARMS[arm]
    if chosen.moves == "nothing" or chosen.start == "base":
        raise UserError(f"the arm '{arm}' tunes nothing of this model. To tune all weights of a base model, use full.")
    if not chosen.plain:
        raise UserError(
            f"the arm '{arm}' is a baseline of the experiment scripts; here circuit, norm_only or full tune."
        )
    return chosen


def check_control(arm: Arm, anatomy: Anatomy, kv_policy: KVPolicy) -> None:
    """UserError for a control that would not move as many weights as its circuit."""
    if kv_policy == "all" and arm.heads not in (None, "circuit") and anatomy.kv_heads < anatomy.heads:
        raise UserError(
            f"the policy 'all' moves the keys and values of groups that are chosen whole, of which '{arm.name}' may "
            "have another number than the circuit: leave controls out, or take the policy 'shared'."
        )


def moving_slices(model: nn.Module, anatomy: Anatomy, arm: Arm, heads: list[Head], policy: KVPolicy) -> list[Slice]:
    """Everything that `arm` may change, as slices; for an arm that moves all weights, every parameter whole."""
    scope = SCOPES["all"] if arm.first is not None else arm.scope
    return scope.slices(model, anatomy, heads, policy)


def trained_weights(model: nn.Module, anatomy: Anatomy, arm: Arm, heads: list[Head], policy: KVPolicy) -> int:
    """How many weights are trained: of adapters their own, not those of the matrices that they are added to."""
    scope = SCOPES["all"] if arm.first is not None else arm.scope
    return scope.count(model, anatomy, heads, policy)


@contextmanager
def trainable(
    model: nn.Module, anatomy: Anatomy, arm: Arm, heads: list[Head], policy: KVPolicy, seed: int = 0
) -> Iterator[tuple[list[nn.Parameter], Held]]:
    """Prepare `model` so that exactly the arm's weights have gradients; yields the parameters to optimize.

    `seed` draws what has no weights to start from (adapters).
    """
    try:
        with arm.scope.held(model, anatomy, heads, policy, seed) as (free, held):
            whole = []
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in free)
                whole += [parameter] if name in free else []
            for parameter in held.parameters():
                parameter.requires_grad_(True)
            yield whole + held.parameters(), held
    finally:
        model.zero_grad(set_to_none=True)
        model.requires_grad_(False)
