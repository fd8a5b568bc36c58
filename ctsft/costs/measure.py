"""What tuning one cell costs: floating-point operations, seconds, peak memory, stored bytes, energy."""

from __future__ import annotations

import gc
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ctsft.costs.arithmetic import eager_attention
from ctsft.memory import highest_memory_mb, start_memory
from ctsft.study.circuit_stage import heads_of
from ctsft.study.grid import Cell
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

    gc.collect()
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
