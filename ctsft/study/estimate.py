"""What --dry-run says: hours, disk, the best number of workers; from times measured before, or from a measured step."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from ctsft.storage import Damaged, read_sealed
from ctsft.study.competence import theta1_paths
from ctsft.study.grid import Cell, Scores, Theta1, relevance_settings, stages
from ctsft.study.planning import Plan, Stage, best, duration, plans
from ctsft.study.probes import NamedTests
from ctsft.study.record import read_cells
from ctsft.study.workbench import Workbench
from ctsft.tuning.arms import get_arm

# A result row beside its two strings of predictions.
ROW_BYTES = 500


class Times:
    """Seconds of one worker for the stages of a study: medians of what lies in its folder, else from a forward pass.

    Taken from there are results of the same model, task, precision and kind of device; the machine may be another.
    """

    def __init__(self, bench: Workbench):
        self.bench = bench
        here = {
            "model_hash": bench.loaded.weights,
            "task": bench.config.task,
            "dtype": bench.config.dtype,
            "device": str(bench.device),
        }

        def known(found: Iterable[dict]) -> list[dict]:
            return [one for one in found if here.items() <= one.items()]

        folder = bench.config.folder
        self.rows = known(read_cells(folder).values())
        self.theta1 = known(_read(folder / "theta1"))
        self.scores = [one for one in known(_read(folder / "relevance")) if one["scorer"] == bench.config.scorer]
        self.first: dict[int, Scores] = {}  # of every seed the stage of scores that was asked for first
        self.forward = _forward_seconds(bench)
        self.sizes = {name: len(bench.split(bench.config.source, name).examples) for name in ("valid", "test")}
        tests = NamedTests(bench)
        self.probed = sum(len(tests.rows(test).examples) for test in bench.config.probes)

    def told(self) -> str:
        """Where these times come from."""
        step = f"a row's forward pass, just measured: {self.forward * 1000:.1f} ms"
        if not (self.rows or self.theta1 or self.scores):
            return f"computed from {step}"
        return (
            f"medians of {len(self.rows)} cells, {len(self.theta1)} theta1 and {len(self.scores)} maps in the results "
            f"folder; what is not among them is computed from {step}"
        )

    def of(self, stage: Theta1 | Scores | Cell) -> float:
        """Of theta1 that is stored, nothing: to read it is no work to speak of."""
        if isinstance(stage, Cell):
            return self._cell(stage)
        return self._scores(stage) if isinstance(stage, Scores) else self._theta1(stage.seed)

    def _theta1(self, seed: int) -> float:
        config, rows = self.bench.config, self.bench.config.n_source
        if all(path.is_file() for path in theta1_paths(self.bench, seed)):
            return 0.0
        epochs = config.source_epochs or config.epochs
        measured = [
            one["train_seconds"] / one["n_source"] / (one.get("source_epochs") or one["epochs"]) for one in self.theta1
        ]
        own = statistics.median(measured) if measured else 3 * self.forward
        return own * rows * epochs + self.forward * (self.sizes["valid"] + self.sizes["test"])

    def _scores(self, stage: Scores) -> float:
        """Of a scorer that gives all columns at once nothing for what is stored, or comes with an earlier stage."""
        config, heads = self.bench.config, self.bench.anatomy.n_heads
        # Forward passes for each scored row, measured once: the rest is linear and costs four or so.
        passes = {"cdt": heads / 2, "magnitude": heads / 2, "ablation": heads}
        usual = config.scorer.partition("+")[0]
        settings = json.loads(json.dumps(relevance_settings(config, self.bench.loaded.weights) | {"seed": stage.seed}))
        mine = [one for one in self.scores if settings.items() <= one.items()]
        first = self.first.setdefault(stage.seed, stage)
        if usual in passes and (mine or first != stage):  # these give the columns of all inner heads at once
            return 0.0
        if self.scores:
            return config.score_rows * statistics.median(one["seconds"] / one["score_rows"] for one in self.scores)
        return passes.get(usual, 4) * config.score_rows * self.forward

    def _cell(self, cell: Cell) -> float:
        config = self.bench.config
        between = 2 * self.sizes["test"] * (config.epochs - 1) if config.by_epoch and cell.n_target else 0
        beside = self.forward * (self.probed + between)  # which the times of a row leave out
        same = [row for row in self.rows if row["arm"] == cell.arm]
        if same:
            trained = [float(row["train_seconds"]) / max(1, int(row["n_target"])) for row in same]
            answered = statistics.median(float(row["eval_seconds"]) for row in same)
            return statistics.median(trained) * cell.n_target + answered + beside
        tuned = config.epochs * cell.n_target * get_arm(cell.arm).scope.passes
        return self.forward * (tuned + self.sizes["valid"] + 2 * self.sizes["test"]) + beside


def _read(folder: Path) -> list[dict]:
    """What is said of the stages that are there; of a damaged one nothing, for it is made again."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with suppress(Damaged):
            found.append(read_sealed(path))
    return found


def _forward_seconds(bench: Workbench) -> float:
    """Of one row; a median of three runs after one to warm up."""
    rows = bench.prompts(bench.config.source, "valid")
    rows = rows.subset(range(min(bench.config.eval_batch, 64, len(rows))))
    bench.predict(rows)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        bench.predict(rows)
        seconds.append((time.perf_counter() - started) / len(rows))
    return statistics.median(seconds)


def estimate(bench: Workbench, left: Sequence[Cell]) -> str:
    """The cells that are left, in words: their time on one worker, what they write, what more workers would bring."""
    if not left:
        return "nothing is left to do"
    times = Times(bench)
    todo = stages(left, bool(bench.config.probes))
    timed = [Stage(times.of(stage), after) for stage, after in todo]
    total = sum(stage.seconds for stage in timed)
    choices = plans(timed)
    kind, units = ("GPU", 1) if bench.device.type == "cuda" else ("CPU", torch.get_num_threads())
    return "\n".join(
        [
            f"about {duration(total)} on one worker, {total * units / 3600:.1f} {kind} hours for {len(left)} cells",
            times.told(),
            *(["without what --bystanders measures beside a row"] if bench.config.bystanders else []),
            disk(bench, [stage for stage, _ in todo]),
            *table(choices),
            f"best: {best(choices).workers} workers (the most that work at least four fifths of the time)",
        ]
    )


def table(choices: Sequence[Plan]) -> list[str]:
    """A line for each number of workers."""
    return ["workers         time  speed-up  busy  limited by"] + [
        f"{plan.workers:7d}  {duration(plan.seconds):>11s}  {plan.speed_up:8.1f}  {plan.efficiency:4.0%}  {plan.limit}"
        for plan in choices
    ]


def disk(bench: Workbench, todo: Sequence[Theta1 | Scores | Cell]) -> str:
    """What is written: nearly all of it is theta1, which nobody needs once its cells are done."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in bench.model.parameters())
    seeds = [stage.seed for stage in todo if isinstance(stage, Theta1)]
    new = sum(not theta1_paths(bench, seed)[1].is_file() for seed in seeds)
    maps = len({stage.seed for stage in todo if isinstance(stage, Scores)}) * 8 * bench.anatomy.n_heads**2
    answers = 2 * len(bench.split(bench.config.source, "test").examples)
    rows = sum(isinstance(stage, Cell) for stage in todo) * (ROW_BYTES + answers)
    return (
        f"disk: about {size(new * weights + maps + rows)}, of which {size(new * weights)} are {new} theta1 in "
        f"{bench.config.folder / 'cache'}, not needed once their cells are done"
    )


def size(count: float) -> str:
    """Bytes in MB or GB (powers of ten)."""
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
