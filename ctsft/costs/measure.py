"""What tuning one cell costs: floating-point operations, seconds, peak memory, stored bytes, energy."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from ctsft.costs.arithmetic import eager_attention
from ctsft.study.circuit_stage import heads_of
from ctsft.study.grid import Cell
from ctsft.study.provenance import peak_memory_mb
from ctsft.study.workbench import Workbench
from ctsft.tuning.arms import get_arm

FLOAT = 4  # bytes of a stored weight, and of the place of a weight that no slice describes


@dataclass(frozen=True)
class Energy:
    """Joules and how they were found, by codecarbon or as an estimate; and the processor's seconds."""

    joules: float
    how: str
    cpu_seconds: float


def flops_of(bench: Workbench, run: Callable[[], object]) -> int:
    """Operations of all matrix products in `run`, a product of two numbers and its sum counting as two."""
    with eager_attention(bench.model), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def start_memory(device: torch.device) -> None:
    """Start the mark of the highest memory afresh, where the system can: Linux, or a GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        # The C library keeps freed memory, several GB of it, which would count for what comes next. musl has no such
        # function, and keeps none.
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def highest_memory_mb(device: torch.device) -> int:
    """The highest memory since `start_memory`: of the device on a GPU, else of the process (the kernel's VmHWM)."""
    if device.type == "cuda" or sys.platform != "linux":
        return peak_memory_mb(device)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 2**10


def stored_bytes(arm_name: str, trained: int) -> int:
    """What has to be kept for one language beside theta1: the trained weights in float32, and places where needed."""
    return trained * (2 * FLOAT if get_arm(arm_name).moves == "sparse" else FLOAT)


def energy_of(run: Callable[[], object], watts: float, device: torch.device) -> Energy:
    """What `run` uses: by codecarbon where it is installed and works, else seconds x `watts`.

    On a CPU the seconds are the processor's, which other processes do not lengthen; on a GPU those of the clock.
    """
    tracker = None
    if importlib.util.find_spec("codecarbon") is not None:
        from codecarbon import OfflineEmissionsTracker

        # The country serves to turn energy into carbon dioxide, which is not used here.
        tracker = OfflineEmissionsTracker(country_iso_code="IDN", save_to_file=False, log_level="error")
        tracker.start()
    started, busy = time.perf_counter(), time.process_time()
    try:
        run()
    finally:
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        if tracker is not None:
            tracker.stop()
    # It swallows its own errors, and then has no data.
    data = getattr(tracker, "final_emissions_data", None)
    if data is not None:
        how = "codecarbon (its own estimate where it cannot read the machine)"
        return Energy(data.energy_consumed * 3.6e6, how, busy)
    if device.type == "cpu":
        return Energy(busy * watts, f"estimate: processor seconds x {watts:g} W", busy)
    return Energy(seconds * watts, f"estimate: seconds x {watts:g} W", busy)


def cost_of(bench: Workbench, cell: Cell, watts: float) -> dict[str, object]:
    """Tune the cell twice: once for the clock, once counted, because counting is slow. theta1 and its scores exist."""
    bench.start_of(cell)
    heads = heads_of(bench, cell)

    measured = []

    def tune() -> None:
        bench.forget_reading()  # an arm costs what it costs alone
        with bench.tuned(cell, heads) as trained_and_seconds:
            measured.append(trained_and_seconds)
        bench.forget_reading()

    start_memory(bench.device)
    energy = energy_of(tune, watts, bench.device)
    megabytes = highest_memory_mb(bench.device)
    trained, seconds = measured[0]
    return {
        "target": cell.target,
        "n_target": cell.n_target,
        "arm": cell.arm,
        "depth": cell.depth,
        "seed": cell.seed,
        "trainable": trained,
        "flops": flops_of(bench, tune),
        "seconds": round(seconds, 3),
        "cpu_seconds": round(energy.cpu_seconds, 3),
        "peak_memory_mb": megabytes,
        "stored_bytes": stored_bytes(cell.arm, trained),
        "joules": round(energy.joules, 3),
        "energy_is": energy.how,
    }
