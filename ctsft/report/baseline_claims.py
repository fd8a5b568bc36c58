"""Claims B1 to B20: what baselines keep and cost, what self-training does, what cheap arithmetic does.

Each has one number and one threshold: supported where its whole interval lies above, contradicted where it lies below,
else undecided; *not run* where its rows are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import pandas as pd

from ctsft.discovery.circuits import PAPERS_DEPTH
from ctsft.report.choosing import at_papers_share, at_validated_rate
from ctsft.report.compare import SOURCE, TARGET, paired, pooled
from ctsft.report.costs import read_arithmetic
from ctsft.report.fair import at_common_rates
from ctsft.report.judging import (
    MARGIN,
    SAME,
    Judgement,
    Pairs,
    by_interval,
    common_seeds,
    in_macro_f1,
    judged,
    not_run,
    pairs_of,
)
from ctsft.report.measured import odyssey_results
from ctsft.report.render import GAP, change, listed, rate_text
from ctsft.report.rows import Results
from ctsft.report.select import pick
from ctsft.report.self_training import (
    ONE_STEP,
    by_ground,
    fate,
    labelled_text,
    one_step,
    read_self_training,
    resting_told,
    stacked,
)
from ctsft.stats import Difference, paired_difference
from ctsft.tuning.arms import ARMS


@dataclass(frozen=True)
class Arms:
    """`first` minus `second` in accuracy on the target (or on the source afterwards), script 06."""

    words: str
    first: str
    second: str
    of: tuple[str, str]
    threshold: float


@dataclass(frozen=True)
class Arithmetics:
    """`first` minus `second` in theta1's accuracy with all products in that arithmetic, script 07."""

    words: str
    first: str
    second: str
    threshold: float


@dataclass(frozen=True)
class Generations:
    """What the last generation has lost since generation 0 without human rows, `first` minus `second`, script 08.

    Judged on fresh rows where there are such chains, which were added after chains on the same rows had been seen to
    repeat themselves. Undecided where `second` has not decayed: that rule was added when no chain of the demo's had.
    """

    words: str
    first: str
    second: str
    threshold: float


ASKED = {
    "B1": Arms("Replaying source rows keeps the source better than the circuit.", "replay", "circuit", SOURCE, 0.0),
    "B2": Arms("Reading the target's texts before tuning all weights helps (DAPT).", "dapt", "full", TARGET, 0.0),
    "B3": Arms("A penalty keeps the source better than plain tuning (EWC).", "ewc", "full", SOURCE, 0.0),
    "B4": Arms("The circuit learns more than as many weights of a lottery.", "circuit", "lt_sft", TARGET, 0.0),
    "B5": Arms("LoRA on the circuit at least matches LoRA on all heads.", "lora_heads", "lora", TARGET, -MARGIN),
    "B6": Generations("The circuit slows the decay of self-training down.", "circuit", "full", 0.0),
    "B7": Arithmetics("L-Mul with 4 bits is about as good as float8 e4m3.", "L-Mul, 4 bits", "float8 e4m3", -MARGIN),
    "B8": Arithmetics("L-Mul with 3 bits is better than float8 e5m2.", "L-Mul, 3 bits", "float8 e5m2", 0.0),
    "B9": Arms("The circuit beats character n-grams on the same rows.", "circuit", "ngrams", TARGET, 0.0),
    "B10": Arms("All weights beat character n-grams on the same rows.", "full", "ngrams", TARGET, 0.0),
    "B11": Arms("The circuit learns at least as much as LoRA.", "circuit", "lora", TARGET, -MARGIN),
    "B12": Arms("The circuit keeps the source better than LoRA.", "circuit", "lora", SOURCE, 0.0),
    "B13": Arms("At validated rates the circuit learns as much as all weights.", "circuit", "full", TARGET, -MARGIN),
    "B14": Arms("At validated rates the circuit keeps the source.", "circuit", "zero_shot", SOURCE, -MARGIN),
    "B15": Arms("Replaying source rows learns more than the circuit.", "replay", "circuit", TARGET, 0.0),
    "B16": Arms(
        "A pull towards theta1 keeps the source better than plain tuning (L2-SP).", "l2sp", "full", SOURCE, 0.0
    ),
    "B17": Arms("A pull towards theta1 learns more than the circuit (L2-SP).", "l2sp", "circuit", TARGET, 0.0),
    "B18": Arms("Replay helps the circuit keep the source.", "circuit_replay", "circuit", SOURCE, 0.0),
    "B19": Arms("A penalty learns at least as much as the circuit (EWC).", "ewc", "circuit", TARGET, -MARGIN),
    "B20": Arms("A lottery's weights keep the source better than the circuit.", "lt_sft", "circuit", SOURCE, 0.0),
}
BASELINE_CLAIMS = {claim: asked.words for claim, asked in ASKED.items()}


