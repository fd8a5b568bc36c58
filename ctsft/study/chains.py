"""The chains of generations that script 08 has to run, and the names of their files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ctsft.study.grid import Cell, cell_fingerprint, cells
from ctsft.study.workbench import Workbench

if TYPE_CHECKING:
    from ctsft.study.self_training import SelfTrainingConfig


@dataclass(frozen=True)
class Chain:
    """Generations of one arm: `cells` differ in the learning rate alone, with `keys` by which other scripts know them.

    `human`: whether the rows that a human labelled stay in the mix; `unlabelled`: how many rows models label.
    """

    cells: tuple[Cell, ...]
    keys: tuple[str, ...]
    generations: int
    unlabelled: int
    human: bool

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
        return f"{every}-{length}u{self.unlabelled}-{'human' if self.human else 'alone'}"


def chains_of(bench: Workbench, config: SelfTrainingConfig) -> list[Chain]:
    """All of them, those without human rows first."""
    alike: dict[Cell, list[Cell]] = {}
    for cell in cells(config):
        alike.setdefault(replace(cell, lr=0.0), []).append(cell)
    return [
        Chain(
            tuple(group),
            tuple(cell.key(cell_fingerprint(config, cell, bench.loaded.weights)) for cell in group),
            config.generations,
            config.unlabelled,
            human,
        )
        for human in (False, True)
        for group in (sorted(group, key=lambda cell: cell.lr) for group in alike.values())
    ]
