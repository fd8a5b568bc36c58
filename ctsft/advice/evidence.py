"""What our result rows say of every setting and arm, as a table that travels with the package.

python -m ctsft.advice.evidence results/demo results/small      # part of `make tables`: writes evidence.csv again
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from ctsft.errors import UserError, ending_in_a_line
from ctsft.report.choosing import at_papers_share, by_usual_circuits
from ctsft.report.fair import at_common_rates
from ctsft.report.judging import MARGIN
from ctsft.report.kinds import is_of, kinds
from ctsft.report.rows import Results
from ctsft.storage import write_atomic

SETTING = ["preset", "task", "dtype", "n_source", "target", "n_target"]
ARM = [*SETTING, "arm", "depth"]
# What `ctsft tune` makes and a user would want; the other arms are controls, or baselines of the scripts.
OFFERED = ("circuit", "near_zero", "norm_only", "full")
START = ["task", "dtype", "n_source", "target", "seed"]
COMPETENT = 2 * MARGIN  # how far a start must be above the majority class to be one
DIGITS = 6


def shipped() -> pd.DataFrame:
    """The table that was made of the committed rows; see `evidence`."""
    table = pd.read_csv(str(files("ctsft.advice").joinpath("evidence.csv")))
    return table.astype({"depth": "Int64"})


def evidence(folders: Sequence[Path]) -> pd.DataFrame:
    """One line per setting, arm and depth of the rows in `folders`, means over seeds, every arm at one rate.

    `lr` is the rate that validation prefers over all seeds together (a tie goes to the lower), of those that all of
    them have; the rest of the line is at that rate, for it is what a reader is told to try. `transfer` is zero-shot
    accuracy by the source's. `gain` is what the arm adds to zero-shot on the target, and `cost` what it takes from the
    source, both in accuracy; `cells` is the number of rows. The OFFERED arms choose from the rates that all of them
    have in a setting, for every seed. `ties`: by which rule the heads were chosen, see `Relevance`. Settings whose
    start is no better than the majority class are left out, because there is no transfer to advise on. Of a task that a
    folder has from several sources, or under several rules for keys and values, those of the most rows count.
    """
    parts = []
    for folder in folders:
        one_study = _of_one_kind(Results.read(folder).rows)
        every = at_common_rates(by_usual_circuits(at_papers_share(one_study)), OFFERED)
        rows = _at_one_rate(every)
        start = rows[rows["arm"] == "zero_shot"].groupby(START)["accuracy"].mean()
        rows = rows[~rows["arm"].isin(["zero_shot", "direct"])].merge(start.rename("zero_shot"), on=START)
        rows["transfer"] = rows["zero_shot"] / rows["source_accuracy_before"]
        rows["gain"] = rows["accuracy"] - rows["zero_shot"]
        rows["cost"] = rows["source_accuracy_before"] - rows["source_accuracy"]
        majority = rows["source_gold"].map(lambda gold: np.bincount(gold).max() / len(gold))
        rows["above"] = rows["source_accuracy_before"] - majority
        parts.append(rows[rows.groupby(SETTING)["above"].transform("mean") > COMPETENT])
    if not parts:
        raise UserError("evidence is made of result rows: give results folders, such as results/demo.")
    if not sum(map(len, parts)):
        raise UserError(
            "no row of these folders can be drawn on: that needs zero_shot and tuned arms of one setting and seed, "
            "from a start that is better than the commonest label."
        )
    table = (
        pd.concat(parts)
        .groupby(ARM, dropna=False, as_index=False)
        .agg(
            transfer=("transfer", "mean"),
            gain=("gain", "mean"),
            cost=("cost", "mean"),
            cells=("cell", "size"),
            lr=("lr", "first"),
            ties=("ties", "first"),
        )
    )
    return table.astype({"ties": "str"}).round(dict.fromkeys(("transfer", "gain", "cost"), DIGITS))


def _of_one_kind(rows: pd.DataFrame) -> pd.DataFrame:
    """Of every task and precision the source, and the rule for keys and values, of the most rows."""
    groups = rows.groupby(["task", "dtype"], sort=False)
    return rows.loc[sorted(i for _, here in groups for i in here.index[is_of(here, kinds(here)[0])])]


def _at_one_rate(rows: pd.DataFrame) -> pd.DataFrame:
    """Every setting, arm and depth at one rate for all seeds; two seeds that choose apart would name none."""
    tried = rows[rows["lr"].notna()].groupby([*ARM, "lr"], dropna=False, as_index=False)
    found = tried.agg(valid=("valid_accuracy", "mean"), seeds=("seed", "nunique"))
    whole = found[found["seeds"] == found.groupby(ARM, dropna=False)["seeds"].transform("max")]
    best = whole.sort_values(["valid", "lr"], ascending=[False, True], kind="stable").drop_duplicates(ARM)
    chosen = rows.merge(best[[*ARM, "lr"]], on=[*ARM, "lr"])["cell"]
    return rows[rows["lr"].isna() | rows["cell"].isin(chosen)]


@ending_in_a_line()
def main() -> None:
    home = Path(str(files("ctsft.advice"))) / "evidence.csv"
    write_atomic(home, evidence([Path(name) for name in sys.argv[1:]]).to_csv(index=False))
    print(home)


if __name__ == "__main__":
    main()
