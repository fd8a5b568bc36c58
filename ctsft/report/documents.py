"""The parts of README.md and REPRODUCING.md that are made from rows, each between two marks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ctsft.errors import UserError
from ctsft.report import reproducing
from ctsft.report.claims import CLAIMS
from ctsft.report.rows import Results
from ctsft.report.select import EXPERIMENT
from ctsft.report.verdicts import akin, first_told
from ctsft.storage import write_atomic

START, END = "<!-- made by python -m ctsft.report --documents; do not edit -->\n", "<!-- end -->"


def verdicts(folders: Sequence[Results]) -> str:
    """The paper's claims as Markdown, with the number that decides: a count of the first verdicts, and a table.

    First comes the folder of real text that has rows of script 01, which most of the claims rest on; claims.md has all.
    Other rows (the paper's rate, another number of target rows) and other folders are named where they give another
    verdict; where one of these alone has a claim's rows, it tells it.
    """
    real = [results for results in folders if results.name != "demo"]
    main = next((results for results in real if results.of(EXPERIMENT)), None)
    if main is None:
        raise UserError(f"none of these folders has rows of {EXPERIMENT} on real text, which README.md tells.")
    told = first_told([main, *(results for results in real if results is not main and akin(results, main))])
    own = [one for one in told if one.judgement.claim in CLAIMS]
    counts = Counter(one.judgement.verdict for one in own)
    lines = [("the paper claims", f"folder `{main.name}`, {main.model}, where no other is named"), ("---", "---")]
    for one in own:
        j, told_by = one.judgement, "" if one.folder is main else f"`{one.folder.name}`: "
        first = j.verdict if j.verdict == "not run" else f"{told_by}**{j.verdict}**: {j.deciding}"
        lines.append((f"{j.claim}. {CLAIMS[j.claim]}", "<br>".join([first, *one.elsewhere])))
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    counted = ", ".join(f"{verdict} {number}" for verdict, number in counts.most_common())
    return f"First verdicts on these {len(own)} claims: {counted}.\n\n{table}"


MADE = {"README.md": verdicts, "REPRODUCING.md": reproducing.tables}


def filled(page: str, made: str) -> str:
    """The text of a document with what is `made` in the place of its part."""
    before, rest = page.split(START)
    return before + START + made + END + rest.split(END, 1)[1]


def fill(folders: Sequence[Results]) -> list[Path]:
    """Put what these rows give into the documents of the working folder; returns them."""
    parts = {Path(name): make(folders) for name, make in MADE.items()}  # takes a while, in which somebody may write
    for document, made in parts.items():
        write_atomic(document, filled(document.read_text(encoding="utf-8"), made))
    return [*parts]
