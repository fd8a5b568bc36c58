"""What failed, as a note in the results folder, so that the other processes of a run do not try it again."""

from __future__ import annotations

from pathlib import Path

from ctsft.errors import CellFailed
from ctsft.memory import OutOfMemory
from ctsft.provenance import git_commit, now, versions
from ctsft.storage import read_json, read_or_aside, write_json


def note_failure(path: Path, error: CellFailed) -> None:
    """Keep the reason. Where memory ran out, another process may have more of it."""
    about = {"reason": str(error), "again": isinstance(error, OutOfMemory), "git_commit": git_commit()}
    write_json(path, {"cell": path.stem, **about, "created": now(), **versions()})


def known_failure(path: Path, since: str) -> str | None:
    """The reason that another process noted `since` then, by the same code; None where it should be tried."""
    note = read_or_aside(path, read_json)
    if not note or note.get("again", True) or note["created"] < since or note["git_commit"] != git_commit():
        return None
    return note["reason"]
