"""Does faithfulness pay? A tuned circuit's faithfulness beside what tuning it gave (scripts 01 and 05)."""

from __future__ import annotations

import json

import pandas as pd

from ctsft.report.faithfulness import Faithfulness, ends
from ctsft.report.render import change
from ctsft.report.rows import Results, at_validated_rate
from ctsft.report.stats import Interval, spearman
from ctsft.report.transfer import pick

TUNED = ["arm", "depth", "draw", "share", "scorer", "seed"]


def paying(found: Faithfulness, results: Results) -> pd.DataFrame:
    """Every tuned circuit that was asked: its faithfulness, and what tuning it gave on the target and the source.

    Gains are averaged over the targets and n that all of these circuits were tuned on from the theta1 that was asked,
    every cell at its validated learning rate.
    """
    rows = at_validated_rate(results.rows[results.rows["theta1"].isin(found.sets["theta1"])])
    zero = rows[rows["arm"] == "zero_shot"].set_index(["target", "seed"])["accuracy"]
    rows = rows.join(zero.rename("zero"), on=["target", "seed"])
    none, whole = ends(found, found.source)
    cells = {}
    for line in pick(found.sets, selection="tuned").rename(columns={"values": "margin_by_row"}).itertuples():
        about = json.loads((results.folder / "circuits" / f"{line.circuit}.json").read_text())
        same = {name: about[name] for name in TUNED}
        here = pick(rows, **same).set_index(["target", "n_target"])
        if len(here) and line.seed in none:
            low, high = none[line.seed].mean(), whole[line.seed].mean()
            faithful = (line.margin_by_row.mean() - low) / (high - low)
            cells[line.circuit] = (here, {**same, "heads": line.size, "faithfulness": faithful})
    common = set.intersection(*(set(here.index) for here, _ in cells.values())) if cells else set()
    lines = []
    for here, about in cells.values() if common else ():
        same = here.loc[sorted(common)]
        gain, kept = same["accuracy"] - same["zero"], same["source_accuracy"] - same["source_accuracy_before"]
        lines.append({**about, "target gain": gain.mean(), "source change": kept.mean(), "settings": len(common)})
    return pd.DataFrame(lines)


def paying_text(found: Faithfulness, results: Results) -> str:
    """Rank correlations between a circuit's faithfulness and what tuning it gives, over all sizes and within a size."""
    lines = paying(found, results)
    if lines.empty:
        return "Does faithfulness pay? Undecided: no tuned circuit was asked."
    within = lines["faithfulness"] - lines.groupby(["seed", "heads"])["faithfulness"].transform("mean")
    told = []
    for what in ("target gain", "source change"):
        rest = lines[what] - lines.groupby(["seed", "heads"])[what].transform("mean")
        values = [_correlation(lines, lines["faithfulness"], lines[what]), _correlation(lines, within, rest)]
        told.append(f"with the {what} {change(values[0])}, among circuits of one size {change(values[1])}")
    return (
        f"Does faithfulness pay? Spearman's correlation of a tuned circuit's faithfulness {'; '.join(told)} "
        f"({len(lines)} circuits on {lines['settings'].iloc[0]} targets and n; bootstrap over circuits and seeds)."
    )


def _correlation(lines: pd.DataFrame, x: pd.Series, y: pd.Series) -> Interval | None:
    table = lines[TUNED].assign(x=x, y=y).set_index(TUNED).unstack("seed").dropna()
    return spearman(table["x"].to_numpy(), table["y"].to_numpy()) if len(table) else None
