"""Each fault is made to happen: too little memory, NaN, signals, a silent hub (of disks: test_disks.py)."""

from __future__ import annotations

import datetime
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from killing import ENVIRONMENT, contents, small_study

from ctsft import evaluation, provenance
from ctsft.discovery import gradient
from ctsft.errors import CellFailed, UserError
from ctsft.memory import with_less
from ctsft.study.record import read_rows
from ctsft.study.run import run_study
from ctsft.study.stopping import Stopped, finishing, stoppable
from ctsft.tasks import download
from ctsft.tuning import loop


@pytest.fixture(scope="module")
def three_cells(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    assert run_study(three(folder)) == 0
    return folder


def three(output: Path):
    return replace(small_study(output), seeds=(31,), arms=("full", "circuit:0", "norm_only"), probes=())


def answers(folder: Path) -> dict[str, str]:
    return {row["arm"]: row["predictions"] for row in read_rows(folder / "demo" / "01_nusax_transfer.csv")}


# ---- memory -------------------------------------------------------------------------------------------------------


def too_big(honest, size_of, limit: int):
    """`honest`, but out of memory where size_of(arguments) is above `limit`."""

    def run(*arguments, **options):
        if size_of(*arguments) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(*arguments, **options)

    return run


def test_smaller_pieces_are_tried_and_then_it_is_said_what_was_too_big():
    tried = []

    def run(size: int) -> str:
        tried.append(size)
        if size > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return "done"

    with pytest.warns(UserWarning, match="going on with 2 at a time"):
        assert with_less(run, 9, "do one") == "done"
    assert tried == [9, 4, 2]

    def never(size: int) -> None:
        raise MemoryError

    with (
        pytest.warns(UserWarning, match="out of memory"),
        pytest.raises(CellFailed, match="not enough memory to do on"),
    ):
        with_less(never, 4, "do one")
    with pytest.raises(RuntimeError, match="something else"):
        with_less(lambda size: (_ for _ in ()).throw(RuntimeError("something else")), 4, "do one")


def test_out_of_memory_in_training_scoring_and_answering_gives_the_same_rows(three_cells, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Gradients, "_accumulate", too_big(loop.Gradients._accumulate, lambda *a: a[2], 3))
    monkeypatch.setattr(gradient, "_from_gradient", too_big(gradient._from_gradient, lambda b, *_: len(b.gold), 2))
    monkeypatch.setattr(evaluation, "_predict", too_big(evaluation._predict, lambda *a: a[4], 64))
    with pytest.warns(UserWarning, match="out of memory: going on with"):
        assert run_study(three(tmp_path)) == 0
    assert answers(tmp_path) == answers(three_cells)


def test_a_cell_without_enough_memory_fails_alone(three_cells, tmp_path, monkeypatch, capsys):
    """The optimizer of all weights does not fit, and cannot be cut: that cell says so, the others have their rows."""
    honest, size = torch.optim.AdamW.step, []

    def step(self, *arguments, **options):
        size.append(sum(p.numel() for group in self.param_groups for p in group["params"]))
        # The first 18 are those of theta1, which moves all weights too (96 rows, 16 at a time, three epochs).
        if size[-1] == size[0] and len(size) > 18:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return honest(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    assert run_study(three(tmp_path)) == 1
    assert "out of memory (CUDA out of memory. Tried to allocate 9 GiB)" in capsys.readouterr().err
    expected = answers(three_cells)
    assert answers(tmp_path) == {arm: expected[arm] for arm in ("circuit", "norm_only")}
    monkeypatch.setattr(torch.optim.AdamW, "step", honest)
    assert run_study(three(tmp_path)) == 0
    assert contents(tmp_path) == contents(three_cells)


def test_scores_without_enough_memory_fail_their_cells_alone(three_cells, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gradient, "_from_gradient", too_big(gradient._from_gradient, lambda b, *_: len(b.gold), 0))
    with pytest.warns(UserWarning, match="out of memory"):
        assert run_study(three(tmp_path)) == 1
    assert "not enough memory to score one head on one row" in capsys.readouterr().err
    expected = answers(three_cells)
    assert answers(tmp_path) == {arm: expected[arm] for arm in ("full", "norm_only")}


def test_a_loss_that_is_not_a_number_fails_its_cell_and_leaves_no_trace_in_the_next(three_cells, tmp_path):
    assert run_study(replace(three(tmp_path), lrs=(1e30, 1e-3), arms=("full", "norm_only"))) == 1
    expected = answers(three_cells)
    rows = read_rows(tmp_path / "demo" / "01_nusax_transfer.csv")
    assert {row["arm"]: row["predictions"] for row in rows if row["lr"] == "0.001"} == {
        arm: expected[arm] for arm in ("full", "norm_only")
    }
    assert not [row for row in rows if row["lr"] == "1e+30" and row["arm"] == "full"]


# ---- signals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_between_writes_and_says_how_to_go_on(tmp_path, number):
    code = (
        "from killing import *; from ctsft.study.run import main; "
        f"main({{'demo': small_study(Path({str(tmp_path)!r}))}}, '', argv=[])"
    )
    options = {"env": ENVIRONMENT, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], **options)
    path, deadline = tmp_path / "demo" / "01_nusax_transfer.csv", time.monotonic() + 300
    while len(read_rows(path)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    error = process.communicate()[1]
    assert process.returncode == 128 + number
    assert "stopped. Finished cells are saved; run the same command again to go on." in error
    assert "Traceback" not in error
    assert 2 <= len(read_rows(path)) < 10
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_is_being_written_is_written_before_a_signal_counts():
    done = []
    with stoppable(), pytest.raises(Stopped) as stop:  # noqa: PT012
        with finishing():
            signal.raise_signal(signal.SIGTERM)
            done.append("written")
        done.append("never")
    assert (done, stop.value.number) == (["written"], signal.SIGTERM)


# ---- hub and clock ------------------------------------------------------------------------------------------------


@contextmanager
def server(answer: bytes):
    """Takes connections, sends `answer`, and then neither sends nor hangs up (b"": hangs up after that)."""
    taken = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                taken.append(connection)
                connection.recv(4096)
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    for connection in taken:
        connection.close()


def test_a_hub_that_never_answers_is_given_up(tmp_path):
    code = (
        "from ctsft.errors import UserError\nfrom ctsft.models.load import load_model\n"
        "from ctsft.heads import Slice\nfrom ctsft.tasks.xnli import XNLI\n"
        "from ctsft.tuning.delta import HeadDelta\nfrom ctsft.tuning.share import pull, push\nimport sys, torch\n"
        "HeadDelta('base', {Slice('weight', 0, 0, 1): torch.zeros(1)}).save(sys.argv[1])\n"
        "for load in (lambda: load_model('someone/absent'), lambda: XNLI.load('english', 'test'),\n"
        "             lambda: pull('someone/absent'), lambda: push(sys.argv[1], 'someone/absent')):\n"
        "    try: load()\n    except UserError as error: print(error)"
    )
    with server(b"") as address:
        hub = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_CACHE": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "delta"],
            env=ENVIRONMENT | hub, capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
    model, data, pulled, pushed = done.stdout.splitlines()
    assert model.startswith("cannot load the model 'someone/absent'")
    assert "--model" in model
    assert data.startswith("cannot download XNLI")
    assert "--data-dir" in data
    assert pulled.startswith("cannot pull someone/absent: the hub does not answer")
    assert pushed == "cannot push to someone/absent: the hub does not answer, or HF_HUB_OFFLINE is set."


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nhalf", b"no HTTP\r\n\r\n"])
def test_a_download_that_stalls_or_talks_nonsense_leaves_no_file(tmp_path, monkeypatch, answer):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    with server(answer) as address, pytest.raises(UserError, match=r"(?s)cannot download .*--data-dir"):
        download.fetch(f"{address}/file.csv", None)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_clock_that_jumps_changes_nothing_but_dates(three_cells, tmp_path, monkeypatch):
    """Years back and forth between any two looks at the clock; durations come from a clock that cannot be set."""
    days = iter(range(0, 10**9, 4001))

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            day = next(days)
            return super().now(tz) + datetime.timedelta(days=day if day % 2 else -day)

    monkeypatch.setattr(provenance, "datetime", SimpleNamespace(datetime=Jumping, UTC=datetime.UTC))
    monkeypatch.setattr(time, "time", lambda: float(next(days)))
    assert run_study(three(tmp_path)) == 0
    assert contents(tmp_path) == contents(three_cells)
    rows = read_rows(tmp_path / "demo" / "01_nusax_transfer.csv")
    assert len({row["created"][:4] for row in rows}) == 3
    assert all(0 <= float(row["train_seconds"]) < 600 for row in rows)
    assert run_study(three(tmp_path)) == 0
    assert read_rows(tmp_path / "demo" / "01_nusax_transfer.csv") == rows
