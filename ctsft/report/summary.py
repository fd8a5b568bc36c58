"""`report.md`: what held, what did not, and what follows, from the verdicts of `claims.py`; our weakest points first.

The sentences that follow from a verdict are written down here, one for each claim and verdict that has a consequence;
which of them are printed, and every number, comes from the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from ctsft.discovery.circuits import PAPERS_SHARE, heads_per_depth, ranked, stored_circuit
from ctsft.discovery.relevance import SCORE_ROWS
from ctsft.report.baseline_claims import BASELINE_CLAIMS
from ctsft.report.choosing import ODYSSEY, at_papers_share, at_validated_rate, chosen_by_index
from ctsft.report.claims import CLAIMS
from ctsft.report.claims_page import akin, judged_together
from ctsft.report.judging import Judgement
from ctsft.report.measured import odyssey_results
from ctsft.report.otherwise import judge_otherwise
from ctsft.report.outcomes import outcomes
from ctsft.report.paper import published
from ctsft.report.render import GAP, listed, markdown
from ctsft.report.rows import Results
from ctsft.report.select import ENTAILMENT, EXPERIMENT, pick
from ctsft.report.sentences import TO_A_USER, TO_THE_AUTHORS

HEADINGS = {
    "supported": "Claims that our rows support",
    "contradicted": "Claims that our rows contradict",
    "undecided": "Claims that our rows leave undecided",
    "not run": "Claims that were not run",
}


def weakest(results: Results) -> Iterator[str]:
    """What limits the rows of one folder, in sentences."""
    main = results.of(EXPERIMENT)
    papers_model = "Qwen2.5-0.5B"
    other = "" if papers_model in results.model else f"; the paper's model, {papers_model}, was not run"
    yield f"One model only, {results.model}{other}."
    yield from _grounds(results)
    if main is None:
        yield "Scripts 01, 03 and 04 have no rows here."
        told = ", ".join(sorted(set(results.rows.loc[chosen_by_index(results.rows), "experiment"])))
        if told:
            yield f"In {told} the head's index broke ties: most circuits are the model's first heads (docs/scores.md)."
        yield from _starts(results.rows)
        yield from _rates(results)
        return
    rows = main.rows
    yield from by_index(main)
    seeds = sorted(rows["seed"].unique())
    papers = len(published("table8_top_head_depth0")["seed"].unique())
    if len(seeds) < papers:
        yield (
            f"Only {len(seeds)} of the paper's {papers} seeds ({listed(seeds)}): intervals understate the "
            "variation between seeds."
        )
    papers_targets = published("table4_nusax_anchors")["target"].unique()
    missing = [target for target in papers_targets if target not in set(rows["target"])]
    if missing:
        yield f"Targets without rows: {', '.join(missing)}."
    sizes = sorted(set(rows["n_target"]) - {0})
    yield f"Target rows n = {listed(sizes)}; {len(rows['gold'].iloc[0])} test rows per language."
    rates = rows[rows["lr"].notna()].groupby(["target", "n_target", "arm", "depth"], dropna=False)["lr"].nunique()
    alone = int((rates == 1).sum())
    if alone:
        yield f"Only one learning rate in {alone} of {len(rates)} settings (target, n, arm, depth)."
    heads = at_papers_share(rows[rows["arm"] == "circuit"])
    if len(heads) and heads["trainable_share"].max() >= 0.01:
        yield f"The circuit trains up to {heads['trainable_share'].max():.2%} of this model's weights, not under 1 %."
    yield (
        f"Computed in {rows['dtype'].iloc[0]}"
        + "".join(f"; {count} rows {what} are left out" for what, count in main.set_aside)
        + "."
    )
    yield from _rounded(rows)
    yield from _starts(rows)
    yield from _at_the_edge(main)
    yield from _rates(results)
    yield (
        "Some verdict rules were written after we had seen rows; those of B9 to B20 after we had seen many of the rows "
        "that decide them (see claims.md). No verdict is corrected for multiple comparisons."
    )


def _grounds(results: Results) -> Iterator[str]:
    """On how many seeds and targets each script's verdicts rest, and on how many rows circuits were scored."""
    studies = {name: results.of(name) for name in (EXPERIMENT, ENTAILMENT)} | {ODYSSEY: odyssey_results(results.folder)}
    for name, study in studies.items():
        tuned = None if study is None else study.rows[study.rows["arm"] != "zero_shot"]
        for n_target, here in [] if tuned is None else tuned.groupby("n_target"):
            seeds = listed(here["seed"])
            targets = ", ".join(dict.fromkeys(here["target"]))
            yield f"Script {name[:2]}, {n_target} target rows: seeds {seeds}; {targets}."
    fewer = {m.about["score_rows"] for m in results.maps if m.about["score_rows"] < SCORE_ROWS}
    if fewer:
        yield f"Circuits were scored on {listed(fewer)} rows; the protocol asks for {SCORE_ROWS}."


