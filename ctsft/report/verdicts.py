"""Which folder tells a claim, and on which other rows or in which other folders it has another verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ctsft.report.baseline_claims import BASELINE_CLAIMS, judge_baselines
from ctsft.report.claims import CLAIMS, judge
from ctsft.report.judging import BY_INDEX, Judgement
from ctsft.report.otherwise import judge_otherwise
from ctsft.report.rows import Results

ALL_CLAIMS = CLAIMS | BASELINE_CLAIMS


@dataclass(frozen=True)
class Told:
    """A claim's first verdict, the folder whose rows gave it, and in words where it is another one."""

    judgement: Judgement
    folder: Results
    elsewhere: tuple[str, ...]


def judge_all(results: Results) -> list[Judgement]:
    return [*judge(results), *judge_baselines(results)]


def akin(one: Results, other: Results) -> bool:
    """Whether two folders answer the same questions: of the same weights, on one task at least from the same source."""
    scopes = [set(zip(r.rows["model_hash"], r.rows["task"], r.rows["source"], strict=True)) for r in (one, other)]
    return bool(set.intersection(*scopes))


def groups(folders: Iterable[Results]) -> list[list[Results]]:
    """The folders that are `akin` to one before them, together."""
    found: list[list[Results]] = []
    for results in folders:
        group = next((group for group in found if any(akin(results, other) for other in group)), None)
        if group is None:
            found.append([results])
        else:
            group.append(results)
    return found


def differing(first: Judgement, others: Iterable[tuple[str, Judgement]]) -> list[tuple[str, Judgement]]:
    """On which other rows the same claim has another verdict, and which."""
    return [(which, j) for which, j in others if j.claim == first.claim and j.verdict not in ("not run", first.verdict)]


def first_told(group: Sequence[Results]) -> list[Told]:
    """Every claim by the first of these folders, all `akin`, that has run it; else *not run*, by the first of all.

    Rows that cannot decide, whose heads ties chose by index, tell it only where no folder has others.
    """
    told = []
    for claim in ALL_CLAIMS:
        own = [(results, j) for results in group for j in judge_all(results) if j.claim == claim]
        results, first = min(own, key=lambda pair: (pair[1].verdict == "not run", BY_INDEX in pair[1].number))
        told.append(Told(first, results, tuple(_elsewhere(first, results, group))))
    return told


def _elsewhere(first: Judgement, of: Results, group: Sequence[Results]) -> list[str]:
    """A text for every other verdict with its number, and on which rows of its folder the verdict is which."""
    told = []
    for results in group:
        name = "" if results is of else f"`{results.name}`"
        own = next((j for j in judge_all(results) if j.claim == first.claim and j.verdict != "not run"), first)
        others = [(rows, j) for rows, j in judge_otherwise(results) if j.claim == first.claim]
        if own.verdict == first.verdict:
            told += [
                f"{', '.join(filter(None, (name, rows)))}: **{j.verdict}**: {j.deciding}"
                for rows, j in differing(first, others)
            ]
            continue
        also = [rows for rows, j in others if j.verdict == own.verdict]
        beside = [f"also {'; also '.join(also)}"] if also else []
        beside += [f"{rows} {j.verdict}" for rows, j in differing(own, others)]
        if own.target_rows != first.target_rows:
            name = f"{name}, {own.target_rows}"
        told.append(f"{name}: **{own.verdict}**: {own.deciding}" + (f" ({'; '.join(beside)})" if beside else ""))
    return told


def judged_together(folders: Iterable[Results]) -> list[tuple[Results, list[Judgement]]]:
    """Every folder with its verdicts; *not run* is left out where a folder `akin` to it has run the rows or said so."""
    found = [(results, judge_all(results)) for results in folders]
    kept: list[tuple[Results, list[Judgement]]] = []
    for number, (results, judged) in enumerate(found):
        others = [pair for place, pair in enumerate(found) if place != number and akin(results, pair[0])]
        told = {j.claim for _, other in others for j in other if j.verdict != "not run"}
        told |= {j.claim for other, own in kept if akin(results, other) for j in own}
        kept.append((results, [j for j in judged if j.verdict != "not run" or j.claim not in told]))
    return kept
