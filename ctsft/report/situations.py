"""`odyssey.md`: which arm for which situation, in sentences made from the rows of scripts 06, 07 and 08.

Where accuracy decides, an arm is chosen by the target's validation split and then told with its test numbers. What
has been measured on test rows alone (calibration, names, text, what is kept) can only be chosen there, and the page
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from ctsft.report.choosing import ODYSSEY
from ctsft.report.compare import paired
from ctsft.report.costs import read_costs
from ctsft.report.fair import equal_rates
from ctsft.report.judging import MARGIN, by_interval
from ctsft.report.measured import odyssey_results, odyssey_rows
from ctsft.report.outcomes import Outcome, outcomes
from ctsft.report.render import GAP, change, fraction
from ctsft.report.rows import Results
from ctsft.report.self_training import KEYS, against_first, fate, read_self_training
from ctsft.report.transfer import about, pick
from ctsft.tuning.arms import ARMS

SMALL_SHARE = 0.02
MORE_BITS = 0.02
FLAGS = {"harmed": "Worse than not adapting", "forgetful": "Forgetful", "overfitted": "Overfitted"}


def named(arm: str, depth: float | None) -> str:
    return f"`{arm}`{'' if pd.isna(depth) else f' at depth {depth:.0f}'} ({ARMS[arm].words})"


def best(found: Sequence[Outcome]) -> Outcome | None:
    """The highest validation accuracy; None of nothing."""
    return max(found, key=lambda one: one.valid_accuracy, default=None)


def advice(
    here: Sequence[Outcome], zero: Outcome, rows: pd.DataFrame, tried: pd.DataFrame, costs: pd.DataFrame
) -> list[str]:
    """A line per situation, for the outcomes `here` of one target and n, and `zero` without adapting.

    `rows`: theirs, to compare with `full` where the rows `tried` give both the same learning rates to choose from.
    """

    def against_full(one: Outcome) -> str:
        own, full = pick(rows, arm=one.arm, depth=one.depth), pick(rows, arm="full")
        fair = len(full) and one.arm != "full" and equal_rates(own, full, tried)
        value = paired(own, full) if fair else None
        return "" if value is None else f"; against `full` {change(value)}"

    def told(one: Outcome | None) -> str:
        if one is None:
            return "no arm."
        source = GAP if one.source_change is None else change(one.source_change)
        return f"{named(one.arm, one.depth)}: target {change(one.target_change)}, source {source}{against_full(one)}."

    models = [one for one in here if ARMS[one.arm].classifier is None]
    kept = [one for one in models if one.source_change is not None]
    keeping = [one for one in kept if by_interval(one.source_change, -MARGIN, -MARGIN) == "supported"]
    small = [one for one in here if one.trainable_share < SMALL_SHARE]
    without = [one for one in here if ARMS[one.arm].classifier is not None]
    first, first_model = best(here), best(models)
    return [
        f"- *Only the target counts*: {told(first)}"
        + (f" Of the tuned models: {told(first_model)}" if first in without and first_model else ""),
        f"- *The source must be kept* (shown to lose less than {MARGIN}, by its whole interval on test rows): "
        f"{told(best(keeping))}",
        f"- *Little to store* (under {SMALL_SHARE:.0%} of the weights): {told(best(small))}",
        f"- *Little to compute* (the fewest operations of those that helped on test rows; circuits have their heads "
        f"already): {_cheapest(here, costs, told)}",
        _least("Probabilities must be believed", "a calibration error of", "{:.3f}", lambda one: one.ece, here, zero),
        _least(
            "A name or a group in front must not change the answer",
            "a share of answers changed of",
            "{:.1%}",
            lambda one: one.flips,
            here,
            zero,
        ),
        f"- *Text must stay likely* (none of the held-out texts, related languages' too, costs {MORE_BITS} bits a byte "
        f"more): {_fluent(models)}.",
        *(
            f"- *No language model*: {named(one.arm, one.depth)} has {fraction(one.accuracy)}{against_full(one)}."
            for one in without
        ),
        *(f"- {words}: {_marked(here, flag)}." for flag, words in FLAGS.items()),
    ]


def _least(
    situation: str,
    words: str,
    form: str,
    value: Callable[[Outcome], float | None],
    here: Sequence[Outcome],
    zero: Outcome,
) -> str:
    """The arm with the least `value` on test rows, beside the arm with the most and beside not adapting."""
    known = [one for one in here if value(one) is not None]
    if not known:
        return f"- *{situation}*: not measured."
    least, most = min(known, key=value), max(known, key=value)
    told = [f"{named(least.arm, least.depth)} has {words} {form.format(value(least))}"]
    told += [f"{named(most.arm, most.depth)} the most, {form.format(value(most))}"] if most is not least else []
    return f"- *{situation}* (on test rows): {'; '.join(told)}; without adapting {form.format(value(zero))}."


def _marked(here: Sequence[Outcome], flag: str) -> str:
    return ", ".join(dict.fromkeys(f"`{one.arm}`" for one in here if flag in one.flags)) or "none"


def _fluent(models: Sequence[Outcome]) -> str:
    """The arms under which no held-out text became less likely by MORE_BITS."""
    names = [f"`{one.arm}`" for one in models if one.bits and max(one.bits.values()) < MORE_BITS]
    return ", ".join(dict.fromkeys(names)) or "none"


def _cheapest(here: Sequence[Outcome], costs: pd.DataFrame, told: Callable[[Outcome], str]) -> str:
    if costs.empty:
        return "not run (script 07)."
    flops = costs.groupby(["arm", costs["depth"].fillna(-1)])["flops"].mean()
    helped = [one for one in here if "helped" in one.flags]
    known = [(flops.get((one.arm, -1 if one.depth is None else one.depth)), one) for one in helped]
    known = [(value, one) for value, one in known if value is not None]
    if not known:
        return "no arm that helped."
    value, one = min(known, key=lambda pair: pair[0])
    full = flops.get(("full", -1))
    share = "" if full is None else f", {value / full:.0%} of `full`'s"
    return f"{value / 1e9:.3g} GFLOP{share}, take {told(one)}"


def own_labels(folder: Path) -> list[str]:
    """A line per setting of script 08: what became of generations that learn from their own labels."""
    rows = read_self_training(folder)
    if rows.empty:
        return ["- Not run (script 08)."]
    lines = []
    for setting in rows[KEYS].drop_duplicates().to_dict("records"):
        chain = pick(rows, **setting)
        last = chain["generation"].max()
        kept = "the former kept in the mix" if setting["human"] else "the former only at first"
        lines.append(
            f"- {named(setting['arm'], setting['depth'])}, {setting['target']}, {setting['n_target']} human rows and "
            f"{setting['unlabelled']} without labels, {kept} ({setting['dtype']}): "
            f"{fate(chain)}; generation {last} against 0: {change(against_first(chain, last))}."
        )
    return lines


def odyssey_page(folders: Sequence[Results]) -> str:
    """The page, with every results folder: what it lacks is said to be not run."""
    out = [
        "# Which arm for which situation?\n",
        "Made by `python -m ctsft.report` from the rows of scripts 06, 07 and 08. Where accuracy decides, an arm is "
        "picked by the target's validation split and then told with its test numbers: after minus before (theta1), "
        "paired on test rows, with 95 % intervals. What a line picks *on test rows* is a little flattered, because it "
        "is told by the numbers that it was picked by. Intervals that overlap decide nothing: all arms answer the same "
        "test rows, so look at a paired difference (claims.md). An arm with more tries than others (column `tries`) "
        "has the better chances. All numbers are in "
        f"`*_{ODYSSEY}.md`; what the flags mean stands above them.\n",
    ]
    for folder in folders:
        out += [f"## Preset {folder.preset}, {folder.model}\n", *_adapting(folder.folder)]
        out += ["### Labels that the model gives itself\n", *own_labels(folder.folder), ""]
    return "\n".join(out).rstrip() + "\n"


def _adapting(folder: Path) -> list[str]:
    """What script 06 shows, target by target."""
    results = odyssey_results(folder)
    if results is None or (rows := odyssey_rows(results)).empty:
        return ["Not run (script 06).\n"]
    out, found = [f"{about(results, rows)}\n"], outcomes(results)
    tuned, costs = [one for one in found if one.target_change is not None], read_costs(folder)
    for target, n_target in dict.fromkeys((one.target, one.n_target) for one in tuned):
        zero = next(one for one in found if one.target == target and one.arm == "zero_shot")
        every = [one for one in tuned if (one.target, one.n_target) == (target, n_target)]
        here = [one for one in every if one.seeds == max(one.seeds for one in every)]
        out.append(f"### {target}, {n_target} rows (zero-shot {fraction(zero.accuracy)})\n")
        if len(here) < len(every):
            names = ", ".join(f"`{one.arm}`" for one in every if one not in here)
            out.append(f"Not picked from, because they have fewer seeds as yet: {names}.\n")
        out += [*advice(here, zero, pick(rows, target=target, n_target=n_target), results.rows, costs), ""]
    return out
