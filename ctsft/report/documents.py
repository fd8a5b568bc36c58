"""The parts of README.md and REPRODUCING.md that are made from rows, each between two marks.

python -m ctsft.report.documents results/demo results/small results/cpu results/languages  # part of `make tables`
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ctsft.errors import ending_in_a_line
from ctsft.report import reproducing
from ctsft.report.claims import CLAIMS, judge
from ctsft.report.claims_page import akin, differing
from ctsft.report.judging import Judgement
from ctsft.report.otherwise import judge_otherwise
from ctsft.report.rows import Results
from ctsft.report.select import EXPERIMENT
from ctsft.storage import write_atomic

START, END = "<!-- made by python -m ctsft.report.documents; do not edit -->\n", "<!-- end -->"


def verdicts(folders: Sequence[Results]) -> str:
    """The paper's claims as Markdown: on real text with the number that decides, on the demo the verdict alone.

    Real text is that of the first folder that has rows of script 01, which most of the claims rest on; claims.md has
    all. Other rows of it (the paper's rate, another number of target rows) are named where they give another verdict,
    and so are other folders of the same model and task; where one of these alone has a claim's rows, it tells it.
    """
    real = [results for results in folders if results.preset != "demo" and results.of(EXPERIMENT)][:1]
    demo = {j.claim: j.verdict for results in folders if results.preset == "demo" for j in judge(results)}
    said = [(results, judge(results), judge_otherwise(results)) for results in real]
    lines = [
        ("the paper claims", *(f"`{results.preset}`: {results.model}, real text" for results in real), "demo"),
        ("---",) * (len(real) + 2),
    ]
    for claim, words in CLAIMS.items():
        cells = []
        for results, own, others in said:
            [first] = [j for j in own if j.claim == claim]
            here = [f"{which}: **{verdict}**" for which, verdict in differing(first, others)]
            told, first = _first_told(first, results, folders)
            cells.append("<br>".join([told, *here, *_differing_elsewhere(first, results, folders)]))
        lines.append((f"{claim}. {words}", *cells, demo.get(claim, "not run")))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _told(judgement: Judgement) -> str:
    return f"**{judgement.verdict}**: {judgement.deciding}"


def _first_told(own: Judgement, results: Results, folders: Sequence[Results]) -> tuple[str, Judgement]:
    """The folder's own verdict in words; where it has not run the claim, that of another one of its model and task."""
    if own.verdict != "not run":
        return _told(own), own
    for other in _akin(results, folders):
        for judgement in judge(other):
            if judgement.claim == own.claim and judgement.verdict != "not run":
                return f"`{other.preset}`: {_told(judgement)}", judgement
    return "not run", own


def _differing_elsewhere(first: Judgement, results: Results, folders: Sequence[Results]) -> list[str]:
    """What other folders of the model and task judge in another way, and on which of their rows."""
    told = []
    for other in _akin(results, folders):
        which: dict[str, list[str]] = {}
        for rows, verdict in differing(first, [("", j) for j in judge(other)] + judge_otherwise(other)):
            which.setdefault(verdict, []).append(rows)
        for verdict, all_rows in which.items():
            rows = "; ".join(filter(None, all_rows))
            if "" in all_rows:  # the folder's own first verdict
                told.append(f"`{other.preset}`: **{verdict}**{f' (also {rows})' if rows else ''}")
            else:
                told.append(f"`{other.preset}`, {rows}: **{verdict}**")
    return told


def _akin(results: Results, folders: Sequence[Results]) -> list[Results]:
    others = [other for other in folders if other is not results and other.preset != "demo"]
    return [other for other in others if akin(results, other)]


MADE = {"README.md": verdicts, "REPRODUCING.md": reproducing.tables}


def filled(name: str, page: str, folders: Sequence[Results]) -> str:
    """The text `page` of the document `name` with its part made again."""
    before, rest = page.split(START)
    return before + START + MADE[name](folders) + END + rest.split(END, 1)[1]


@ending_in_a_line()
def main() -> None:
    folders = [Results.read(Path(folder)) for folder in sys.argv[1:]]
    for document in map(Path, MADE):
        write_atomic(document, filled(document.name, document.read_text(encoding="utf-8"), folders))
        print(document)


if __name__ == "__main__":
    main()
