"""Discovery in two steps: which rows the mean and the scores are made on, and how deep the scores reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from ctsft.discovery.circuits import known_frontiers
from ctsft.discovery.mean import label_balanced_mean
from ctsft.discovery.problem import Problem
from ctsft.discovery.relevance import Relevance, Ties
from ctsft.discovery.scorers import get_scorer
from ctsft.errors import UserError
from ctsft.models.load import Loaded
from ctsft.tasks.prompts import Encoded
from ctsft.tasks.task import Example, draw_balanced


class ScoringRows(NamedTuple):
    """Rows of the label-balanced mean, rows to score on, and whether the model gets all of the latter right."""

    mean: list[Example]
    scored: list[Example]
    only_right: bool

    def problem(
        self,
        loaded: Loaded,
        encode: Callable[[list[Example]], Encoded],
        tokens: Sequence[int],
        batch_size: int,
        scorer: str,
    ) -> Problem:
        """What `scorer` scores on them: prompts by `encode`, and `tokens` [C], that of each label word."""
        aligned = get_scorer(scorer).aligned
        mean = label_balanced_mean(loaded, encode(self.mean), len(tokens), batch_size, aligned)
        return Problem(loaded, encode(self.scored), tokens, mean)

    def oddities(self, asked: int) -> Iterator[str]:
        """What somebody who asked for so many scored rows should know, a sentence each."""
        if not self.only_right:
            yield (
                "the model gets too few rows of some label right, so rows that it gets wrong are scored too: make it "
                "competent on the source first."
            )
        if len(self.scored) < asked:
            why = "the model gets right no more" if self.only_right else "the source has no more"
            yield f"{len(self.scored)} rows are scored, not {asked}: {why} of some label."

    @property
    def about(self) -> dict[str, object]:
        """The rows by their ids, to be kept beside the scores."""
        return {
            "mean_row_ids": [example.id for example in self.mean],
            "score_row_ids": [example.id for example in self.scored],
            "only_correct_rows": self.only_right,
        }


def scoring_rows(
    pool: Sequence[Example],
    answers: Callable[[list[Example]], Sequence[int]],
    n_labels: int,
    mean_rows: int,
    score_rows: int,
    seed: int,
    shared: bool = False,
) -> ScoringRows:
    """Draw both sets from `pool`, balanced over the labels, by `seed`; `answers` gives the model's label for each row.

    With `shared` the scored rows are taken from those of the mean instead of from the others. The order is that of
    every draw by this seed, so of a theta1 tuned on few rows of `pool` most are in the mean, and hardly any is scored.

    A start so weak that it gets fewer than half of the rows that could be scored right, as many of each label (the
    paper's case of 50 XNLI rows), is scored on any rows. There may be fewer rows than `score_rows`. Raises UserError
    where the mean leaves no row of some label.
    """
    mean = draw_balanced(pool, mean_rows // n_labels, n_labels, seed)
    used = {example.id for example in mean}
    rest = [example for example in pool if (example.id in used) == shared]
    if len({example.label for example in rest}) < n_labels:
        raise UserError(
            f"the mean of {mean_rows} rows leaves no row of some label to score heads on (the source has {len(pool)} "
            "rows). Take fewer rows for the mean (mean_rows), such as half of them."
        )
    right = [example for example, answer in zip(rest, answers(rest), strict=True) if example.label == answer]
    scored, every = (draw_balanced(rows, score_rows // n_labels, n_labels, seed) for rows in (right, rest))
    enough = len(scored) >= len(every) / 2
    return ScoringRows(mean, scored if enough else every, enough)


def score_to_depth(
    scorer: str, problem: Problem, relevance: Relevance | None, depth: int, k: int, ties: Ties = "logits"
) -> Relevance:
    """Scores to the logits and to every head that a circuit of `depth`, with `k` heads a depth, starts from.

    Raises UserError for a scorer that leaves out a head that it was asked for, or drops one that it was given.
    """
    score = get_scorer(scorer)
    relevance = replace(score(problem, relevance, []), ties=ties)
    while len(known := known_frontiers(relevance, depth, k)) <= depth:
        relevance = replace(score(problem, relevance, known[-1]), ties=ties)
        asked = {head for frontier in known for head in frontier}
        if lacking := sorted(asked - relevance.columns.keys()):
            raise UserError(
                f"the scorer '{scorer}' returned no scores to head {lacking[0]}. It must return those that it was "
                "given, and a column for every target."
            )
    return relevance
