"""What one setting (a target with n rows) answers to a reader's situation: an arm, in one word and in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from ctsft.report.compare import paired
from ctsft.report.fair import equal_rates
from ctsft.report.judging import MARGIN, by_interval
from ctsft.report.outcomes import Outcome
from ctsft.report.render import GAP, change, fraction
from ctsft.report.transfer import pick
from ctsft.tuning.arms import ARMS

SMALL_SHARE = 0.02
MORE_BITS = 0.02
ON_TEST = "on test rows"
FLAGS = {"harmed": "Worse than not adapting", "forgetful": "Forgetful", "overfitted": "Overfitted"}
NO_ARM = "no arm"


@dataclass(frozen=True)
class Answer:
    """`taken`: the arm and its number, for the page's table; empty where the sentence alone answers. `by`: what picks,
    if not the target's validation split."""

    situation: str
    told: str
    taken: str = ""
    by: str = ""

    @property
    def line(self) -> str:
        return f"- *{self.situation}*{f' ({self.by})' if self.by else ''}: {self.told}"


def named(arm: str, depth: float | None) -> str:
    return f"`{arm}`{'' if pd.isna(depth) else f' at depth {depth:.0f}'} ({ARMS[arm].words})"


def best(found: Sequence[Outcome]) -> Outcome | None:
    """The highest validation accuracy; None of nothing."""
    return max(found, key=lambda one: one.valid_accuracy, default=None)


@dataclass(frozen=True)
class Teller:
    """Puts outcomes of one setting into words, beside `full` where that is fair.

    `rows`: the setting's, each arm at its validated rate; `tried`: all, whose rates these were chosen from.
    """

    rows: pd.DataFrame
    tried: pd.DataFrame

    def against_full(self, one: Outcome) -> str:
        own, full = pick(self.rows, arm=one.arm, depth=one.depth), pick(self.rows, arm="full")
        fair = len(full) and one.arm != "full" and equal_rates(own, full, self.tried)
        value = paired(own, full) if fair else None
        return "" if value is None else f"; against `full` {change(value)}"

    def told(self, one: Outcome) -> str:
        source = GAP if one.source_change is None else change(one.source_change)
        changes = f"target {change(one.target_change)}, source {source}"
        return f"{named(one.arm, one.depth)}: {changes}{self.against_full(one)}."

    def answer(
        self,
        situation: str,
        of: Sequence[Outcome],
        by: str = "",
        first: Callable[[Sequence[Outcome]], Outcome | None] = best,
        words: Callable[[Outcome], str] | None = None,
    ) -> Answer:
        """`first` of these outcomes; where it is a classifier without a model, the first tuned model too."""
        one, words = first(of), words or self.told
        if one is None:
            return Answer(situation, f"{NO_ARM}.", NO_ARM, by)
        tuned = [other for other in of if _is_model(other)]
        model = first(tuned) or one
        rivals = _level(model, tuned) if first is best else []
        sentence, taken = words(one), _in_short(one)
        if model is not one:
            sentence, taken = f"{sentence} Among the tuned models: {words(model)}", f"{taken}; {_in_short(model)}"
        if rivals:
            listed = ", ".join(f"`{other.arm}`" for other in rivals)
            sentence, taken = f"{sentence} Within {MARGIN} of it on validation: {listed}.", f"{taken} ({len(rivals)})"
        return Answer(situation, sentence, taken, by)