def by_arms(claim: str, asked: Arms, tried: pd.DataFrame) -> Judgement:
    """`tried`: the rows of script 06, at every rate; those that both arms had on a target and seed count."""
    keys = ("target",) if asked.second == "zero_shot" else SAME  # which has no target rows
    strengths = _strengths_told((asked.first, asked.second), tried)
    tried = at_papers_share(at_common_rates(tried, (asked.first, asked.second)))
    rows = at_validated_rate(tried)
    pairs = pairs_of(_of_arm(rows, asked.first), _of_arm(rows, asked.second), keys, tried)
    value = pooled(pairs, asked.of)
    if value is None:
        return not_run(claim, f"{asked.first} and {asked.second} of script 06, at a common rate")
    where = "target" if asked.of == TARGET else "source afterwards"
    told = [f"{where}, {asked.first} − {asked.second}: {change(value)}"]
    each = {first["target"].iloc[0]: change(paired(first, second, asked.of)) for first, second in pairs}
    told += [", ".join(f"{target} {alone}" for target, alone in each.items())] if len(each) > 1 else []
    told += [in_macro_f1(pairs)] if asked.of == TARGET else []
    number = "; ".join([*told, *_at_each_rate(asked, tried, keys, pairs)])
    found = judged(claim, _verdict(value, asked.threshold), number, pairs, tried)
    return replace(found, data=f"{found.data}{strengths}")


def _at_each_rate(asked: Arms, tried: pd.DataFrame, keys: tuple[str, ...], judged_by: Pairs) -> list[str]:
    """The same comparison with both arms at one rate: at validated ones they may stand at different places.

    Only rates that both had on all targets and seeds of the pairs that the claim is `judged_by`.
    """
    rates = [set(_of_arm(tried, arm)["lr"].dropna()) for arm in (asked.first, asked.second)]
    told = []
    for rate in sorted(set.intersection(*rates)):
        rows = tried[tried["lr"] == rate]
        pairs = pairs_of(_of_arm(rows, asked.first), _of_arm(rows, asked.second), keys, rows)
        if _units(pairs) == _units(judged_by):
            told.append(f"{rate_text(rate)} {change(pooled(pairs, asked.of))}")
    return [f"with both at the same rate {', '.join(told)}"] if len(told) > 1 else []


def _units(pairs: Pairs) -> set[tuple[str, int, int]]:
    """The targets, numbers of rows and seeds that are pooled."""
    settings = {(str(first["target"].iloc[0]), int(first["n_target"].iloc[0])) for first, _ in pairs}
    return {(*setting, seed) for setting in settings for seed in common_seeds(pairs)}


def _strengths_told(arms: Sequence[str], rows: pd.DataFrame) -> str:
    """At which strength the penalties among `arms` are judged, and how many `rows` have; empty of others."""
    told = ""
    for arm in arms:
        strength = getattr(ARMS[arm].gradient_rule, "strength", None)
        if strength is not None:
            tried = 1 + pick(rows, arm=arm)["variant"].nunique()
            beside = f"{tried} were tried, and none was picked" if tried > 1 else "no other was tried"
            told += f"; {arm} at the strength {strength:g} that was set in advance ({beside})"
    return told


