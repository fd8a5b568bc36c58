"""`report.md`, two pages: our weakest points, what held and what did not, and what follows from it.

The sentences that follow from a verdict are written down in `sentences.py`, one for each claim and verdict that has a
consequence; which of them are printed, and every number, comes from the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ctsft.report.claims import CLAIMS
from ctsft.report.limits import limits
from ctsft.report.rows import Results
from ctsft.report.sentences import TO_A_USER, TO_THE_AUTHORS
from ctsft.report.verdicts import ALL_CLAIMS, Told, first_told, groups

HEADINGS = {
    "supported": "Claims that our rows support",
    "contradicted": "Claims that our rows contradict",
    "undecided": "Claims that our rows leave undecided",
    "not run": "Claims that were not run",
}


def _line(one: Told, group: Sequence[Results]) -> str:
    """A claim and the number that decides; of an undecided one about baselines, which are many, the claim alone."""
    j = one.judgement
    claim = f"- {j.claim}. {ALL_CLAIMS[j.claim]}"
    elsewhere = "" if one.folder is group[0] else f" (`{one.folder.name}`)"
    if j.verdict == "not run":
        return f"{claim} ({j.data}.)"
    if j.verdict == "undecided" and j.claim not in CLAIMS:
        return f"{claim.removesuffix('.')}{elsewhere}."
    return f"{claim} {j.deciding}{elsewhere}."


def _following(told: Iterable[Told], sentences: dict[str, str]) -> list[str]:
    verdicts = [one.judgement for one in told]
    found = [(j, sentences.get(f"{j.claim} {j.verdict}")) for j in verdicts]
    return [
        f"- {sentence.format(number=j.deciding, rows=j.target_rows)} "
        f"({', '.join(filter(None, (j.claim, j.verdict, j.target_rows)))}.)"
        for j, sentence in found
        if sentence
    ]


def report_page(folders: Iterable[Results]) -> str:
    """`report.md`, one report for all folders that are akin."""
    out = [
        "# What this replication found\n",
        "Made by `python -m ctsft.report` from the verdicts in `claims.md`, which has the rules, the data behind every "
        "number, and further numbers beside it. A claim is told by the first folder that has its rows.\n",
    ]
    together = groups(folders)
    for group in together:
        told = first_told(group)
        names = ", ".join(f"`{results.name}`" for results in group)
        if len(together) > 1:
            out.append(f"# {group[0].model} ({names})\n")
        parts = {"The weakest points of this study": [f"- {line}" for line in limits(group)]}
        for verdict, heading in HEADINGS.items():
            parts[heading] = [_line(one, group) for one in told if one.judgement.verdict == verdict]
        parts["Where other rows give another verdict"] = [
            f"- {one.judgement.claim} ({one.judgement.verdict}): {'; '.join(one.elsewhere)}."
            for one in told
            if one.elsewhere
        ]
        parts["What we would tell the authors"] = _following(told, TO_THE_AUTHORS)
        parts["What a user should do"] = _following(told, TO_A_USER)
        for heading, lines in parts.items():
            if lines:
                out += [f"## {heading}\n", *lines, ""]
    return "\n".join(out)
