"""What lies beside the rows of a results folder: the labels of the tests, the data and settings they were made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ctsft.errors import UserError
from ctsft.storage import Damaged, locked, read_json, set_aside, write_json
from ctsft.study.provenance import now
from ctsft.study.record import SET_COLUMNS, SETS, read_cells, read_rows
from ctsft.tasks.task import Rows, digits

# What rows were made from: sha256 by task, then by language/split.
DATA = "data.json"


def keep_gold(folder: Path, tests: dict[str, Rows]) -> None:
    """Write the labels of the test rows beside the results (`task/language` -> `p` and a digit per row).

    With them every accuracy, interval and paired test follows from the committed files alone.
    """
    path = folder / "gold.json"
    with locked(path):
        try:
            known = read_json(path) if path.is_file() else {}
        except Damaged as error:
            set_aside(path, error)
            known = {}
        new = {
            name: {"labels": digits([example.label for example in rows.examples]), "sha256": rows.sha256}
            for name, rows in tests.items()
        }
        for name in known.keys() & new.keys():
            if known[name]["labels"] != new[name]["labels"]:
                raise UserError(
                    f"the labels of {name} are others than those that rows in {folder} were scored by, so the data are "
                    "not the same (XNLI from the hub is split by other ids than from files). Give another --output."
                )
        if known != known | new:
            write_json(path, dict(sorted((known | new).items())))


def refuse_other_model(folder: Path, model: str, weights: str) -> None:
    """Stop where `folder` has rows of other weights than these: a table would take them for one model's."""
    sets = [row for path in sorted(folder.glob(f"*{SETS}")) for row in read_rows(path, SET_COLUMNS)]
    for row in (*read_cells(folder).values(), *sets):
        if row["model_hash"] != weights:
            raise UserError(
                f"the rows in {folder} are of {row['model']} (weights {row['model_hash']}), and this run's model is "
                f"{model} (weights {weights}). Name that model with --model, or give another --output."
            )


def refuse_other_data(folder: Path, task: str, hashes: dict[str, str]) -> None:
    """Stop where `folder` has rows of this task that were made from files with another content, or read otherwise.

    `hashes` are those of `StudyData.data_sha256`.
    """
    known = read_json(folder / DATA).get(task, {}) if (folder / DATA).is_file() else {}
    if not known:  # rows from before there was such a file: their settings say it
        settings = [read_json(path) for path in sorted(folder.glob("*.config.json"))]
        known = {k: v for one in settings if one["task"] == task for k, v in one["data_sha256"].items()}
    for name, sha256 in known.items():
        if hashes.get(name, sha256) != sha256:
            raise UserError(
                f"{task}/{name} has changed since the rows in {folder} were made, or task.json says to read it in "
                f"another way (see {DATA} there). Rows of both would be mixed: give another --output, or move the old "
                "rows away."
            )


def keep_hashes(folder: Path, task: str, hashes: dict[str, str]) -> None:
    """Add these files of a task to those that rows in `folder` were made from."""
    path = folder / DATA
    with locked(path):
        known = read_json(path) if path.is_file() else {}
        if known.get(task, {}) != known.get(task, {}) | hashes:
            write_json(path, known | {task: known.get(task, {}) | hashes})


def write_settings(path: Path, settings: Mapping[str, object], about: Mapping[str, object]) -> None:
    """Write beside a table what the last run asked for (`settings`) and where it ran; `earlier` has the other runs.

    Of each of these, what it asked for in another way than the last, when, and by which code.
    """
    with locked(path):
        try:
            known = read_json(path) if path.is_file() else None
        except Damaged as error:
            set_aside(path, error)
            known = None
        # What was asked for as "auto" or as a path stands there as what it came to, and is compared as that.
        settings = json.loads(json.dumps({name: about.get(name, value) for name, value in settings.items()}))
        told: list[tuple[dict, dict]] = []
        # What an earlier run says in another way than `known` is a whole run again, to be told against this one.
        for run in [*(known | run for run in known.pop("earlier", [])), known] if known else []:
            other = {name: run.get(name) for name, value in settings.items() if run.get(name, value) != value}
            if other and other not in [asked for asked, _ in told]:
                told.append((other, {name: run[name] for name in ("created", "git_commit") if name in run}))
        earlier = {"earlier": [other | when for other, when in told]} if told else {}
        write_json(path, {**settings, **about, "created": now(), **earlier})
