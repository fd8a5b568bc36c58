"""What every arm costs, and what fewer bits do to the answers (script 07)."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pandas as pd

from ctsft.report.mixed import refuse_mixed
from ctsft.report.render import GAP, Table, change, interval, listed, markdown, with_holm
from ctsft.report.rows import labels_by_test
from ctsft.report.select import arms_in_order, pick
from ctsft.stats import mean_interval, paired_difference
from ctsft.tasks.task import from_digits

EXPERIMENT = "07_cost_and_energy"


def read_costs(folder: Path) -> pd.DataFrame:
    """One line per measured cell; empty where script 07 has not run.

    UserError where they were measured on several devices, or in several precisions: their costs have no mean.
    """
    rows = _read(folder / "costs" / f"{EXPERIMENT}.csv")
    if len(rows):
        refuse_mixed(rows[["model", "device", "dtype"]].drop_duplicates().assign(table="costs"), ["table"])
    return rows


def read_arithmetic(folder: Path) -> pd.DataFrame:
    """One line per arithmetic and place, with the label arrays `answers`, `answers_float32` and `gold` [N]."""
    rows = _read(folder / "costs" / f"{EXPERIMENT}.arithmetic.csv")
    if rows.empty:
        return rows
    # One theta1 and number of rows, that of the most arithmetics: a run that was stopped may have begun with another.
    start = rows["theta1"] + " " + rows["n_rows"].astype(str)
    rows = rows[start == start.mode().iloc[-1]]
    gold = labels_by_test(folder)
    for column in ("predictions", "predictions_float32"):
        rows[column.replace("predictions", "answers")] = [from_digits(text) for text in rows[column]]
    tests = rows["task"] + "/" + rows["language"]
    rows["gold"] = [gold[test][:n] for test, n in zip(tests, rows["n_rows"], strict=True)]
    return rows


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()


def cost_cells(folder: Path) -> pd.DataFrame:
    """One line per number of target rows, arm and depth: means over targets, seeds and rates."""
    rows = read_costs(folder)
    if rows.empty:
        return pd.DataFrame()
    table = []
    for n_target, (arm, depth) in product(sorted(set(rows["n_target"])), arms_in_order(rows)):
        here = pick(rows, n_target=n_target, arm=arm, depth=depth)
        if here.empty:
            continue
        table.append(
            {
                "n": n_target,
                "arm": arm,
                "depth": GAP if pd.isna(depth) else int(depth),
                "weights trained": f"{here['trainable_share'].mean():.2%}",
                "GFLOP": f"{here['flops'].mean() / 1e9:.4g}",
                "seconds": f"{here['seconds'].mean():.3g}",
                "processor seconds": f"{here['cpu_seconds'].mean():.3g}",
                "peak memory, MB": f"{here['peak_memory_mb'].max():.0f}",
                "stored for a language": _bytes(here["stored_bytes"].mean()),
                "energy, J": f"{here['joules'].mean():.3g}",
                "cells": len(here),
            }
        )
    return pd.DataFrame(table)


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def arithmetic_cells(folder: Path) -> pd.DataFrame:
    """One line per arithmetic and place: accuracy, paired change against float32, and errors of single products."""
    table, p_values = [], []
    for _, row in read_arithmetic(folder).iterrows():
        itself = row["arithmetic"] == "float32"
        right, exact = row["answers"] == row["gold"], row["answers_float32"] == row["gold"]
        apart = paired_difference(right[None].astype(float), exact[None].astype(float))
        table.append(
            {
                "arithmetic": row["arithmetic"],
                "where": row["where"],
                "accuracy": interval(mean_interval(right[None].astype(float))),
                "against float32": GAP if itself else change(apart),
                "answers changed": f"{(row['answers'] != row['answers_float32']).mean():.1%}",
                "error, random": f"{row['random_error']:.2%}",
                "error, real": GAP if pd.isna(row["real_error"]) else f"{row['real_error']:.2%}",
                "share of the products": f"{row['share_of_flops']:.1%}",
                "energy saved (published)": GAP if pd.isna(row["energy_saved"]) else f"{row['energy_saved']:.0%}",
                "rows": row["n_rows"],
            }
        )
        p_values.append(None if itself else apart.p)
    return with_holm(table, p_values, "against float32")


def cost_tables(folder: Path) -> list[Table]:
    """Tables of what script 07 measured; none where it has not run."""
    tables, rows, arithmetic = [], read_costs(folder), read_arithmetic(folder)
    if len(rows):
        one = rows.iloc[0]
        how = "; ".join(sorted(set(rows["energy_is"])))
        seeds = listed(rows["seed"])
        tables.append(
            Table(
                f"{folder.resolve().name}_{EXPERIMENT}",
                f"What tuning on one target costs, folder {folder.resolve().name}",
                f"Model `{one['model']}`, n target rows, on {one['device']} in {one['dtype']}, "
                f"{one['threads']} threads, seeds {seeds}. Operations are those of all matrix products (a "
                "multiplication with its addition counts as two), during training only. Seconds (wall-clock, and "
                "processor time, which other work does not lengthen) and memory are of this machine; memory is the "
                "process's peak while tuning, model and data included. Stored: the trained weights in float32, with "
                f"their positions where no slice describes them. Energy: {how}.",
                cost_cells(folder),
            )
        )
    if len(arithmetic):
        one = arithmetic.iloc[0]
        tables.append(
            Table(
                f"{folder.resolve().name}_07_arithmetic",
                f"Products in fewer bits, folder {folder.resolve().name}",
                f"Model `{one['model']}`, theta1 on {one['n_rows']} test rows of {one['language']}; inference only, "
                "emulated in float32. L-Mul (arXiv 2410.00907) adds mantissas; float8 multiplies rounded operands. "
                "Against float32: change in accuracy, paired on rows, with its 95 % interval; p is from a paired "
                "permutation test over rows, Holm-corrected over the table. Error: mean of |product − exact| / "
                "|exact| over single products, for normally distributed operands and for those that the model itself "
                "multiplies. Energy saved is **not measured**: it is the published 80 % for dot products, times the "
                "share of the model's products at that place. The published 95 % for element-wise products is used "
                "nowhere: only matrix products are replaced and counted, because element-wise ones (norms, gates, "
                "rotary positions) multiply a value once where a matrix product does it as often as a layer is wide. "
                "Published results for comparison: 4 bits about as "
                "precise as float8 e4m3, 3 bits better than e5m2, almost no loss in attention.",
                arithmetic_cells(folder),
            )
        )
    return tables


def costs(folder: Path) -> str:
    """What script 07 prints at the end."""
    return "\n\n".join(markdown(table.cells) for table in cost_tables(folder))
