"""What a large study takes, and how many workers it can use: measured stages of committed rows, on 1 to 256 workers.

python benchmarks/planning.py                                # 100 languages and 10 models, as committed
python benchmarks/planning.py --languages 20 --models 3

Every model is taken to be as fast and as large as the one that was measured, and every language as long as the measured
ones. `worker_hours` are those of one worker alone; `disk_gb` is every theta1 in float32, and the rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
from common import RESULTS, write
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from ctsft.report.figures.style import save, style
from ctsft.study.estimate import ROW_BYTES
from ctsft.study.grid import Cell, Scores, Theta1, stages
from ctsft.study.planning import Stage, best, duration, plans
from ctsft.study.record import read_rows

ROWS = Path(__file__).parents[1] / "results" / "small"
EXPERIMENT = "01_nusax_transfer"


def median_of(folder: str, field: str, **wanted: str) -> float:
    """Over the JSON files of the source language of EXPERIMENT that say what is `wanted`."""
    files = [json.loads(path.read_bytes()) for path in (ROWS / folder).glob("indonesian-*.json")]
    return statistics.median(about[field] for about in files if wanted.items() <= about.items())


def measured() -> tuple[dict[tuple[str, int | None], tuple[float, float]], float, float]:
    """Seconds of every arm and depth to train on one target row, and to answer; those of theta1, and of its scores."""
    found = defaultdict(list)
    for row in read_rows(ROWS / f"{EXPERIMENT}.csv"):
        trained = float(row["train_seconds"]) / max(1, int(row["n_target"]))
        found[row["arm"], int(row["depth"]) if row["depth"] else None].append((trained, float(row["eval_seconds"])))
    arms = {arm: tuple(map(statistics.median, zip(*pairs, strict=True))) for arm, pairs in found.items()}
    return arms, median_of("theta1", "train_seconds"), median_of("relevance", "seconds", scorer="cdt")


def on_disk(models: int, seeds: int, cells: int) -> float:
    """Gigabytes (powers of ten) of theta1 of every model and seed, and of the rows."""
    rows = read_rows(ROWS / f"{EXPERIMENT}.csv")
    weights = max(int(row["trainable"]) for row in rows)
    answers = len(rows[0]["predictions"]) + len(rows[0]["source_predictions"])
    return (models * seeds * weights * 4 + cells * (ROW_BYTES + answers)) / 1e9


def study(languages: int, models: int, seeds: int, sizes: list[int]) -> list[Stage]:
    """Every model, seed, language, size and arm, each model with theta1 and scores of its own."""
    arms, theta1, scores = measured()
    timed: list[Stage] = []
    for _ in range(models):
        todo = [
            Cell(f"language {language}", 0 if arm == "zero_shot" else size, arm, depth, 0.0, seed)
            for seed in range(seeds)
            for language in range(languages)
            for size in sizes
            for arm, depth in arms
            if arm != "zero_shot" or size == sizes[0]
        ]
        first = len(timed)
        for stage, after in stages(todo):
            if isinstance(stage, Cell):
                trained, answered = arms[stage.arm, stage.depth]
                seconds = trained * stage.n_target + answered
            else:
                seconds = {Theta1: theta1, Scores: scores}[type(stage)]
            timed.append(Stage(seconds, None if after is None else first + after))
    return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", type=int, default=100)
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--n-targets", type=int, nargs="+", default=[25, 50, 75, 100])
    options = parser.parse_args()
    # From the study that was run to the one that is asked for.
    sizes = [(2, 1, 2, [100]), (4, 1, options.seeds, options.n_targets)]
    sizes += [(options.languages, options.models, options.seeds, options.n_targets)]
    table = []
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
        for (languages, models, seeds, n_targets), marker in zip(sizes, "os^", strict=True):
            timed = study(languages, models, seeds, n_targets)
            choices = plans(timed)
            about = {"languages": languages, "models": models, "seeds": seeds, "stages": len(timed)}
            about["worker_hours"] = sum(stage.seconds for stage in timed) / 3600
            about["disk_gb"] = on_disk(models, seeds, len(timed))
            chosen = best(choices).workers
            table += [about | plan._asdict() | {"best": plan.workers == chosen} for plan in choices]
            label = f"{languages} languages, {models} model{'s' if models > 1 else ''}"
            label += f": {duration(choices[0].seconds)}"
            left.plot([p.workers for p in choices], [p.speed_up for p in choices], marker=marker, label=label)
            right.plot([p.workers for p in choices], [p.efficiency for p in choices], marker=marker, label=label)
        workers = [plan.workers for plan in choices]
        left.plot(workers, workers, color="grey", linestyle=":", linewidth=1)
        left.set_yscale("log", base=2)
        left.set_ylabel("times faster than one worker")
        right.set_ylabel("share of time that workers work")
        right.set_ylim(0, 1.05)
        right.yaxis.set_major_formatter(PercentFormatter(1))
        for axis in (left, right):
            axis.set_xscale("log", base=2)
            axis.set_xticks(workers)
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.set_xlabel("workers")
        left.yaxis.set_major_formatter(ScalarFormatter())
        keys = left.get_legend_handles_labels()
        figure.legend(*keys, loc="upper center", ncols=3, frameon=False, title="with the time on one worker")
        figure.tight_layout(rect=(0, 0, 1, 0.86))
        name = f"planning-{options.languages}x{options.models}"
        write(name, table)
        save(figure, RESULTS / name)


if __name__ == "__main__":
    main()
