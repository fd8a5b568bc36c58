"""Do scores tell for from against? What they say of the heads without which the answer becomes likelier."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

from ctsft.report.faithfulness import Faithfulness

# Its score is what the answer loses without a head: below zero where it gains.
YARDSTICK = "ablation"
UNSIGNED = "magnitude"


def negative(found: Faithfulness, scorer: str) -> float | None:
    """The share of heads with a score below zero, mean over seeds; None without scores."""
    maps = found.maps_of(scorer).values()
    return float(np.mean([(m.logits < 0).mean() for m in maps])) if maps else None


def opponents(found: Faithfulness, scorer: str) -> tuple[int, int] | None:
    """Of the heads that YARDSTICK puts below zero, how many `scorer` does too, and of how many; over their seeds.

    None for the yardstick itself, and without scores of both on a seed.
    """
    truth, own = found.maps_of(YARDSTICK), found.maps_of(scorer)
    seeds = truth.keys() & own.keys()
    if scorer == YARDSTICK or not seeds:
        return None
    against = {seed: truth[seed].logits < 0 for seed in seeds}
    told = sum(int((against[seed] & (own[seed].logits < 0)).sum()) for seed in seeds)
    return told, sum(int(heads.sum()) for heads in against.values())


def like_unsigned(found: Faithfulness, scorer: str) -> float | None:
    """Spearman's correlation of all scores with UNSIGNED's, mean over seeds; None for that one, and without both."""
    unsigned, own = found.maps_of(UNSIGNED), found.maps_of(scorer)
    seeds = unsigned.keys() & own.keys()
    if scorer == UNSIGNED or not seeds:
        return None
    return float(np.mean([spearmanr(unsigned[s].logits, own[s].logits, axis=None).statistic for s in seeds]))
