"""How every script begins: a results folder that can be written and holds nothing of other weights or data."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import TypeVar

from ctsft.discovery.circuits import check_size
from ctsft.models.anatomy import Anatomy
from ctsft.models.precision import note_on
from ctsft.storage import alone, remove_leftovers, write_atomic
from ctsft.study.beside import keep_gold, keep_hashes, refuse_other_data, refuse_other_model
from ctsft.study.circuit_files import mend_circuits
from ctsft.study.circuit_stage import mend_maps
from ctsft.study.config import OneProcess, StudyConfig
from ctsft.study.record import mend
from ctsft.study.workbench import Workbench
from ctsft.tasks.task import Rows
from ctsft.tuning.arms import check_control, get_arm

Config = TypeVar("Config", bound=OneProcess)
Printed = Callable[[Path], str]  # what a script prints at the end, out of its results folder


def opened(config: StudyConfig) -> Workbench:
    """The workbench, its model loaded; the results folder is ready and has rows of no other weights or data.

    A precision that this machine has no instructions for is told on stderr.

    Raises UserError, before anything is trained, where the folder cannot be written or its rows are of others.
    """
    _prepare(config.folder)
    bench = Workbench(config)
    refuse_other_model(config.folder, bench.loaded.name, bench.loaded.weights)
    refuse_other_data(config.folder, config.task, bench.provenance["data_sha256"])
    _check_heads(config, bench.anatomy)
    if not config.dry_run:
        mend_maps(bench)
    mend_circuits(bench)
    if note := note_on(bench.config.dtype, bench.device):
        print(f"note: {note}", file=sys.stderr)
    return bench


def run_alone(run: Callable[[Config, Printed], int]) -> Callable[[Config, Printed], int]:
    """The same function of a configuration and the table to print; UserError where another process runs it on the
    same folder.

    A dry run writes no row and measures no time, so it may be beside others.
    """

    @wraps(run)
    def in_one_process(config: Config, table: Printed) -> int:
        with nullcontext() if config.dry_run else alone(config.folder / config.experiment):
            return run(config, table)

    return in_one_process


def keep_data(bench: Workbench, tests: dict[str, Rows]) -> None:
    """Before the first row: the labels of the tests, and what the rows of every split held, lie beside the rows."""
    keep_gold(bench.config.folder, tests)
    keep_hashes(bench.config.folder, bench.config.task, bench.provenance["data_sha256"])


def _check_heads(config: StudyConfig, anatomy: Anatomy) -> None:
    """UserError for circuits larger than the model, and for controls that would not move as many weights."""
    depth = max((depth for _, depth in config.arm_depths() if depth is not None), default=None)
    if depth is None:
        return
    check_size(anatomy.n_heads, depth, max(config.shares))
    for arm, _ in config.arm_depths():
        check_control(get_arm(arm), anatomy, config.kv_policy)


def _prepare(folder: Path) -> None:
    """The folder can be written, and what a crash left behind is cleared."""
    probe = folder / ".writable"
    write_atomic(probe, "")
    probe.unlink(missing_ok=True)
    remove_leftovers(folder)
    mend(folder)
