"""What became of every arm in script 06: target, source, related tests, language modelling, calibration, audit.

Flags, each by one rule on the rows of a target, n, arm and depth, every arm at its validated learning rate:

- helped / harmed: the whole paired 95 % interval of accuracy on the target, after - zero-shot, lies above / below zero
  (by its bounds as printed, as all verdicts do);
- forgetful: that of the source lies below zero, and the loss is larger than MARGIN;
- overfitted: accuracy on its own n target rows is at least GAP_TO_TRAINING above that on test rows, and the Brier score
  on test rows is no better than that of knowing nothing (every label as likely as it is among them), or zero-shot's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from ctsft.calibration import brier, calibration_error, calibration_gaps
from ctsft.report.compare import SOURCE, paired
from ctsft.report.fair import short_of_rates
from ctsft.report.forgetting import related_change
from ctsft.report.judging import MARGIN, by_interval
from ctsft.report.measured import measured_lines, odyssey_rows
from ctsft.report.rows import Results
from ctsft.report.select import arms_in_order, pick
from ctsft.stats import Difference, Interval
from ctsft.study.measure_files import from_per_mille
from ctsft.tuning.arms import ARMS

GAP_TO_TRAINING = 0.15


@dataclass(frozen=True)
class Outcome:
    """One arm on one target with n rows. Changes are after minus theta1, paired; None where nothing was measured.

    `tries`: how many models a seed's validation split has chosen from (learning rates; regularisations of n-grams), on
    the seed with the fewest. `rates_by_seed`: the rates that were tried, in rising order, empty without one;
    `short_of_rates`: whether they are fewer than another arm's, on some seed; `chosen`: the one of every seed, in
    rising order. By seed, `gaps` [bins, N] is what the calibration error is made of, and `changed` [N] the share of a
    row's pairs of openings that change its answer; `bits` is the mean of `bits_by_seed`.
    """

    target: str
    n_target: int
    arm: str
    depth: int | None
    accuracy: float
    valid_accuracy: float
    target_change: Difference | None
    source_change: Difference | None
    related_change: Interval | None
    bits: dict[str, float]
    ece: float
    brier: float
    brier_floor: float
    train_accuracy: float
    flips: float | None
    trainable_share: float
    tries: int
    rates_by_seed: Mapping[int, tuple[float, ...]]
    chosen: tuple[float, ...]
    seeds: int
    short_of_rates: bool = False
    gaps: Mapping[int, np.ndarray] = field(default_factory=dict, compare=False)
    changed: Mapping[int, np.ndarray] = field(default_factory=dict, compare=False)
    bits_by_seed: tuple[dict[str, float], ...] = ()

    @property
    def is_model(self) -> bool:
        return ARMS[self.arm].classifier is None

    @property
    def rates(self) -> list[float]:
        """Those that were tried on any seed, in rising order."""
        return sorted(set().union(*self.rates_by_seed.values()))

    @property
    def uneven(self) -> bool:
        """Whether not all seeds had the same rates."""
        return len(set(self.rates_by_seed.values())) > 1

    @property
    def flags(self) -> list[str]:
        found, loss = [], self.source_change
        gain = "undecided" if self.target_change is None else by_interval(self.target_change, 0, 0)
        if gain != "undecided":
            found.append("helped" if gain == "supported" else "harmed")
        if loss is not None and by_interval(loss, 0, 0) == "contradicted" and loss.value < -MARGIN:
            found.append("forgetful")
        fits = self.train_accuracy - self.accuracy >= GAP_TO_TRAINING
        if fits and self.brier >= self.brier_floor:
            found.append("overfitted")
        return found


def outcomes(results: Results) -> list[Outcome]:
    """Every arm on every target and n, in the order of the tables; zero_shot is what the others are compared with."""
    rows = odyssey_rows(results)
    related = measured_lines(results)
    found = []
    for target in dict.fromkeys(rows["target"]):
        zero = pick(rows, target=target, arm="zero_shot")
        for n_target in sorted(set(pick(rows, target=target)["n_target"])):
            here = pick(rows, target=target, n_target=n_target)
            arms = [pick(here, arm=arm, depth=depth) for arm, depth in arms_in_order(here)]
            told = [_outcome(mine, zero, related[related["cell"].isin(mine["cell"])]) for mine in arms]
            short = short_of_rates([one.rates_by_seed for one in told])
            found += [replace(one, short_of_rates=fewer) for one, fewer in zip(told, short, strict=True)]
    return found


def _outcome(rows: pd.DataFrame, zero: pd.DataFrame, related: pd.DataFrame) -> Outcome:
    """`related`: the lines of the related tests of these rows, which are an arm's; none of an arm without a model."""
    first = rows.iloc[0]
    arm = first["arm"]
    before = zero[zero["seed"].isin(rows["seed"])]
    no_model = ARMS[arm].classifier is not None
    chances = chances_on_target(rows)
    sure = [(p.max(-1), p.argmax(-1) == g) for p, g in zip(chances, rows["gold"], strict=True)]
    by_bin = [calibration_gaps(*one) for one in sure]
    flips = [_audit(m, p.shape[1]) for m, p in zip(rows["measures"], chances, strict=True)]
    bits = _bits_changes(rows, zero)
    # Of a control that was drawn several times, the rates that all draws had.
    rates = {seed: tuple(sorted(set.intersection(*map(set, own)))) for seed, own in _by_seed(rows, rows["rates"])}
    return Outcome(
        target=first["target"],
        n_target=int(first["n_target"]),
        arm=arm,
        depth=None if pd.isna(first["depth"]) else int(first["depth"]),
        accuracy=float(rows["accuracy"].mean()),
        valid_accuracy=float(rows["valid_accuracy"].mean()),
        target_change=None if arm == "zero_shot" else paired(rows, zero),
        source_change=None if arm == "zero_shot" or no_model else paired(rows, zero, SOURCE),
        related_change=None if arm == "zero_shot" else related_change(related),
        bits={text: _mean(one[text] for one in bits) for text in (bits[0] if bits else ())},
        ece=_mean(calibration_error(*one) for one in sure),
        brier=_brier(rows),
        brier_floor=min([_by_shares(first["gold"]), *([_brier(before)] if len(before) else [])]),
        train_accuracy=_mean(m["train_accuracy"] for m in rows["measures"] if m["train_accuracy"] is not None),
        flips=None if any(one is None for one in flips) else _mean(one.mean() for one in flips),
        trainable_share=float(rows["trainable_share"].mean()),
        tries=len(ARMS[arm].classifier.choices) if no_model else max(1, min(map(len, rates.values()))),
        rates_by_seed=rates,
        chosen=tuple(sorted(rows["lr"].dropna())),
        seeds=int(rows["seed"].nunique()),
        gaps={seed: np.concatenate(own) / len(own) for seed, own in _by_seed(rows, by_bin)},
        changed={seed: np.mean(own, axis=0) for seed, own in _by_seed(rows, flips) if own[0] is not None},
        bits_by_seed=tuple(one for one in bits if one),
    )


