"""Scores of script 05 that circuits are compared by: on other numbers of rows, and of theta1 from other starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tqdm import tqdm

from ctsft.discovery.circuits import PAPERS_DEPTH
from ctsft.errors import CellFailed
from ctsft.study.circuit_stage import relevance_of
from ctsft.study.data import StudyData
from ctsft.study.workbench import Workbench

if TYPE_CHECKING:
    from ctsft.study.faithfulness import FaithfulnessConfig


def stability_maps(bench: Workbench, seed: int) -> None:
    """Score the heads again on other numbers of rows, and on rows shared with the mean."""
    config = bench.config
    for rows in config.row_counts:
        relevance_of(bench, replace(config, score_rows=rows), seed, PAPERS_DEPTH, config.shares[0])
    relevance_of(bench, replace(config, pool="shared"), seed, PAPERS_DEPTH, config.shares[0])


def other_starts(config: FaithfulnessConfig) -> list[FaithfulnessConfig]:
    """The same study from other sources, and from other numbers of source rows; UserError where rows are missing."""
    starts = [replace(config, n_source=rows) for rows in config.checkpoints]
    for language in config.other_sources:
        targets = tuple(other for other in (config.source, *config.targets) if other != language)
        starts.append(replace(config, source=language, targets=targets))
    for start in starts:
        StudyData(start)
    return starts


def maps_from(starts: Sequence[FaithfulnessConfig]) -> None:
    """Score the heads of their theta1."""
    for start in starts:
        bench = Workbench(start)
        for seed in start.seeds:
            try:
                relevance_of(bench, start, seed, PAPERS_DEPTH, start.shares[0])
            except CellFailed as error:
                tqdm.write(f"no scores from {start.n_source} rows of {start.source}, seed {seed}: {error}")
