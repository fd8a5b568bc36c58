"""Where the time of a whole cell goes: forward, backward, optimizer, and the rest, which is overhead.

python benchmarks/study.py                        # a demo cell
python benchmarks/study.py --preset small --model MODEL.gguf --data-dir DATA --n-source 32
"""

from __future__ import annotations

import argparse
import runpy
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from common import RESULTS, write

from ctsft.report.figures.style import save
from ctsft.study.cell import run_cell
from ctsft.study.circuit_stage import heads_of
from ctsft.study.grid import Cell
from ctsft.study.probes import NamedTests
from ctsft.study.workbench import Workbench

SCRIPT = Path(__file__).parents[1] / "experiments" / "01_nusax_transfer.py"


class Clock:
    """Adds up the seconds spent in some calls."""

    def __init__(self) -> None:
        self.seconds = {"forward": 0.0, "backward": 0.0, "optimizer": 0.0}

    def timed(self, what: str, function):
        def run(*args, **kwargs):
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[what] += time.perf_counter() - started

        return run

    @contextmanager
    def watching(self, model):
        step, backward, forward = torch.optim.AdamW.step, torch.Tensor.backward, model.forward
        torch.optim.AdamW.step = self.timed("optimizer", step)
        torch.Tensor.backward = self.timed("backward", backward)
        model.forward = self.timed("forward", forward)
        try:
            yield
        finally:
            torch.optim.AdamW.step, torch.Tensor.backward, model.forward = step, backward, forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--model")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--n-source", type=int, help="source rows of theta1, whose quality plays no part here")
    parser.add_argument("--arms", nargs="+", default=["full", "circuit", "norm_only"])
    options = parser.parse_args()
    preset = runpy.run_path(str(SCRIPT))["PRESETS"][options.preset]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        config = replace(
            preset,
            output=Path(folder),
            scorer="cdt_linear",
            model=options.model or preset.model,
            data_dir=options.data_dir,
            n_source=options.n_source or preset.n_source,
        )
        bench = Workbench(config)
        target, n_target = config.targets[0], max(config.n_targets)
        first = Cell(target, n_target, "circuit", 2, config.lrs[0], config.seeds[0])
        heads_of(bench, first)
        for arm in options.arms:
            cell = replace(first, arm=arm, depth=2 if arm == "circuit" else None)
            clock = Clock()
            with clock.watching(bench.model):
                started = time.perf_counter()
                run_cell(bench, NamedTests(bench), cell, "benchmark")
                total = time.perf_counter() - started
            rest = total - sum(clock.seconds.values())
            shares = {f"{what}_share": value / total for what, value in clock.seconds.items()}
            rows.append({"arm": arm, "n_target": n_target, "seconds": total, **shares, "overhead_share": rest / total})
    name = f"study-{options.preset}"
    frame = write(name, rows)
    figure, axis = plt.subplots(figsize=(5, 2.2))
    left = 0
    for what in ("forward", "backward", "optimizer", "overhead"):
        axis.barh(frame["arm"], frame[f"{what}_share"], left=left, label=what)
        left = left + frame[f"{what}_share"]
    axis.set_xlabel("share of a cell's time")
    axis.legend(ncols=4, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    figure.tight_layout()
    save(figure, RESULTS / name)


if __name__ == "__main__":
    main()
