"""How a claim is judged: by the interval of one number, paired on test rows, against a margin."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

import pandas as pd

from ctsft.report.choosing import chosen_by_index, circuits_told
from ctsft.report.compare import macro_f1_gap, of_one_start
from ctsft.report.fair import equal_rates, rates_by_seed
from ctsft.report.render import change, listed, rates_text
from ctsft.report.select import pick
from ctsft.stats import Difference, Interval

# About one standard error of an accuracy on 400 rows; an effect within it counts as none.
MARGIN = 0.025
# Told beside the number that decides, so that every page that prints a verdict prints it.
BY_INDEX = " (undecided whatever the number: ties by index chose these heads, not their scores)"
SAME = ("target", "n_target")
# The rows of two arms for each target and number of its rows.
Pairs = list[tuple[pd.DataFrame, pd.DataFrame]]


@dataclass(frozen=True)
class Judgement:
    """A claim's verdict on a results folder (supported, contradicted, undecided, not run), its number and its data.

    `number`: what decides, and after semicolons what is told beside it.
    """

    claim: str
    verdict: str
    number: str
    data: str

    @property
    def deciding(self) -> str:
        return self.number.partition("; ")[0]

    @property
    def target_rows(self) -> str:
        """How many target rows it rests on, in words, where its data say it; else empty."""
        lists = re.findall(r" n = (\d+(?:, \d+)*)", self.data)
        sizes = sorted({int(n) for some in lists for n in some.split(", ")})
        return f"{' and '.join(map(str, sizes))} target rows" if sizes else ""


def not_run(claim: str, missing: str) -> Judgement:
    return Judgement(claim, "not run", "–", f"no rows: {missing}")


def unless_by_index(judgement: Judgement, by_index: bool) -> Judgement:
    """The same where scores chose the heads; where ties by index did, undecided, and the number says why.

    Most of those heads are the model's first, whatever the scores say: what the method means by a circuit was not
    asked.
    """
    if not by_index:
        return judgement
    beside = judgement.number.removeprefix(judgement.deciding)
    return replace(judgement, verdict="undecided", number=f"{judgement.deciding}{BY_INDEX}{beside}")


def all_agree(verdicts: set[str]) -> str:
    """Of a claim with several parts: what all say; else contradicted where one is, and undecided where none is."""
    return next(iter(verdicts)) if len(verdicts) == 1 else "contradicted" if "contradicted" in verdicts else "undecided"


def judged(claim: str, verdict: str, number: str, pairs: Pairs, tried: pd.DataFrame) -> Judgement:
    """A verdict on these pairs, whose rates were chosen from the rows `tried`."""
    by_index = any(chosen_by_index(rows).any() for pair in pairs for rows in pair)
    return unless_by_index(Judgement(claim, verdict, number, ground(pairs, tried)), by_index)


def by_interval(value: Interval | Difference, good: float, bad: float) -> str:
    """supported where the whole interval lies above `good`, else contradicted where it lies below `bad`.

    Its bounds count as they are printed, rounded to two decimals, so one must lie 0.005 beyond a threshold: the
    bootstrap's own error (0.001 to 0.003) may put a bound on either side, and a reader of [+0.00, +0.07] could not tell
    what has decided.
    """
    low, high = round(value.low, 2), round(value.high, 2)
    return "supported" if low > good else "contradicted" if high < bad else "undecided"


def pairs_of(first: pd.DataFrame, second: pd.DataFrame, keys: tuple[str, ...], tried: pd.DataFrame) -> Pairs:
    """The two arms' rows for every target and n, as far as they have a common seed; `keys` says what must agree.

    Only where both had the same learning rates to choose from in all the rows `tried`, and of the same theta1. A
    verdict is pooled over seeds that all pairs have, so a target that has fewer, or others, waits until it is whole.
    """
    pairs = []
    order = {target: number for number, target in enumerate(dict.fromkeys(first["target"]))}
    settings = first[["target", "n_target"]].drop_duplicates().to_dict("records")
    for setting in sorted(settings, key=lambda s: (order[s["target"]], s["n_target"])):
        pair = of_one_start(pick(first, **setting), pick(second, **{key: setting[key] for key in keys}))
        if equal_rates(*pair, tried):
            pairs.append((frozenset(pair[0]["seed"]) & frozenset(pair[1]["seed"]), pair))
    # Of several sets of as many seeds, the one of the most targets.
    found = Counter(seeds for seeds, _ in pairs if seeds)
    most = max(found, key=lambda seeds: (len(seeds), found[seeds]), default=None)
    return [pair for seeds, pair in pairs if seeds == most]


def common_seeds(pairs: Pairs) -> set[int]:
    """The seeds that both arms of every pair have: those that are pooled."""
    return set.intersection(*(set(first["seed"]) & set(second["seed"]) for first, second in pairs))


def ground(pairs: Pairs, tried: pd.DataFrame) -> str:
    """What a comparison rests on, in words; from the rows `tried` its rates were chosen."""
    settings = [f"{first['target'].iloc[0]} n = {first['n_target'].iloc[0]}" for first, _ in pairs]
    heads = circuits_told(pd.concat([rows for pair in pairs for rows in pair]))
    return (
        f"{', '.join(settings)}; {_rates_told(pairs, tried)}; seeds {listed(common_seeds(pairs))}; "
        f"{len(pairs[0][0]['gold'].iloc[0])} test rows{heads}"
    )


def _rates_told(pairs: Pairs, tried: pd.DataFrame) -> str:
    """The rates that were chosen from, and on which seeds of which targets there were fewer."""
    found: dict[int, dict[str, dict[int, set[float]]]] = {}
    for first, second in pairs:
        target = found.setdefault(int(first["n_target"].iloc[0]), {}).setdefault(first["target"].iloc[0], {})
        for rows in (first, second):
            target.update({s: own for s, own in rates_by_seed(rows, tried).items() if s in common_seeds(pairs)})
    rates = set().union(*(own for of in found.values() for seeds in of.values() for own in seeds.values()))
    fewer: list[str] = []
    for n, targets in found.items():
        short = {target: [s for s, own in seeds.items() if own != rates] for target, seeds in targets.items()}
        if all(len(short[target]) == len(seeds) for target, seeds in targets.items()):
            fewer.append(f"n = {n}")
            continue
        for target, seeds in short.items():
            which = "" if len(seeds) == len(targets[target]) else f", seed {listed(seeds)}"
            fewer += [f"{target} n = {n}{which}"] if seeds else []
    told = f"{'learning rate' if len(rates) == 1 else 'learning rate chosen from'} {rates_text(rates)}"
    return f"{told} (fewer on {'; '.join(fewer)})" if fewer else told


def in_macro_f1(pairs: Pairs) -> str:
    """The same comparison by the metric that answers of one class alone cannot win; it decides no verdict."""
    return f"in macro-F1 {change(macro_f1_gap(pairs))}"
