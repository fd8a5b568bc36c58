"""A full disk and a read-only folder: real ones where a tmpfs can be mounted, and simulated ones everywhere."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from killing import ENVIRONMENT, contents, shorter

from ctsft import storage
from ctsft.errors import UserError
from ctsft.study.run import run_study

# At first, at theta1's weights (1,411 of 1,421 kB in all), and after them; a tmpfs takes whole pages.
KILOBYTES = [8, 700, 1432]
OF_FILES = [8, 700, 1418]


def ends_for_lack_of_space(disk: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device\. What was written before is"):
        run_study(shorter(disk))
    assert not list(disk.rglob("*.tmp"))


def goes_on(disk: Path, expected: Path) -> None:
    assert run_study(shorter(disk)) == 0
    assert contents(disk) == contents(expected)


def ends_where_nothing_can_be_written(disk: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*: Read-only file system.*--output"):
        run_study(shorter(disk))


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    monkeypatch.setattr("ctsft.study.opening.Workbench", lambda config: pytest.fail("the model was loaded"))


@contextmanager
def small_disk(folder: Path, kilobytes: int):
    folder.mkdir()
    if not mounted(folder, f"size={kilobytes}k,nr_inodes=1000"):
        pytest.skip("no tmpfs can be mounted here: run in a user namespace by the last test, where that is allowed")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def mounted(folder: Path, options: str) -> bool:
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", folder]
    return os.getuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@pytest.mark.parametrize("kilobytes", KILOBYTES)
def test_a_full_disk_ends_the_run_with_one_sentence_and_it_goes_on_when_there_is_space(one_cell, tmp_path, kilobytes):
    disk = tmp_path / "disk"
    with small_disk(disk, kilobytes):
        ends_for_lack_of_space(disk)
        remount(disk, "size=64m")
        goes_on(disk, one_cell)


def test_a_read_only_folder_is_refused_before_anything_is_loaded(tmp_path, nothing_is_loaded):
    disk = tmp_path / "disk"
    with small_disk(disk, 1000):
        remount(disk, "ro")
        ends_where_nothing_can_be_written(disk)


@pytest.mark.parametrize("kilobytes", OF_FILES)
def test_a_write_without_space_ends_the_run_and_it_goes_on_when_there_is_some(
    one_cell, tmp_path, monkeypatch, kilobytes
):
    """As above, without a disk: what is in the folder counts, and beyond the limit no file gets onto it."""
    honest = os.fsync

    def fsync(number: int) -> None:
        if sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) > 1024 * kilobytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        honest(number)

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "fsync", fsync)
        ends_for_lack_of_space(tmp_path)
    goes_on(tmp_path, one_cell)


def test_a_write_that_is_refused_ends_the_run_before_anything_is_loaded(tmp_path, monkeypatch, nothing_is_loaded):
    def refused(*arguments):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(storage, "open", refused, raising=False)
    ends_where_nothing_can_be_written(tmp_path)


def test_real_disks_are_filled_by_ordinary_users_too(tmp_path):
    """In a user namespace a tmpfs can be mounted without any right outside; the tests above run there."""
    if mounted(tmp_path, "size=8k"):
        subprocess.run(["umount", "-l", tmp_path], check=True)
        pytest.skip("the tests above ran here")
    inside = ["unshare", "--map-root-user", "--mount"]
    mount = [*inside, "mount", "-t", "tmpfs", "none", tmp_path]
    if shutil.which("unshare") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this system allows no mounts in user namespaces")
    tests = ["-k", "a_full_disk or a_read_only_folder", "--basetemp", tmp_path / "inside", "-p", "no:cacheprovider"]
    command = [*inside, sys.executable, "-m", "pytest", "-q", "-rA", __file__, *tests]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    told = [line.split()[0] for line in done.stdout.splitlines() if line.startswith(("PASSED", "FAILED", "SKIPPED"))]
    assert told == ["PASSED"] * (len(KILOBYTES) + 1), done.stdout
