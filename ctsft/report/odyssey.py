"""Did adapting help or hurt, by arm (script 06): target, source, related tests, language modelling, calibration, audit.

Flags, each by one rule on the rows of a target, n, arm and depth, every arm at its validated learning rate:

- helped / harmed: the whole paired 95 % interval of accuracy on the target, after - zero-shot, lies above / below zero;
- forgetful: that of the source lies below zero, and the loss is larger than MARGIN;
- overfitted: accuracy on its own n target rows is at least GAP_TO_TRAINING above that on test rows, and the Brier score
  on test rows is no better than zero-shot's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ctsft.report.calibration import brier, expected_calibration_error
from ctsft.report.claims import MARGIN
from ctsft.report.compare import paired
from ctsft.report.forgetting import before_and_after
from ctsft.report.render import GAP, Table, change, fraction, markdown
from ctsft.report.rows import ODYSSEY as EXPERIMENT
from ctsft.report.rows import Results, at_papers_share, at_validated_rate
from ctsft.report.stats import Difference, paired_difference
from ctsft.report.transfer import about, arms_in_order, pick
from ctsft.study.measures import from_per_mille, read_measures
from ctsft.tuning.arms import ARMS

GAP_TO_TRAINING = 0.15


@dataclass(frozen=True)
class Outcome:
    """One arm on one target with n rows. Changes are after minus theta1, paired; None where nothing was measured."""

    target: str
    n_target: int
    arm: str
    depth: int | None
    accuracy: float
    valid_accuracy: float
    target_change: Difference | None
    source_change: Difference | None
    related_change: Difference | None
    bits: dict[str, float]
    ece: float
    brier: float
    brier_before: float | None
    train_accuracy: float
    flips: float | None
    shift: float | None
    trainable: int
    trainable_share: float
    seeds: int

    @property
    def flags(self) -> list[str]:
        found, loss = [], self.source_change
        if self.target_change is not None and self.target_change.high < 0:
            found.append("harmed")
        if self.target_change is not None and self.target_change.low > 0:
            found.append("helped")
        if loss is not None and loss.high < 0 and loss.value < -MARGIN:
            found.append("forgetful")
        fits = self.train_accuracy - self.accuracy >= GAP_TO_TRAINING
        if fits and self.brier_before is not None and self.brier >= self.brier_before:
            found.append("overfitted")
        return found


def odyssey_rows(results: Results) -> pd.DataFrame:
    """The rows that script 06 measured, every arm at its validated rate, with what lies in their files."""
    known = read_measures(results.folder)
    rows = results.rows[results.rows["cell"].isin(known.keys())]
    rows = at_papers_share(at_validated_rate(rows))
    return rows.assign(measures=[known[cell] for cell in rows["cell"]])


def outcomes(results: Results) -> list[Outcome]:
    """Every arm on every target and n, in the order of the tables; zero_shot is what the others are compared with."""
    rows = odyssey_rows(results)
    known = json.loads((results.folder / "gold.json").read_text())
    gold = {test: _digits(entry["labels"]) for test, entry in known.items()}
    found = []
    for target in dict.fromkeys(rows["target"]):
        zero = pick(rows, target=target, arm="zero_shot")
        for n_target in sorted(set(pick(rows, target=target)["n_target"])):
            here = pick(rows, target=target, n_target=n_target)
            found += [_outcome(pick(here, arm=arm, depth=depth), zero, gold, arm) for arm, depth in arms_in_order(here)]
    return found


def _outcome(rows: pd.DataFrame, zero: pd.DataFrame, gold: dict[str, np.ndarray], arm: str) -> Outcome:
    first = rows.iloc[0]
    both = before_and_after(rows, zero) if len(zero) else None
    before = zero[zero["seed"].isin(rows["seed"])]
    no_model = ARMS[arm].classifier is not None
    chances = [
        from_per_mille(m["target_probabilities"], _labels(g))
        for m, g in zip(rows["measures"], rows["gold"], strict=True)
    ]
    flips, shifts = zip(
        *[_audit(m, _labels(g)) for m, g in zip(rows["measures"], rows["gold"], strict=True)], strict=True
    )
    return Outcome(
        target=first["target"],
        n_target=int(first["n_target"]),
        arm=arm,
        depth=None if pd.isna(first["depth"]) else int(first["depth"]),
        accuracy=float(rows["accuracy"].mean()),
        valid_accuracy=float(rows["valid_accuracy"].mean()),
        target_change=None if arm == "zero_shot" or zero.empty else paired(rows, zero),
        source_change=None if arm == "zero_shot" or both is None or no_model else paired_difference(both[1], both[0]),
        related_change=None if arm == "zero_shot" or no_model else _related(rows, zero, gold),
        bits=_bits_change(rows, zero),
        ece=_mean(expected_calibration_error(p, g) for p, g in zip(chances, rows["gold"], strict=True)),
        brier=_mean(brier(p, g).mean() for p, g in zip(chances, rows["gold"], strict=True)),
        brier_before=_brier(before) if len(before) else None,
        train_accuracy=_mean(m["train_accuracy"] for m in rows["measures"] if m["train_accuracy"] is not None),
        flips=None if None in flips else _mean(flips),
        shift=None if None in shifts else _mean(shifts),
        trainable=int(first["trainable"]),
        trainable_share=float(rows["trainable_share"].mean()),
        seeds=int(rows["seed"].nunique()),
    )


def _digits(text: str) -> np.ndarray:
    return np.array([int(digit) for digit in text[1:]])


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return float(np.mean(values)) if values else float("nan")


def _labels(gold: np.ndarray) -> int:
    return int(gold.max()) + 1


def _brier(rows: pd.DataFrame) -> float:
    pairs = zip(rows["measures"], rows["gold"], strict=True)
    return _mean(brier(from_per_mille(m["target_probabilities"], _labels(g)), g).mean() for m, g in pairs)


def _related(rows: pd.DataFrame, zero: pd.DataFrame, gold: dict[str, np.ndarray]) -> Difference | None:
    """Accuracy on all rows of the related tests after minus before, on the seeds of both."""
    seeds = sorted(set(rows["seed"]) & set(zero["seed"]))
    if not seeds:
        return None
    after, before = (
        {int(row["seed"]): row["measures"]["related"] for _, row in part.iterrows()} for part in (rows, zero)
    )
    tests = [test for test in after[seeds[0]] if all(test in side[seed] for side in (after, before) for seed in seeds)]
    sides = [
        np.stack([np.concatenate([_digits(side[seed][test]) == gold[test] for test in tests]) for seed in seeds])
        for side in (after, before)
    ]
    return paired_difference(*(side.astype(float) for side in sides)) if tests else None


def _bits_change(rows: pd.DataFrame, zero: pd.DataFrame) -> dict[str, float]:
    """By text, bits per byte after minus before, averaged over the seeds of both."""
    before = {int(row["seed"]): row["measures"]["bits_per_byte"] for _, row in zero.iterrows()}
    pairs = [
        (row["measures"]["bits_per_byte"], before[int(row["seed"])])
        for _, row in rows.iterrows()
        if int(row["seed"]) in before
    ]
    texts = pairs[0][0] if pairs else {}
    return {text: _mean(after[text] - than[text] for after, than in pairs) for text in texts}


def _audit(measures: dict, n_labels: int) -> tuple[float | None, float | None]:
    """Share of paired rows whose answer differs, and the mean absolute difference of the last label's probability."""
    flips, shifts = [], []
    for pair in measures["audit"]:
        one, other = (from_per_mille(pair[side], n_labels) for side in ("with_one", "with_other"))
        flips.append((one.argmax(-1) != other.argmax(-1)).mean())
        shifts.append(np.abs(one[:, -1] - other[:, -1]).mean())
    return (_mean(flips), _mean(shifts)) if flips else (None, None)