def _starts(rows: pd.DataFrame) -> Iterator[str]:
    same = rows[rows["theta1"].notna()].groupby(["task", "source", "n_source", "dtype", "seed"])
    if same["theta1"].nunique().max() > 1:
        yield "Rows of the same seed come from more than one machine, so their theta1 differ by rounding."


def _rounded(rows: pd.DataFrame) -> Iterator[str]:
    """How many rows show that rounded logits made label words equal, of which the first was then the answer.

    A right answer over the whole vocabulary is right among the label words too, unless two of these are equal.
    """
    over = (pd.to_numeric(rows["full_vocab_accuracy"]) - rows["accuracy"]).dropna()
    lost = over[over > 1e-6]
    if len(lost):
        yield (
            "Label words with equal logits in bfloat16 (mended since): the first one was taken as the answer. "
            f"{len(lost)} of {len(over)} rows show it, in {lost.mean():.2%} of their answers on average "
            f"and {lost.max():.2%} at most; where the first one was right, nothing shows it."
        )


def by_index(main: Results) -> Iterator[str]:
    """How many circuits of depth 2 are no more than the model's first heads, where ties were decided by index."""
    maps = [m for m in main.maps if m.ties == "index"]
    sizes = sorted(set(main.rows.loc[chosen_by_index(main.rows), "n_target"]))
    if not maps or not sizes:
        return
    first = 0
    for m in maps:
        k = heads_per_depth(m.logits.size, PAPERS_SHARE)
        heads = {head for part in stored_circuit(m, 2, PAPERS_SHARE) for head in part}
        first += heads == set(ranked(np.zeros(m.logits.shape))[: 3 * k])
    yield (
        "Heads that feed no head of the previous depth have equal scores (all heads, if that depth lies in the first "
        f"layer). On such ties the rows of n = {listed(sizes)} took the earlier head: {first} of "
        f"{len(maps)} circuits of depth 2 are the model's first heads, whatever the scores to the logits say. The "
        "current rule (the score to the logits decides) was not run there."
    )


def _at_the_edge(main: Results) -> Iterator[str]:
    """Arms of script 01 whose validated rate is the highest or lowest of several on every seed of a target."""
    rows = main.rows[main.rows["lr"].notna()]
    keys = ["target", "n_target", "arm", "depth"]
    for word, end in (("highest", max), ("lowest", min)):
        here = []
        for key, chosen in at_validated_rate(at_papers_share(rows)).groupby(keys, dropna=False, sort=False):
            tried = set(pick(rows, **dict(zip(keys, key, strict=True)))["lr"])
            if len(tried) > 1 and set(chosen["lr"]) == {end(tried)}:
                target, n, arm, depth = key
                here.append(f"{arm}{'' if pd.isna(depth) else f' {depth:g}'} ({target}, {n} rows)")
        if here:
            yield (
                f"Arms that chose the {word} of several rates on every seed, and so are perhaps not at their best: "
                f"{', '.join(here)}."
            )


