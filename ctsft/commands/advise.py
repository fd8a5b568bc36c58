"""`ctsft advise`: which arm for my setting?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ctsft.commands.options import OnTask, load_scores, tell_checks
from ctsft.commands.tuned import OnTuned


@dataclass(frozen=True)
class Advise:
    """Probe your setting (no training) and recommend an arm, from our result rows of the settings most like it."""

    using: OnTuned
    data: OnTask
    source: str
    """The language that the model is competent on."""
    target: str
    """The language to adapt to."""
    n: int | None = None
    """How many target rows you have; without it, all training rows."""
    may_lose: float = 0.02
    """How much accuracy on the source you can give up."""
    scores: Path | None = None
    """What `ctsft discover` wrote, to say how concentrated relevance is."""
    results: tuple[Path, ...] = ()
    """Folders of your own result rows to draw on, instead of ours."""

    def run(self) -> None:
        from ctsft.advice.evidence import evidence, shipped
        from ctsft.advice.probe import probe
        from ctsft.advice.recommend import advise

        task, scores = self.data.load(), load_scores(self.scores) if self.scores else None
        tell_checks(task, self.source, [self.target])
        self.using.tell_other_prompt(task)
        table = evidence(self.results) if self.results else shipped()
        longest = self.using.longest_of_checkpoint()
        found = probe(self.using.load(), task, self.source, self.target, scores, self.n, longest)
        print(advise(found, table, self.may_lose))
