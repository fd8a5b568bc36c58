"""Tables from result rows. Nothing here loads a model: a CSV goes in, a table comes out."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pandas as pd

from ctsft.errors import UserError

GROUP = ["source", "target", "n_target", "arm", "depth"]
CODES = {"acehnese": "ace", "buginese": "bug", "javanese": "jav", "minangkabau": "min", "indonesian": "ind"}


def load_results(path: str | Path) -> pd.DataFrame:
    """The rows of a results CSV; depth is a nullable integer, predictions stay text."""
    if not Path(path).is_file():
        raise UserError(f"no results file {path}. Run the experiment script that writes it first.")
    frame = pd.read_csv(path, dtype={"predictions": str, "source_predictions": str, "depth": "Int64"})
    missing = {*GROUP, "seed", "accuracy", "source_accuracy", "predictions"} - set(frame.columns)
    if missing:
        raise UserError(f"{path}: the column '{sorted(missing)[0]}' is missing. Is this a results file?")
    return frame


def paper_values() -> pd.DataFrame:
    """The published NusaX accuracies (tables 2 and 4 of arXiv 2601.08146 v1), one row per setting and arm."""
    folder = files("ctsft.report").joinpath("paper_reference")
    parts = [pd.read_csv(folder / name) for name in ("table2_nusax_by_depth.csv", "table4_nusax_anchors.csv")]
    values = pd.concat(parts, ignore_index=True).drop_duplicates(["target", "n_target", "arm", "depth"])
    names = {code: name for name, code in CODES.items()}
    return values.assign(
        source=values["source"].map(names), target=values["target"].map(names), depth=values["depth"].astype("Int64")
    ).rename(columns={"accuracy": "paper"})


def transfer_table(rows: pd.DataFrame, paper: bool = False) -> pd.DataFrame:
    """Per target, n, arm and depth: mean and spread over seeds on the target, the source before and after.

    With `paper` (rows of the paper's own setting) the published accuracy stands beside ours.
    """
    groups = rows.groupby(GROUP, dropna=False, sort=False)
    table = groups.agg(
        accuracy=("accuracy", "mean"),
        sd=("accuracy", "std"),
        macro_f1=("macro_f1", "mean"),
        source_before=("source_accuracy_before", "mean"),
        source_after=("source_accuracy", "mean"),
        trainable_share=("trainable_share", "mean"),
        seeds=("seed", "nunique"),
    ).reset_index()
    order = {name: number for number, name in enumerate(dict.fromkeys(rows["target"]))}
    table = table.sort_values(
        ["target", "n_target"], key=lambda c: c.map(order) if c.name == "target" else c, kind="stable"
    )
    if paper:
        table = table.merge(paper_values(), how="left", on=GROUP)
    return table.reset_index(drop=True)


def render(table: pd.DataFrame) -> str:
    """A table as Markdown: fractions with three digits, shares in percent, gaps as a dash."""
    shown = pd.DataFrame(index=table.index)
    for name in table.columns:
        if name == "trainable_share":
            shown["trainable"] = [f"{value:.2%}" for value in table[name]]
        elif pd.api.types.is_float_dtype(table[name]):
            shown[name] = ["–" if pd.isna(value) else f"{value:.3f}" for value in table[name]]
        else:
            shown[name] = ["–" if pd.isna(value) else str(value) for value in table[name]]
    widths = {name: max(len(name), *(len(v) for v in shown[name])) if len(shown) else len(name) for name in shown}
    lines = ["| " + " | ".join(name.ljust(widths[name]) for name in shown) + " |"]
    lines.append("|" + "|".join("-" * (widths[name] + 2) for name in shown) + "|")
    for _, row in shown.iterrows():
        lines.append("| " + " | ".join(row[name].ljust(widths[name]) for name in shown) + " |")
    return "\n".join(lines)
