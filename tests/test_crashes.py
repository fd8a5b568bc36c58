"""Nothing is lost and nothing is wrong: killed runs, damaged files, several processes on one results folder."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from damaging import DAMAGES
from killing import ENVIRONMENT, ROOT, contents, shorter, small_study

from ctsft import storage
from ctsft.errors import UserError
from ctsft.report.rows import Results
from ctsft.storage import Damaged, locked, read_sealed, remove_leftovers, write_atomic, write_sealed
from ctsft.study.record import append_rows, read_rows
from ctsft.study.run import run_study

KILLS = int(os.environ.get("CTSFT_KILLS", "6"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The small study, run in one go by one process."""
    folder = tmp_path_factory.mktemp("whole")
    assert run_study(small_study(folder)) == 0
    return folder


def test_runs_killed_at_random_moments_end_with_the_same_files(tmp_path):
    """CTSFT_KILLS=30 is the long run."""
    script = [sys.executable, str(ROOT / "tests" / "killing.py"), str(KILLS), "8", str(tmp_path)]
    done = subprocess.run(script, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["killed"] == KILLS
    assert told["kept"] > 0  # else no start has had a row to lose
    expected = contents(tmp_path / "whole")
    assert len(expected["demo/01_nusax_transfer.csv"]) == 10
    for folder in told["folders"]:
        actual = contents(Path(folder))
        # Killed between a map's two files, the next run finds that they do not belong together, and makes them again.
        assert {name: content for name, content in actual.items() if ".damaged-" not in name} == expected


def run_in_background(output: Path) -> subprocess.Popen:
    code = f"from killing import *; sys.exit(run_study(small_study(Path({str(output)!r}))))"
    return subprocess.Popen([sys.executable, "-c", code], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)


def test_two_processes_share_the_cells_and_train_theta1_once(whole, tmp_path):
    processes = [run_in_background(tmp_path) for _ in range(2)]
    told = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert contents(tmp_path) == contents(whole)
    # From the lines that each prints: every cell was run by one of them, theta1 and the scores of a seed by one.
    lines = "\n".join(told).splitlines()
    ran = Counter(line.split()[0] for line in lines if "  accuracy " in line)
    assert len(ran) == 10
    assert set(ran.values()) == {1}
    for seed in (31, 777):
        assert len([line for line in lines if line.startswith(f"theta1 of seed {seed}:")]) == 1


def test_the_lock_of_a_killed_process_holds_nobody_up(whole, tmp_path):
    first, second = run_in_background(tmp_path), run_in_background(tmp_path)
    path, deadline = tmp_path / "demo" / "01_nusax_transfer.csv", time.monotonic() + 300
    while len(read_rows(path)) < 3 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    second.communicate(timeout=600)
    assert second.returncode == 0
    actual = contents(tmp_path)
    assert {name: content for name, content in actual.items() if not name.endswith(".tmp")} == contents(whole)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "pattern", ["theta1/*.json", "cache/theta1/*.safetensors", "relevance/*.json", "relevance/*.safetensors"]
)
def test_a_damaged_stage_is_named_set_aside_and_made_again(one_cell, tmp_path, capsys, pattern, damage):
    shutil.copytree(one_cell / "demo", tmp_path / "demo")
    (tmp_path / "demo" / "01_nusax_transfer.csv").unlink()
    [path] = (tmp_path / "demo").glob(pattern)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    damaged = path.read_bytes()
    assert run_study(shorter(tmp_path)) == 0
    assert f"warning: {path}" in capsys.readouterr().err
    assert path.with_name(f"{path.name}.damaged-1").read_bytes() == damaged
    actual = {name: content for name, content in contents(tmp_path).items() if ".damaged-" not in name}
    assert actual == contents(one_cell)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty"])
@pytest.mark.parametrize("name", ["01_nusax_transfer.csv", "01_nusax_transfer.probes.csv"])
def test_damaged_rows_are_named_set_aside_and_run_again(whole, tmp_path, capsys, name, damage):
    shutil.copytree(whole / "demo", tmp_path / "demo")
    path = tmp_path / "demo" / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    damaged = path.read_bytes()
    with pytest.raises(Damaged, match=rf"{name}, line \d+: "):
        Results.read(tmp_path / "demo")
    assert run_study(replace(small_study(tmp_path), probes=("demo/d50",))) == 0
    captured = capsys.readouterr()
    assert f"warning: {path}, line " in captured.err
    assert path.with_name(f"{name}.damaged-1").read_bytes() == damaged
    actual = {file: content for file, content in contents(tmp_path).items() if ".damaged-" not in file}
    assert actual == contents(whole)
    # Good rows were kept: those that were run again are fewer, unless none was left.
    again = captured.out.count("  accuracy ")
    assert (again == 10) == (damage == "empty")
    assert again > 0


