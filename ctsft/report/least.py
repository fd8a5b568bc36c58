"""Situations that only test rows can answer: the arm with the least of something, and how sure that is.

The arm is named by its number, and its interval says how well 400 rows (50 for names) know that number. What decides
between arms is the paired difference, so those whose interval of it reaches zero are named as not told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ctsft.report.answer import ON_TEST, Answer, lowest, tag, tags, told_by_name
from ctsft.report.judging import by_interval
from ctsft.report.outcomes import Outcome
from ctsft.stats import Interval, calibration_difference, calibration_interval, fraction_interval, mean_interval

MORE_BITS = 0.02
Values = Sequence[np.ndarray]


@dataclass(frozen=True)
class Quantity:
    """Something that had better be small. `by_seed`: what it is made of, by seed; empty where it was not measured.

    `interval` is of one arm's values, `difference` of the first arm's minus the second's on the same seeds.
    """

    words: str
    shown: Callable[[float], str]
    by_seed: Callable[[Outcome], Mapping[int, np.ndarray]]
    interval: Callable[[Values], Interval]
    difference: Callable[[Values, Values], Interval]

    def of(self, one: Outcome) -> Interval:
        return self.interval(list(self.by_seed(one).values()))

    def told(self, one: Outcome) -> str:
        value = self.of(one)
        return f"{self.shown(value.value)} [{self.shown(value.low)}, {self.shown(value.high)}]"

    def not_told_apart(self, one: Outcome, some: Sequence[Outcome]) -> list[Outcome]:
        """Those of `some` whose own is not larger with its whole interval, on the seeds that both have."""
        return [other for other in some if other is not one and self._minus(other, one) != "supported"]

    def _minus(self, first: Outcome, second: Outcome) -> str:
        sides = [self.by_seed(one) for one in (first, second)]
        seeds = [seed for seed in sides[0] if seed in sides[1]]
        if not seeds:
            return "undecided"
        return by_interval(self.difference(*([side[seed] for seed in seeds] for side in sides)), 0, 0)


CALIBRATION = Quantity(
    "calibration error", "{:.3f}".format, lambda one: one.gaps, calibration_interval, calibration_difference
)
FLIPS = Quantity(
    "share of answers changed",
    "{:.1%}".format,
    lambda one: one.changed,
    lambda values: fraction_interval(np.stack(values)),
    lambda first, second: mean_interval(np.stack(first) - np.stack(second)),
)


def least(situation: str, asked: Quantity, here: Sequence[Outcome], zero: Outcome) -> Answer:
    """The arm with the least on test rows, beside the arm with the most and beside not adapting."""
    known = [one for one in here if asked.by_seed(one)]
    if not known:
        return Answer(situation, "not measured.")

    def value(one: Outcome) -> float:
        return asked.of(one).value

    def group(some: Sequence[Outcome]) -> tuple[list[Outcome], str, str]:
        """The lowest of some, all that are equal; in a sentence, and in short."""
        tied = lowest(some, value)
        rivals = [one for one in asked.not_told_apart(tied[0], some) if one not in tied]
        told = " = ".join(map(told_by_name, tied))
        short = f"{' = '.join(map(tag, tied))} {asked.shown(value(tied[0]))}"
        beside = f" (not told apart from it: {tags(rivals)})" if rivals else ""
        return (
            tied,
            f"{told}: {asked.words} {asked.told(tied[0])}{beside}",
            short + (f" ({len(rivals)})" if rivals else ""),
        )

    first, told, taken = group(known)
    parts, models = [told], [one for one in known if one.is_model]
    if models and not any(one.is_model for one in first):
        _, told, short = group(models)
        parts, taken = [*parts, f"lowest of the tuned models: {told}"], f"{taken}; {short}"
    most = lowest(known, lambda one: -value(one))
    if most[0] not in first:
        parts.append(f"highest: {' = '.join(map(told_by_name, most))}, {asked.told(most[0])}")
    without = asked.told(zero) if asked.by_seed(zero) else "not measured"
    return Answer(situation, f"{'; '.join(parts)}; without adapting: {without}.", taken, ON_TEST)


def fluent(situation: str, here: Sequence[Outcome]) -> Answer:
    """The arms under which no held-out text became less likely by MORE_BITS, on average over seeds."""

    def told(some: Sequence[Outcome]) -> str:
        return ", ".join(f"{tag(one)} {_spread(one)}" for one in some) or "none"

    known = [one for one in here if one.bits]
    kept = [one for one in known if max(one.bits.values()) < MORE_BITS]
    split = [one for one in kept if any(max(texts.values()) >= MORE_BITS for texts in one.bits_by_seed)]
    by = f"less than {MORE_BITS} more bits per byte on every held-out text, related languages included, {ON_TEST}"
    mixed = f"; but on some seed a text passes that limit: {tags(split)}" if split else ""
    about = " (The text that lost most, with its lowest and highest seed.)" if kept else ""
    return Answer(situation, f"{told(kept)}{mixed}.{about}", by=by)


def _spread(one: Outcome) -> str:
    """Bits per byte have a value a seed, and no rows to draw from: what there is is their spread."""
    text = max(one.bits, key=one.bits.__getitem__)
    ends = [texts[text] for texts in one.bits_by_seed]
    return f"{one.bits[text]:+.3f} [{min(ends):+.3f}, {max(ends):+.3f}]".replace("-", "−")
