"""The chains of generations that script 08 has to run, the names of their files, and the rows that they label."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ctsft.errors import UserError
from ctsft.study.grid import Cell, cell_fingerprint, cells
from ctsft.study.workbench import Workbench
from ctsft.tasks.task import draw

if TYPE_CHECKING:
    from ctsft.study.self_training import SelfTrainingConfig

# Whether all generations of a chain label the same rows, or each labels others.
Labelled = Literal["same", "fresh"]


@dataclass(frozen=True)
class Chain:
    """Generations of one arm: `cells` differ in the learning rate alone, with `keys` by which other scripts know them.

    `human`: whether the rows that a human labelled stay in the mix; `unlabelled`: how many rows each model labels, and
    `rows`: whether these are the same for all of them, or fresh ones for each.
    """

    cells: tuple[Cell, ...]
    keys: tuple[str, ...]
    generations: int
    unlabelled: int
    human: bool
    rows: Labelled = "same"

    @property
    def rates(self) -> str:
        return " ".join(f"{cell.lr:g}" for cell in self.cells)

    @property
    def name(self) -> str:
        """Chains of other rates, or numbers, are other chains, so all are in the name."""
        return self._named(f"g{self.generations}-")

    def kept_as(self, number: int) -> str:
        """The file of a generation. Longer chains have it too, so they begin with what shorter ones have left."""
        return f"{self._named('')}-{number}"

    def _named(self, length: str) -> str:
        one = f"lr{self.cells[0].lr:g}"
        every = self.keys[0].replace(one, f"lr{self.rates.replace(' ', '+')}")
        fresh = "" if self.rows == "same" else f"-{self.rows}"  # the others keep the names from before there were two
        return f"{every}-{length}u{self.unlabelled}-{'human' if self.human else 'alone'}{fresh}"


def chains_of(bench: Workbench, config: SelfTrainingConfig) -> list[Chain]:
    """All of them, those without human rows first; UserError where there are too few rows for --rows fresh."""
    alike: dict[Cell, list[Cell]] = {}
    for cell in cells(config):
        left = len(_pool(bench, cell))  # refuses a target without unlabelled rows before anything is tuned
        if "fresh" in config.rows:
            _refuse_too_few(config, cell, left)
        alike.setdefault(replace(cell, lr=0.0), []).append(cell)
    return [
        Chain(
            tuple(group),
            tuple(cell.key(cell_fingerprint(config, cell, bench.loaded.weights)) for cell in group),
            config.generations,
            config.unlabelled if rows == "same" else config.unlabelled_fresh,
            human,
            rows,
        )
        for rows in config.rows
        for human in (False, True)
        for group in (sorted(group, key=lambda cell: cell.lr) for group in alike.values())
    ]


def unlabelled_ids(bench: Workbench, chain: Chain, cell: Cell, number: int) -> list[str]:
    """Ids of the target rows that generation `number` labels, for the next one to learn from.

    Draws are nested: fewer rows are the first of more, and a longer chain begins with the rows of a shorter one.
    Behind the last generation that the pool has fresh rows for there are none.
    """
    pool = _pool(bench, cell)
    first = number * chain.unlabelled if chain.rows == "fresh" else 0
    return draw(pool, len(pool), cell.seed)[first : first + chain.unlabelled]


def _pool(bench: Workbench, cell: Cell) -> list[str]:
    """Ids of target rows that no human labelled: of pool A where rows are parallel, else the rest of the target's."""
    if bench.task.parallel:
        return bench.pool_a
    own = bench.pools_b[cell.target]
    human = set(draw(own, cell.n_target, cell.seed))
    pool = [one for one in own if one not in human]
    if not pool:
        raise UserError(
            f"--n-targets {cell.n_target} are all rows of {cell.target}: none is left without a label. Lower it."
        )
    return pool


def _refuse_too_few(config: SelfTrainingConfig, cell: Cell, left: int) -> None:
    wanted = config.generations * config.unlabelled_fresh
    if wanted > left:
        raise UserError(
            f"--rows fresh: {cell.target} has {left} rows that no human labelled, and --generations "
            f"{config.generations} times --unlabelled-fresh {config.unlabelled_fresh} are {wanted}. Lower one of the "
            "two, or take --rows same."
        )
