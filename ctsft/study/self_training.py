"""Self-training (script 08): generation after generation learns from labels that the last one gave.

Generation 0 is tuned on the n human-labelled target rows. Generation g starts from theta1 again, and is tuned on
unlabelled target rows with the labels of generation g - 1's model: with the human rows in the mix, or without them.
These are the same rows for all generations, or fresh ones for each. A model that fits the labels it learned from gives
them back for the same rows, and the chain rests; on fresh rows, errors can pass from one generation to the next.

Of several learning rates a chain takes the one whose generation 0 the target's validation split prefers, and stays with
it. Every trial of a rate and every generation leave a file in cache/generations, so a stopped run goes on behind its
last one. The two chains of a cell have the trials and generation 0 in common: both are made once, and a run with
more --generations goes on where one with fewer has ended.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ctsft.errors import CellFailed, OutOfMemory, UserError
from ctsft.memory import failing_without_memory
from ctsft.provenance import now
from ctsft.storage import read_or_aside, read_sealed, write_sealed
from ctsft.study.beside import write_settings
from ctsft.study.chains import Chain, Labelled, chains_of, unlabelled_ids
from ctsft.study.circuit_stage import heads_of
from ctsft.study.config import OneProcess
from ctsft.study.grid import Cell
from ctsft.study.opening import Printed, keep_data, opened, run_alone
from ctsft.study.probes import share_right
from ctsft.study.record import append_rows, mend_table, read_cells, read_rows
from ctsft.study.spread import spread
from ctsft.study.workbench import Workbench
from ctsft.tasks.prompts import Encoded
from ctsft.tasks.task import digits, from_digits
from ctsft.tuning.arms import get_arm

COLUMNS = (
    "chain experiment preset model theta1 task source target n_target arm depth rates lr seed human rows generation "
    "n_rows predictions source_predictions pseudo_accuracy label_entropy confidence diversity trainable dtype device "
    "git_commit created"
).split()


@dataclass(frozen=True)
class SelfTrainingConfig(OneProcess):
    """A chain of generations for every arm, target, n and seed, with and without the human rows."""

    generations: int = 5
    """How many generations learn from the one before them."""
    unlabelled: int = 200
    """Under --rows same: target rows that models label, at most: never those that a human labelled, never test rows."""
    rows: tuple[Labelled, ...] = ("same",)
    """Whether all generations of a chain label the same rows, or each labels fresh ones; with both, chains of both."""
    unlabelled_fresh: int = 80
    """Under --rows fresh: target rows that each generation labels; --generations times as many have to be there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.generations, self.unlabelled, self.unlabelled_fresh) < 1:
            raise UserError("--generations, --unlabelled and --unlabelled-fresh must be at least 1.")
        if not self.rows or len(set(self.rows)) < len(self.rows):
            raise UserError("--rows needs same, fresh, or each of them once.")
        for arm, _ in self.arm_depths():
            _refuse(arm)

    @property
    def table(self) -> Path:
        """In a folder of its own, because its columns are not those of result rows."""
        return self.folder / "self_training" / f"{self.experiment}.csv"


def _refuse(name: str) -> None:
    """UserError for an arm that has no generations."""
    arm = get_arm(name)
    if not arm.uses_rate:
        raise UserError(
            f"the arm '{name}' tunes no weights of the model, and a chain is generations of a model that is tuned. "
            "Leave that arm out."
        )
    if arm.extra_rows is not None:
        raise UserError(
            f"the arm '{name}' adds rows of its own, and a generation learns from those that the last one labelled "
            "alone. Leave that arm out."
        )


@run_alone
def run_self_training(config: SelfTrainingConfig, table: Printed) -> int:
    """Run every chain that is not finished; its rows are written together. Returns 1 when one failed, else 0.

    Chains without human rows come first: they are the ones that decay, and what is compared first.
    """
    bench = opened(config)
    config = bench.config
    mend_table(config.table, COLUMNS)
    known = {row["chain"] for row in read_rows(config.table, COLUMNS)}
    chains = chains_of(bench, config)
    left = [chain for chain in chains if chain.name not in known]
    print(f"{len(chains)} chains, {len(left)} to run on {bench.device} in {config.dtype}")
    if config.dry_run:
        return 0
    tests = (config.source, *config.targets)
    keep_data(bench, {f"{config.task}/{language}": bench.split(language, "test") for language in tests})
    if left:
        write_settings(config.table.with_suffix(".config.json"), config.to_dict(), bench.provenance)
    failed = 0
    for chain in tqdm(left, unit="chain", disable=None):
        try:
            with failing_without_memory():
                lines = generations(bench, config, chain)
        except CellFailed as error:
            failed += 1
            print(f"failed: {chain.name}: {error}", file=sys.stderr)
            continue
        append_rows(config.table, lines, COLUMNS)
        tqdm.write(f"{chain.name}  label entropy {lines[0]['label_entropy']} -> {lines[-1]['label_entropy']}")
    print(f"\n{table(config.folder)}\n\nrows: {config.table}")
    return 1 if failed else 0


