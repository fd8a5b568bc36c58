"""A small study that is killed again and again. Run as a script: it imports once, and forks for every start.

    python tests/killing.py KILLS SEED FOLDER

Every start is killed (SIGKILL) after a random time, until the study is complete; then a new folder begins, until KILLS
starts were killed. The last folder is completed. After every start the rows of the ones before are there as they were
written. Prints, as JSON, how many starts were killed, how many rows starts have found, and the folders.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import torch  # noqa: E402

from ctsft.study.config import StudyConfig  # noqa: E402
from ctsft.study.record import PROBE_COLUMNS, PROBES, read_rows  # noqa: E402
from ctsft.study.run import run_study  # noqa: E402

TIMES = {"train_seconds", "eval_seconds", "seconds", "peak_memory_mb", "created", "git_commit", "sha256"}
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
PRESET = runpy.run_path(str(ROOT / "experiments" / "01_nusax_transfer.py"))["PRESETS"]["demo"]


def small_study(output: Path) -> StudyConfig:
    """Ten cells of well under a second each, two theta1, two maps that grow by depth, and probes."""
    return replace(
        PRESET,
        targets=("d30",),
        n_targets=(20,),
        seeds=(31, 777),
        lrs=(1e-3,),
        arms=("zero_shot", "full", "circuit:0,1", "norm_only"),
        n_source=96,
        epochs=3,
        mean_rows=12,
        score_rows=6,
        scorer="cdt_linear",
        probes=("demo/d50",),
        output=output,
    )


def shorter(output: Path) -> StudyConfig:
    """One cell that needs every stage."""
    return replace(small_study(output), seeds=(31,), arms=("circuit:1",), probes=())


def contents(folder: Path) -> dict[str, object]:
    """Every file of a results folder but the settings: tables and JSON without times, all else byte for byte."""
    found: dict[str, object] = {}
    for path in sorted((folder / "demo").rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name.endswith((".lock", ".config.json", ".sha256")):
            continue
        if path.suffix == ".csv":
            rows = read_rows(path, PROBE_COLUMNS) if path.name.endswith(PROBES) else read_rows(path)
            found[name] = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
        elif path.suffix == ".json":
            about = json.loads(path.read_text())
            found[name] = {key: value for key, value in about.items() if key not in TIMES}
        else:
            found[name] = path.read_bytes()
    return found


def start(output: Path) -> int:
    """Fork a process that runs the study; returns its id."""
    number = os.fork()
    if number == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os._exit(run_study(small_study(output)))
    return number


def rows_of(folder: Path) -> list[dict]:
    """The rows that are there, times and all."""
    path = folder / "demo" / f"{PRESET.experiment}.csv"
    return read_rows(path) if path.is_file() else []


def main(kills: int, seed: int, folder: Path) -> None:
    torch.set_num_threads(1)
    started = time.monotonic()
    assert os.waitpid(start(folder / "whole"), 0)[1] == 0
    seconds = time.monotonic() - started
    rng = random.Random(seed)
    killed, kept, folders = 0, 0, [folder / "0"]
    while True:
        before = rows_of(folders[-1])
        kept += len(before)
        process = start(folders[-1])
        if killed == kills:
            assert os.waitpid(process, 0)[1] == 0
            break
        time.sleep(rng.uniform(0, seconds / 2))
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            assert status == 0
            folders.append(folder / str(len(folders)))
        else:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            killed += 1
        after = rows_of(folders[-1] if not ended else folders[-2])
        assert [row for row in after if row in before] == before, "a row that was finished was lost or made again"
    told = {"killed": killed, "kept": kept, "seconds": round(seconds, 1), "folders": [str(path) for path in folders]}
    print(json.dumps(told))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