def _by_seed(rows: pd.DataFrame, values: Iterable[np.ndarray | None]) -> Iterator[tuple[int, list]]:
    """The values of every seed's rows: several where a control was drawn several times."""
    found: dict[int, list] = {}
    for seed, value in zip(rows["seed"], values, strict=True):
        found.setdefault(int(seed), []).append(value)
    yield from sorted(found.items())


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return float(np.mean(values)) if values else float("nan")


def chances_on_target(rows: pd.DataFrame) -> list[np.ndarray]:
    """The probabilities of the labels on the target's test rows [N, C]; not every label need be there."""
    texts = [measures["target_probabilities"] for measures in rows["measures"]]
    return [from_per_mille(text, len(text) // (3 * len(gold))) for text, gold in zip(texts, rows["gold"], strict=True)]


def _by_shares(gold: np.ndarray) -> float:
    """The Brier score of always giving the labels' own shares."""
    shares = np.bincount(gold) / len(gold)
    return float(1 - (shares**2).sum())


def _brier(rows: pd.DataFrame) -> float:
    return _mean(brier(p, gold).mean() for p, gold in zip(chances_on_target(rows), rows["gold"], strict=True))


def _bits_changes(rows: pd.DataFrame, zero: pd.DataFrame) -> list[dict[str, float]]:
    """By text, bits per byte after minus before, for every row of a seed that both have."""
    before = {int(row["seed"]): row["measures"]["bits_per_byte"] for _, row in zero.iterrows()}
    pairs = [
        (row["measures"]["bits_per_byte"], before[int(row["seed"])])
        for _, row in rows.iterrows()
        if int(row["seed"]) in before
    ]
    # A run that was stopped may have measured another list of texts on some seeds.
    texts = [text for text in pairs[0][0] if all(text in side for pair in pairs for side in pair)] if pairs else []
    return [{text: after[text] - than[text] for text in texts} for after, than in pairs]


def _audit(measures: dict, n_labels: int) -> np.ndarray | None:
    """Of every row that was asked twice, the share of its pairs of openings whose answers differ, [N]."""
    flips = []
    for pair in measures["audit"]:
        one, other = (from_per_mille(pair[side], n_labels) for side in ("with_one", "with_other"))
        flips.append(one.argmax(-1) != other.argmax(-1))
    return np.mean(flips, axis=0) if flips else None
