"""The paper's claims C1 to C8, each with its deciding number, interval and verdict.

An effect counts as none within MARGIN, about one standard error of an accuracy on 400 rows: a claim that something is
kept, or at least matched, is supported where the whole interval lies above -MARGIN, and contradicted where it lies
below. A claim without its rows is *not run*, and says what is missing. These rules are no pre-registration: MARGIN
was set before any row, but C3 was split in two, and the rules of C4, C6 and C8 were written, after the demo's rows had
been seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import pandas as pd

from ctsft.discovery.circuits import PAPERS_DEPTH, PAPERS_SHARE
from ctsft.report.choosing import Choice, at_validated_rate, better_of_two, chosen_by_index, circuits_told, texts_of
from ctsft.report.compare import SOURCE, pooled
from ctsft.report.fair import at_common_rates, equal_rates, had_by_all
from ctsft.report.faithful_claims import directional, faithful
from ctsft.report.faithfulness import Faithfulness
from ctsft.report.forgetting import last_lines, related_change
from ctsft.report.judging import (
    BY_INDEX,
    MARGIN,
    SAME,
    Judgement,
    Pairs,
    all_agree,
    by_interval,
    common_seeds,
    in_macro_f1,
    judged,
    not_run,
    pairs_of,
    unless_by_index,
)
from ctsft.report.measured import with_related
from ctsft.report.render import change, listed
from ctsft.report.rows import Results
from ctsft.report.select import ENTAILMENT, EXPERIMENT, pick
from ctsft.report.tradeoff import comparable, difficulty_predicts
from ctsft.stats import Interval

CLAIMS = {
    "C1": "CT-SFT at least matches tuning all weights on the target, with under 1 % of the weights.",
    "C2": "Hard transfers favour the circuit's heads, easy ones near-zero heads.",
    "C3a": "The source language is kept.",
    "C3b": "The source language is kept better than by tuning all weights.",
    "C4": "The method needs a competent start: from a weak one the same arm ends lower on the target.",
    "C5": "C1 and C3b hold on XNLI too.",
    "C6": "The circuit is faithful: keeping it keeps the task, better than random heads of its size.",
    "C7": "Related tasks are kept.",
    "C8": "Directional scores rank heads better than magnitudes.",
}

WEAKER = 4 * MARGIN  # on the source, of a start that counts as weak
# The arms that ct_sft is one of.
BOTH = ("circuit", "near_zero")


def ct_sft(rows: pd.DataFrame, tried: pd.DataFrame) -> pd.DataFrame:
    """Circuit or near_zero at depth 2, by validation, of `rows` that stand at one learning rate each.

    Only where both had the same rates to choose from in the rows `tried`: else those rates would choose the arm too.
    """
    rows = pick(rows, share=PAPERS_SHARE, depth=PAPERS_DEPTH)
    settings = rows.groupby(["n_source", *SAME], sort=False)
    fair = [here for _, here in settings if equal_rates(*(pick(here, arm=arm) for arm in BOTH), tried)]
    return better_of_two(pd.concat(fair) if fair else rows.iloc[:0], "valid_accuracy")


def target_accuracy(results: Results, choose: Choice = at_validated_rate) -> Judgement:
    """C1: ct_sft minus full, not worse than MARGIN, with under 1 % of the weights."""
    rows = choose(results.rows)
    pairs = pairs_of(ct_sft(rows, results.rows), pick(rows, arm="full"), SAME, results.rows)
    value = pooled(pairs)
    if value is None:
        return not_run("C1", "circuit and near_zero at depth 2, and full, on a common seed")
    share = max(first["trainable_share"].max() for first, _ in pairs)
    verdict = by_interval(value, -MARGIN, -MARGIN)
    if verdict == "supported" and share >= 0.01:
        verdict = "undecided"
    # ct_sft had two arms to choose from, each at every rate; the circuit alone has no more tries than full.
    circuit = pick(rows, arm="circuit", share=PAPERS_SHARE, depth=PAPERS_DEPTH)
    alone = pooled([(pick(circuit, **second.iloc[0][[*SAME]]), second) for _, second in pairs])
    number = (
        f"ct_sft − full: {change(value)}; {in_macro_f1(pairs)}; circuit alone − full, at the rates that near_zero had "
        f"too: {change(alone)}; {share:.2%} of the weights"
    )
    return judged("C1", verdict, number, pairs, results.rows)


def hard_transfers(results: Results, choose: Choice = at_validated_rate) -> Judgement:
    """C2: difficulty correlates with the circuit's advantage over near-zero heads.

    Every two arms are compared at the rates that both had, as in the table of script 03.
    """
    value = difficulty_predicts(results, choose=choose)
    if value is None:
        return not_run("C2", "circuit and near_zero at depth 2 on at least three targets, with all seeds")
    rows = pick(results.rows, share=PAPERS_SHARE, depth=PAPERS_DEPTH)
    rows = rows[rows["n_target"].isin(comparable(results, choose)["n_target"])]
    pairs, tried = _circuit_against("near_zero", rows, choose)
    same_n = rows[rows["n_target"].isin({first["n_target"].iloc[0] for first, _ in pairs})]
    by_chance, _ = _circuit_against("random", same_n, choose)
    number = "; ".join(
        [f"Spearman of difficulty and lead {change(value)}", *_told("random", by_chance), *_told("near_zero", pairs)]
    )
    return judged("C2", by_interval(value, 0, 0), number, pairs, tried)


def _circuit_against(other: str, rows: pd.DataFrame, choose: Choice) -> tuple[Pairs, pd.DataFrame]:
    """The circuit's rows and another arm's, and the rows that their rates were chosen from: those that both had."""
    tried = at_common_rates(rows, ("circuit", other))
    chosen = choose(tried)
    return pairs_of(pick(chosen, arm="circuit"), pick(chosen, arm=other), SAME, tried), tried


def _told(other: str, pairs: Pairs) -> Iterator[str]:
    if pairs:
        targets = len({first["target"].iloc[0] for first, _ in pairs})
        yield (
            f"circuit − {other} over {targets} targets, seeds {listed(common_seeds(pairs))}: {change(pooled(pairs))}, "
            f"on the source afterwards {change(pooled(pairs, SOURCE))}"
        )


def source_kept(results: Results, choose: Choice = at_validated_rate) -> Judgement:
    """C3a: under ct_sft the source loses less than MARGIN."""
    rows = choose(results.rows)
    pairs = pairs_of(ct_sft(rows, results.rows), pick(rows, arm="zero_shot"), ("target",), results.rows)
    kept = pooled(pairs, SOURCE)
    if kept is None:
        return not_run("C3a", "circuit and near_zero at depth 2, and zero_shot, on a common seed")
    number = f"source, after − before: {change(kept)}"
    return judged("C3a", by_interval(kept, -MARGIN, -MARGIN), number, pairs, results.rows)


def source_kept_better(results: Results, choose: Choice = at_validated_rate) -> Judgement:
    """C3b: the source's accuracy after ct_sft is above that after full."""
    rows = choose(results.rows)
    pairs = pairs_of(ct_sft(rows, results.rows), pick(rows, arm="full"), SAME, results.rows)
    gap = pooled(pairs, SOURCE)
    if gap is None:
        return not_run("C3b", "circuit and near_zero at depth 2, and full, on a common seed")
    number = f"source afterwards, ct_sft − full: {change(gap)}"
    return judged("C3b", by_interval(gap, 0, 0), number, pairs, results.rows)