def _rates(results: Results) -> Iterator[str]:
    """Arms of script 06 that were given fewer rates than others, and those that may want a higher or lower one."""
    travelled = odyssey_results(results.folder)
    tuned = [one for one in outcomes(travelled) if one.rates] if travelled else []
    for target, n in dict.fromkeys((one.target, one.n_target) for one in tuned):
        here = [one for one in tuned if (one.target, one.n_target) == (target, n)]
        fewer = [one.arm for one in here if one.short_of_rates]
        if fewer:
            yield f"{target}, {n} rows, script 06: tried at fewer rates than others: {', '.join(dict.fromkeys(fewer))}."
        for word, end in (("highest", max), ("lowest", min)):
            edge = [one.arm for one in here if len(one.rates) > 1 and set(one.chosen) == {end(one.rates)}]
            if edge:
                yield (
                    f"{target}, {n} rows, script 06: arms that chose the {word} rate tried, on every seed, perhaps not "
                    f"at their best: {', '.join(dict.fromkeys(edge))}."
                )


def _listed(judged: list[Judgement], verdict: str) -> list[str]:
    words = CLAIMS | BASELINE_CLAIMS
    found = [(f"- {j.claim}. {words[j.claim]}", j) for j in judged if j.verdict == verdict]
    return [f"{claim} ({j.data}.)" if verdict == "not run" else f"{claim} {j.deciding}." for claim, j in found]


def _otherwise(results: Results, judged: Iterable[Judgement]) -> list[str]:
    """A line per claim that was judged on other rows too: the first verdict, and a column per choice of other rows."""
    first = {j.claim: j for j in judged}
    table: dict[str, dict[str, str]] = {}
    for which, j in judge_otherwise(results):
        line = table.setdefault(j.claim, {"claim": j.claim, "first verdict": _briefly(first[j.claim])})
        line[which] = _briefly(j)
    return [markdown(pd.DataFrame(table.values()).fillna(GAP))] if table else []


def _briefly(judgement: Judgement) -> str:
    return "not run" if judgement.verdict == "not run" else f"{judgement.verdict}: {judgement.deciding}"


def _following(judged: list[Judgement], sentences: dict[str, str]) -> list[str]:
    found = [(j, sentences.get(f"{j.claim} {j.verdict}")) for j in judged]
    return [f"- {sentence} ({j.claim}, {j.verdict}.)" for j, sentence in found if sentence]


def report_page(folders: Iterable[Results]) -> str:
    """`report.md`, one part for every results folder of real data.

    Of folders that are `akin` the first that has run a claim tells it, and the others say so.
    """
    out = [
        "# What this replication found\n",
        "Generated by `python -m ctsft.report` from the verdicts in `claims.md`, which gives the data behind every "
        "number and further numbers beside it.\n",
    ]
    together = judged_together(folders)
    for number, (results, every) in enumerate(together):
        before = [(other, {j.claim for j in own}) for other, own in together[:number] if akin(results, other)]
        judged = [j for j in every if not any(j.claim in claims for _, claims in before)]
        names = ", ".join(f"`{other.preset}`" for other, _ in before)
        if not judged:
            told = ", ".join(j.claim for j in every)
            out.append(
                f"# Preset `{results.preset}`\n\nIts claims ({told}) were also run in {names}; its verdicts are in "
                "`claims.md`.\n"
            )
            continue
        weak = [f"- {line}" for line in weakest(results)]
        if len(judged) < len(every):
            weak.append(f"- Only claims that {names} has not run are listed here; all verdicts are in `claims.md`.")
        parts = {"The weakest points of this study": weak}
        parts |= {heading: _listed(judged, verdict) for verdict, heading in HEADINGS.items()}
        parts["Verdicts on other rows of the same study"] = _otherwise(results, every)
        parts["What we would tell the authors"] = _following(judged, TO_THE_AUTHORS)
        parts["What a user should do"] = _following(judged, TO_A_USER)
        out.append(f"# Preset `{results.preset}`\n")
        for heading, lines in parts.items():
            if lines:
                out += [f"## {heading}\n", *lines, ""]
    return "\n".join(out)
