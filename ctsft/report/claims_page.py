"""`claims.md`: every claim with its verdict on every results folder."""

from __future__ import annotations

from collections.abc import Iterable

from ctsft.report.baseline_claims import BASELINE_CLAIMS, judge_baselines
from ctsft.report.claims import CLAIMS, judge
from ctsft.report.judging import MARGIN, Judgement
from ctsft.report.otherwise import judge_otherwise
from ctsft.report.rows import Results

BASELINES_FOLLOW = (
    "# Claims about baselines, self-training and cheap arithmetic\n\n"
    "Each is put so that one number decides it, with one threshold both ways (the rules are in "
    "`ctsft/report/baseline_claims.py`). They were written after the first demo rows had been seen, B9 to B12 after "
    "SmolLM2's rows on Javanese had been seen too (those on Buginese had not been run, so where a claim names both, "
    "Buginese alone is the fair test of it), B13 to B15 after both, B16 to B18 after the rows of L2-SP and of the "
    "circuit with replay, B19 and B20 after those of EWC and the lottery on Buginese had been seen.\n"
)


# What is said of folders of these names.
ABOUT = {
    "demo": "`demo` is a micro model on constructed languages: it shows that the machinery works, and says nothing "
    "about the paper.",
    "small": "`small` was run on one GPU; the paper's model is Qwen2.5-0.5B, which was not run there.",
    "cpu": "`cpu` was run on CPUs, and is of the same model as `small`; where one of them has not run a claim's "
    "rows and the other has, only the other is told.",
}


def judged_together(folders: Iterable[Results]) -> list[tuple[Results, list[Judgement]]]:
    """Every folder with its verdicts; *not run* is left out where a folder `akin` to it has run the rows or said so."""
    found = [(results, [*judge(results), *judge_baselines(results)]) for results in folders]
    kept: list[tuple[Results, list[Judgement]]] = []
    for number, (results, judged) in enumerate(found):
        others = [pair for place, pair in enumerate(found) if place != number and akin(results, pair[0])]
        told = {j.claim for _, other in others for j in other if j.verdict != "not run"}
        told |= {j.claim for other, own in kept if akin(results, other) for j in own}
        kept.append((results, [j for j in judged if j.verdict != "not run" or j.claim not in told]))
    return kept


def akin(one: Results, other: Results) -> bool:
    """Whether two folders answer the same questions: of the same weights, on one task at least from the same source."""
    scopes = [set(zip(r.rows["model_hash"], r.rows["task"], r.rows["source"], strict=True)) for r in (one, other)]
    return bool(set.intersection(*scopes))


def claims_page(folders: Iterable[Results]) -> str:
    """The page, from the rows of these folders."""
    folders = list(folders)
    others = {results.preset: judge_otherwise(results) for results in folders}
    judged = {results.preset: {j.claim: j for j in found} for results, found in judged_together(folders)}
    out = [
        "# The paper's claims, judged by our rows\n",
        "Made by `python -m ctsft.report`. Differences are paired on test rows, with 95 % intervals. Claims that "
        f"something is *kept* or *matched* (C1, C3a, C7, B5, B7, B11, B13, B14, B19) allow a loss of {MARGIN}, about "
        f"one standard error of an accuracy on 400 rows: *supported* where the whole interval lies above −{MARGIN}, "
        "*contradicted* where it lies below. Claims that something is *better* need the whole interval above 0, or "
        "below. Bounds count as they are printed, rounded to two decimals, so that one of 0.00 is not above 0: the "
        "bootstrap's own error (about 0.001) could put it on the other side. Everything else is *undecided*, even "
        "beside an interval without 0. C1 asks for under 1 % of the "
        "weights too, so that a small model, whose norms and 2 % of the heads are more, leaves it undecided at best. "
        "Accuracy decides; macro-F1 is told beside it, because an arm that gives up a rare label loses little "
        "accuracy. The rules are in `ctsft/report/claims.py`; some were written after the demo's rows had been seen, "
        "and this is no pre-registration. Only targets with as many seeds as any other are pooled, which was decided "
        "after Minangkabau's one seed had been seen. Of two arms that were run at other learning rates, those that "
        "both had on a target and seed count (decided when a GPU's time had ended before the last cells). C4 has two "
        f"thresholds: supported where the whole loss lies above 0, contradicted where it lies below {MARGIN}.",
        *(words for preset, words in ABOUT.items() if preset in judged),
        "",
    ]
    for claim, words in (CLAIMS | BASELINE_CLAIMS).items():
        if claim == next(iter(BASELINE_CLAIMS)):
            out.append(BASELINES_FOLLOW)
        out.append(f"## {claim}. {words}\n")
        for results in folders:
            j = judged[results.preset].get(claim)
            if j is None:
                continue
            out.append(f"- `{results.preset}` ({results.model}): **{j.verdict}**. {j.number}. Data: {j.data}.")
            out += [
                f"- `{results.preset}`, {which}: **{j.verdict}**. {j.number}. Data: {j.data}."
                for which, j in others[results.preset]
                if j.claim == claim
            ]
        out.append("")
    return "\n".join(out)
