"""How tables look: fractions with three digits and their interval, shares in percent, gaps as a dash."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ctsft.stats import DIGITS, Difference, Interval, holm
from ctsft.storage import write_atomic

GAP = "–"
CODE = re.compile("`([^`]*)`")
LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
}


def rate_text(rate: float) -> str:
    """A learning rate as one types it: 5e-5, 2e-4."""
    digits, power = f"{rate:e}".split("e")
    return f"{float(digits):g}e{int(power)}"


def listed(values: Iterable[object]) -> str:
    """Each value once, in rising order."""
    return ", ".join(map(str, sorted(set(values))))


def rates_text(rates: Iterable[float]) -> str:
    """In rising order."""
    return ", ".join(map(rate_text, sorted(rates)))


@dataclass(frozen=True)
class Table:
    """A named table: a title, a caption that says where its numbers come from, and cells that are text already."""

    name: str
    title: str
    caption: str
    cells: pd.DataFrame

    def suffixed(self, suffix: str) -> Table:
        """The same under another name."""
        return replace(self, name=f"{self.name}_{suffix}", title=f"{self.title}, {suffix}")

    def markdown(self) -> str:
        return f"# {self.title}\n\n{self.caption}\n\n{markdown(self.cells)}\n"

    def latex(self) -> str:
        caption = CODE.sub(r"\\texttt{\1}", _escaped(f"{self.title}. {self.caption}"))
        body = self.cells.to_latex(index=False, escape=True, caption=caption, label=self.name)
        # Text from the tables, in a font that LaTeX has: its minus and dash signs.
        return body.replace("−", "$-$").replace(GAP, "--").replace("±", "$\\pm$")

    def write(self, folder: Path) -> list[Path]:
        """NAME.md and NAME.tex."""
        paths = [folder / f"{self.name}.md", folder / f"{self.name}.tex"]
        write_atomic(paths[0], self.markdown())
        write_atomic(paths[1], self.latex())
        return paths


def _escaped(text: str) -> str:
    """Text as LaTeX prints it, sign by sign (pandas escapes the cells, not the caption)."""
    return "".join(LATEX.get(sign, sign) for sign in text)


def described(rows: pd.DataFrame, source: str) -> str:
    """What rows (with their labels in `gold`) are: folder, model, task, source, test rows, seeds and learning rates."""
    shares = [np.bincount(gold).max() / len(gold) for gold in rows["gold"]]
    majority = " to ".join(dict.fromkeys((fraction(min(shares)), fraction(max(shares)))))
    return (
        f"Folder `{rows['preset'].iloc[0]}`, model `{rows['model'].iloc[0]}`, task {rows['task'].iloc[0]}, "
        f"source {source}, {len(rows['gold'].iloc[0])} test rows (majority class {majority}), "
        f"seeds {listed(rows['seed'])}; learning rates {_rates(rows)}"
    )


def _rates(rows: pd.DataFrame) -> str:
    """The learning rates of the tuned rows, for each number of target rows where they differ."""
    tuned = rows[rows["lr"].notna()]
    tried = {n: rates_text(set(lr)) for n, lr in tuned.groupby("n_target")["lr"]}
    if len(set(tried.values())) < 2:
        return next(iter(tried.values()), GAP)
    return "; ".join(f"{rates} (n = {n})" for n, rates in tried.items())


def fraction(value: float | None) -> str:
    return GAP if value is None or pd.isna(value) else f"{round(value, DIGITS):.3f}"


def interval(value: Interval | None) -> str:
    """0.585 [0.54, 0.63]"""
    return GAP if value is None else f"{value.value:.3f} [{value.low:.2f}, {value.high:.2f}]".replace("-", "−")


def change(value: Interval | Difference | None) -> str:
    """A signed difference with its interval: +0.012 [-0.01, +0.03]"""
    return GAP if value is None else f"{value.value:+.3f} [{value.low:+.2f}, {value.high:+.2f}]".replace("-", "−")


def p_value(value: float | None) -> str:
    return GAP if value is None else "< 0.001" if value < 0.001 else f"{round(value, DIGITS):.3f}"


def with_holm(table: list[dict[str, object]], p_values: Sequence[float | None], after: str) -> pd.DataFrame:
    """The table with the Holm-corrected p values of its lines' comparisons behind the column `after`."""
    frame = pd.DataFrame(table)
    if table:
        known = [i for i, p in enumerate(p_values) if p is not None]
        corrected = dict(zip(known, holm([p_values[i] for i in known]), strict=True))
        told = [p_value(corrected.get(i)) for i in range(len(table))]
        frame.insert(frame.columns.get_loc(after) + 1, "p (Holm)", told)
    return frame


def markdown(cells: pd.DataFrame) -> str:
    """A Markdown table of text cells, aligned so that it also reads well as text."""
    cells = cells.astype(str)
    widths = {name: max([len(name), *(len(value) for value in cells[name])]) for name in cells}
    lines = ["| " + " | ".join(name.ljust(widths[name]) for name in cells) + " |"]
    lines.append("|" + "|".join("-" * (widths[name] + 2) for name in cells) + "|")
    for _, row in cells.iterrows():
        lines.append("| " + " | ".join(row[name].ljust(widths[name]) for name in cells) + " |")
    return "\n".join(lines)
