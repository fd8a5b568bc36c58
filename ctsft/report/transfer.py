"""Accuracy on the target and on the source afterwards, by target, number of rows, arm and depth (scripts 01 and 02)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pandas as pd

from ctsft.report.choosing import add_ct_sft, at_own_strength, at_papers_share, at_validated_rate, circuits_told
from ctsft.report.compare import SOURCE, accuracy, macro_f1
from ctsft.report.render import GAP, Table, described, fraction, interval, listed
from ctsft.report.rows import Results
from ctsft.report.select import ENTAILMENT, EXPERIMENT, arms_in_order, by_a_model, pick
from ctsft.tuning.arms import ARMS

TITLES = {EXPERIMENT: "Transfer", ENTAILMENT: "Transfer of entailment"}
UNEVEN = "*"
KEYS = ["n_source", "target", "n_target", "arm", "depth"]


def lines_of(rows: pd.DataFrame) -> Iterator[dict]:
    """Every line that the table should have: each arm and depth for each target and number of rows, run or not.

    Where nothing but a classifier was run, the lines of models are left out.
    """
    arms = arms_in_order(rows)
    settings = [
        set(part[["target", "n_target"]].itertuples(index=False, name=None)) for part in (rows, by_a_model(rows))
    ]
    without = settings[0] - settings[1]
    sizes = sorted(set(rows["n_target"]))
    targets = list(dict.fromkeys(rows["target"]))
    starts = sorted(set(rows["n_source"]) - {0}) or [0]  # without any, every arm here starts from no source rows
    begun = set(rows[["n_source", "target"]].itertuples(index=False, name=None))
    for n_source, target, n_target, (arm, depth) in product(starts, targets, sizes, arms):
        started = arm not in ARMS or ARMS[arm].start == "theta1"
        once = started or n_source == starts[-1]  # it has no start, so one line stands for all
        asked = (target, n_target) not in without or (arm in ARMS and ARMS[arm].classifier is not None)
        # Of several starts, those that this target was ever tuned from.
        here = not started or len(starts) == 1 or (n_source, target) in begun
        if (arm == "zero_shot") == (n_target == 0) and once and asked and here:
            yield {
                "n_source": n_source if started else 0,
                "target": target,
                "n_target": n_target,
                "arm": arm,
                "depth": depth,
            }


def transfer_cells(results: Results) -> pd.DataFrame:
    """The table as text. Of several learning rates every arm takes its validated one; gaps stay gaps."""
    rows = at_own_strength(at_papers_share(results.rows))
    tried, rows = rows, add_ct_sft(at_validated_rate(rows), rows)
    seeds = rows["seed"].nunique()
    table = []
    for line in lines_of(rows):
        here = pick(rows, **line)
        asked = line | {"arm": "circuit" if line["arm"] == "ct_sft" else line["arm"]}
        rates = _rates_had(pick(tried, **asked), set(here["seed"]))
        table.append(
            {
                "target": line["target"],
                "source rows": line["n_source"],
                "n": line["n_target"],
                "arm": line["arm"],
                "depth": GAP if pd.isna(line["depth"]) else line["depth"],
                "accuracy": interval(accuracy(here)),
                "macro-F1": interval(macro_f1(here)),
                "source before": fraction(here["source_accuracy_before"].mean() if line["n_source"] else None),
                "source after": interval(accuracy(by_a_model(here), SOURCE)),
                "weights moved": f"{here['trainable_share'].mean():.2%}" if len(here) else GAP,
                "rates": f"2 × {rates}" if line["arm"] == "ct_sft" and rates != GAP else rates,
                "seeds": f"{here['seed'].nunique()}/{seeds}",
            }
        )
    return pd.DataFrame(table)


# For captions.
SAME_ROWS = (
    "Where n is all of pool B (NusaX: 100), all seeds learn from the same target rows, and no interval covers other "
    "draws of them."
)


def _rates_had(tried: pd.DataFrame, seeds: set[int]) -> str:
    """How many learning rates each of the seeds had to choose from, with a UNEVEN where they had not all the same."""
    by_seed = tried[tried["seed"].isin(seeds) & tried["lr"].notna()].groupby("seed")["lr"].agg(frozenset)
    if by_seed.empty:
        return GAP
    return f"{min(map(len, by_seed))}{UNEVEN if len(set(by_seed)) > 1 else ''}"


def about(results: Results, rows: pd.DataFrame) -> str:
    """The part of a caption that says what the rows are."""
    several = rows["lr"].nunique() > 1
    chosen = ", one chosen for each arm and seed on the target's validation split" if several else ""
    n_source = listed(set(rows["n_source"]) - {0})
    source = f"{rows['source'].iloc[0]} ({n_source or 'no'} rows)"
    aside = "".join(f"; {count} rows {what} are not shown" for what, count in results.set_aside)
    heads = circuits_told(rows)
    return f"{described(rows, source)}{chosen}{heads}. Computed in {rows['dtype'].iloc[0]}{aside}."


def transfer_table(results: Results, experiment: str = EXPERIMENT) -> Table:
    own = results.on_the_grid_of(experiment)
    cells = transfer_cells(own)
    uneven = any(str(rates).endswith(UNEVEN) for rates in cells["rates"])
    told = f" {UNEVEN}: not all seeds had the same rates; the fewest of a seed are told." if uneven else ""
    return Table(
        f"{results.name}_{experiment}",
        f"{TITLES[experiment]} from {own.rows['source'].iloc[0]}, folder {results.name}",
        f"{about(results, own.rows)} Accuracy has a 95 % interval (bootstrap over rows and seeds). `seeds` and "
        "`rates` count those of a line: an arm with more rates has better chances. `ct_sft` is circuit or "
        f"near_zero, whichever the target's validation split prefers: it chooses among the rates of both. "
        f"{SAME_ROWS}{told}",
        cells,
    )
