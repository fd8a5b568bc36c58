"""Redraw tables and figures from result rows, without a model.

python -m ctsft.report results/demo results/small
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ctsft.errors import UserError
from ctsft.report.figures import save, transfer_figure
from ctsft.report.tables import load_results, render, transfer_table
from ctsft.storage import write_atomic

EXPERIMENT = "01_nusax_transfer"


def redraw(folder: Path, tables: Path, figures: Path) -> list[Path]:
    """Write the table and the figure of one results folder; returns the files."""
    rows = load_results(folder / f"{EXPERIMENT}.csv")
    preset, model = rows["preset"].iloc[0], rows["model"].iloc[0]
    seeds = ", ".join(str(seed) for seed in sorted(rows["seed"].unique()))
    n_target, n_test = int(rows["n_target"].max()), len(rows["predictions"].iloc[0]) - 1
    values = sorted(rows["lr"].dropna().unique())
    rates = ", ".join(f"{rate:g}" for rate in values)
    chosen = ", for every arm and seed the one that the target's validation split prefers" if len(values) > 1 else ""
    caption = (
        f"# Transfer from {rows['source'].iloc[0]}, preset `{preset}`, model `{model}`\n\n"
        f"Accuracy on the {n_test} test rows, mean and standard deviation over seeds ({seeds}; `seeds` counts those "
        f"of a line). Learning rates: {rates}{chosen}. `ct_sft` is circuit or near_zero, chosen on the target's "
        f"validation split. Made by `python -m ctsft.report` from `{EXPERIMENT}.csv`.\n\n"
    )
    table = tables / f"{preset}_{EXPERIMENT}.md"
    write_atomic(table, caption + render(transfer_table(rows, paper=preset == "paper")) + "\n")
    figure = transfer_figure(rows, n_target, f"{model}, {n_target} target rows")
    return [table, *save(figure, figures / f"{preset}_{EXPERIMENT}")]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ctsft.report", description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path, help="results folders, such as results/small")
    parser.add_argument("--tables", type=Path, default=Path("paper_tables"), help="where tables go")
    parser.add_argument("--figures", type=Path, default=Path("figures"), help="where figures go")
    arguments = parser.parse_args()
    try:
        for folder in arguments.results:
            for path in redraw(folder, arguments.tables, arguments.figures):
                print(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
