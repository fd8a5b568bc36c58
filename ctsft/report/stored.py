"""Files of a results folder that a report reads. It changes nothing there, so a damaged one ends it, and is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError
from ctsft.storage import Damaged, read_sealed


@contextmanager
def damage_told() -> Iterator[None]:
    """Damaged says inside the block what to do as well."""
    try:
        yield
    except Damaged as error:
        raise Damaged(
            f"{error} Run the script that wrote it again, which sets the file aside and makes it anew; or copy it "
            "again, or move it away."
        ) from error


def stored_maps(folder: Path) -> list[Relevance]:
    """All scores of a results folder, verified."""
    with damage_told():
        return [Relevance.load(path.with_suffix("")) for path in sorted((folder / "relevance").glob("*.json"))]


def stored(path: Path) -> dict:
    """What a script wrote at `path`, verified; UserError names a file that is damaged or missing."""
    if not path.is_file():
        raise UserError(f"no {path}, which its folder's rows rest on. Run the script that wrote it again, or copy it.")
    with damage_told():
        return read_sealed(path)
