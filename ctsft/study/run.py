"""Run a study from a script: presets and flags, the cells that are left, one line per cell, the table at the end."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import tyro
from transformers.utils import logging as transformers_logging

from ctsft.errors import UserError
from ctsft.report.rows import Results
from ctsft.report.transfer import transfer
from ctsft.storage import remove_leftovers, write_atomic, write_json
from ctsft.study.config import StudyConfig
from ctsft.study.executors import EXECUTORS, job_of
from ctsft.study.grid import Cell
from ctsft.study.probes import Tests
from ctsft.study.record import keep_gold, mend, now, read_cells, refuse_other_data
from ctsft.study.stopping import Stopped, stoppable
from ctsft.study.workbench import Workbench
from ctsft.tuning.arms import get_arm


def main(
    presets: Mapping[str, StudyConfig],
    description: str,
    table: Callable[..., str] = transfer,
    argv: Sequence[str] | None = None,
    study: Callable[..., int] | None = None,
) -> None:
    """Entry point of the scripts: `--preset NAME`, then any field of the presets' class as a flag. Exits with a status.

    `study` (without one: run_study) does the work; `table` makes what it prints at the end out of its rows.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with stoppable():
            sys.exit((study or run_study)(parse(presets, description, argv), table))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stop:
        print("\nstopped. Finished cells are saved; run the same command again to go on.", file=sys.stderr)
        sys.exit(128 + stop.number)


def parse(presets: Mapping[str, StudyConfig], description: str, argv: Sequence[str] | None = None) -> StudyConfig:
    """The preset's configuration with the flags' values in place of its own."""
    argv = list(sys.argv[1:] if argv is None else argv)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=next(iter(presets)))
    known, rest = first.parse_known_args(argv)
    if known.preset not in presets:
        raise UserError(f"unknown preset '{known.preset}'. Valid: {', '.join(presets)}.")
    about = (
        f"{description.strip()}\n\nPresets: --preset {'|'.join(presets)} (default {next(iter(presets))}). "
        f"The defaults below are those of the preset '{known.preset}'."
    )
    return tyro.cli(type(presets[known.preset]), default=presets[known.preset], args=rest, description=about)


def run_study(config: StudyConfig, table: Callable[[Results], str] = transfer) -> int:
    """Run every cell that no experiment has run yet. Returns the exit status: 1 when a cell failed, else 0."""
    path = config.folder / f"{config.experiment}.csv"
    prepare(config.folder)
    bench = Workbench(config)
    config = bench.config
    if not bench.task.published:
        refuse_other_data(config.folder, config.task, bench.provenance["data_sha256"])
        for label, word in zip(bench.task.labels, bench.task.label_words, strict=True):
            print(f"label {label}: '{word}'")
    for finding in bench.findings:
        print(f"check: {finding}")
    tests = Tests(bench)
    job = job_of(bench, tests)
    keys = job.keys
    mine = set(config.part(list(keys)))
    left = [cell for cell in job.left() if cell in mine]
    shard = f" in shard {config.shard}" if config.shard else ""
    done = len(mine) - len(left)
    print(f"{len(mine)} cells{shard}, {done} done, {len(left)} to run on {bench.device} in {config.dtype}")
    if not left:
        print(f"nothing is left to run in {config.folder}; give another --output to run it afresh")
    if config.dry_run:
        _print_estimate(bench, keys, left)
        return 0
    names = (
        *(f"{config.task}/{language}" for language in (config.source, *config.targets)),
        *config.probes,
        *config.bystanders,
    )
    keep_gold(config.folder, {test: tests.rows(test) for test in names})
    write_json(
        config.folder / f"{config.experiment}.config.json",
        {
            **config.to_dict(),
            "label_words": config.effective_task.label_words,
            "effective_device": str(bench.device),
            "threads": torch.get_num_threads(),
            "model_hash": bench.loaded.weights,
            **({"checks": bench.findings} if bench.findings else {}),
            "created": now(),
            **bench.provenance,
        },
    )
    failed = EXECUTORS[config.executor](job, left)
    _print_results(bench, path, set(keys.values()), table)
    for key, reason in failed.items():
        print(f"failed: {key}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def prepare(folder: Path) -> None:
    """Before anything is loaded or trained: the folder can be written, and what a crash left behind is cleared."""
    probe = folder / ".writable"
    write_atomic(probe, "")
    probe.unlink(missing_ok=True)
    remove_leftovers(folder)
    mend(folder)


def _print_estimate(bench: Workbench, keys: dict[Cell, str], left: list[Cell]) -> None:
    """List the cells, and scale a measured forward pass to the work that is left."""
    for cell, key in keys.items():
        print(f"  {'to run' if cell in left else 'done  '}  {key}")
    config = bench.config
    rows = bench.prompts(config.source, "valid").subset(range(min(config.eval_batch, 64)))
    bench.predict(rows)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        bench.predict(rows)
        seconds.append((time.perf_counter() - started) / len(rows))
    forward = statistics.median(seconds)
    sizes = {name: len(bench.split(config.source, name).examples) for name in ("valid", "test")}
    work = sum(
        config.epochs * cell.n_target * get_arm(cell.arm).scope.passes + sizes["valid"] + 2 * sizes["test"]
        for cell in left
    )
    seeds = {cell.seed for cell in left}
    work += len(seeds) * (3 * config.epochs * config.n_source + sizes["valid"] + sizes["test"])
    scoring = len({cell.seed for cell in left if get_arm(cell.arm).needs_heads}) * config.score_rows
    work += scoring * (bench.anatomy.n_heads / 2 if config.scorer == "cdt" else 4)
    print(
        f"about {work * forward / 60:.0f} minutes, at a measured {forward * 1000:.1f} ms for a row's forward pass "
        "(competence and scores that are already stored cost less)"
    )


def _print_results(bench: Workbench, path: Path, keys: set[str], table: Callable[[Results], str]) -> None:
    config = bench.config
    if not keys & read_cells(config.folder).keys():
        return
    results = Results.read(config.folder, config.experiment)
    print(f"\n{table(results.only(results.rows['cell'].isin(keys)))}\n")
    for target in config.targets:
        labels = [example.label for example in bench.split(target, "test").examples]
        share = max(labels.count(label) for label in set(labels)) / len(labels)
        print(f"majority class on the test rows of {target}: {share:.4f}")
    print(f"rows: {path}\nsettings: {path.with_suffix('.config.json')}")
