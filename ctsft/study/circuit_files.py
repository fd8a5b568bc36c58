"""Circuit files, one per choice of heads: how each is named and written, and what is done about a damaged one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ctsft.discovery.circuits import heads_per_depth, known_frontiers, select
from ctsft.discovery.relevance import Relevance
from ctsft.heads import Head
from ctsft.storage import Damaged, locked, read_sealed, set_aside, write_sealed
from ctsft.study.grid import cells, scoring_of, short_hash
from ctsft.study.record import read_cells
from ctsft.tuning.arms import get_arm

if TYPE_CHECKING:
    from ctsft.study.workbench import Workbench


class Choice(NamedTuple):
    """Which heads a cell takes from the scores of its theta1."""

    selection: str
    depth: int
    seed: int
    draw: int
    share: float

    def path(self, folder: Path, scoring: dict, theta1: str) -> Path:
        """Its file; `scoring` are the settings of the scores, `theta1` is the hash of the weights they were made on."""
        what = f"{self.selection}-d{self.depth}" + (f"-draw{self.draw}" if self.draw else "")
        digits = short_hash(scoring | {"share": self.share, "theta1_hash": theta1})
        return folder / "circuits" / f"{scoring['source']}-{what}-s{self.seed}-{digits}.json"

    def heads(self, relevance: Relevance, per_group: int) -> list[Head]:
        """The heads by these scores; `per_group` heads share their keys and values."""
        return select(self.selection, relevance, self.depth, self.share, per_group, self.seed + self.draw)

    def write(self, folder: Path, scoring: dict, theta1: str, heads: list[Head]) -> None:
        content = {"arm": self.selection, "depth": self.depth, "seed": self.seed, "draw": self.draw, **scoring}
        content |= {"share": self.share, "theta1_hash": theta1, "heads": [str(head) for head in heads]}
        write_sealed(self.path(folder, scoring, theta1), content)


def mend_circuits(bench: Workbench) -> None:
    """Set damaged circuit files aside, and take their heads from the stored scores again, whichever script tuned them.

    What no whole map gives is told; a cell that tunes such a circuit writes its file again.
    """
    folder = bench.config.folder
    if not any(_damaged(folder)):
        return
    with locked(folder / "circuits"):  # another process may be mending them
        lost = set()
        for path, error in _damaged(folder):
            set_aside(path, error)
            lost.add(path)
        for path in sorted(lost - set(_derived(bench, lost))):
            print(
                f"warning: {path} has no whole map beside it to be made from; a cell that tunes it makes both again.",
                file=sys.stderr,
            )


def _damaged(folder: Path) -> Iterator[tuple[Path, Damaged]]:
    for path in sorted((folder / "circuits").glob("*.json")):
        try:
            read_sealed(path)
        except Damaged as error:
            yield path, error


def _derived(bench: Workbench, lost: set[Path]) -> Iterator[Path]:
    """Write those of the `lost` files that stored scores give; yields each."""
    folder, per_group = bench.config.folder, bench.anatomy.heads // bench.anatomy.kv_heads
    choices = _choices(bench)
    for map_path in sorted((folder / "relevance").glob("*.json")):
        try:
            relevance = Relevance.load(map_path.with_suffix(""))
        except Damaged:
            continue  # who needs the scores sets them aside
        scoring, theta1 = scoring_of(relevance), relevance.about["theta1_hash"]
        for choice in choices:
            path = choice.path(folder, scoring, theta1)
            k = heads_per_depth(bench.anatomy.n_heads, choice.share)
            if path in lost and len(known_frontiers(relevance, choice.depth, k)) > choice.depth:
                choice.write(folder, scoring, theta1, choice.heads(relevance, per_group))
                yield path


def _choices(bench: Workbench) -> set[Choice]:
    """Of the cells of this run, and of all rows in its folder."""
    found = {
        (cell.arm, cell.depth, cell.seed, cell.draw, cell.share)
        for cell in cells(bench.config)
        if cell.depth is not None
    } | {
        (row["arm"], int(row["depth"]), int(row["seed"]), int(row["draw"]), float(row["share"]))
        for row in read_cells(bench.config.folder).values()
        if row["depth"]
    }
    return {Choice(selection, *rest) for arm, *rest in found if (selection := get_arm(arm).heads) is not None}