# ---- the table ------------------------------------------------------------------------------------------------------


def _signed(value: float | None, digits: int = 2) -> str:
    return GAP if value is None or np.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def odyssey_cells(results: Results) -> pd.DataFrame:
    """The table as text, one line per target, n, arm and depth."""
    every = outcomes(results)
    source = f"{results.rows['task'].iloc[0]}/{results.rows['source'].iloc[0]}"
    table = []
    for one in every:
        target = f"{results.rows['task'].iloc[0]}/{one.target}"
        others = [value for text, value in one.bits.items() if text not in (source, target)]
        table.append(
            {
                "target": one.target,
                "n": one.n_target,
                "arm": one.arm,
                "depth": GAP if one.depth is None else one.depth,
                "accuracy": fraction(one.accuracy),
                "target change": change(one.target_change),
                "source change": change(one.source_change),
                "related change": change(one.related_change),
                "bits/byte target": _signed(one.bits.get(target)),
                "source": _signed(one.bits.get(source)),
                "others": _signed(_mean(others) if others else None),
                "on own rows": fraction(one.train_accuracy),
                "ECE": fraction(one.ece),
                "Brier": fraction(one.brier),
                "answers changed by a name": GAP if one.flips is None else f"{one.flips:.1%}",
                "weights trained": f"{one.trainable_share:.2%}",
                "flags": ", ".join(one.flags) or GAP,
                "seeds": one.seeds,
            }
        )
    return pd.DataFrame(table)


