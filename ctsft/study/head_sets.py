"""Sets of heads that are asked whether they are the mechanism (script 05)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from ctsft.discovery.circuits import PAPERS_DEPTH, SELECTIONS, circuit, heads_per_depth, ranked
from ctsft.discovery.faithfulness import same_layers
from ctsft.discovery.relevance import Relevance
from ctsft.heads import Head
from ctsft.storage import read_sealed
from ctsft.study.config import StudyConfig
from ctsft.study.grid import relevance_settings, short_hash, theta1_settings
from ctsft.study.workbench import Workbench

if TYPE_CHECKING:
    from ctsft.study.faithfulness import FaithfulnessConfig


class HeadSet(NamedTuple):
    """One set of heads that keeps its activations (`keep`) or loses them (`knock_out`), and where that is asked.

    selection: `none` and `all` are the ends of every curve; `top` are the heads of the highest score to the logits,
    `circuit` those of depths 0 to 2, `random:top` and `random:circuit` others of the same layers; `tuned` are the heads
    in a circuit file (named by `circuit`) that some cell of the folder tuned. Where these were tuned from another
    theta1 than the curves were drawn on (another machine's), `none` and `all` are asked of it too, and `circuit` names
    it.
    """

    language: str
    seed: int
    selection: str
    direction: str = "keep"
    size: int = 0
    scorer: str = ""
    draw: int = 0
    circuit: str = ""

    def key(self, config: StudyConfig, weights: str) -> str:
        """Readable and stable, as a cell's; what is the same for all scorers does not name one."""
        if self.circuit:
            parts = [self.language, self.selection, self.direction if self.direction != "keep" else ""]
            return "-".join([*filter(None, parts), self.circuit])
        settings = relevance_settings(config, weights) | {"scorer": self.scorer or config.scorer}
        if not self.scorer:
            settings |= {"scorer": None, "score_rows": None}
        parts = [self.language, self.selection, self.direction, self.scorer, f"k{self.size}"]
        parts += [f"draw{self.draw}"] if self.draw else []
        return "-".join([*filter(None, parts), f"s{self.seed}", short_hash(settings)])


class Tuned(NamedTuple):
    """The heads of a circuit file, and on how many rows they were scored."""

    heads: list[Head]
    score_rows: int


def tuned_sets(bench: Workbench, seed: int) -> dict[HeadSet, Tuned]:
    """The heads that cells of this folder tuned from the same theta1: does their faithfulness say how tuning ends?

    Each is asked both ways: what it keeps alone, and what is left without it.
    """
    mine = json.loads(json.dumps({"seed": seed, **theta1_settings(bench.config, bench.loaded.weights)}))
    weights = bench.theta1_of(seed)["weight_hash"]
    found = {}
    for path in sorted((bench.config.folder / "circuits").glob("*.json")):
        content = read_sealed(path)
        if mine.items() <= content.items() and content.get("theta1_hash", weights) == weights:
            tuned = Tuned([Head.parse(name) for name in content["heads"]], content["score_rows"])
            for direction in ("keep", "knock_out"):
                size, scorer = len(tuned.heads), content["scorer"]
                found[HeadSet(bench.config.source, seed, "tuned", direction, size, scorer, circuit=path.stem)] = tuned
    return found


def heads_of_set(wanted: HeadSet, relevance: Relevance, share: float) -> list[Head]:
    """The heads that `wanted` names, by the scores of its scorer."""
    name, _, like = wanted.selection.partition(":")
    if like:
        heads = heads_of_set(wanted._replace(selection=like), relevance, share)
        return same_layers(heads, relevance.logits.shape[1], wanted.seed + wanted.draw)
    if name == "circuit":
        k = heads_per_depth(relevance.logits.size, share)
        return [head for frontier in circuit(relevance, wanted.size // k - 1, share) for head in frontier]
    ranking = ranked(relevance.logits) if name == "top" else SELECTIONS[name](relevance, 0)
    return ranking[: wanted.size]


def plan(config: FaithfulnessConfig, seed: int, n_heads: int) -> Iterator[HeadSet]:
    """The sets of one seed, those that the claims need first.

    What a circuit keeps, and what is left without it, each has its controls: sets of other heads, asked the same way.
    """
    source, main = config.source, config.scorer
    k = heads_per_depth(n_heads, config.shares[0])
    # Small models have fewer heads than there are sizes.
    sizes, matched = (
        list(dict.fromkeys(max(1, round(share * n_heads)) for share in shares))
        for shares in (config.sizes, config.matched_sizes)
    )
    for language in (source, *config.targets):
        yield HeadSet(language, seed, "none", size=0)
        yield HeadSet(language, seed, "all", size=n_heads)
    circuits = [(depth + 1) * k for depth in range(PAPERS_DEPTH + 1)]
    for direction in ("keep", "knock_out"):
        for size in circuits:
            yield HeadSet(source, seed, "circuit", direction, size, main)
        for size in sizes:
            yield HeadSet(source, seed, "top", direction, size, main)
    for like, size in (("circuit", circuits[-1]), *(("top", size) for size in matched)):
        for direction, draw in product(("keep", "knock_out"), range(config.random_draws)):
            yield HeadSet(source, seed, f"random:{like}", direction, size, main, draw)
    for scorer in config.scorers:
        for size in sizes if scorer != main else ():
            yield HeadSet(source, seed, "top", "keep", size, scorer)
    for selection in ("near_zero", "bottom"):
        for size in dict.fromkeys((*sizes, *circuits)):
            yield HeadSet(source, seed, selection, "keep", size, main)
        for size in circuits:
            yield HeadSet(source, seed, selection, "knock_out", size, main)
    for language in config.targets:
        for size in sizes:
            yield HeadSet(language, seed, "top", "keep", size, main)
