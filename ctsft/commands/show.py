"""`ctsft show`: the scores of every head, for the eye."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ctsft.commands.options import check_output, in_colour, load_scores
from ctsft.discovery.circuits import PAPERS_DEPTH, PAPERS_SHARE, check_size


@dataclass(frozen=True)
class Show:
    """Print the scores of every head as a heat map, with the circuit marked; --png draws it."""

    scores: Annotated[Path, tyro.conf.Positional]
    """What `ctsft discover` wrote, or a file in results/<preset>/relevance/."""
    depth: int = PAPERS_DEPTH
    """Depth of the circuit that is marked."""
    share: float = PAPERS_SHARE
    """Share of all heads in one depth."""
    png: Path | None = None
    """Write a picture here."""

    def run(self) -> None:
        from ctsft.heatmap import picture, terminal

        relevance = load_scores(self.scores)
        check_size(relevance.logits.size, self.depth, self.share)
        if self.png:
            check_output(self.png)
        print(terminal(relevance, self.depth, self.share, in_colour()))
        if self.png:
            picture(relevance, self.depth, self.share, self.png)
            print(f"picture: {self.png}")
