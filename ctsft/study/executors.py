"""Where cells run. Several processes, on one machine or many, may share a results folder: a cell is run once.

A process claims a cell by a lock that dies with it, looks whether the row is there by now, runs the cell, and writes
the row. Nothing else is agreed upon, so an executor only decides which process looks at which cell, and when.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from tqdm import tqdm

from ctsft.errors import CellFailed, UserError
from ctsft.memory import failing_without_memory
from ctsft.storage import locked
from ctsft.study.cell import run_cell
from ctsft.study.circuit_stage import relevance_of
from ctsft.study.config import StudyConfig
from ctsft.study.failing import known_failure, note_failure
from ctsft.study.grid import Cell, Scores, Theta1, cell_fingerprint, cells, refuse_other_settings, stages
from ctsft.study.measure_files import related_by_cell
from ctsft.study.preferred import preferred
from ctsft.study.probes import NamedTests
from ctsft.study.record import PROBE_COLUMNS, PROBES, append_rows, read_cells, read_rows
from ctsft.study.stopping import finishing
from ctsft.study.workbench import Workbench


class Settled(NamedTuple):
    """What became of a cell: its row is written, another process had written it, or the reason it gave none."""

    key: str
    status: Literal["done", "known", "failed"]
    text: str = ""


@dataclass(frozen=True)
class Job:
    """The cells of a study with their keys, in the order of the grid, and what runs them."""

    bench: Workbench
    tests: NamedTests
    keys: dict[Cell, str]

    @property
    def path(self) -> Path:
        return self.bench.config.folder / f"{self.bench.config.experiment}.csv"

    def finished(self) -> dict[str, dict[str, str]]:
        """The rows of cells that need nothing more: what is measured beside the row, where it is, is there too."""
        config = self.bench.config
        rows = read_cells(config.folder)
        done = set(rows)
        if config.probes:
            lines = read_rows(self.path.with_suffix(PROBES), PROBE_COLUMNS)
            asked = {(line["cell"], line["test"]) for line in lines}
            done = {cell for cell in done if all((cell, probe) in asked for probe in config.probes)}
            if config.by_epoch and config.epochs > 1:
                first = {line["cell"] for line in lines if line["epoch"] == "1"}
                done = {cell for cell in done if cell in first or not rows[cell]["lr"]}
        if config.bystanders:
            tests, wanted = related_by_cell(config.folder), preferred(rows, config.lrs)
            asked = {cell: {*config.bystanders} - {f"{rows[cell]['task']}/{rows[cell]['target']}"} for cell in done}
            done = {cell for cell in done if cell not in wanted or (cell in tests and asked[cell] <= tests[cell])}
        return {key: row for key, row in rows.items() if key in done}

    def left(self) -> list[Cell]:
        finished = self.finished()
        return [cell for cell, key in self.keys.items() if key not in finished]


def job_of(bench: Workbench, tests: NamedTests) -> Job:
    """All cells of the workbench's configuration; UserError where rows of them are there that no table could tell from
    these.
    """
    config, weights = bench.config, bench.loaded.weights
    keys = {cell: cell.key(cell_fingerprint(config, cell, weights)) for cell in cells(config)}
    refuse_other_settings(config, keys)
    return Job(bench, tests, keys)


def settle(job: Job, cell: Cell, wait: bool = False) -> Settled | None:
    """Run one cell and write its row; None while another process has it (with `wait`, wait for that process)."""
    key, folder = job.keys[cell], job.bench.config.folder
    with locked(folder / "cache" / "claims" / key, wait) as mine:
        if not mine:
            return None
        if key in job.finished():
            return Settled(key, "known")
        note = folder / "failed" / f"{key}.json"
        if (reason := known_failure(note, job.bench.begun)) is not None:
            return Settled(key, "failed", reason)
        started = time.perf_counter()
        try:
            with failing_without_memory():
                row, lines = run_cell(job.bench, job.tests, cell, key)
        except CellFailed as error:
            note_failure(note, error)
            return Settled(key, "failed", str(error))
        with finishing():
            _write(job, key, row, lines)
            note.unlink(missing_ok=True)
        before = row["source_accuracy_before"]  # an arm without theta1 has none
        return Settled(
            key,
            "done",
            f"accuracy {row['accuracy']:.3f}  source {'–' if before is None else f'{before:.3f}'} -> "
            f"{row['source_accuracy']:.3f}  trainable {row['trainable_share']:.2%}  "
            f"{time.perf_counter() - started:.0f} s",
        )


def _write(job: Job, key: str, row: dict[str, object], lines: list[dict[str, object]]) -> None:
    """The row first: a run that is killed between the two finds it, and measures the probes again."""
    order = list(job.keys.values())
    known = read_cells(job.bench.config.folder).get(key)
    if known is None:
        append_rows(job.path, [row], order=order)
    if lines:
        same = (known or row)["predictions"] == row["predictions"]
        append_rows(job.path.with_suffix(PROBES), [line | {"same_row": same} for line in lines], PROBE_COLUMNS, order)


def run_here(job: Job, left: Sequence[Cell]) -> dict[str, str]:
    """One cell after the other in this process; those that another process has come last. Returns the failures."""
    failed: dict[str, str] = {}
    with tqdm(total=len(left), unit="cell", disable=None) as bar:

        def tell(outcome: Settled) -> None:
            report(outcome, failed)
            bar.update()

        taken = []
        for cell in left:
            outcome = settle(job, cell)
            if outcome is None:
                taken.append(cell)
            else:
                tell(outcome)
        for cell in taken:
            tell(settle(job, cell, wait=True))
    return failed


def report(outcome: Settled, failed: dict[str, str]) -> None:
    """One line per cell that was run here."""
    if outcome.status == "failed":
        failed[outcome.key] = outcome.text
        tqdm.write(f"{outcome.key}  FAILED: {outcome.text}")
    elif outcome.status == "done":
        tqdm.write(f"{outcome.key}  {outcome.text}")
    sys.stdout.flush()


# ---- Ray ----------------------------------------------------------------------------------------------------------


def run_on_ray(job: Job, left: Sequence[Cell]) -> dict[str, str]:
    """Every cell as a task of a Ray cluster. theta1 and scores are tasks too, so that no worker waits for a lock.

    The workers meet in the results folder, which all must see. A task whose node or process dies is tried again
    elsewhere; what was written before stays.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--executor ray needs Ray. In ctsft's folder: pip install -e '.[ray]'") from error
    config = _for_other_machines(job.bench.config)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=config.ray_address, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster answers at {config.ray_address}: {error}. Start one with `ray start --head`."
        ) from error
    try:
        return _submit(ray, job, config, left)
    finally:
        ray.shutdown()


