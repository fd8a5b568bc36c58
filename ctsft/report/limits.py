"""What limits a study, in sentences: the first part of `report.md`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from ctsft.discovery.circuits import PAPERS_SHARE, heads_per_depth, ranked, stored_circuit
from ctsft.discovery.relevance import SCORE_ROWS
from ctsft.report.by_rate import edges
from ctsft.report.choosing import ODYSSEY, at_papers_share, chosen_by_index
from ctsft.report.measured import odyssey_results
from ctsft.report.paper import SOURCE_ROWS, published
from ctsft.report.render import listed
from ctsft.report.rows import Results
from ctsft.report.select import ENTAILMENT, EXPERIMENT, pick
from ctsft.tasks.nusax import NUSAX

PAPERS_MODEL = "Qwen2.5-0.5B"


def limits(group: Sequence[Results]) -> Iterator[str]:
    """Of folders of one model, in sentences, those first that a reader should know first."""
    rows = pd.concat([results.rows for results in group])
    mains = [main for results in group if (main := results.of(EXPERIMENT)) is not None]
    model = group[0].model
    yield f"One model only, {model}{'' if PAPERS_MODEL in model else f'; the paper has {PAPERS_MODEL}, not run here'}."
    yield from _starts(rows)
    yield from _grounds(group)
    fewer = {m.about["score_rows"] for results in group for m in results.maps if m.about["score_rows"] < SCORE_ROWS}
    if fewer:
        yield f"Circuits were scored on {listed(fewer)} rows; the protocol asks for {SCORE_ROWS}."
    if not mains:
        yield "Scripts 01, 03 and 04 have no rows here."
        told = listed(rows.loc[chosen_by_index(rows), "experiment"])
        if told:
            yield f"In {told} the head's index broke ties: most circuits are the model's first heads (docs/scores.md)."
        return
    for main in mains:
        yield from by_index(main)
    main_rows = pd.concat([main.rows for main in mains])
    yield from _unlike_the_paper(main_rows)
    yield from _layers(mains)
    yield from _rates(group)
    yield from _left_out(mains)
    yield from _rounded(main_rows)
    yield (
        "Some verdict rules were written after we had seen rows; those of B9 to B20 after many of the rows that decide "
        "them (see claims.md). No verdict is corrected for multiple comparisons."
    )


def _starts(rows: pd.DataFrame) -> Iterator[str]:
    """On how many source rows theta1 was made, beside the paper's, and whether machines disagree about one."""
    for task, own in rows[rows["n_source"] > 0].groupby("task", sort=False):
        most = own["n_source"].max()
        if task in SOURCE_ROWS and most != SOURCE_ROWS[task]:
            yield f"On {task} theta1 learned from {most} source rows; the paper's from {SOURCE_ROWS[task]}."
    keys = ["preset", "task", "source", "n_source", "dtype", "seed"]
    if rows[rows["theta1"].notna()].groupby(keys)["theta1"].nunique().max() > 1:
        yield (
            "In some folders rows of one seed began from theta1 of several weights (machines round in different ways); "
            "only those of the same theta1 are compared."
        )


def _grounds(group: Sequence[Results]) -> Iterator[str]:
    """On how many seeds and targets each script's verdicts rest."""
    fewest = set()
    for name, what in ((EXPERIMENT, "Transfer"), (ENTAILMENT, "Entailment"), (ODYSSEY, "Baselines (script 06)")):
        told: dict[int, list[str]] = {}
        for results in group:
            study = odyssey_results(results.folder) if name == ODYSSEY else results.of(name)
            tuned = None if study is None else study.rows[study.rows["arm"] != "zero_shot"]
            for n, here in [] if tuned is None else tuned.groupby("n_target"):
                targets = here["target"].nunique()
                fewest.add(here["seed"].nunique())
                told.setdefault(int(n), []).append(
                    f"`{results.name}` {targets} target{'s' if targets > 1 else ''}, seeds {listed(here['seed'])}"
                )
        for n, parts in sorted(told.items()):
            yield f"{what}, {n} target rows: {'; '.join(parts)}."
    if min(fewest, default=3) < 3:
        yield (
            "How much two seeds vary is hardly known, so an interval over two is a rough one, and too narrow where "
            "seeds vary more than rows do."
        )
    if any(len(pick(results.rows, task=NUSAX.name, n_target=NUSAX.target_pool)) for results in group):
        yield (
            f"With {NUSAX.target_pool} target rows of NusaX all seeds learn from the same ones (all of pool B), so "
            "there no interval covers other draws of them."
        )