def test_rows_from_before_there_were_checksums_are_read(one_cell, tmp_path):
    shutil.copytree(one_cell / "demo", tmp_path / "demo")
    (tmp_path / "demo" / "01_nusax_transfer.csv.sha256").unlink()
    path = tmp_path / "demo" / "01_nusax_transfer.csv"
    [row] = read_rows(path)
    append_rows(path, [row | {"cell": "another"}])
    path.write_bytes(path.read_bytes().replace(b"another,01", b"another,02"))
    with pytest.raises(Damaged, match="line 3: another does not have the checksum"):
        read_rows(path)


def test_rows_stand_in_the_order_of_the_grid_whoever_was_faster(one_cell, tmp_path):
    [row] = read_rows(one_cell / "demo" / "01_nusax_transfer.csv")
    path = tmp_path / "rows.csv"
    append_rows(path, [row | {"cell": "of another study"}])
    for cell in ("c", "a", "d", "b"):
        append_rows(path, [row | {"cell": cell}], order=["a", "b", "c", "d"])
    assert [row["cell"] for row in read_rows(path)] == ["of another study", "a", "b", "c", "d"]
    append_rows(path, [row | {"cell": "b", "accuracy": "0.5"}], order=["a", "b", "c", "d"])
    found = [(row["cell"], row["accuracy"]) for row in read_rows(path)]
    assert [cell for cell, _ in found] == ["of another study", "a", "b", "c", "d"]
    assert found[2] == ("b", "0.5")


def test_a_file_is_the_old_or_the_new_never_a_part(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, "old")
    monkeypatch.setattr(storage.os, "replace", lambda *names: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_dead_writers_are_removed_and_living_writers_keep_theirs(tmp_path):
    (tmp_path / ".dead.0123456789ab.tmp").write_text("half")
    with storage._temporary(tmp_path / "living") as file:
        remove_leftovers(tmp_path)
        assert [str(path) for path in tmp_path.iterdir()] == [file.name]
    assert not list(tmp_path.iterdir())


def test_leftovers_that_cannot_be_locked_stay_and_end_nothing(tmp_path, monkeypatch):
    """As over NFS, where a file must be open for writing."""
    (tmp_path / ".dead.0123456789ab.tmp").write_text("half")

    def flock(file, how):
        raise OSError(errno.EBADF, "bad file") if file.mode == "rb" else OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(storage.fcntl, "flock", flock)
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(storage.fcntl, "flock", lambda file, how: flock(file, how) if file.mode == "rb" else None)
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_file_locks_is_told(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(storage.fcntl, "flock", flock)
    with pytest.raises(UserError, match=r"gives no file locks \(No locks available\).*Give an --output"):
        locked(tmp_path / "file").__enter__()


def test_a_theta1_that_another_machine_had_made_is_told(one_cell, tmp_path, capsys):
    shutil.copytree(one_cell / "demo", tmp_path / "demo")
    [path] = (tmp_path / "demo" / "theta1").glob("*.json")
    write_sealed(path, read_sealed(path) | {"weight_hash": "0" * 16})
    shutil.rmtree(tmp_path / "demo" / "cache")
    assert run_study(replace(shorter(tmp_path), arms=("norm_only",))) == 0
    assert "note: theta1 of seed 31 was there with other weights (0000000000000000" in capsys.readouterr().out


def test_a_sealed_file_with_another_content_is_refused(tmp_path):
    path = tmp_path / "file.json"
    write_sealed(path, {"seed": 31, "words": ["ä", 0.1]})
    assert read_sealed(path) == {"seed": 31, "words": ["ä", 0.1]}
    path.write_text(path.read_text().replace("31", "32"))
    with pytest.raises(Damaged, match=r"file\.json does not have the checksum"):
        read_sealed(path)
    path.write_text("[1]")
    with pytest.raises(UserError, match="does not hold a JSON object"):
        read_sealed(path)


def test_a_lock_that_another_holds_is_not_taken(tmp_path):
    with locked(tmp_path / "file") as first, locked(tmp_path / "file", wait=False) as second:
        assert (first, second) == (True, False)
    with locked(tmp_path / "file", wait=False) as third:
        assert third