def related_kept(results: Results) -> Judgement:
    """C7: every related test loses less than MARGIN under the circuit, averaged over what it was tuned on."""
    found = with_related(results)
    lines = last_lines(found or results)
    lines = lines[lines["role"] == "related"]
    circuit, full = (pick(lines, arm="circuit", depth=PAPERS_DEPTH), pick(lines, arm="full"))
    kept = related_change(circuit) if len(circuit) else None
    if kept is None:
        return not_run("C7", "probes of script 04, or measures of 06, for the circuit at depth 2")
    rows = found.rows
    fair = equal_rates(*(rows[rows["cell"].isin(side["cell"])] for side in (circuit, full)), rows)
    gap = related_change(circuit, full) if len(full) and fair else None
    tests, targets = sorted(set(circuit["test"])), list(dict.fromkeys(circuit["target"]))
    by_test = {test: related_change(pick(circuit, test=test)) for test in tests}
    number = f"after − before: {', '.join(f'{test} {change(value)}' for test, value in by_test.items())}"
    number += f"; over all tests {change(kept)}"  # a mean in which one test's gain may hide another's loss
    for target in targets if len(targets) > 1 else []:
        number += f", {target} {change(related_change(pick(circuit, target=target)))}"
    number += f"; circuit − full: {change(gap)}"
    for target in targets if len(targets) > 1 and gap is not None else []:
        number += f", {target} {change(related_change(*(pick(side, target=target) for side in (circuit, full))))}"
    sizes, seeds = listed(circuit["n_target"]), listed(circuit["seed"])
    heads = rows[rows["cell"].isin(circuit["cell"])]
    data = f"{', '.join(tests)}; tuned on {', '.join(targets)}; n = {sizes}; seeds {seeds}{circuits_told(heads)}"
    verdict = all_agree({by_interval(value, -MARGIN, -MARGIN) for value in by_test.values()})
    told = Judgement("C7", verdict, number, data)
    return unless_by_index(told, chosen_by_index(heads).any())


