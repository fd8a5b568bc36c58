"""Read a results folder. Every accuracy is counted again from the predictions and the labels that lie beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError
from ctsft.report.asked import asked_for
from ctsft.report.choosing import ODYSSEY, SETTING, by_usual_circuits, circuits_by, extra_rates
from ctsft.report.kinds import is_of, kinds, other_kinds
from ctsft.report.mixed import measured_once, refuse_same_names
from ctsft.report.select import ENTAILMENT, EXPERIMENT
from ctsft.report.stored import damage_told, stored, stored_maps
from ctsft.study.beside import GOLD, read_gold
from ctsft.study.record import PROBE_COLUMNS, PROBES, read_cells, read_rows
from ctsft.tasks.task import from_digits
from ctsft.tuning.arms import ARMS

NUMBERS = ["n_source", "n_target", "draw", "seed", "heads", "trainable"]
# The study of sentiment is asked by three scripts, which share cells; it is named by the first.
TOGETHER = {EXPERIMENT: (EXPERIMENT, "03_editing_preserving_tradeoff", "04_forgetting")}
FRACTIONS = ["share", "lr", "valid_accuracy", "source_accuracy_before", "trainable_share", "train_seconds"]


@dataclass(frozen=True, eq=False)  # so that what is found in one can be kept beside it
class Results:
    """What a results folder holds.

    `rows`: one line per cell, with the label arrays `answers`, `gold`, `source_answers` and `source_gold` [N], and the
    metrics counted from them; `variant` is the full name of an arm that ran with another strength than its own, else
    None. `probes`: one line per cell, epoch and test, likewise. `maps`: the scores that circuits
    of the cells were taken from.
    """

    folder: Path
    rows: pd.DataFrame
    probes: pd.DataFrame
    maps: list[Relevance]
    set_aside: tuple[tuple[str, int], ...] = ()
    """Rows that `of` left out, as (what they are, how many)."""
    strayed: tuple[str, ...] = ()
    """Cells of which script 04 measured another model than that of the row; `probes` is without those lines."""

    @classmethod
    def read(cls, folder: Path, experiment: str = "") -> Results:
        """Everything in `folder`; a faulty file is named. Where two scripts ran a cell, that of `experiment` counts.

        A script picks its rows by their keys. Who reads a whole folder tells them apart by their columns, so without an
        `experiment` it is a UserError where these do not.
        """
        cells = list(read_cells(folder, experiment).values())
        if not cells:
            raise UserError(
                f"no result rows in {folder}. Run an experiment script with --output {folder.parent} first."
            )
        gold = labels_by_test(folder)
        # Rows that were moved to another folder still say the preset that they were run by.
        rows = pd.DataFrame(cells).replace("", None).assign(preset=folder.resolve().name)
        if not experiment:
            rows = measured_once(rows)
            refuse_same_names(rows, folder)
        rows["experiment"] = list(map(_script_of, rows["experiment"]))
        rows["variant"] = [arm if ARMS[arm].variant_of else None for arm in rows["arm"]]
        rows["arm"] = [ARMS[arm].variant_of or arm for arm in rows["arm"]]
        rows = rows.astype(dict.fromkeys(NUMBERS, int) | dict.fromkeys(FRACTIONS, float) | {"depth": "Int64"})
        for side, of in (("", "target"), ("source_", "source")):
            labels = [_labels(gold, test, folder) for test in rows["task"] + "/" + rows[of]]
            pairs = zip(rows[f"{side}predictions"], labels, strict=True)
            answers = [counted(text, right, folder) for text, right in pairs]
            rows[f"{side}gold"], rows[f"{side}answers"] = labels, answers
            rows[f"{side}accuracy"] = list(map(_share, answers, labels))
        # Of pandas' own strings every column is an array by itself, and tables take rows thousands of times.
        rows = rows.astype(dict.fromkeys(rows.select_dtypes("str"), object)).copy()
        probes, strayed = _probes(folder, gold, rows)
        return cls(folder, rows, probes, _maps(folder), strayed=strayed)

    def only(self, keep: pd.Series) -> Results:
        """The rows where `keep` is true, with their probes, and the maps that circuits of theirs were taken from."""
        rows = self.rows[keep]
        probes = self.probes[self.probes["cell"].isin(rows["cell"])]
        same = set(zip(rows["theta1"], rows["scorer"], strict=True))
        maps = [m for m in self.maps if (m.about["theta1_hash"], m.about["scorer"]) in same]
        strayed = tuple(cell for cell in self.strayed if cell in set(rows["cell"]))
        return Results(self.folder, rows, probes, maps, self.set_aside, strayed)

    def of(self, experiment: str) -> Results | None:
        """The first of its `studies`: that of the most rows; None where it has none."""
        return next(iter(self.studies(experiment)), None)

    def studies(self, experiment: str) -> list[Results]:
        """What belongs to the tasks of `experiment`, whichever script ran it: a study for every kind of its rows.

        Script 01's begins from the rows of any script that is asked TOGETHER with it. Rows of two tasks, of two
        precisions, from two sources, or whose heads take their keys and values along in two ways are never compared;
        the kind of the most rows comes first. Baselines of script 06 are left out where `experiment` does not run them
        itself, and so are its rates where other scripts tried fewer (see `extra_rates`), and circuits that were chosen
        in another way than most of the rows' were. Zero-shot rows alone are no study where another script has tuned on
        the task: they were run for that one.
        """
        scripts = TOGETHER.get(experiment, (experiment,))
        by_these = self.rows["experiment"].isin(scripts)
        tuned = self.rows["n_target"] > 0
        others = {*self.rows.loc[tuned, "task"]} - {*self.rows.loc[tuned & by_these, "task"]}
        own = self.rows[by_these & ~self.rows["task"].isin(others)]
        if own.empty:
            return []
        # What theta1 does by itself is no baseline, whichever script asked first.
        arms = {*own["arm"], "zero_shot"}
        baselines = (self.rows["experiment"] == ODYSSEY) & ~self.rows["arm"].isin(arms)
        if experiment != ODYSSEY:
            baselines |= extra_rates(self.rows)
        found = []
        for kind in kinds(own):
            alike = self.rows[~baselines & is_of(self.rows, kind)]
            kept = by_usual_circuits(alike)
            foreign = circuits_by(alike.drop(kept.index)).value_counts()
            aside = [*other_kinds(own, kind), *((f"by {name}", count) for name, count in foreign.items())]
            found.append(replace(self.only(self.rows.index.isin(kept.index)), set_aside=tuple(aside)))
        return found

    def on_the_grid_of(self, experiment: str) -> Results:
        """The rows of the targets, sizes, rates and arms that the script `experiment` wrote rows of, or asked for.

        Scripts share cells, so some of them, or all of an arm, may have been written by another one, which ran first.
        """
        own = self.rows[self.rows["experiment"] == experiment]
        arms = ["arm", "depth", "share", "scorer", "ties", "kv_policy"]
        known = set(own[arms].astype(str).itertuples(index=False, name=None))
        here = self.rows[arms].astype(str).itertuples(index=False, name=None)
        keep = pd.Series([arm in known for arm in here], self.rows.index)
        for name in ("task", "n_source", "target", "n_target", "lr"):
            keep &= self.rows[name].isin(own[name])
        return self.only(keep | asked_for(self.rows, self.folder, experiment))

    def from_most_source_rows(self) -> Results:
        """Only the rows that start from the most source rows; `direct` starts from none and stays."""
        return self.only(self.rows["n_source"].isin([0, self.rows["n_source"].max()]))

    @property
    def name(self) -> str:
        return str(self.rows["preset"].iloc[0])

    @property
    def model(self) -> str:
        return str(self.rows["model"].iloc[0])


def _script_of(experiment: str) -> str:
    """The script whose questions rows of this name answer: one under another name is a copy of it, or of the first."""
    number = experiment[:3]
    scripts = {name[:3]: name for name in (*TOGETHER[EXPERIMENT], ENTAILMENT, ODYSSEY)}
    return scripts.get(number) or (experiment if number[:2].isdigit() else EXPERIMENT)


def _maps(folder: Path) -> list[Relevance]:
    """The stored scores that a circuit file was made of (script 05 scores in many more ways).

    Of the same theta1 and scorer that on the most rows: fewer are script 05's, which asks what they change.
    """

    def settings(about: dict) -> tuple:
        names = ("task", "source", "seed", "n_source", "scorer", "mean_rows", "score_rows", "pool")
        return tuple(about.get(name) for name in names)

    used = {settings(stored(path)) for path in (folder / "circuits").glob("*.json")}
    maps = stored_maps(folder)
    made = sorted((m for m in maps if settings(m.about) in used), key=lambda m: m.about["score_rows"])
    best = {(m.about["theta1_hash"], m.about["scorer"]): m for m in made}
    return [m for m in maps if best.get((m.about["theta1_hash"], m.about["scorer"])) is m]


def _probes(folder: Path, gold: dict[str, np.ndarray], rows: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The lines of all of script 04's files, joined with what their cells were; and the cells of those left out.

    A model that was tuned again and then answered otherwise than the row says is not the row's.
    """
    lines = [line for path in sorted(folder.glob(f"*{PROBES}")) for line in read_rows(path, PROBE_COLUMNS)]
    strayed = dict.fromkeys(line["cell"] for line in lines if line["same_row"] == "False")
    return joined([line for line in lines if line["same_row"] != "False"], folder, gold, rows), tuple(strayed)