def answers(here: Sequence[Outcome], zero: Outcome, teller: Teller, costs: pd.DataFrame) -> list[Answer]:
    """One for every situation, from the outcomes `here` of one target and n, and `zero` without adapting.

    `costs`: those of script 07 with as many target rows.
    """
    models = [one for one in here if _is_model(one)]
    kept = [one for one in models if one.source_change is not None]
    keeping = [one for one in kept if by_interval(one.source_change, -MARGIN, -MARGIN) == "supported"]
    return [
        teller.answer("Only the target counts", here),
        teller.answer("The source must be kept", keeping, f"its whole interval {ON_TEST} shows a loss below {MARGIN}"),
        teller.answer(
            "Storage is limited",
            [one for one in here if one.trainable_share < SMALL_SHARE],
            f"under {SMALL_SHARE:.0%} of the weights",
        ),
        _little_to_compute(teller, here, costs),
        _least("Probabilities must be calibrated", "calibration error", "{:.3f}", lambda one: one.ece, here, zero),
        _least(
            "A prepended name or group must not change the answer",
            "share of answers changed",
            "{:.1%}",
            lambda one: one.flips,
            here,
            zero,
        ),
        Answer(
            "Language modelling must not get worse",
            f"{_fluent(models)}.",
            by=f"less than {MORE_BITS} more bits per byte on every held-out text, related languages included",
        ),
        *(
            Answer(
                "No language model",
                f"{named(one.arm, one.depth)}: accuracy {fraction(one.accuracy)}{teller.against_full(one)}.",
            )
            for one in here
            if not _is_model(one)
        ),
        *(Answer(words, f"{_marked(here, flag)}.") for flag, words in FLAGS.items()),
    ]


def _in_short(one: Outcome) -> str:
    changes = (one.target_change, one.source_change)
    return f"`{one.arm}` {' / '.join(GAP if each is None else change(each).partition(' ')[0] for each in changes)}"


def _level(one: Outcome, of: Sequence[Outcome]) -> list[Outcome]:
    """The others whose validation accuracy is within MARGIN of its own: so few rows do not tell them apart."""
    return [other for other in of if other is not one and one.valid_accuracy - other.valid_accuracy <= MARGIN]


def _is_model(one: Outcome) -> bool:
    return ARMS[one.arm].classifier is None


def _little_to_compute(teller: Teller, here: Sequence[Outcome], costs: pd.DataFrame) -> Answer:
    situation = "Compute is limited"
    by = f"fewest operations among arms that helped {ON_TEST}, without those for finding a circuit's heads"
    if costs.empty:
        return Answer(situation, "not run (script 07).", by=by)
    flops = costs.groupby(["arm", costs["depth"].fillna(-1)])["flops"].mean()

    def of(one: Outcome) -> float | None:
        return flops.get((one.arm, -1 if one.depth is None else one.depth))

    def words(one: Outcome) -> str:
        full = flops.get(("full", -1))
        share = "" if full is None else f" ({of(one) / full:.0%} of `full`'s)"
        return f"{of(one) / 1e9:.3g} GFLOP{share} for {teller.told(one)}"

    helped = [one for one in here if "helped" in one.flags]
    known = [one for one in helped if of(one) is not None]
    unknown = ", ".join(dict.fromkeys(f"`{one.arm}`" for one in helped if one not in known))
    by += f"; not measured: {unknown}" if unknown else ""
    return teller.answer(situation, known, by, lambda some: min(some, key=of, default=None), words)


def _least(
    situation: str,
    words: str,
    form: str,
    value: Callable[[Outcome], float | None],
    here: Sequence[Outcome],
    zero: Outcome,
) -> Answer:
    """The arm with the least `value` on test rows, beside the arm with the most and beside not adapting."""
    known = [one for one in here if value(one) is not None]
    if not known:
        return Answer(situation, "not measured.")

    def short(one: Outcome) -> str:
        return f"`{one.arm}` {form.format(value(one))}"

    least, most = min(known, key=value), max(known, key=value)
    model = min(filter(_is_model, known), key=value, default=least)
    told, taken = [f"{named(least.arm, least.depth)}: {words} {form.format(value(least))}"], short(least)
    if model is not least:
        told.append(f"lowest of the tuned models: {named(model.arm, model.depth)}, {form.format(value(model))}")
        taken += f"; {short(model)}"
    told += [f"highest: {named(most.arm, most.depth)}, {form.format(value(most))}"] if most is not least else []
    return Answer(situation, f"{'; '.join(told)}; without adapting: {form.format(value(zero))}.", taken, ON_TEST)


def _marked(here: Sequence[Outcome], flag: str) -> str:
    return ", ".join(dict.fromkeys(f"`{one.arm}`" for one in here if flag in one.flags)) or "none"


def _fluent(models: Sequence[Outcome]) -> str:
    """The arms under which no held-out text became less likely by MORE_BITS."""
    names = [f"`{one.arm}`" for one in models if one.bits and max(one.bits.values()) < MORE_BITS]
    return ", ".join(dict.fromkeys(names)) or "none"
