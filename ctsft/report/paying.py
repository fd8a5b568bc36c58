"""Does faithfulness pay? A tuned circuit's faithfulness beside what tuning it gave (scripts 01 and 05)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ctsft.report.choosing import at_validated_rate, told_by
from ctsft.report.faithfulness import Faithfulness, ends_of_theta1
from ctsft.report.render import change
from ctsft.report.rows import Results
from ctsft.report.select import pick
from ctsft.report.stored import stored
from ctsft.stats import Interval, spearman

TUNED = ["arm", "depth", "draw", "share", "scorer", "ties", "seed"]
# Two ways to be faithful, by column of `paying`.
MEASURES = {"kept": "what a circuit's heads keep alone", "needed": "what is lost without them"}
OUTCOMES = ("target accuracy", "source change")


def paying(found: Faithfulness, results: Results) -> pd.DataFrame:
    """Every tuned circuit that was asked: how faithful it is, and what tuning it gave on the target and the source.

    On the seeds that have the most of them: correlations are over circuits that all seeds have.

    `kept` is the part of the margin that its heads keep alone, `needed` the part that is lost without them. Both
    outcomes are averaged over the targets and n that all of these circuits were tuned on from the theta1 that was
    asked, every cell at the one that its validation prefers of the learning rates that all circuits had.
    `target accuracy` is that above the mean of the circuits of the same theta1, so that what the start could do by
    itself drops out.
    """
    tuned = pick(found.tuned, selection="tuned")
    circuits = tuned.groupby("seed")["circuit"].transform("nunique")
    tuned = tuned[circuits == circuits.max()]
    rows = results.rows[results.rows["theta1"].isin(tuned["theta1"])]
    asked = list(tuned.groupby(["circuit", "theta1"], sort=False))
    settings = [_setting(results, circuit, theta1) for (circuit, theta1), _ in asked]
    tried = [rates for same in settings if (rates := set(pick(rows, **same)["lr"]))]
    rows = at_validated_rate(rows[rows["lr"].isin(set.intersection(*tried) if tried else set())])
    cells = {}
    for ((circuit, theta1), lines), same in zip(asked, settings, strict=True):
        here = pick(rows, **same).set_index(["target", "n_target"])
        ends = ends_of_theta1(found, theta1)
        if len(here) and ends is not None:
            cells[circuit, theta1] = (here, {**same, "heads": lines["size"].iloc[0], **_faithful(lines, *ends)})
    common = set.intersection(*(set(here.index) for here, _ in cells.values())) if cells else set()
    told = []
    for here, about in cells.values() if common else ():
        same = here.loc[sorted(common)]
        kept = same["source_accuracy"] - same["source_accuracy_before"]
        outcomes = dict(zip(OUTCOMES, (same["accuracy"].mean(), kept.mean()), strict=True))
        told.append({**about, **outcomes, "settings": len(common)})
    lines = pd.DataFrame(told)
    if len(lines):
        lines[OUTCOMES[0]] -= lines.groupby("theta1")[OUTCOMES[0]].transform("mean")
    return lines


def _setting(results: Results, circuit: str, theta1: str) -> dict[str, object]:
    """What the cells that tuned this circuit from this theta1 have in common."""
    about = {"ties": "index"} | stored(results.folder / "circuits" / f"{circuit}.json")
    return {name: about[name] for name in TUNED} | {"theta1": theta1}


def _faithful(lines: pd.DataFrame, none: float, whole: float) -> dict[str, float]:
    """(m(C) - m(none)) / (m(all) - m(none)) with C alone, and one minus that of all heads but C."""
    values = lines.set_index("direction")["values"].map(np.mean)
    share = (values - none) / (whole - none)
    return {"kept": share.get("keep", np.nan), "needed": 1 - share.get("knock_out", np.nan)}


def paying_text(found: Faithfulness, results: Results) -> str:
    """Rank correlations between a circuit's faithfulness and what tuning it gives, over all sizes and within a size."""
    lines = paying(found, results)
    if lines.empty:
        return "Does faithfulness pay? Undecided: no tuned circuit was measured."
    told = []
    for measure, name in MEASURES.items():
        for what in OUTCOMES if lines[measure].notna().any() else ():
            values = [
                _correlation(lines, measure, what),
                _correlation(within_size(lines, measure, what), measure, what),
            ]
            told.append(
                f"between {name} and the {what} {change(values[0])}, among circuits of equal size {change(values[1])}"
            )
    circuits = len(lines.drop_duplicates([name for name in TUNED if name != "seed"]))
    scorers = ", ".join(sorted({told_by(scorer, ties) for scorer, ties in lines[["scorer", "ties"]].to_numpy()}))
    return (
        f"Does faithfulness pay? Spearman's correlation {'; '.join(told)} ({circuits} circuits on "
        f"{lines['seed'].nunique()} seeds by {scorers}, {lines['heads'].min()} to {lines['heads'].max()} heads, on "
        f"{lines['settings'].iloc[0]} targets and n; bootstrap over circuits and seeds)."
    )


def within_size(lines: pd.DataFrame, *names: str) -> pd.DataFrame:
    """`names` as differences from the mean of the circuits of the same seed and as many heads."""
    means = lines.groupby(["seed", "heads"])[list(names)].transform("mean")
    return lines.assign(**{name: lines[name] - means[name] for name in names})


def _correlation(lines: pd.DataFrame, x: str, y: str) -> Interval | None:
    table = lines[TUNED].assign(x=lines[x], y=lines[y]).set_index(TUNED).unstack("seed").dropna()
    return spearman(table["x"].to_numpy(), table["y"].to_numpy()) if len(table) else None
