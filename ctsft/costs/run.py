"""Script 07: the costs of every arm, and the model's answers when its products are computed in fewer bits."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from ctsft.costs.arithmetic import (
    ARITHMETICS,
    WHERE,
    Arithmetic,
    LMul,
    Operands,
    Pairs,
    Where,
    computing_in,
    eager_attention,
    relative_error,
)
from ctsft.costs.measure import cost_of
from ctsft.errors import CellFailed, UserError
from ctsft.evaluation import scores
from ctsft.memory import failing_without_memory
from ctsft.provenance import now
from ctsft.study.beside import write_settings
from ctsft.study.config import OneProcess
from ctsft.study.grid import cell_fingerprint, cells
from ctsft.study.opening import Printed, keep_data, opened, run_alone
from ctsft.study.record import append_rows, mend_table, read_rows
from ctsft.study.workbench import Workbench

COST_COLUMNS = (
    "cell experiment preset model target n_target arm depth seed lr trainable trainable_share flops seconds "
    "cpu_seconds peak_memory_mb stored_bytes joules energy_is device dtype threads git_commit created"
).split()
ARITHMETIC_COLUMNS = (
    "key preset model task language theta1 arithmetic where n_rows accuracy predictions predictions_float32 "
    "random_error real_error share_of_flops energy_saved seconds device git_commit created"
).split()
# Of the energy of a dot product's multiplications, by the figures that L-Mul's authors give; nothing here measures it.
PUBLISHED_SAVING = 0.80
PAIRS = 100_000


@dataclass(frozen=True)
class CostConfig(OneProcess):
    """What to measure; of every arm one cell a target, n, seed and learning rate."""

    watts: float = 15.0
    """Power that seconds are multiplied with where codecarbon is not installed: that of a busy core, or of the GPU."""
    arithmetic_rows: int = 400
    """Source test rows that are answered in other arithmetics; 0 leaves that part out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.watts < math.inf or self.arithmetic_rows < 0:
            raise UserError("--watts must be above zero, and --arithmetic-rows must not be negative.")

    def table(self, name: str) -> Path:
        """Tables of their own columns stand in a folder of their own, away from result rows."""
        return self.folder / "costs" / f"{name}.csv"


@run_alone
def run_costs(config: CostConfig, table: Printed) -> int:
    """Measure what is not measured yet. Returns the exit status: 1 when a cell failed, else 0."""
    bench = opened(config)
    config = bench.config
    path = config.table(config.experiment)
    mend_table(path, COST_COLUMNS)
    mend_table(config.table(f"{config.experiment}.arithmetic"), ARITHMETIC_COLUMNS)
    keys = {cell: cell.key(cell_fingerprint(config, cell, bench.loaded.weights)) for cell in cells(config)}
    known = {row["cell"]: row for row in read_rows(path, COST_COLUMNS)}
    left = [cell for cell, key in keys.items() if key not in known and cell.arm != "zero_shot"]
    print(f"{len(keys)} cells, {len(left)} to measure on {bench.device} in {config.dtype}")
    here = (bench.device.type, str(torch.get_num_threads()))
    known_here = [known[key] for key in keys.values() if key in known]
    if elsewhere := [row for row in known_here if (row["device"].partition(":")[0], row["threads"]) != here]:
        print(
            f"note: {len(elsewhere)} cells were measured on another device or with other threads, and are not measured "
            "again: give another --output to compare all of them on this one"
        )
    if config.dry_run:
        return 0
    keep_data(bench, {f"{config.task}/{config.source}": bench.split(config.source, "test")})
    if left:
        _tell_settings(bench, config)
    total, failed = sum(parameter.numel() for parameter in bench.model.parameters()), 0
    for cell in tqdm(left, unit="cell", disable=None):
        try:
            with failing_without_memory():
                row = cost_of(bench, cell, config.watts)
        except CellFailed as error:
            failed += 1
            print(f"failed: {keys[cell]}: {error}", file=sys.stderr)
            continue
        about = {
            "cell": keys[cell],
            "experiment": config.experiment,
            "preset": config.preset,
            "lr": cell.lr if row["flops"] else None,
            "trainable_share": round(row["trainable"] / total, 8),
            "dtype": config.dtype,
            "threads": torch.get_num_threads(),
        }
        append_rows(path, [about | row | _where_from(bench)], COST_COLUMNS)
        tqdm.write(f"{keys[cell]}  {row['flops'] / 1e9:.1f} GFLOP  {row['seconds']:.1f} s  {row['peak_memory_mb']} MB")
    if config.arithmetic_rows:
        bench.theta1_of(config.seeds[0])  # in the study's own precision, should it have to be made
        with bench.in_float32():
            _answer_in_arithmetics(bench, config)
    print(f"\n{table(config.folder)}\n\nrows: {path}")
    return 1 if failed else 0


