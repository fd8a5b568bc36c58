"""What one setting (a target with n rows) answers to a reader's situation: an arm, in one word and in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from ctsft.report.answer import ON_TEST, Answer, lowest, tag, tags, told_by_name
from ctsft.report.compare import paired
from ctsft.report.fair import equal_rates
from ctsft.report.judging import MARGIN, by_interval
from ctsft.report.least import CALIBRATION, FLIPS, fluent, least
from ctsft.report.outcomes import Outcome
from ctsft.report.render import GAP, change, fraction
from ctsft.report.select import pick

SMALL_SHARE = 0.02
FLAGS = {"harmed": "Worse than not adapting", "forgetful": "Forgetful", "overfitted": "Overfitted"}
NO_ARM = "no arm"


def best(found: Sequence[Outcome]) -> list[Outcome]:
    """Those of the highest validation accuracy; more than one where they are equal."""
    return lowest(found, lambda one: -one.valid_accuracy)


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
        return f"{told_by_name(one)}: {changes}{self.against_full(one)}."

    def answer(
        self,
        situation: str,
        of: Sequence[Outcome],
        by: str = "",
        first: Callable[[Sequence[Outcome]], list[Outcome]] = best,
        words: Callable[[Outcome], str] | None = None,
    ) -> Answer:
        """`first` of these outcomes, all that are equal; where none has a model, the first tuned models too."""
        top, words = first(of), words or self.told
        if not top:
            return Answer(situation, f"{NO_ARM}.", NO_ARM, by)
        tuned = [other for other in of if other.is_model]
        models = first(tuned)
        rivals = _level(models, tuned) if first is best else []
        sentence, taken = _all_told(top, words), _in_short(top)
        if models and not any(one.is_model for one in top):
            sentence = f"{sentence} Among the tuned models: {_all_told(models, words)}"
            taken = f"{taken}; {_in_short(models)}"
        if rivals:
            sentence = f"{sentence} Within {MARGIN} of it on validation: {tags(rivals)}."
            taken = f"{taken} ({len(rivals)})"
        return Answer(situation, sentence, taken, by)


def answers(here: Sequence[Outcome], zero: Outcome, teller: Teller, costs: pd.DataFrame) -> list[Answer]:
    """One for every situation, from the outcomes `here` of one target and n, and `zero` without adapting.

    `costs`: those of script 07 with as many target rows.
    """
    models = [one for one in here if one.is_model]
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
        least("Probabilities must be calibrated", CALIBRATION, here, zero),
        least("A prepended name or group must not change the answer", FLIPS, here, zero),
        fluent("Language modelling must not get worse", models),
        *(
            Answer(
                "No language model",
                f"{told_by_name(one)}: accuracy {fraction(one.accuracy)}, target {change(one.target_change)}"
                f"{teller.against_full(one)}.",
            )
            for one in here
            if not one.is_model
        ),
        *(Answer(words, f"{tags([one for one in here if flag in one.flags])}.") for flag, words in FLAGS.items()),
    ]


def _all_told(tied: Sequence[Outcome], words: Callable[[Outcome], str]) -> str:
    return " Tied with it: ".join(map(words, tied))


def _in_short(tied: Sequence[Outcome]) -> str:
    def numbers(one: Outcome) -> str:
        changes = (one.target_change, one.source_change)
        return " / ".join(GAP if each is None else change(each).partition(" ")[0] for each in changes)

    return " = ".join(f"{tag(one)} {numbers(one)}" for one in tied)


def _level(tied: Sequence[Outcome], of: Sequence[Outcome]) -> list[Outcome]:
    """The others whose validation accuracy is within MARGIN of theirs: so few rows do not tell them apart."""
    return [other for other in of if other not in tied and tied[0].valid_accuracy - other.valid_accuracy <= MARGIN]


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
    unknown = [one for one in helped if one not in known]
    by += f"; not measured: {tags(unknown)}" if unknown else ""
    return teller.answer(situation, known, by, lambda some: lowest(some, of), words)