def competent_start(results: Results | None) -> Judgement:
    """C4: ct_sft from the fewest source rows minus ct_sft from the most, on the target; supported below zero."""
    missing = "circuit and near_zero at depth 2 from a weak start (script 01 or 02 with --n-source 50)"
    rows = None if results is None else results.rows[results.rows["arm"].isin(BOTH)]
    if rows is None or rows["n_source"].nunique() < 2:
        return not_run("C4", missing)
    few, many = rows["n_source"].min(), rows["n_source"].max()
    before = rows.groupby("n_source")["source_accuracy_before"].mean()
    if before[many] - before[few] < WEAKER:
        return not_run("C4", f"{missing}; theta1 from {few} rows is less than {WEAKER} below that from {many}")
    rows = rows[rows["n_source"].isin([few, many])]
    rows = rows[had_by_all(rows["n_source"], texts_of(rows, [*SAME, "arm", "depth", "dtype", "seed"]), rows["lr"])]
    chosen = ct_sft(at_validated_rate(rows), rows)
    # The starts are what is compared.
    sides = (pick(chosen, n_source=n).assign(theta1=None) for n in (few, many))
    pairs = pairs_of(*sides, SAME, rows)
    value = pooled(pairs)
    if value is None:
        return not_run("C4", "a weak and a competent start on a common target and seed")
    verdict = by_interval(Interval(-value.value, -value.high, -value.low), 0, MARGIN)  # what is lost
    number = f"ct_sft from {few} rows of {rows['source'].iloc[0]} − from {many}: {change(value)}"
    return judged("C4", verdict, number, pairs, rows)


def second_task(results: Results | None) -> Judgement:
    """C5: what C1 and C3b say holds on entailment too. A second model family is a results folder of its own."""
    if results is None:
        return not_run("C5", "script 02")
    best = at_shared_rates(results)
    parts = [target_accuracy(best), source_kept_better(best)]
    if any(part.number == "–" for part in parts):
        return not_run("C5", "circuit and near_zero at depth 2, and full, of script 02 on a common seed")
    beside = parts[0].number.removeprefix(parts[0].deciding)
    number = f"{parts[0].deciding.removesuffix(BY_INDEX)}, {parts[1].deciding}{beside}"  # which have the same heads
    return Judgement("C5", all_agree({part.verdict for part in parts}), number, parts[0].data)


def at_shared_rates(study: Results) -> Results:
    """The rows that C1, C3a, C3b and C5 are judged by: from the competent start, at rates that all their arms had."""
    best = study.from_most_source_rows()
    return best.only(best.rows.index.isin(at_common_rates(best.rows, ("full", *BOTH)).index))


def of_transfer(study: Results, choose: Choice = at_validated_rate) -> list[Judgement]:
    """C1 to C3b on a study of scripts 01, 03 and 04. `full` is no arm of C2, so its rates do not matter there."""
    best = at_shared_rates(study)
    return [
        target_accuracy(best, choose),
        hard_transfers(study.from_most_source_rows(), choose),
        source_kept(best, choose),
        source_kept_better(best, choose),
    ]


@lru_cache(maxsize=8)  # three pages tell the same verdicts
def judge(results: Results) -> list[Judgement]:
    """All claims on one results folder; all but C5 on the task of scripts 01, 03 and 04."""
    found = Faithfulness.read(results.folder)
    main, second = results.of(EXPERIMENT), results.of(ENTAILMENT)
    if main is None:
        first = [not_run(claim, "script 01, 03 or 04") for claim in ("C1", "C2", "C3a", "C3b")]
    else:
        first = of_transfer(main)
    return [
        *first,
        # The first that was run; else a reason of its own before the general one.
        min(map(competent_start, (second, main)), key=lambda j: (j.verdict == "not run", j == competent_start(None))),
        second_task(second),
        faithful(found),
        related_kept(results if main is None else at_shared_rates(main)),
        directional(found),
    ]