def _submit(ray, job: Job, config: StudyConfig, left: Sequence[Cell]) -> dict[str, str]:
    request = {"num_cpus": config.cell_cpus, "num_gpus": config.cell_gpus, "max_retries": 5}
    request |= {"memory": int(config.cell_memory_gb * 2**30)} if config.cell_memory_gb else {}
    there = {kind: ray.remote(**request)(task) for kind, task in THERE.items()}
    tasks, pending = [], {}
    for stage, after in stages(left, bool(job.bench.config.probes)):
        tasks.append(there[type(stage)].remote(config, stage, None if after is None else tasks[after]))
        if isinstance(stage, Cell):
            pending[tasks[-1]] = stage
    failed: dict[str, str] = {}
    with tqdm(total=len(left), unit="cell", disable=None) as bar:
        while pending:
            [task], _ = ray.wait(list(pending), num_returns=1)
            key = job.keys[pending.pop(task)]
            try:
                outcome = ray.get(task)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                outcome = Settled(key, "failed", f"its worker was lost: {str(error).splitlines()[0]}")
            report(outcome, failed)
            bar.update()
    return failed


def _for_other_machines(config: StudyConfig) -> StudyConfig:
    """Whole paths in place of those that mean something here only."""
    model, data = Path(config.model).expanduser(), config.data_folder
    return replace(
        config,
        output=config.output.resolve(),
        data_dir=None if data is None else data.resolve(),
        model=str(model.resolve()) if config.model != "demo" and model.exists() else config.model,
    )


@lru_cache(maxsize=1)
def _job_there(config: StudyConfig) -> Job:
    """The loaded model and data of a worker process, kept for its next task."""
    bench = Workbench(config)
    return job_of(bench, NamedTests(bench))


def _theta1_there(config: StudyConfig, stage: Theta1, after: None) -> None:
    with suppress(CellFailed):  # each cell that needs it fails with the reason
        _job_there(config).bench.theta1_of(stage.seed)


def _scores_there(config: StudyConfig, stage: Scores, after: None) -> None:
    bench = _job_there(config).bench
    with suppress(CellFailed):
        relevance_of(bench, bench.config, stage.seed, stage.depth, stage.share)


def _settle_there(config: StudyConfig, cell: Cell, after: None) -> Settled:
    return settle(_job_there(config), cell, wait=True)


THERE = {Theta1: _theta1_there, Scores: _scores_there, Cell: _settle_there}
EXECUTORS: dict[str, Callable[[Job, Sequence[Cell]], dict[str, str]]] = {"local": run_here, "ray": run_on_ray}
