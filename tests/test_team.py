"""Two processes that tune one model, as `accelerate launch` starts them: the weights and rows of one process."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killing import ENVIRONMENT, small_study
from safetensors.torch import load_file

from ctsft.errors import UserError
from ctsft.models.load import load_model
from ctsft.study.config import OneProcess
from ctsft.study.helping import check_team
from ctsft.study.record import read_rows
from ctsft.study.run import run_study
from ctsft.tuning.team import Team, team_on

LAUNCH = "-m accelerate.commands.launch --num_machines 1 --mixed_precision no --dynamo_backend no".split()
TABLE = Path("demo", "01_nusax_transfer.csv")
# In the second process, what it adds to the tuning of the arm `norm_only` fails.
SCRIPT = """
import sys
from pathlib import Path
from ctsft.study.run import main
from ctsft.study.workbench import Workbench
from ctsft.tuning import loop
from test_team import study
honest, take_part = loop.Gradients._accumulate, Workbench.take_part

def fails(*arguments):
    raise {error}

def failing(bench, training):
    loop.Gradients._accumulate = fails if training.arm.name == "norm_only" else honest
    take_part(bench, training)

Workbench.take_part = failing
main({{"demo": study(Path(sys.argv.pop()))}}, "")
"""


def study(output: Path):
    """Arms with a penalty, with adapters, with a first tuning; theta1's last batch has a row for one process only."""
    arms = ("norm_only", "full", "circuit:1", "ewc", "lora", "lt_sft:1")
    return replace(small_study(output), seeds=(31,), arms=arms, n_source=97, probes=("demo/d50",), by_epoch=True)


def launch(folder: Path, error: str, *flags: str) -> subprocess.CompletedProcess:
    script = folder / "script.py"
    script.write_text(SCRIPT.format(error=error))
    command = [sys.executable, *LAUNCH, *flags, str(script), str(folder)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=1500)


TWO = ("--multi_gpu", "--num_processes", "2", "--main_process_port", "0")


def names(folder: Path) -> set[str]:
    """The files of a results folder, without the digits that stand for settings and for the last bits of theta1."""
    files = [path for path in (folder / "demo").rglob("*") if path.suffix != ".lock"]
    return {re.sub(r"-[0-9a-f]{6}(?=\.|$)", "", str(path.relative_to(folder))) for path in files}


@pytest.mark.skipif(torch.cuda.is_available(), reason="on GPUs this launches one process for each")
def test_two_processes_tune_to_the_weights_and_rows_of_one(tmp_path):
    assert run_study(study(tmp_path / "one")) == 0
    (tmp_path / "two").mkdir()
    done = launch(tmp_path / "two", "MemoryError", *TWO)
    # A process that runs out of memory fails the cell in both, and they go on with the next.
    assert done.returncode == 1, done.stderr
    assert "process 1 of 2 failed: OutOfMemory: not enough memory to train on one row" in done.stderr
    failed = "d30-n20-norm_only"
    one = [row for row in read_rows(tmp_path / "one" / TABLE) if not row["cell"].startswith(failed)]
    two = read_rows(tmp_path / "two" / TABLE)
    assert [row["cell"] for row in two] == [row["cell"] for row in one]
    assert len(two) == 5
    for row, other in zip(one, two, strict=True):
        for column in ("predictions", "source_predictions", "trainable", "valid_accuracy"):
            assert other[column] == row[column]
    [weights], [others] = ((tmp_path / name).rglob("cache/theta1/*.safetensors") for name in ("one", "two"))
    base = dict(load_model("demo").model.named_parameters())
    weights, others = load_file(weights), load_file(others)
    moved = torch.cat([(weights[name] - base[name]).flatten() for name in weights])
    apart = torch.cat([(weights[name] - others[name]).flatten() for name in weights])
    assert 0 < apart.norm() < 1e-5 * moved.norm()
    extra = {name for name in names(tmp_path / "two") ^ names(tmp_path / "one") if failed not in name}
    assert extra <= {"demo/failed"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="on GPUs this launches one process for each")
def test_an_error_in_one_process_ends_both(tmp_path):
    done = launch(tmp_path, "ZeroDivisionError('a fault')", *TWO)
    # The launcher ends the first process as soon as the second is gone, perhaps before it could say why.
    assert done.returncode != 0
    assert "ZeroDivisionError: a fault" in done.stderr
    assert not (tmp_path / TABLE).exists()


def test_accelerates_cpu_flag_is_named_because_it_starts_one_process(tmp_path):
    done = launch(tmp_path, "MemoryError", "--cpu", "--num_processes", "2")
    assert done.returncode != 0
    assert "error: accelerate launch --cpu starts one process only" in done.stderr


def test_shares_are_all_rows_and_none_twice():
    for size in (1, 2, 3, 5):
        shares = [Team(rank, size).own(range(4)) for rank in range(size)]
        assert sorted(row for share in shares for row in share) == [0, 1, 2, 3]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_studies_that_measure_in_one_process_refuse_more(tmp_path):
    config = small_study(tmp_path)
    check_team(config, Team(0, 2))
    with pytest.raises(UserError, match="brings its own processes"):
        check_team(replace(config, executor="ray"), Team(0, 2))
    one = OneProcess(**{name: getattr(config, name) for name in ("experiment", "preset", "task", "source", "targets")},
                     model="demo", n_source=96)  # fmt: skip
    check_team(one, Team())
    with pytest.raises(UserError, match="without accelerate launch"):
        check_team(one, Team(0, 2))


def test_one_process_needs_no_connection():
    assert team_on(torch.device("cpu")) == Team()