def _tell_settings(bench: Workbench, config: CostConfig) -> None:
    """Before the first new row: what nothing was added to keeps the settings that it was made by."""
    write_settings(config.table(config.experiment).with_suffix(".config.json"), config.to_dict(), bench.provenance)


def _where_from(bench: Workbench) -> dict[str, object]:
    return {
        "model": bench.loaded.name,
        "device": str(bench.device),
        "git_commit": bench.provenance["git_commit"],
        "created": now(),
    }


def _combinations() -> Iterable[tuple[Arithmetic, Where]]:
    """float32 once, every other arithmetic in every place."""
    yield ARITHMETICS[0], WHERE[-1]
    yield from ((arithmetic, where) for arithmetic in ARITHMETICS[1:] for where in WHERE)


def _answer_in_arithmetics(bench: Workbench, config: CostConfig) -> None:
    """theta1 of the first seed on source test rows, in every arithmetic and place; the operands are float32."""
    path = config.table(f"{config.experiment}.arithmetic")
    theta1 = bench.theta1_of(config.seeds[0])
    rows = bench.prompts(config.source, "test")
    rows = rows.subset(range(min(config.arithmetic_rows, len(rows))))
    keys = {
        f"{config.source}-n{len(rows)}-{theta1['weight_hash']}-{arithmetic.name}-{where}": (arithmetic, where)
        for arithmetic, where in _combinations()
    }
    known = {row["key"] for row in read_rows(path, ARITHMETIC_COLUMNS)}
    if keys.keys() <= known:
        return
    _tell_settings(bench, config)
    generator = torch.Generator().manual_seed(0)
    random = [Pairs(*(torch.randn(PAIRS, generator=generator) for _ in range(2)))]
    sample = rows.subset(range(min(16, len(rows))))
    with torch.no_grad(), eager_attention(bench.model), Operands() as operands:
        bench.predict(sample)
    with torch.no_grad(), eager_attention(bench.model), FlopCounterMode(display=False) as counter:
        bench.predict(sample)
    counts = {str(name): value for name, value in counter.get_flop_counts()["Global"].items()}
    share = {"attention": counts.get("aten.bmm", 0) / counter.get_total_flops()}
    share |= {"linear": 1 - share["attention"], "everywhere": 1.0}
    exact = bench.predict(rows).digits
    for key, (arithmetic, where) in keys.items():
        if key in known:
            continue
        started = time.perf_counter()
        with computing_in(bench.model, arithmetic, where):
            answers = bench.predict(rows)
        real = [pairs for part, found in operands.pairs.items() if where in (part, "everywhere") for pairs in found]
        row = {
            "key": key,
            "preset": config.preset,
            "task": config.task,
            "language": config.source,
            "theta1": theta1["weight_hash"],
            "arithmetic": arithmetic.name,
            "where": where,
            "n_rows": len(rows),
            "accuracy": round(scores(answers.labels, rows.labels)["accuracy"], 6),
            "predictions": answers.digits,
            "predictions_float32": exact,
            "random_error": f"{relative_error(arithmetic, random):.6g}",
            "real_error": f"{relative_error(arithmetic, real):.6g}",
            "share_of_flops": round(share[where], 6),
            "energy_saved": round(PUBLISHED_SAVING * share[where], 6) if isinstance(arithmetic, LMul) else None,
            "seconds": round(time.perf_counter() - started, 2),
        }
        append_rows(path, [row | _where_from(bench)], ARITHMETIC_COLUMNS)
        tqdm.write(f"{arithmetic.name:14s} {where:10s} accuracy {row['accuracy']:.4f}  error {row['real_error']}")
