"""From relevance to a set of heads: the circuit by depth, and controls of exactly its size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError
from ctsft.heads import Head

# The share of all heads that each depth of the paper's circuits adds, and the depth of those that it tunes.
PAPERS_SHARE = 0.02
PAPERS_DEPTH = 2


def heads_per_depth(n_heads: int, share: float) -> int:
    """K = max(1, floor(share of all heads))."""
    return max(1, int(share * n_heads + 1e-9))  # .29 of 100 is 28.999...


def check_size(n_heads: int, depth: int, share: float) -> None:
    """UserError for a circuit of `depth`, `share` of all heads at each depth, that is none or larger than the model."""
    if depth < 0 or not 0 < share <= 1:
        raise UserError(
            f"depth is {depth} and share {share:g}; depth must be at least 0, and share above 0 and at most 1."
        )
    needed = (depth + 1) * heads_per_depth(n_heads, share)
    if needed > n_heads:
        raise UserError(
            f"depth {depth} with share {share:g} asks for {needed} heads, and the model has {n_heads}: take a smaller "
            "share or depth."
        )


def ranked(scores: np.ndarray, then: np.ndarray | None = None) -> list[Head]:
    """Heads by falling score [layers, heads]; of equal ones by falling `then`, at last the earlier: never by chance."""
    order = np.lexsort([-one.ravel() for one in (then, scores) if one is not None])
    return [Head(int(i) // scores.shape[1], int(i) % scores.shape[1]) for i in order]


def next_frontier(relevance: Relevance, frontiers: Sequence[Sequence[Head]], k: int) -> list[Head]:
    """The K heads of the next depth: by R to the logits first, then by R averaged over the heads of the last depth.

    Heads that come before none of those have 0 there, all of them where the last depth lies in the first layer: among
    equals R to the logits decides (`Relevance.ties`).
    """
    taken = {head for frontier in frontiers for head in frontier}
    if not frontiers:
        order = ranked(relevance.logits)
    else:
        scores = np.mean([relevance.columns[target] for target in frontiers[-1]], axis=0)
        order = ranked(scores, relevance.logits if relevance.ties == "logits" else None)
    return [head for head in order if head not in taken][:k]


def circuit(relevance: Relevance, depth: int, share: float) -> list[list[Head]]:
    """The heads of depths 0..depth, K at each: (depth + 1) K heads in all.

    Raises KeyError(head) where the scores have no column of a head that they must start from.
    """
    k = heads_per_depth(relevance.logits.size, share)
    frontiers: list[list[Head]] = []
    for _ in range(depth + 1):
        frontiers.append(next_frontier(relevance, frontiers, k))
    return frontiers


def known_frontiers(relevance: Relevance, depth: int, k: int) -> list[list[Head]]:
    """The depths 0..depth, K heads each, as far as the stored scores to inner heads allow."""
    frontiers: list[list[Head]] = []
    while len(frontiers) <= depth and (not frontiers or set(frontiers[-1]) <= relevance.columns.keys()):
        frontiers.append(next_frontier(relevance, frontiers, k))
    return frontiers


def stored_circuit(relevance: Relevance, depth: int, share: float) -> list[list[Head]]:
    """`known_frontiers` of a circuit with `share` of all heads at each depth."""
    return known_frontiers(relevance, depth, heads_per_depth(relevance.logits.size, share))


def matched(ranking: Sequence[Head], like: Sequence[Head], per_group: int) -> list[Head]:
    """The best of `ranking` with as many heads and as many key/value groups as `like`.

    With the `shared` policy a chosen head moves its group's keys and values too, so only a control with the same
    number of groups has the same number of trainable weights.
    """

    def group(head: Head) -> tuple[int, int]:
        return head.layer, head.index // per_group

    n_heads, n_groups = len(like), len({group(head) for head in like})
    chosen: list[Head] = []
    opened: set[tuple[int, int]] = set()
    for head in ranking:
        heads_left, groups_left = n_heads - len(chosen), n_groups - len(opened)
        # A head of an open group is taken while enough heads remain to open the groups that are still missing.
        if heads_left > groups_left if group(head) in opened else groups_left > 0:
            chosen.append(head)
            opened.add(group(head))
        if len(chosen) == n_heads:
            break
    return chosen


def near_zero_ranking(relevance: Relevance, seed: int) -> list[Head]:
    """Smallest absolute R to the logits first."""
    return ranked(-np.abs(relevance.logits))


def bottom_ranking(relevance: Relevance, seed: int) -> list[Head]:
    """Most negative R to the logits first."""
    return ranked(-relevance.logits)


def random_ranking(relevance: Relevance, seed: int) -> list[Head]:
    """A uniform permutation of all heads."""
    return ranked(np.random.default_rng(seed).random(relevance.logits.shape))


SELECTIONS: dict[str, Callable[[Relevance, int], list[Head]] | None] = {
    "circuit": None,
    "near_zero": near_zero_ranking,
    "bottom": bottom_ranking,
    "random": random_ranking,
}


def select(name: str, relevance: Relevance, depth: int, share: float, per_group: int, seed: int) -> list[Head]:
    """The heads of an arm: the circuit of `depth`, or the control of that name with exactly its size."""
    target = [head for frontier in circuit(relevance, depth, share) for head in frontier]
    ranking = SELECTIONS[name]
    return target if ranking is None else matched(ranking(relevance, seed), target, per_group)
