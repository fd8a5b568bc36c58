"""Tables from result rows. Nothing here loads a model: a CSV goes in, a table comes out."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pandas as pd

from ctsft.errors import UserError
from ctsft.tuning.arms import ARMS

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


def add_ct_sft(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows and, per setting, the arm `ct_sft`: circuit or near_zero, whichever the target's validation prefers.

    The choice is made for each seed and depth by `valid_accuracy` (a tie goes to the circuit), never by
    the test split. Settings that lack one of the two give no row.
    """
    pair = rows[rows["arm"].isin(["circuit", "near_zero"])].sort_values(
        ["valid_accuracy", "arm"], ascending=[False, True]
    )
    setting = pair.groupby(["source", "target", "n_source", "n_target", "depth", "seed"], sort=False)
    chosen = pair[setting["arm"].transform("nunique") == 2].groupby(list(setting.keys), sort=False).head(1)
    return pd.concat([rows, chosen.assign(arm="ct_sft")], ignore_index=True)


def at_validated_rate(rows: pd.DataFrame) -> pd.DataFrame:
    """Each arm at the learning rate that the target's validation prefers, for every seed (a tie goes to the lower).

    Nothing changes where there is one rate. One rate for all weights and for one weight in a hundred is no fair
    comparison, so rows at several rates are always compared this way.
    """
    setting = ["source", "target", "n_source", "n_target", "arm", "depth", "draw", "seed"]
    ordered = rows.sort_values(["valid_accuracy", "lr"], ascending=[False, True], kind="stable")
    return ordered.groupby(setting, dropna=False, sort=False).head(1).sort_index()


def transfer_table(rows: pd.DataFrame, paper: bool = False) -> pd.DataFrame:
    """Per target, n, arm and depth: mean and spread over seeds on the target, the source before and after.

    Of several learning rates every arm takes its validated one. With `paper` (rows of the paper's own setting) the
    published accuracy stands beside ours. The paper's CT-SFT column takes the better arm on test, so it has no
    counterpart here and stays out.
    """
    rows = add_ct_sft(at_validated_rate(rows))
    table = (
        rows.groupby(GROUP, dropna=False, sort=False)
        .agg(
            accuracy=("accuracy", "mean"),
            sd=("accuracy", "std"),
            macro_f1=("macro_f1", "mean"),
            source_before=("source_accuracy_before", "mean"),
            source_after=("source_accuracy", "mean"),
            trainable_share=("trainable_share", "mean"),
            seeds=("seed", "nunique"),
        )
        .reset_index()
    )
    for column, names in {"target": list(dict.fromkeys(rows["target"])), "arm": [*ARMS, "ct_sft"]}.items():
        table[column] = pd.Categorical(table[column], categories=names, ordered=True)
    table = table.sort_values(["target", "n_target", "arm", "depth"], kind="stable")
    table = table.astype({"target": str, "arm": str}).reset_index(drop=True)
    return table.merge(paper_values(), how="left", on=GROUP) if paper else table


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
