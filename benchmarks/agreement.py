"""Do two machines give the same rows? Cells that two results folders have in common, row by row.

    git worktree add ../before 0f65de2       # the last commit with the rows of CPUs in results/small
    python benchmarks/agreement.py results/small ../before/results/small

Most pairs start from theta1 of the same seed and precision that each machine made by itself; a column says so. To run
a cell from the same one, give the second folder the first one's cache/theta1, theta1, relevance and circuits.
`answers` is the share of equal answers to the target's test rows; the other columns are the first folder's accuracy
minus the second's: their mean, and the mean of their sizes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from common import write

from ctsft.study.record import read_cells

KEYS = ["task", "n_target", "arm", "theta1"]
MEASURED = {"target": "accuracy", "source": "source_accuracy"}


def pairs(one: Path, other: Path) -> pd.DataFrame:
    """A line per cell that both folders have."""
    first, second = read_cells(one), read_cells(other)
    lines = []
    for cell in first.keys() & second.keys():
        a, b = first[cell], second[cell]
        equal = [x == y for x, y in zip(a["predictions"][1:], b["predictions"][1:], strict=True)]
        same = "none" if not a["theta1"] else "one" if a["theta1"] == b["theta1"] else "each its own"
        lines.append(
            {name: a[name] for name in KEYS[:-1]}
            | {"theta1": same, "answers": sum(equal) / len(equal)}
            | {what: float(a[name]) - float(b[name]) for what, name in MEASURED.items()}
        )
    return pd.DataFrame(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path, help="a results folder, such as results/small")
    parser.add_argument("other", type=Path, help="the same cells, run on another machine")
    parser.add_argument("--name", default="agreement", help="name of the table in benchmarks/results")
    options = parser.parse_args()
    found = pairs(options.one, options.other)
    if found.empty:
        parser.exit(2, f"error: {options.one} and {options.other} have no cell in common.\n")
    rows = []
    for (task, n, arm, theta1), here in found.groupby(KEYS):
        line = {"task": task, "n_target": n, "arm": arm, "theta1": theta1, "cells": len(here)}
        line |= {"answers": here["answers"].mean()}
        for what in MEASURED:
            line |= {f"{what}_difference": here[what].mean(), f"{what}_apart": here[what].abs().mean()}
        rows.append(line)
    write(options.name, rows)


if __name__ == "__main__":
    main()
