"""Which rows a script asks for, by the settings that lie beside its table, whichever script ran them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ctsft.report.choosing import texts_of
from ctsft.storage import read_json
from ctsft.study.beside import runs_of
from ctsft.study.flags import arm_depths
from ctsft.tuning.arms import get_arm


def asked_for(rows: pd.DataFrame, folder: Path, experiment: str) -> pd.Series:
    """True where a run of `experiment` in `folder`, the last or an earlier one, had this row in its grid."""
    path, found = folder / f"{experiment}.config.json", pd.Series(False, index=rows.index)
    if path.is_file():
        for run in runs_of(read_json(path)):
            found |= _in_grid(rows, run)
    return found


def _in_grid(rows: pd.DataFrame, run: dict) -> pd.Series:
    """Of one run's settings. What an arm does not use (rows, a rate, heads) is empty in its row, and fits every run."""
    arms = [(get_arm(arm).variant_of or arm, depth) for arm, depth in arm_depths(run["arms"], run["depths"])]
    known = {f"{arm} {'' if depth is None else depth}" for arm, depth in arms}
    keep = texts_of(rows, ["arm", "depth"]).isin(known) & (rows["task"] == run["task"])
    choices: dict[str, Sequence[object]] = {"target": run["targets"], "lr": run["lrs"], "share": run["shares"]}
    choices |= {"n_target": [0, *run["n_targets"]], "n_source": [0, run["n_source"]]}
    choices |= {name: [run[name]] for name in ("source", "scorer", "ties", "kv_policy") if name in run}
    for name, values in choices.items():
        keep &= rows[name].isin(values) | rows[name].isna()
    return keep & (rows["draw"] < run["random_draws"])
