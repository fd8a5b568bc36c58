"""What lies beside the rows of a results folder: the labels of the tests, the data and settings they were made from."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from ctsft.errors import UserError
from ctsft.provenance import now
from ctsft.storage import Damaged, digest, locked, read_json, read_or_aside, read_sealed, write_json, write_sealed
from ctsft.study.record import SET_COLUMNS, SETS, read_cells, read_rows
from ctsft.tasks.task import Rows, digits, from_digits

# What rows were made from: sha256 by task, then by language/split.
DATA = "data.json"
GOLD = "gold.json"


def read_gold(path: Path) -> dict[str, dict]:
    """The entries of `keep_gold`'s file; Damaged where one is not what was written."""
    found = read_json(path)
    for test, entry in found.items():
        try:
            from_digits(entry["labels"])
            checksum = entry.get("labels_sha256")  # entries from before there were checksums have none
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise Damaged(f"{path} does not hold the labels of {test}.") from error
        if checksum not in (None, _checksum(test, entry["labels"])):
            raise Damaged(f"{path}: the labels of {test} do not have the checksum that they were written with.")
    return found


def _checksum(test: str, labels: str) -> str:
    return digest(f"{test} {labels}")


def keep_gold(folder: Path, tests: dict[str, Rows]) -> None:
    """Write the labels of the test rows beside the results (`task/language` -> `p` and a digit per row).

    With them every accuracy, interval and paired test follows from the committed files alone.
    """
    labels = {name: digits([example.label for example in rows.examples]) for name, rows in tests.items()}
    add_gold(
        folder,
        {
            name: {"labels": labels[name], "sha256": rows.sha256, "labels_sha256": _checksum(name, labels[name])}
            for name, rows in tests.items()
        },
    )


def add_gold(folder: Path, new: dict[str, dict]) -> None:
    """Add these entries of `read_gold` to those in `folder`; UserError where labels of a test there are others."""
    path = folder / GOLD
    with locked(path):
        known = read_or_aside(path, read_gold)
        for name in known.keys() & new.keys():
            if known[name]["labels"] != new[name]["labels"]:
                raise UserError(
                    f"the labels of {name} are others than those that rows in {folder} were scored by, so the data are "
                    "not the same (XNLI from the hub is split by other ids than from files). Give another --output."
                )
        both = known | {name: entry | known.get(name, {}) for name, entry in new.items()}
        if known != both:
            write_json(path, dict(sorted(both.items())))


def refuse_other_model(folder: Path, model: str, weights: str) -> None:
    """Stop where `folder` has rows of other weights than these: a table would take them for one model's."""
    for name, known in models_of(folder, read_or_aside):
        if known != weights:
            raise UserError(
                f"the rows and theta1 in {folder} are of {name} (weights {known}), and this run's model is {model} "
                f"(weights {weights}). Name that model with --model, or give another --output."
            )


def models_of(folder: Path, read: Callable[[Path], dict] = read_sealed) -> list[tuple[str, str]]:
    """Name and weights of every model that `folder` is of: by cells, script 05's sets of heads, and every theta1.

    Tables of scripts 07 and 08, in folders of their own, name no weights; theta1, which they began from, does. `read`:
    what to do about a damaged record of one.
    """
    sets = [row for path in sorted(folder.glob(f"*{SETS}")) for row in read_rows(path, SET_COLUMNS)]
    starts = [about for path in sorted((folder / "theta1").glob("*.json")) if (about := read(path))]
    return sorted({(row["model"], row["model_hash"]) for row in (*read_cells(folder).values(), *sets, *starts)})


def refuse_other_data(folder: Path, task: str, hashes: dict[str, str]) -> None:
    """Stop where `folder` has rows of this task that were made from files with another content, or read otherwise.

    `hashes` are those of `StudyData.data_sha256`.
    """
    with locked(folder / DATA):
        known = _known_hashes(folder)
    for name, sha256 in known.get(task, {}).items():
        if hashes.get(name, sha256) != sha256:
            raise UserError(
                f"{task}/{name} has changed since the rows in {folder} were made, or task.json says to read it in "
                f"another way (see {DATA} there). Rows of both would be mixed: give another --output, or move that "
                "folder away."
            )


def keep_hashes(folder: Path, task: str, hashes: dict[str, str]) -> None:
    """Add these files of a task to those that rows in `folder` were made from."""
    path = folder / DATA
    with locked(path):
        known = _known_hashes(folder)
        new = known | {task: known.get(task, {}) | hashes}
        if not path.is_file() or known != new:
            write_sealed(path, new)


def hashes_by_task(settings: Iterable[dict], data: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """By task, what rows were made from: what DATA says; where it says nothing of a task, what `settings` of rows say.

    So it is for rows from before there was such a file, and where a damaged one was set aside.
    """
    said: dict[str, dict[str, str]] = {}
    for run in settings:
        said.setdefault(run["task"], {}).update(run["data_sha256"])
    return said | data


def _known_hashes(folder: Path) -> dict[str, dict[str, str]]:
    settings = []
    for path in sorted(folder.glob("*.config.json")):
        with locked(path):
            settings.append(read_or_aside(path, read_json))
    return hashes_by_task(filter(None, settings), read_or_aside(folder / DATA))


def write_settings(path: Path, settings: Mapping[str, object], about: Mapping[str, object]) -> None:
    """Write beside a table what the last run asked for (`settings`) and where it ran; `earlier` has the other runs.

    Of each of these, what it asked for in another way than the last, when, and by which code.
    """
    with locked(path):
        known = read_or_aside(path, read_json)
        # What was asked for as "auto" or as a path stands there as what it came to, and is compared as that.
        settings = json.loads(json.dumps({name: about.get(name, value) for name, value in settings.items()}))
        last = {**settings, **about, "created": now()}
        write_json(path, told_by_the_last([*runs_of(known), last], settings))


def runs_of(known: Mapping[str, object]) -> list[dict]:
    """Every run that a settings file tells of, whole, the last one last; none where `known` is empty."""
    last = {name: value for name, value in known.items() if name != "earlier"}
    return [*(last | run for run in known.get("earlier", [])), last] if known else []


def told_by_the_last(runs: Sequence[dict], names: Collection[str]) -> dict:
    """What a settings file of these runs holds; `names` are the settings that runs are told apart by."""
    *others, last = runs
    told: list[tuple[dict, dict]] = []
    for run in others:
        other = {name: run.get(name) for name in names if run.get(name, last.get(name)) != last.get(name)}
        if other and other not in [asked for asked, _ in told]:
            told.append((other, {name: run[name] for name in ("created", "git_commit") if name in run}))
    return {**last, **({"earlier": [other | when for other, when in told]} if told else {})}
