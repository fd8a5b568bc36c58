"""Files that are whole or absent, checksums that are verified on reading, and locks that die with their process."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import BinaryIO, TextIO

from ctsft.errors import UserError


class Damaged(UserError):
    """A file of ours is not what was written; the message names it."""


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` in one step: a reader, or a crash, sees the old file or the new, never a part.

    UserError where the system refuses (disk full, folder read-only); the old file is then untouched.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write {path}: {error.strerror or error}. What was written before is whole. Mend this (space, "
        "permissions, or another --output) and run the same command again."
    )


@contextmanager
def _temporary(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path`, locked while its writer lives, and removed unless it was renamed."""
    while True:
        name = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        with open(name, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not name.exists():
                continue  # `remove_leftovers` of another process was faster than the lock
            try:
                yield file
                return
            finally:
                name.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writers that were killed; those of living writers are locked, and stay."""
    for path in folder.rglob(".*.tmp"):
        try:
            with open(path, "r+b") as file:  # over NFS an exclusive lock wants a file that is open for writing
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except OSError:  # locked, gone, or another user's
            continue


def _sync_folder(folder: Path) -> None:
    """A rename is on disk only when its folder is."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_json(path: Path, content: object) -> None:
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def digest(content: bytes | str) -> str:
    """The first 16 digits of the sha256."""
    return hashlib.sha256(content.encode("utf-8") if isinstance(content, str) else content).hexdigest()[:16]


def write_sealed(path: Path, content: dict) -> None:
    """A JSON file that holds the checksum of its own content, as `sha256`."""
    write_json(path, content | {"sha256": digest(json.dumps(content, sort_keys=True))})


def read_json(path: Path) -> dict:
    """A JSON object; Damaged where the file holds none, or another process has just set it aside."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise Damaged(f"{path} is gone.") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is not whole JSON ({error}).") from error
    if not isinstance(content, dict):
        raise Damaged(f"{path} does not hold a JSON object.")
    return content


def read_sealed(path: Path) -> dict:
    """What `write_sealed` wrote, verified; a file from before there were checksums is taken as it is."""
    content = read_json(path)
    given = content.pop("sha256", None)
    if given is not None and given != digest(json.dumps(content, sort_keys=True)):
        raise Damaged(f"{path} does not have the checksum that it names.")
    return content


def set_aside(path: Path, why: object, copy: bool = False) -> None:
    """Rename a damaged file (or copy it), so that nobody reads it again but nothing is lost, and say so."""
    if not path.exists():
        return
    name = next(name for n in count(1) if not (name := path.with_name(f"{path.name}.damaged-{n}")).exists())
    try:
        shutil.copyfile(path, name) if copy else os.replace(path, name)
    except FileNotFoundError:
        return  # another process was faster
    except OSError as error:
        raise _refused(path, error) from error
    print(f"warning: {why} It is kept as {name.name}, and made again.", file=sys.stderr)


def read_or_aside(path: Path, read: Callable[[Path], dict] = read_sealed) -> dict:
    """What `read` finds; nothing where no file is, or a damaged one, which is set aside."""
    try:
        return read(path) if path.is_file() else {}
    except Damaged as error:
        set_aside(path, error)
        return {}


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock named after `path`, with a note of who holds it; UserError says who where another process does."""
    with locked(path, wait=False) as mine:
        if not mine:
            holder = _lock_of(path).read_text().strip() or "another process"
            raise UserError(
                f"{path.name} is being run in {path.parent} already, by {holder}. It runs in one process: wait until "
                "that one ends, end it, or give another --output."
            )
        try:
            _lock_of(path).write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        except OSError as error:
            raise _refused(path, error) from error
        yield


def _flock(file: TextIO, wait: bool, waiting: str) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            return False
        if waiting:
            print(waiting, file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_EX)
    return True


@contextmanager
def locked(path: Path, wait: bool = True, waiting: str = "") -> Iterator[bool]:
    """Hold an exclusive lock named after `path`; the system drops it when the process ends, however it ends.

    Yields whether the lock is held: always with `wait`, and otherwise unless another process holds it. The lock file
    itself stays; nobody holds it after its process. On a network folder this needs working file locks.
    `waiting` is said where the lock is not free at once.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(_lock_of(path), "a")  # noqa: SIM115
    except OSError as error:
        raise _refused(path, error) from error
    with file:
        try:
            held = _flock(file, wait, waiting)
        except OSError as error:
            raise UserError(
                f"{path.parent} gives no file locks ({error.strerror}), without which processes would write over one "
                "another. Give an --output on a disk that has them (a network disk may need its lock service)."
            ) from error
        yield held
