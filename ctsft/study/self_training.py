"""Self-training (script 08): generation after generation learns from labels that the last one gave.

Generation 0 is tuned on the n human-labelled target rows. Generation g starts from theta1 again, and is tuned on
unlabelled target rows with the labels of generation g - 1's model: with the human rows in the mix, or without them.

Every generation leaves a file in cache/generations, so a stopped run goes on behind its last one. The two chains of a
cell have generation 0 in common: it is tuned once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ctsft.errors import CellFailed, UserError
from ctsft.report.self_training import self_training
from ctsft.storage import read_json, write_json
from ctsft.study.beside import write_settings
from ctsft.study.circuit_stage import heads_of
from ctsft.study.config import OneProcess
from ctsft.study.grid import Cell, cell_fingerprint, cells
from ctsft.study.measures import probabilities
from ctsft.study.opening import keep_data, opened
from ctsft.study.probes import share_right
from ctsft.study.provenance import now
from ctsft.study.record import append_rows, read_rows
from ctsft.study.workbench import Workbench
from ctsft.tasks.prompts import Encoded
from ctsft.tasks.task import digits, draw, from_digits
from ctsft.tuning.arms import get_arm

COLUMNS = (
    "chain experiment preset model theta1 task source target n_target arm depth lr seed human generation n_rows "
    "predictions source_predictions pseudo_accuracy label_entropy confidence diversity trainable device git_commit "
    "created"
).split()


@dataclass(frozen=True)
class SelfTrainingConfig(OneProcess):
    """A chain of generations for every arm, target, n, rate and seed, with and without the human rows."""

    generations: int = 5
    """How many generations learn from the one before them."""
    unlabelled: int = 200
    """Target rows that models label, at most: never those that a human labelled, and never test rows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.generations, self.unlabelled) < 1:
            raise UserError("--generations and --unlabelled must be at least 1.")

    @property
    def table(self) -> Path:
        """In a folder of its own, because its columns are not those of result rows."""
        return self.folder / "self_training" / f"{self.experiment}.csv"


def run_self_training(config: SelfTrainingConfig, table: Callable[[Path], str] = self_training) -> int:
    """Run every chain that is not finished; its rows are written together. Returns 1 when one failed, else 0.

    Chains without human rows come first: they are the ones that decay, and what is compared first.
    """
    bench = opened(config)
    config = bench.config
    known = {row["chain"] for row in read_rows(config.table, COLUMNS)}
    # Chains of other numbers are other chains, so both are in the name.
    size = f"g{config.generations}-u{config.unlabelled}"
    chains = {
        f"{cell.key(cell_fingerprint(config, cell, bench.loaded.weights))}-{size}-{'human' if human else 'alone'}": (
            cell,
            human,
        )
        for human in (False, True)
        for cell in cells(config)
        if get_arm(cell.arm).uses_rate
    }
    left = {name: chain for name, chain in chains.items() if name not in known}
    print(f"{len(chains)} chains, {len(left)} to run on {bench.device} in {config.dtype}")
    if config.dry_run:
        return 0
    tests = (config.source, *config.targets)
    keep_data(bench, {f"{config.task}/{language}": bench.split(language, "test") for language in tests})
    if left:
        write_settings(config.table.with_suffix(".config.json"), config.to_dict(), bench.provenance)
    failed = 0
    for name, (cell, human) in tqdm(left.items(), unit="chain", disable=None):
        try:
            lines = generations(bench, config, cell, human, name)
        except CellFailed as error:
            failed += 1
            print(f"failed: {name}: {error}", file=sys.stderr)
            continue
        append_rows(config.table, lines, COLUMNS)
        tqdm.write(f"{name}  label entropy {lines[0]['label_entropy']} -> {lines[-1]['label_entropy']}")
    print(f"\n{table(config.folder)}\n\nrows: {config.table}")
    return 1 if failed else 0


def generations(bench: Workbench, config: SelfTrainingConfig, cell: Cell, human: bool, name: str) -> list[dict]:
    """One chain, a line per generation; those that are known from before are not tuned again."""
    lines: list[dict] = []
    labels: tuple[int, ...] = ()
    for number in range(config.generations + 1):
        path = config.folder / "cache" / "generations" / f"{name if number else name.rpartition('-')[0]}-{number}.json"
        if not path.is_file():
            write_json(path, _generation(bench, config, cell, human, number, labels))
        known = read_json(path)
        lines.append(known["line"] | {"chain": name, "human": human})
        labels = tuple(from_digits(known["labels"]).tolist())
    return lines


def _generation(
    bench: Workbench, config: SelfTrainingConfig, cell: Cell, human: bool, number: int, labels: tuple[int, ...]
) -> dict[str, object]:
    """Its line, and the labels that it gives; `labels` are those that the generation before gave."""
    theta1 = bench.theta1_of(cell.seed)
    rows = own = bench.training_rows(get_arm(cell.arm), cell)
    unlabelled = bench.encode(bench.split(cell.target, "train").by_id(unlabelled_ids(bench, config, cell)))
    if number:
        labelled = replace(unlabelled, labels=labels)
        rows = together(own, labelled) if human else labelled
    with bench.tuned(cell, heads_of(bench, cell), rows=rows) as (trained, _):
        target, _ = bench.accuracy(cell.target, "test")
        source, _ = bench.accuracy(config.source, "test")
        given = bench.predict(unlabelled).digits
    line = {
        "experiment": config.experiment,
        "preset": config.preset,
        "model": bench.model_name,
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
        "device": str(bench.device),
        "git_commit": bench.provenance["git_commit"],
        "created": now(),
    }
    return {"line": line, "labels": given}


def unlabelled_ids(bench: Workbench, config: SelfTrainingConfig, cell: Cell) -> list[str]:
    """Ids of target rows that no human labelled: of pool A where rows are parallel, else the rest of the target's."""
    pool = bench.pool_a
    if not bench.task.parallel:
        own = bench.pools_b[cell.target]
        human = set(draw(own, cell.n_target, cell.seed))
        pool = [one for one in own if one not in human]
        if not pool:
            raise UserError(f"--n-targets {cell.n_target} are all rows of {cell.target}: none is left without a label.")
    return draw(pool, min(config.unlabelled, len(pool)), cell.seed)


def together(first: Encoded, second: Encoded) -> Encoded:
    """The rows of both."""
    return Encoded(first.prompts + second.prompts, first.labels + second.labels, first.ids + second.ids)


def spread(logits: np.ndarray) -> dict[str, float]:
    """How varied the answers with logits [N, C] are, in bits but for `confidence`, the mean of the largest probability.

    `label_entropy`: of the shares of the labels given; zero where every row gets the same one. `diversity`: the mutual
    information of row and answer, H(mean p) - mean H(p); zero where every row gets the same probabilities.
    """
    chances = probabilities(logits)
    shares = np.bincount(chances.argmax(-1), minlength=chances.shape[1]) / len(chances)
    values = {
        "label_entropy": entropy(shares),
        "confidence": chances.max(-1).mean(),
        "diversity": entropy(chances.mean(0)) - entropy(chances).mean(),
    }
    return {name: round(float(value), 6) for name, value in values.items()}


def entropy(p: np.ndarray) -> np.ndarray:
    """In bits, over the last dimension; 0 log 0 is 0."""
    return -(p * np.log2(np.where(p > 0, p, 1))).sum(-1) + 0.0
