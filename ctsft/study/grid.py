"""The cells of a study: what there is to run, under which stable key, and what each one shares with others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from ctsft.discovery.circuits import PAPERS_SHARE
from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError
from ctsft.study.config import StudyConfig
from ctsft.study.record import digits_of, read_cells, told_apart_by_nothing
from ctsft.tuning.arms import get_arm

# All that `relevance_settings` may name.
SCORING = (
    "model_hash task label_words source n_source source_lr epochs batch_size max_tokens source_epochs "
    "source_batch_size dtype prompt scorer mean_rows score_rows pool ties"
).split()


def short_hash(content: object) -> str:
    """Six digits that stand for settings; the same settings give the same digits on every machine."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:6]


@dataclass(frozen=True)
class Cell:
    """One row of the result: one arm on one target with n rows, one depth, one learning rate, one seed."""

    target: str
    n_target: int
    arm: str
    depth: int | None
    lr: float
    seed: int
    draw: int = 0
    share: float = PAPERS_SHARE

    def key(self, fingerprint: str) -> str:
        """Readable and stable, for instance javanese-n100-circuit-d2-lr5e-05-s31-1a2b3c."""
        parts = [self.target, f"n{self.n_target}", self.arm]
        parts += [] if self.depth is None else [f"d{self.depth}"]
        parts += [f"draw{self.draw}"] if self.draw else []
        parts += [f"lr{self.lr:g}"] if get_arm(self.arm).uses_rate else []
        return "-".join([*parts, f"s{self.seed}", fingerprint])


def theta1_settings(config: StudyConfig, weights: str) -> dict:
    """Everything that theta1 depends on besides the seed."""
    task = config.effective_task
    own = {
        "source_epochs": config.source_epochs if config.source_epochs != config.epochs else None,
        "source_batch_size": config.source_batch_size if config.source_batch_size != config.batch_size else None,
        "dtype": "bfloat16" if config.dtype == "bfloat16" else None,
        "prompt": None if task.published else [task.template, task.several_tokens],
    }
    return {
        "model_hash": weights,
        "task": config.task,
        "label_words": task.label_words,
        "source": config.source,
        "n_source": config.n_source,
        "source_lr": config.source_lr,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "max_tokens": config.max_tokens,
        **{name: value for name, value in own.items() if value is not None},
    }


def relevance_settings(config: StudyConfig, weights: str) -> dict:
    """Everything that the scores depend on besides the seed."""
    return theta1_settings(config, weights) | {
        "scorer": config.scorer,
        "mean_rows": config.mean_rows,
        "score_rows": config.score_rows,
        **({"pool": config.pool} if config.pool == "shared" else {}),
        **({"ties": config.ties} if config.ties == "logits" else {}),
    }


def scoring_of(relevance: Relevance) -> dict:
    """The `relevance_settings` that stored scores were made by, read back from what is kept of them."""
    known = {**relevance.about, "ties": relevance.ties}
    usual = {"dtype": "float32", "pool": "disjoint", "ties": "index"}  # what those leave out
    return {name: known[name] for name in SCORING if name in known and known[name] != usual.get(name)}


def cell_fingerprint(config: StudyConfig, cell: Cell, weights: str) -> str:
    """The digits at the end of a key: all that the cell depends on and the key does not spell out."""
    arm = get_arm(cell.arm)
    added = {"arm": arm.settings} if arm.settings else {}
    if not arm.needs_heads:
        return short_hash(theta1_settings(config, weights) | added)
    extra = {"share": cell.share, "kv_policy": config.kv_policy}
    return short_hash(relevance_settings(config, weights) | extra | added)


def told(config: StudyConfig, cell: Cell) -> dict[str, object]:
    """What tells a row apart besides what its key spells out (record.TOLD); empty where the arm does not use it."""
    arm = get_arm(cell.arm)
    return {
        "task": config.task,
        "source": config.source,
        "n_source": config.n_source if arm.start == "theta1" else 0,
        "share": cell.share if arm.needs_heads else None,
        "scorer": config.scorer if arm.needs_heads else None,
        "ties": config.ties if arm.needs_heads else None,
        "kv_policy": config.kv_policy if arm.needs_heads else None,
        "dtype": config.dtype,
    }


def refuse_other_settings(config: StudyConfig, keys: Mapping[Cell, str]) -> None:
    """Stop where the folder has rows of these cells by settings that no column shows; arms without theta1 have none."""
    known = digits_of((key, row) for key, row in read_cells(config.folder).items() if row["theta1"])
    started = [(key, cell) for cell, key in keys.items() if get_arm(cell.arm).start == "theta1"]
    mine = digits_of((key, told(config, cell) | {"seed": cell.seed}) for key, cell in started)
    if mixed := told_apart_by_nothing(known, mine):
        raise UserError(
            f"{config.folder} has rows that were made with other settings (epochs, batch size, prompt, label words, "
            f"rows to score on, ...): {mixed[0]} there, {mixed[1]} here. No table could tell them apart: give another "
            "--output."
        )


def cells(config: StudyConfig) -> list[Cell]:
    """All cells, seed by seed, so that a stopped run leaves whole seeds behind."""
    todo: dict[Cell, None] = {}
    grid = product(config.seeds, config.targets, config.n_targets, config.lrs, config.arm_depths())
    for seed, target, n_target, lr, (arm, depth) in grid:
        if get_arm(arm).needs_heads:
            draws = range(config.random_draws if get_arm(arm).heads == "random" else 1)
            for share, draw in product(config.shares, draws):
                todo[Cell(target, n_target, arm, depth, lr, seed, draw, share)] = None
            continue
        # Zero-shot uses no target row, so one cell stands for every n; what has no rate stands for all of them.
        rows, rate = 0 if arm == "zero_shot" else n_target, lr if get_arm(arm).uses_rate else 0.0
        todo[Cell(target, rows, arm, None, rate, seed)] = None
    return list(todo)


class Theta1(NamedTuple):
    """The competence stage of a seed."""

    seed: int


class Scores(NamedTuple):
    """The scores of a seed's theta1, as far as circuits of this depth and share of the heads need them."""

    seed: int
    depth: int
    share: float


def stages(todo: Sequence[Cell], compared: bool = False) -> list[tuple[Theta1 | Scores | Cell, int | None]]:
    """What has to be done for these cells, each with the number of the stage that it waits for, which stands before it.

    A cell whose arm starts from the base model, or from none, waits for nothing, unless related tests are `compared`
    with the answers of theta1. Deeper circuits complete the scores of shallower ones, so the scores of a seed are made
    in a row.
    """
    found: list[tuple[Theta1 | Scores | Cell, int | None]] = []
    places: dict[Theta1 | Scores, int] = {}
    newest: dict[int, int] = {}  # of a seed: its theta1, then the scores that were added last
    for cell in todo:
        if get_arm(cell.arm).start != "theta1" and not compared:
            found.append((cell, None))
            continue
        theta1, scores = Theta1(cell.seed), Scores(cell.seed, cell.depth, cell.share)
        for stage in (theta1, scores) if get_arm(cell.arm).needs_heads else (theta1,):
            if stage not in places:
                found.append((stage, newest.get(cell.seed)))
                places[stage] = newest[cell.seed] = len(found) - 1
        found.append((cell, places[stage]))
    return found