def joined(
    lines: list[dict[str, object]], folder: Path, gold: dict[str, np.ndarray], rows: pd.DataFrame
) -> pd.DataFrame:
    """Probe lines with the labels, answers and accuracies of their tests and what their cells in `rows` were."""
    probes = pd.DataFrame(lines, columns=PROBE_COLUMNS).drop_duplicates(["cell", "epoch", "test"])
    probes["epoch"] = probes["epoch"].astype(int)
    for name in ("distance", "relative_distance"):
        probes[name] = probes[name].astype(float)
    probes["gold"] = [_labels(gold, test, folder) for test in probes["test"]]
    for column in ("predictions", "predictions_before"):
        pairs = zip(probes[column], probes["gold"], strict=True)
        probes[column.replace("predictions", "answers")] = [counted(text, right, folder) for text, right in pairs]
    for column in ("accuracy", "accuracy_before"):
        answers = probes[column.replace("accuracy", "answers")]
        probes[column] = [_share(a, g) for a, g in zip(answers, probes["gold"], strict=True)]
    about = rows[["cell", "seed", "draw", "lr", "valid_accuracy", *SETTING]]
    return probes.merge(about, on="cell", how="inner", validate="many_to_one")


def labels_by_test(folder: Path) -> dict[str, np.ndarray]:
    """The labels of the rows that were answered, by `task/language` (of another split, `task/language:valid`)."""
    path = folder / GOLD
    if not path.is_file():
        raise UserError(f"no {path}, which holds the labels of the test rows. The experiment script writes it.")
    with damage_told():
        return {test: from_digits(entry["labels"]) for test, entry in read_gold(path).items()}


def _labels(gold: dict[str, np.ndarray], test: str, folder: Path) -> np.ndarray:
    if test not in gold:
        raise UserError(f"{folder / 'gold.json'} lacks the labels of {test}. Run the script again: it writes them.")
    return gold[test]


def counted(text: str, gold: np.ndarray, folder: Path) -> np.ndarray:
    """Answers [N] from their digits; refused where they are not as many as there are labels."""
    try:
        answers = from_digits(text)
    except ValueError:
        answers = None
    if answers is None or len(answers) != len(gold):
        raise UserError(f"{folder}: predictions must be p and {len(gold)} digits, but one row has '{text[:12]}...'.")
    return answers


def _share(answers: np.ndarray, gold: np.ndarray) -> float:
    return float((answers == gold).mean())