def generations(bench: Workbench, config: SelfTrainingConfig, chain: Chain) -> list[dict]:
    """One chain, a line per generation; those that are known from before are not tuned again.

    Every generation starts from theta1, so one that gives the very labels that it learned from, to the same rows, is
    where a chain ends: those behind it repeat it.
    """
    cell, start = _preferred(bench, config, chain)
    theta1 = bench.theta1_of(cell.seed)["weight_hash"]
    known, lines, learned_from = start, [], None
    for number in range(config.generations + 1):
        # It gave back what it learned: the next would be the same again.
        if number and chain.rows == "same" and known["labels"] == learned_from:
            known = known | {"line": known["line"] | {"generation": number}}
        elif number:
            learned_from = known["labels"]
            labels = tuple(from_digits(learned_from).tolist())
            make = partial(_generation, bench, config, chain, cell, number, labels)
            known = _kept(config, theta1, chain.kept_as(number), make)
        about = {"chain": chain.name, "rates": chain.rates, "human": chain.human, "rows": chain.rows}
        lines.append(known["line"] | about)
    return lines


def _preferred(bench: Workbench, config: SelfTrainingConfig, chain: Chain) -> tuple[Cell, dict]:
    """The cell at the rate that validation prefers (a tie goes to the lower), and its generation 0."""
    rows, theta1 = read_cells(config.folder), bench.theta1_of(chain.cells[0].seed)["weight_hash"]

    def valid(cell: Cell, key: str) -> float:
        """What another script's row says of the same cell, else what tuning it anew does."""
        try:
            known = (
                rows[key] if key in rows else _kept(config, theta1, f"{key}-valid", partial(_validated, bench, cell))
            )
        except OutOfMemory:
            raise  # says nothing of the rate: another run may have the memory
        except CellFailed:
            return -1.0  # a rate at which the loss explodes; where all do, generation 0 says so below
        return float(known["valid_accuracy"])

    pairs = list(zip(chain.cells, chain.keys, strict=True))
    cell, key = max(pairs, key=lambda pair: valid(*pair)) if len(pairs) > 1 else pairs[0]
    make = partial(_generation, bench, config, chain, cell, 0, ())
    return cell, _kept(config, theta1, f"{key}-u{chain.unlabelled}-first", make)


def _validated(bench: Workbench, cell: Cell) -> dict[str, float]:
    """A rate's worth. Validation alone is asked: of the rates that lose, nothing else would be used."""
    with bench.tuned(cell, heads_of(bench, cell)):
        _, valid = bench.accuracy(cell.target, "valid")
    return {"valid_accuracy": round(valid["accuracy"], 6)}


def _kept(config: SelfTrainingConfig, theta1: str, name: str, make: Callable[[], dict]) -> dict:
    """What an earlier run has left of this generation, from the theta1 of this hash, else what `make` gives."""
    path = config.folder / "cache" / "generations" / f"{name}.json"
    known = read_or_aside(path)
    if known.get("theta1") != theta1:
        write_sealed(path, make() | {"theta1": theta1})
        known = read_sealed(path)
    return known


def _generation(
    bench: Workbench, config: SelfTrainingConfig, chain: Chain, cell: Cell, number: int, labels: tuple[int, ...]
) -> dict[str, object]:
    """Its line, and the labels that it gives; `labels` are those that the generation before gave."""
    theta1 = bench.theta1_of(cell.seed)
    rows = own = bench.training_rows(get_arm(cell.arm), cell)
    train = bench.split(cell.target, "train")
    if number:
        unlabelled = bench.encode(train.by_id(unlabelled_ids(bench, chain, cell, number - 1)))
        labelled = replace(unlabelled, labels=labels)
        rows = together(own, labelled) if chain.human else labelled
    further = unlabelled_ids(bench, chain, cell, number)
    with bench.tuned(cell, heads_of(bench, cell), rows=rows) as (trained, _):
        target, _ = bench.accuracy(cell.target, "test")
        source, _ = bench.accuracy(config.source, "test")
        given = bench.predict(bench.encode(train.by_id(further))).digits if further else digits(())
    line = {
        "experiment": config.experiment,
        "preset": config.preset,
        "model": bench.loaded.name,
        "theta1": theta1["weight_hash"],
        "task": config.task,
        "source": config.source,
        "target": cell.target,
        "n_target": cell.n_target,
        "arm": cell.arm,
        "depth": cell.depth,
        "lr": cell.lr,
        "seed": cell.seed,
        "generation": number,
        "n_rows": len(rows),
        "predictions": target.digits,
        "source_predictions": source.digits,
        "pseudo_accuracy": share_right(digits(labels), digits(unlabelled.labels)) if number else None,
        **spread(target.logits),
        "trainable": trained,
        "dtype": bench.config.dtype,
        "device": str(bench.device),
        "git_commit": bench.provenance["git_commit"],
        "created": now(),
    }
    return {"line": line, "labels": given}


def together(first: Encoded, second: Encoded) -> Encoded:
    """The rows of both."""
    return Encoded(first.prompts + second.prompts, first.labels + second.labels, first.ids + second.ids)
