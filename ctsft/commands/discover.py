"""`ctsft discover`: a score for every head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ctsft
from ctsft.commands.options import OnTask, check_output, in_colour, tell_checks
from ctsft.commands.tuned import OnTuned
from ctsft.discovery.circuits import PAPERS_DEPTH, PAPERS_SHARE
from ctsft.discovery.relevance import SCORE_ROWS, files_of
from ctsft.tasks.task import SEED


@dataclass(frozen=True)
class Discover:
    """Score every attention head on labelled rows of the source language."""

    using: OnTuned
    data: OnTask
    source: str
    """The language that the model is competent on."""
    output: Path
    """Where the scores go: OUTPUT.json, and OUTPUT.safetensors beside it."""
    scorer: str = "cdt"
    """cdt (the paper's: a propagation for every head), or cdt_linear (one backward pass, but it misses heads)."""
    depth: int = PAPERS_DEPTH
    """How deep a circuit the scores should reach."""
    share: float = PAPERS_SHARE
    """Share of all heads in one depth of the circuit."""
    mean_rows: int = 48
    """Rows of the label-balanced mean, which stands for "no information"."""
    score_rows: int = SCORE_ROWS
    """Other rows, which the model gets right, to score on."""
    seed: int = SEED
    """Draws the rows."""

    def run(self) -> None:
        from ctsft.heatmap import terminal

        written = files_of(self.output)[0]
        check_output(written)
        task = self.data.load()
        tell_checks(task, self.source)
        self.using.tell_other_prompt(task)
        loaded = self.using.load()
        relevance = ctsft.discover(
            loaded,
            task,
            self.source,
            scorer=self.scorer,
            depth=self.depth,
            share=self.share,
            mean_rows=self.mean_rows,
            score_rows=self.score_rows,
            seed=self.seed,
            max_tokens=self.using.longest_of_checkpoint(),
        )
        relevance.save(self.output)
        print(terminal(relevance, self.depth, self.share, in_colour()))
        print(f"scores: {written}")
