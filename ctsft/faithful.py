"""Is a set of heads the mechanism? One question to a model in memory; script 05 asks it of whole studies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ctsft.answers import EVAL_BATCH, answer, encode_rows
from ctsft.discovery.faithfulness import heads_at_mean, margins, marked, same_layers
from ctsft.discovery.mean import label_balanced_mean
from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError, refuse_negative_seed
from ctsft.heads import Head
from ctsft.models.load import Loaded
from ctsft.stats import Interval, kept_share
from ctsft.tasks.form import other_prompt
from ctsft.tasks.task import MAX_TOKENS, SEED, SPLITS, Example, Task


class Faithful(NamedTuple):
    """Shares of the margin, 1 that of the whole model and 0 that without any head; 95 % intervals over rows.

    `kept` with these heads alone, `left` without them; and the same for random heads, as many in every layer (the mean
    over draws). A mechanism keeps much and leaves little, and chance does neither.
    """

    kept: Interval
    left: Interval
    kept_by_chance: Interval
    left_by_chance: Interval

    def __str__(self) -> str:
        def told(share: Interval) -> str:
            return f"{share.value:.2f} [{share.low:.2f}, {share.high:.2f}]"

        return (
            f"these heads alone keep {told(self.kept)} of the margin (random ones {told(self.kept_by_chance)}); "
            f"without them {told(self.left)} is left ({told(self.left_by_chance)})"
        )


def faithfulness(
    loaded: Loaded,
    task: Task,
    language: str,
    heads: Iterable[Head],
    relevance: Relevance,
    *,
    split: str = "valid",
    draws: int = 10,
    seed: int = SEED,
    max_tokens: int | None = None,
) -> Faithful:
    """(m(C) - m(none)) / (m(all) - m(none)) for these heads C, and for all but these.

    m is the mean margin (the right label word's logit less the mean of the others') over the rows of a split, with the
    heads outside C at their label-balanced mean: that of the rows that `relevance` was made with, which are of its
    source, cut at as many tokens (or at `max_tokens`). No score should have seen the split. Raises UserError where the
    task lacks these rows or has another prompt, or the margin does not depend on the heads.
    """
    if split not in SPLITS:
        raise UserError(f"split is '{split}'. Valid: {', '.join(SPLITS)}.")
    if draws < 1:
        raise UserError(f"draws is {draws}; it must be at least 1, or there is no chance to compare with.")
    refuse_negative_seed(seed)
    if other := other_prompt(task, relevance.about):
        raise UserError(f"the scores were made with another prompt: here {other}.")
    max_tokens = max_tokens or int(relevance.about.get("max_tokens", MAX_TOKENS))
    chosen, rows = sorted({Head(*head) for head in heads}), task.load(language, split).examples
    shape = (len(loaded.anatomy.layers), loaded.anatomy.heads)
    if not chosen or any(not (0 <= head.layer < shape[0] and 0 <= head.index < shape[1]) for head in chosen):
        raise UserError(f"heads: name at least one, each of {shape[0]} layers of {shape[1]} heads.")
    mean = label_balanced_mean(
        loaded, encode_rows(loaded, task, _mean_rows(task, relevance), max_tokens), len(task.labels), EVAL_BATCH
    )

    def margin(at_mean: np.ndarray) -> np.ndarray:
        with heads_at_mean(loaded, mean, at_mean):
            logits = answer(loaded, task, rows, max_tokens).logits
        return margins(logits, [row.label for row in rows])

    nothing = np.zeros(shape, dtype=bool)
    none, whole = margin(~nothing), margin(nothing)
    if np.isclose(none.mean(), whole.mean()):
        raise UserError("the margin is the same with and without all heads, so no share of it can be kept.")

    def share(margins_of: np.ndarray) -> Interval:
        return kept_share(margins_of[None], none[None], whole[None])

    sets = [chosen, *(same_layers(chosen, shape[1], seed + draw) for draw in range(draws))]
    kept, left = ([margin(~at if keep else at) for at in (marked(s, shape) for s in sets)] for keep in (True, False))
    return Faithful(share(kept[0]), share(left[0]), share(np.mean(kept[1:], axis=0)), share(np.mean(left[1:], axis=0)))


def _mean_rows(task: Task, relevance: Relevance) -> list[Example]:
    """The rows that the mean of `relevance` was made on."""
    source, ids = relevance.about.get("source"), relevance.about.get("mean_row_ids", ())
    by_id = {example.id: example for example in task.load(source, "train").examples} if source else {}
    if not ids or any(i not in by_id for i in ids):
        raise UserError("the rows of the scores' mean are not in this task: give scores that `discover` made on it.")
    return [by_id[i] for i in ids]
