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
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from ctsft.errors import CellFailed, UserError
from ctsft.report.rows import Results
from ctsft.report.transfer import transfer
from ctsft.storage import write_atomic, write_json
from ctsft.study.cell import run_cell
from ctsft.study.config import StudyConfig
from ctsft.study.grid import Cell, cell_fingerprint, cells
from ctsft.study.measures import measured
from ctsft.study.probes import Tests
from ctsft.study.record import (
    PROBE_COLUMNS,
    PROBES,
    append_rows,
    git_commit,
    keep_gold,
    now,
    read_cells,
    read_rows,
    versions,
)
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
        sys.exit((study or run_study)(parse(presets, description, argv), table))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped. Finished cells are saved; run the same command again to go on.", file=sys.stderr)
        sys.exit(130)


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
    check_writable(config.folder)
    bench = Workbench(config)
    config = bench.config
    keys = {cell: cell.key(cell_fingerprint(config, cell, bench.loaded.weights)) for cell in cells(config)}
    finished = read_cells(config.folder)
    probed = (
        {line["cell"] for line in read_rows(path.with_suffix(PROBES), PROBE_COLUMNS)} if config.probes else finished
    )
    known = measured(config.folder) if config.bystanders else finished
    left = [cell for cell, key in keys.items() if not all(key in done for done in (finished, probed, known))]
    print(f"{len(keys)} cells, {len(keys) - len(left)} done, {len(left)} to run on {bench.device} in {config.dtype}")
    if not left:
        print(f"nothing is left to run in {config.folder}; give another --output to run it afresh")
    if config.dry_run:
        _print_estimate(bench, keys, left)
        return 0
    tests = Tests(bench)
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
            "created": now(),
            **bench.provenance,
        },
    )
    failed = _run_cells(bench, tests, path, keys, left, finished)
    _print_results(bench, path, set(keys.values()), table)
    for key, reason in failed.items():
        print(f"failed: {key}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def check_writable(folder: Path) -> None:
    try:
        probe = folder / ".writable"
        write_atomic(probe, "")
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}. Choose another folder with --output.") from error


def _run_cells(
    bench: Workbench,
    tests: Tests,
    path: Path,
    keys: dict[Cell, str],
    left: list[Cell],
    finished: Mapping[str, Mapping[str, str]],
) -> dict[str, str]:
    failed: dict[str, str] = {}
    with tqdm(left, unit="cell", disable=None) as bar:
        for cell in bar:
            key = keys[cell]
            note = bench.config.folder / "failed" / f"{key}.json"
            started = time.perf_counter()
            try:
                row, lines = run_cell(bench, tests, cell, key)
            except CellFailed as error:
                failed[key] = str(error)
                write_json(
                    note,
                    {"cell": key, "reason": str(error), "git_commit": git_commit(), "created": now(), **versions()},
                )
                tqdm.write(f"{key}  FAILED: {error}")
                continue
            # The row first: a run that is killed between the two finds it, and measures the probes again.
            if key not in finished:
                append_rows(path, [row])
            if lines:
                same = finished.get(key, row)["predictions"] == row["predictions"]
                append_rows(path.with_suffix(PROBES), [line | {"same_row": same} for line in lines], PROBE_COLUMNS)
            note.unlink(missing_ok=True)
            seconds = time.perf_counter() - started
            tqdm.write(
                f"{key}  accuracy {row['accuracy']:.3f}  source {row['source_accuracy_before']:.3f} -> "
                f"{row['source_accuracy']:.3f}  trainable {row['trainable_share']:.2%}  {seconds:.0f} s"
            )
            sys.stdout.flush()
    return failed


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
    results = Results.read(config.folder)
    print(f"\n{table(results.only(results.rows['cell'].isin(keys)))}\n")
    for target in config.targets:
        labels = [example.label for example in bench.split(target, "test").examples]
        share = max(labels.count(label) for label in set(labels)) / len(labels)
        print(f"majority class on the test rows of {target}: {share:.4f}")
    print(f"rows: {path}\nsettings: {path.with_suffix('.config.json')}")