def _unlike_the_paper(rows: pd.DataFrame) -> Iterator[str]:
    seeds, papers = set(rows["seed"]), published("table8_top_head_depth0")["seed"].nunique()
    if len(seeds) < papers:
        yield (
            f"Only {len(seeds)} seeds ({listed(seeds)}), where the paper has {papers}: intervals understate the "
            "variation between seeds."
        )
    missing = [
        target for target in published("table4_nusax_anchors")["target"].unique() if target not in set(rows["target"])
    ]
    if missing:
        yield f"Targets without rows: {', '.join(missing)}."
    heads = at_papers_share(rows[rows["arm"] == "circuit"])
    if len(heads) and heads["trainable_share"].max() >= 0.01:
        yield f"The circuit trains up to {heads['trainable_share'].max():.2%} of this model's weights, not under 1 %."


def _layers(mains: Sequence[Results]) -> Iterator[str]:
    """In which layers the circuit's best heads lie, beside the paper's."""
    maps = [m for main in mains for m in main.maps if m.about["scorer"] == "cdt"]
    ours = [head.layer for m in maps for head in stored_circuit(m, 0, PAPERS_SHARE)[0]]
    if ours:
        theirs = pick(published("table5_layer_range_by_depth"), depth=0)
        yield (
            f"The circuit's best heads (`cdt`, depth 0) lie in layers {min(ours)} to {max(ours)} of "
            f"{maps[0].logits.shape[0]}; the paper's in layers {theirs['first_layer'].min()} to "
            f"{theirs['last_layer'].max()} of its model (`table5.md`)."
        )


def _rates(group: Sequence[Results]) -> Iterator[str]:
    """How many arms had one learning rate, or perhaps not their best one."""
    alone, at_end = [], []
    for results, study in ((results, results.of(EXPERIMENT)) for results in group):
        found = {} if study is None else edges(study.rows)
        every = sum(map(len, found.values()))
        for told, words in ((alone, ["only"]), (at_end, ["highest", "lowest"])):
            if some := sum(len(found.get(word, ())) for word in words):
                told.append(f"`{results.name}` {some} of {every}")
    if alone:
        yield f"Settings of transfer (target, n, arm, depth) with one learning rate alone: {', '.join(alone)}."
    if at_end:
        yield (
            "Settings that chose the highest or lowest of several rates on every seed, so perhaps not their best: "
            f"{', '.join(at_end)} (`*_01_by_rate.md` names them)."
        )


def _left_out(mains: Sequence[Results]) -> Iterator[str]:
    told = [f"{count} {what} (`{main.name}`)" for main in mains for what, count in main.set_aside]
    precisions = listed(dtype for main in mains for dtype in main.rows["dtype"])
    left_out = f"; rows left out: {', '.join(told)}" if told else ""
    yield f"Computed in {precisions}{left_out}."


def _rounded(rows: pd.DataFrame) -> Iterator[str]:
    """How many rows show that rounded logits made label words equal, of which the first was then the answer.

    A right answer over the whole vocabulary is right among the label words too, unless two of these are equal.
    """
    over = (pd.to_numeric(rows["full_vocab_accuracy"]) - rows["accuracy"]).dropna()
    lost = over[over > 1e-6]
    if len(lost):
        yield (
            f"In {len(lost)} of {len(over)} rows bfloat16 gave label words equal logits, and the first was taken as "
            f"the answer (mended since): wrongly in {lost.mean():.2%} of a row's answers on average, {lost.max():.2%} "
            "at most. Cases where the first was right cannot be counted."
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