def odyssey_tables(results: Results) -> list[Table]:
    """None where script 06 has not run."""
    if odyssey_rows(results).empty:
        return []
    return [
        Table(
            f"{results.preset}_{EXPERIMENT}",
            f"Does adapting help or hurt? Preset {results.preset}",
            f"{about(results, odyssey_rows(results))} Changes are after minus theta1, paired on test rows, with 95 % "
            "intervals; bits per byte of held-out text (after minus before: above zero is worse; `others` are the "
            "related languages). `harmed` / `helped`: the target's interval lies below / above zero; `forgetful`: the "
            f"source's lies below zero and the loss is above {MARGIN}; `overfitted`: at least {GAP_TO_TRAINING} better "
            "on its own n rows than on test rows, with a Brier score no better than zero-shot's. Answers changed by a "
            "name: share of rows whose answer differs when only the name or group in front does.",
            odyssey_cells(results),
        )
    ]


def odyssey(results: Results) -> str:
    """What script 06 prints at the end."""
    return markdown(odyssey_cells(results))


# ---- the page -------------------------------------------------------------------------------------------------------


def best(found: Sequence[Outcome], by: Callable[[Outcome], float]) -> Outcome | None:
    return max(found, key=by, default=None)


def named(one: Outcome) -> str:
    depth = "" if one.depth is None else f" at depth {one.depth}"
    return f"`{one.arm}`{depth} ({ARMS[one.arm].words})"


def advice(results: Results, target: str, n_target: int) -> list[str]:
    """Which arm for which situation, in sentences; arms are chosen by the target's validation split, never by test."""
    every = outcomes(results)
    here = [one for one in every if one.target == target and one.n_target == n_target and one.target_change is not None]
    rows = odyssey_rows(results)
    if not here:
        return []

    def against_full(one: Outcome) -> str:
        own, full = (
            pick(rows, target=target, n_target=n_target, arm=arm, depth=depth)
            for arm, depth in ((one.arm, one.depth), ("full", None))
        )
        value = paired(own, full) if len(full) and one.arm != "full" else None
        return "" if value is None else f"; against `full` {change(value)}"

    def told(one: Outcome) -> str:
        source = GAP if one.source_change is None else change(one.source_change)
        return f"{named(one)}: target {change(one.target_change)}, source {source}{against_full(one)}"

    models = [one for one in here if ARMS[one.arm].classifier is None]
    winner = best(models, lambda one: one.valid_accuracy)
    keeping = [one for one in models if "forgetful" not in one.flags and one.source_change is not None]
    small = [one for one in models if one.trainable_share < 0.02]
    safe = best(keeping, lambda one: one.valid_accuracy)
    cheap = best(small, lambda one: one.valid_accuracy)
    believed = min(models, key=lambda one: one.ece)
    lines = [
        f"- *Only the target counts*: {told(winner)}.",
        "- *The source must be kept* (the best that is not forgetful): " + (f"{told(safe)}." if safe else "no arm."),
        "- *Little to store* (under 2 % of the weights): " + (f"{told(cheap)}." if cheap else "no arm."),
        f"- *Probabilities must be believed*: {named(believed)}, calibration error {believed.ece:.3f}.",
    ]
    lines += [
        f"- *No language model at all*: {named(one)} has {fraction(one.accuracy)}{against_full(one)}."
        for one in here
        if ARMS[one.arm].classifier is not None
    ]
    for flag, words in (
        ("harmed", "Worse than not adapting"),
        ("forgetful", "Forgetful"),
        ("overfitted", "Overfitted"),
    ):
        marked = [f"`{one.arm}`" for one in here if flag in one.flags]
        lines.append(f"- {words}: {', '.join(dict.fromkeys(marked)) or 'none'}.")
    return lines


def odyssey_page(folders: Sequence[Results]) -> str:
    """`odyssey.md`: which arm for which situation, from the rows of every results folder that script 06 has run in."""
    out = [
        "# Which arm for which situation?\n",
        "Made by `python -m ctsft.report` from the rows of script 06. An arm is picked by the target's validation "
        "split and then told with its test numbers: after minus before (theta1), paired on test rows, with 95 % "
        "intervals. Intervals that overlap mean that these rows do not tell two arms apart. All numbers are in "
        f"`*_{EXPERIMENT}.md`; what the flags mean stands above them.\n",
    ]
    for results in folders:
        rows = odyssey_rows(results)
        if rows.empty:
            continue
        out.append(f"## Preset {results.preset}, {results.model}\n")
        out.append(f"{about(results, rows)}\n")
        tuned = rows[rows["arm"] != "zero_shot"]
        for target in dict.fromkeys(tuned["target"]):
            zero = pick(rows, target=target, arm="zero_shot")["accuracy"].mean()
            for n_target in sorted(set(pick(tuned, target=target)["n_target"])):
                out.append(f"### {target}, {n_target} rows (zero-shot {fraction(zero)})\n")
                out += [*advice(results, target, int(n_target)), ""]
    return "\n".join(out).rstrip() + "\n"
