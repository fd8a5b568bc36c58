"""How stable circuits are: over scored rows, seeds, pools, starts and scorers (script 05)."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, groupby
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ctsft.discovery.circuits import PAPERS_DEPTH, PAPERS_SHARE, stored_circuit
from ctsft.discovery.relevance import Relevance
from ctsft.report.faithfulness import Faithfulness, usual
from ctsft.report.render import GAP, fraction

# A circuit has settled where it shares this part of its heads (Jaccard) with that of the most rows.
SETTLED = 0.8


class Overlap(NamedTuple):
    """Jaccard overlap of the heads of depths 0 to 2 and of the top tenth, and rank correlation of all scores."""

    circuit: float
    top_tenth: float
    rank_correlation: float


class ByRows(NamedTuple):
    """Overlaps of maps scored on as many rows: with the same seed's map of the most rows, and between seeds.

    `scored`: how many rows, on the seed with the fewest: balanced over the labels, mostly fewer than were `asked` for.
    """

    asked: int
    scored: int
    to_most: list[Overlap]
    between: list[Overlap]


def _maps(found: Faithfulness, pool: str) -> list[Relevance]:
    """Those of the scorer that was found again, on the seeds of its circuits, with scored rows of such a `pool`."""
    scorer, seeds = found.found_again, set(found.seeds_of(found.found_again))
    maps = [m for m in found.maps if m.about["scorer"] == scorer and m.about["seed"] in seeds]
    return [m for m in maps if m.about.get("pool", "disjoint") == pool]


def by_rows(found: Faithfulness) -> list[ByRows]:
    """One for every number of rows that was asked for, in rising order.

    A start that answers few rows right scores the same ones, however many more are asked for: these count once.
    """
    falling = sorted(_maps(found, "disjoint"), key=lambda m: m.about["score_rows"], reverse=True)
    once = {(m.about["seed"], frozenset(m.about["score_row_ids"])): m for m in falling}  # the fewest asked come last
    disjoint = sorted(once.values(), key=lambda m: (m.about["score_rows"], m.about["seed"]))
    most = {m.about["seed"]: m for m in disjoint}
    out = []
    for asked, group in groupby(disjoint, key=lambda m: m.about["score_rows"]):
        here = list(group)
        to_most = [overlap(m, most[m.about["seed"]]) for m in here if m is not most[m.about["seed"]]]
        scored = min(len(m.about["score_row_ids"]) for m in here)
        out.append(ByRows(asked, scored, to_most, [overlap(a, b) for a, b in combinations(here, 2)]))
    return out


def settled_text(found: Faithfulness) -> str:
    """From how many scored rows on the circuit stays the same.

    Ties by index fill a circuit with the model's first heads, which are the same whatever the scores say. There the top
    tenth of the heads decides: only scores choose it.
    """
    filled = any(m.ties == "index" for m in _maps(found, "disjoint"))
    what = "the top tenths by score" if filled else "circuits"
    why = (
        "Ties by index filled these circuits with the model's first heads, whatever the scores say, so their overlap "
        "shows no stability; the top tenth of the heads by score is judged instead. "
    )
    kept = [
        (one.scored, np.mean([pair.top_tenth if filled else pair.circuit for pair in one.to_most]))
        for one in by_rows(found)
        if one.to_most
    ]
    if not kept:
        return "Heads were scored on a single number of rows, so how many are needed was not tested."
    enough = [rows for rows, _ in kept if all(value >= SETTLED for other, value in kept if other >= rows)]
    rule = (
        f"{what} share at least {SETTLED:.0%} of their heads with {'that' if filled else 'the one'} from the most rows"
    )
    told = f"From {enough[0]} rows on, {rule}." if enough else f"There is no number of rows from which on {rule}."
    return why + told if filled else told


def stability_cells(found: Faithfulness) -> pd.DataFrame:
    """Overlap of circuits: with the one from the most rows, between seeds, and with rows shared with the mean."""
    disjoint = _maps(found, "disjoint")
    table, known = [], by_rows(found)
    several = Counter(one.scored for one in known)
    for one in known:
        rows = f"{one.scored} rows" + (f" ({one.asked} asked)" if several[one.scored] > 1 else "")
        table.append(_overlaps(f"{rows}, against the most", one.to_most))
        table.append(_overlaps(f"{rows}, between seeds", one.between))
    shared = _maps(found, "shared")
    pairs = [
        overlap(m, other)
        for m in shared
        for other in disjoint
        if (other.about["seed"], other.about["score_rows"]) == (m.about["seed"], m.about["score_rows"])
    ]
    table.append(_overlaps("rows shared with the mean, against disjoint", pairs))
    table += _starts(found)
    others = [scorer for scorer in found.scorers if scorer != found.found_again]
    table += [_overlaps(f"{scorer}, against {found.found_again}", _against(found, scorer)) for scorer in others]
    return pd.DataFrame([line for line in table if line["pairs"]])


def _against(found: Faithfulness, scorer: str) -> list[Overlap]:
    mine, theirs = found.maps_of(found.found_again), found.maps_of(scorer)
    seeds = mine.keys() & theirs.keys() & set(found.seeds_of(found.found_again))
    return [overlap(theirs[seed], mine[seed]) for seed in sorted(seeds)]


def _starts(found: Faithfulness) -> list[dict[str, object]]:
    """The circuit of the start that was asked against those of other sources, and of fewer source rows."""
    mine = found.maps_of(found.found_again)
    rows = {str(m.about["score_rows"]) for m in mine.values()}
    pairs: dict[str, list[Overlap]] = {}
    for m in found.elsewhere:
        about = m.about
        if about["scorer"] == found.found_again and about["seed"] in mine and usual(m, rows):
            theirs, ours = ((x["source"], x["n_source"]) for x in (about, mine[about["seed"]].about))
            name = f"theta1 on {about['n_source']} rows of {about['source']}, against {found.source}"
            name = "theta1 again on another machine, against the first" if theirs == ours else name
            pairs.setdefault(name, []).append(overlap(m, mine[about["seed"]]))
    return [_overlaps(name, values) for name, values in sorted(pairs.items())]


def overlap(first: Relevance, second: Relevance) -> Overlap:
    """How alike two maps are; the circuits' overlap is not a number where one of them has no depths 1 and 2."""
    sets = [{head for part in stored_circuit(m, PAPERS_DEPTH, PAPERS_SHARE) for head in part} for m in (first, second)]
    tenth = max(1, first.logits.size // 10)
    top = [set(np.argsort(-m.logits.ravel(), kind="stable")[:tenth].tolist()) for m in (first, second)]
    correlation = stats.spearmanr(first.logits.ravel(), second.logits.ravel()).statistic
    jaccard = [len(a & b) / len(a | b) for a, b in (sets, top)]
    # Without columns to inner heads the circuit ends at depth 0, and overlaps of unequal depth mean nothing.
    return Overlap(jaccard[0] if len(sets[0]) == len(sets[1]) else np.nan, jaccard[1], float(correlation))


def _overlaps(what: str, values: list[Overlap]) -> dict[str, object]:
    means = [fraction(np.mean(column)) for column in zip(*values, strict=True)] or [GAP] * 3
    return {
        "scores": what,
        **dict(zip(("circuit", "top tenth", "rank correlation"), means, strict=True)),
        "pairs": len(values),
    }
