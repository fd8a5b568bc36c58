"""Run a study from a script: presets and flags, the cells that are left, one line per cell, the table at the end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import torch
import tyro
from transformers.utils import logging as transformers_logging

from ctsft.errors import UserError, ending_in_a_line, nobody_reads, tell_in_a_line
from ctsft.models.load import device_of
from ctsft.report.printed import transfer
from ctsft.report.rows import Results
from ctsft.study.beside import keep_hashes, refuse_other_data, write_settings
from ctsft.study.config import StudyConfig
from ctsft.study.estimate import estimate
from ctsft.study.executors import EXECUTORS, job_of
from ctsft.study.helping import check_team, help_out
from ctsft.study.opening import keep_data, opened
from ctsft.study.probes import NamedTests
from ctsft.study.record import read_cells
from ctsft.study.stopping import Stopped, stoppable
from ctsft.study.workbench import Workbench
from ctsft.tasks.form import told_words
from ctsft.tuning.team import team_on

# A script's presets are checked where it writes them down, which is before it can call `main`.
sys.excepthook = tell_in_a_line


@ending_in_a_line()
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
            config = parse(presets, description, argv)
            team = team_on(device_of(config.device))
            check_team(config, team)
            if team.rank:
                sys.exit(help_out(config, team))
            with team.dismissing():
                sys.exit((study or run_study)(config, table))
    except Stopped as stop:
        print("\nstopped. Finished cells are saved; run the same command again to go on.", file=sys.stderr)
        sys.exit(128 + stop.number)
    except BrokenPipeError:
        if not nobody_reads():
            raise


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
    try:
        return tyro.cli(type(presets[known.preset]), default=presets[known.preset], args=rest, description=about)
    except SystemExit as stop:
        if stop.code:  # tyro has said what is wrong, but names only flags that look like the wrong one
            shown = [field for field in fields(presets[known.preset]) if "Suppress" not in str(field.type)]
            flags = dict.fromkeys(["--preset", *(f"--{field.name.replace('_', '-')}" for field in shown)])
            print(f"valid flags: {' '.join(flags)}; --help explains them", file=sys.stderr)
        raise


def run_study(config: StudyConfig, table: Callable[[Results], str] = transfer) -> int:
    """Run every cell that no experiment has run yet. Returns the exit status: 1 when a cell failed, else 0."""
    path = config.folder / f"{config.experiment}.csv"
    bench = opened(config)
    config = bench.config
    print(f"preset {config.preset}: {config.task}, {config.source} to {', '.join(config.targets)}, {bench.loaded.name}")
    for line in told_words(bench.task):
        print(line)
    for finding in bench.findings:
        print(f"check: {finding}")
    tests = NamedTests(bench)
    others = tests.hashes((*config.probes, *config.bystanders))
    for task, hashes in others.items():
        refuse_other_data(config.folder, task, hashes)
    job = job_of(bench, tests)
    keys = job.keys
    mine = set(config.part(list(keys)))
    left = [cell for cell in job.left() if cell in mine]
    shard = f" in shard {config.shard}" if config.shard else ""
    done = len(mine) - len(left)
    print(f"{len(mine)} cells{shard}, {done} done, {len(left)} to run on {bench.device} in {config.dtype}")
    for line in bench.label_counts():
        print(line)
    if not left:
        print(f"nothing is left to run in {config.folder}; give another --output to run it afresh")
    if config.dry_run:
        for cell, key in keys.items():
            if cell in mine:
                print(f"  {'to run' if cell in left else 'done  '}  {key}")
        print(estimate(bench, left))
        return 0
    names = (
        *(f"{config.task}/{language}" for language in (config.source, *config.targets)),
        *config.probes,
        *config.bystanders,
    )
    keep_data(bench, {test: tests.rows(test) for test in names})
    for task, hashes in others.items():
        keep_hashes(config.folder, task, hashes)
    about = {
        "effective_device": str(bench.device),
        "threads": torch.get_num_threads(),
        "processes": bench.team.size,
        "model_hash": bench.loaded.weights,
        "tests_sha256": {test: tests.rows(test).sha256[:16] for test in (*config.probes, *config.bystanders)},
        **({"checks": bench.findings} if bench.findings else {}),
        **bench.provenance,
    }
    if left:
        settings = {**config.to_dict(), "label_words": config.effective_task.label_words}
        write_settings(config.folder / f"{config.experiment}.config.json", settings, about)
    failed = EXECUTORS[config.executor](job, left)
    _print_results(bench, path, set(keys.values()), table)
    for key, reason in failed.items():
        print(f"failed: {key}: {reason}", file=sys.stderr)
    return 1 if failed else 0


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
