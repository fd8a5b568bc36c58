"""How many heads to tune: accuracy by the share of heads at every depth (script 03)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ctsft.report.choosing import at_own_strength, at_validated_rate, texts_of
from ctsft.report.compare import SOURCE, TARGET, right, stack
from ctsft.report.fair import had_by_all
from ctsft.report.render import Table, fraction
from ctsft.report.rows import Results
from ctsft.report.transfer import about


def surface(results: Results) -> pd.DataFrame:
    """Mean accuracy on the target and on the source by arm, depth, share of heads and learning rate; all targets.

    Only points that every target has at every seed, so that no mean is over different ground.
    """
    rows = results.from_most_source_rows().rows
    rows = rows[rows["arm"].isin(["circuit", "near_zero"])]
    keys = ["n_target", "arm", "depth", "share", "lr"]
    whole = rows.drop_duplicates(["n_target", "target", "seed"]).groupby("n_target").size()
    points = (
        rows.groupby(keys)
        .agg(
            accuracy=("accuracy", "mean"),
            source_change=("source_accuracy", "mean"),
            before=("source_accuracy_before", "mean"),
            cells=("cell", "nunique"),
        )
        .reset_index()
    )
    points["source_change"] -= points.pop("before")
    return points[points["cells"] >= points["n_target"].map(whole)].reset_index(drop=True)


def sweep_cells(results: Results) -> pd.DataFrame:
    """Accuracy by share of heads; targets are averaged.

    Every line is at its validated rate, of those that all lines of its arm had on the target and seed.
    """
    rows = at_own_strength(results.from_most_source_rows().rows)
    rows = rows[rows["share"].notna()]
    lines, ground = (texts_of(rows, names) for names in (["depth", "share"], ["arm", "target", "n_target", "seed"]))
    rows = at_validated_rate(rows[had_by_all(lines, ground, rows["lr"])])
    table = []
    for (n, arm, depth, share), here in rows.groupby(["n_target", "arm", "depth", "share"]):
        grid = rows[rows["n_target"] == n][["target", "seed"]].drop_duplicates()
        if len(here[["target", "seed"]].drop_duplicates()) < len(grid):
            continue
        per_target = [group for _, group in here.groupby("target")]
        on_target, on_source = (
            np.mean([stack(right(group, columns)).mean() for group in per_target]) for columns in (TARGET, SOURCE)
        )
        table.append(
            {
                "n": n,
                "arm": arm,
                "depth": depth,
                "share of heads": f"{share:.0%}",
                "heads": int(here["heads"].iloc[0]),
                "weights moved": f"{here['trainable_share'].mean():.2%}",
                "target": fraction(on_target),
                "source after": fraction(on_source),
                "targets": len(per_target),
                "seeds": here["seed"].nunique(),
            }
        )
    return pd.DataFrame(table)


def share_of_heads_table(results: Results, rows: pd.DataFrame) -> Table:
    """`sweep_cells` with a caption that tells of `rows`."""
    return Table(
        f"{results.name}_03_share_of_heads",
        f"How many heads, folder {results.name}",
        f"{about(results, rows)} Means over targets; only lines that exist for every target and seed, each at the "
        "rate that validation prefers of those that all lines of its arm had there.",
        sweep_cells(results),
    )