def by_generations(claim: str, asked: Generations, rows: pd.DataFrame) -> Judgement:
    """`rows`: those of `read_self_training`; of several grounds the first of `by_ground` that both arms have."""
    grounds = by_ground(pick(rows, human=False)) if len(rows) else []
    known = (_ended([_of_arm(alone, arm) for arm in (asked.first, asked.second)]) for alone in grounds)
    sides = next((sides for sides in known if len(sides[0])), None)
    if sides is None:
        return not_run(claim, f"{asked.first} and {asked.second} of script 08, to the same generation")
    value = paired_difference(*(_lost(side) for side in sides))
    both = pd.concat(sides)
    told = "; ".join([*(f"{side['arm'].iloc[0]} {fate(side)}" for side in sides), resting_told(both)])
    told += f". {ONE_STEP}" if one_step(both) else ""
    number = f"last generation − generation 0, {asked.first} − {asked.second}: {change(value)}; {told}"
    one = sides[0].iloc[0]
    data = (
        f"{one['target']}, {one['n_target']} human rows in generation 0, then {labelled_text(one)} rows with the "
        f"model's own labels; seeds {listed(sides[0]['seed'])}; {len(one['gold'])} rows; in {one['dtype']}"
    )
    verdict = _verdict(value, asked.threshold)
    # Where the other arm does not decay there is no decay to slow down, whatever else the generations gain.
    return Judgement(claim, "undecided" if fate(sides[1]) == "held" else verdict, number, data)


def _ended(sides: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Of two arms' chains those of the seeds on which both have come to the last generation; empty without one.

    Chains that have only begun, with generation 0, have none.
    """
    last = pd.concat(sides)["generation"].max()
    common = set.intersection(*(set(side.loc[side["generation"] == last, "seed"]) for side in sides))
    common = common if last > 0 else set()
    return [side[side["seed"].isin(common)] for side in sides]


def by_arithmetics(claim: str, asked: Arithmetics, rows: pd.DataFrame) -> Judgement:
    """`rows`: those of `read_arithmetic`."""
    names = (asked.first, asked.second)
    sides = [pick(rows, arithmetic=name, where="everywhere") for name in names] if len(rows) else [rows] * 2
    if any(side.empty for side in sides):
        return not_run(claim, f"{asked.first} and {asked.second} of script 07")
    one, other = (side.iloc[0] for side in sides)
    value = paired_difference(*((row["answers"] == row["gold"])[None].astype(float) for row in (one, other)))
    errors = [GAP if pd.isna(row["real_error"]) else f"{row['real_error']:.1%}" for row in (one, other)]
    number = (
        f"accuracy, {asked.first} − {asked.second}: {change(value)}; mean error of a product {' against '.join(errors)}"
    )
    data = f"theta1 on {one['n_rows']} test rows of {one['language']}, every product"
    return Judgement(claim, _verdict(value, asked.threshold), number, data)


def _of_arm(rows: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The rows of an arm, at PAPERS_DEPTH where it has depths."""
    return pick(rows, arm=arm, depth=PAPERS_DEPTH if ARMS[arm].needs_heads else None)


def _lost(chain: pd.DataFrame) -> np.ndarray:
    """Right in the last generation minus right in generation 0 [seeds, N]."""
    return stacked(pick(chain, generation=chain["generation"].max())) - stacked(pick(chain, generation=0))


def _verdict(value: Difference, threshold: float) -> str:
    return by_interval(value, threshold, threshold)


@lru_cache(maxsize=8)  # three pages tell the same verdicts
def judge_baselines(results: Results) -> list[Judgement]:
    """All of these claims on one results folder."""
    folder, travelled = results.folder, odyssey_results(results.folder)
    judges = {
        Generations: partial(by_generations, rows=read_self_training(folder)),
        Arithmetics: partial(by_arithmetics, rows=read_arithmetic(folder)),
        Arms: lambda claim, _: not_run(claim, "script 06"),
    }
    if travelled is not None:
        judges[Arms] = partial(by_arms, tried=travelled.rows)
    return [judges[type(asked)](claim, asked) for claim, asked in ASKED.items()]
