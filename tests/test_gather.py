"""Folders that machines without a common disk have filled, brought together: what one folder would have had."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError
from ctsft.report.__main__ import tables_of
from ctsft.report.rows import Results
from ctsft.storage import Damaged, read_sealed, write_sealed
from ctsft.study import gather as gathering
from ctsft.study.beside import runs_of
from ctsft.study.gather import gather
from ctsft.study.record import COLUMNS, PROBE_COLUMNS, SET_COLUMNS, TABLES, append_rows, read_cells, read_rows

DEMO = Path(__file__).parents[1] / "results" / "demo"
SHARED = ("*.config.json", "gold.json")
BESIDE = ("theta1", "circuits", "relevance", "measures")


def _files(folder: Path) -> dict[str, object]:
    """What lies beside the rows; JSON whatever the order of its fields."""
    paths = (path for name in BESIDE for path in (folder / name).iterdir() if not path.name.endswith(".lock"))
    return {
        str(path.relative_to(folder)): json.loads(path.read_bytes()) if path.suffix == ".json" else path.read_bytes()
        for path in paths
    }


def _part(folder: Path, seed: int, further: bool = False) -> Path:
    """What a machine that ran `seed` alone would have, and the `further` seeds of known circuits."""
    folder.mkdir(parents=True)
    for pattern in SHARED:
        for path in DEMO.glob(pattern):
            shutil.copy(path, folder)
    mine = {key for key, row in read_cells(DEMO).items() if int(row["seed"]) == seed}
    for name in BESIDE:
        for path in (DEMO / name).iterdir():
            if f"-s{seed}-" in path.name:
                (folder / name).mkdir(exist_ok=True)
                shutil.copy(path, folder / name)
    for path in DEMO.glob("*.csv"):
        columns = TABLES["".join(path.suffixes)]
        rows = read_rows(path, columns)
        others = [row for row in rows if row.get("seed", "31") not in ("31", "777")] if further else []
        rows = [row for row in rows if row.get("cell") in mine or row.get("seed") == str(seed)]
        append_rows(folder / path.name, rows + others, columns)
    return folder


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("machines")
    return _part(base / "a" / "demo", 31, further=True), _part(base / "b" / "demo", 777)


@pytest.fixture
def half(halves, tmp_path) -> Path:
    """A copy of the second machine's, to be spoilt."""
    return Path(shutil.copytree(halves[1], tmp_path / "half" / "demo"))


@pytest.fixture(scope="module")
def whole(halves, tmp_path_factory) -> Path:
    into = tmp_path_factory.mktemp("all") / "demo"
    told = [gather(into, half) for half in halves]
    assert all(" 0 stay " in line for line in told)
    return into


def test_two_halves_are_the_whole(whole):
    assert _files(whole) == _files(DEMO)
    for path in DEMO.glob("*.csv"):
        columns = TABLES["".join(path.suffixes)]
        ours, theirs = (sorted(read_rows(folder / path.name, columns), key=str) for folder in (whole, DEMO))
        assert ours == theirs


def test_tables_of_the_whole_are_the_same(whole):
    ours, theirs = ({t.name: t for t in tables_of(Results.read(folder))} for folder in (whole, DEMO))
    # 07 and 08 have folders of their own, and the ranks of known circuits stand in the order in which rows came.
    kept = [name for name in theirs if not name.startswith(("demo_05_known", "demo_07", "demo_08"))]
    assert len(kept) > 10
    for name in kept:
        assert ours[name].cells.equals(theirs[name].cells), name
        assert ours[name].caption == theirs[name].caption


def _all_files(folder: Path) -> dict[Path, bytes]:
    """But for locks, which stay where they were taken."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


def test_what_is_there_already_stays(whole, halves):
    before = _all_files(whole)
    assert ": 0 rows came into" in gather(whole, halves[0])
    assert _all_files(whole) == before


def test_the_folder_that_rows_come_from_stays_as_it_is(half, tmp_path):
    before = {path: path.read_bytes() for path in half.rglob("*") if path.is_file()}
    gather(tmp_path / "into", half)
    assert {path: path.read_bytes() for path in half.rglob("*") if path.is_file()} == before


def test_what_was_measured_later_comes_later(half, tmp_path):
    """As script 06 leaves it on cells of script 01, which deepens maps and asks of more related tests too."""
    early = Path(shutil.copytree(half, tmp_path / "early" / "demo", ignore=shutil.ignore_patterns("measures")))
    [shallow, *_] = sorted((early / "relevance").glob("*.json"))
    relevance = Relevance.load(shallow.with_suffix(""))
    relevance.columns = dict(list(relevance.columns.items())[:1])
    relevance.save(shallow.with_suffix(""))
    into = tmp_path / "into"
    gather(into, early)
    assert not (into / "measures").exists()
    gather(into, half)
    assert _files(into) == _files(half)
    [measure, *_] = sorted((into / "measures").iterdir())
    write_sealed(measure, read_sealed(measure) | {"related": {}})
    gather(into, half)
    assert _files(into) == _files(half)
    gather(into, early)
    assert _files(into) == _files(half)


def test_a_map_that_was_cut_short_is_made_good(half, tmp_path):
    into = tmp_path / "into"
    gather(into, half)
    [columns, *_] = sorted((into / "relevance").glob("*.safetensors"))
    columns.unlink()
    gather(into, half)
    assert _files(into) == _files(half)


def test_what_was_measured_of_a_cell_that_differs_stays(halves, half, tmp_path):
    """A cell that starts from no theta1 may be answered in another way on each machine; its probes are of its model."""
    into, path = tmp_path / "into" / "demo", half / "01_nusax_transfer.csv"
    row = next(row for row in read_rows(path) if row["arm"] == "direct")
    into.mkdir(parents=True)
    append_rows(into / path.name, [row | {"predictions": f"p{row['predictions'][:0:-1]}"}])
    probe = read_rows(half / "04_forgetting.probes.csv", PROBE_COLUMNS)[0] | {"cell": row["cell"]}
    append_rows(half / "04_forgetting.probes.csv", [probe], PROBE_COLUMNS)
    gather(into, half)
    cells = {line["cell"] for line in read_rows(into / "04_forgetting.probes.csv", PROBE_COLUMNS)}
    assert row["cell"] not in cells
    assert len(cells) > 10
    assert read_cells(into)[row["cell"]]["predictions"] != row["predictions"]


def test_rows_of_a_cell_that_another_script_ran_are_not_brought_twice(halves, tmp_path):
    source = tmp_path / "demo"
    source.mkdir()
    shutil.copy(DEMO / "gold.json", source)
    shutil.copy(DEMO / "01_nusax_transfer.config.json", source / "03_editing_preserving_tradeoff.config.json")
    rows = read_rows(halves[0] / "01_nusax_transfer.csv")
    append_rows(source / "03_editing_preserving_tradeoff.csv", rows)
    into = Path(shutil.copytree(halves[0], tmp_path / "into" / "demo"))
    assert f"0 rows came into {into}, {len(rows)} stay" in gather(into, source)


def test_runs_of_both_are_told_the_last_one_last(halves, tmp_path):
    into = Path(shutil.copytree(halves[0], tmp_path / "into" / "demo"))
    other = Path(shutil.copytree(halves[1], tmp_path / "other" / "demo"))
    path = other / "01_nusax_transfer.config.json"
    first = json.loads((into / path.name).read_text())
    path.write_text(json.dumps(first | {"lrs": [0.5], "created": "2020-01-01", "data_sha256": {"x/test": "1"}}))
    gather(into, other)
    runs = runs_of(json.loads((into / path.name).read_text()))
    assert [0.5] in [run["lrs"] for run in runs]
    assert runs[-1]["created"] == first["created"]
    assert runs[-1]["data_sha256"] == {"x/test": "1"} | first["data_sha256"]


def _spoil_rows(folder: Path, name: str, columns: Sequence[str], **other: str) -> None:
    """Rows that were tuned from theta1 say something else."""
    rows = [row | other for row in read_rows(folder / name, columns) if row["theta1"] and not row.get("circuit")]
    (folder / name).unlink()
    append_rows(folder / name, rows, columns)


def _spoil_cells(folder: Path, **other: str) -> None:
    _spoil_rows(folder, "01_nusax_transfer.csv", COLUMNS, **other)


def _spoil_sets(folder: Path) -> None:
    _spoil_rows(folder, "05_faithfulness.sets.csv", SET_COLUMNS, seed="31", theta1="0" * 16)


def _spoil_digits(folder: Path) -> None:
    """As a run with other epochs leaves them."""
    path = folder / "01_nusax_transfer.csv"
    rows = [row | {"cell": f"{row['cell'][:-6]}0a1b2c"} for row in read_rows(path) if row["theta1"]]
    path.unlink()
    append_rows(path, rows)


def _spoil_labels(folder: Path) -> None:
    gold = json.loads((folder / "gold.json").read_text())
    for entry in gold.values():
        entry["labels"] = entry["labels"][:-1] + str(1 - int(entry["labels"][-1] == "1"))
        entry.pop("labels_sha256", None)
    (folder / "gold.json").write_text(json.dumps(gold))


def _spoil_data(folder: Path) -> None:
    for path in folder.glob("*.config.json"):
        known = json.loads(path.read_text())
        path.write_text(json.dumps(known | {"data_sha256": dict.fromkeys(known["data_sha256"], "0" * 16)}))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: _spoil_cells(folder, model_hash="0" * 16, model="other"), "are of several models: .*other"),
        (lambda folder: _spoil_cells(folder, seed="31", theta1="0" * 16), "cells, demo, .*31 has other weights in"),
        (_spoil_sets, "sets of heads, demo, .*31 has other weights in"),
        (_spoil_digits, "were made with other settings .*0a1b2c"),
        (_spoil_labels, "are others than those that rows in"),
        (_spoil_data, "has changed since the rows in"),
        (lambda folder: (folder / "gold.json").unlink(), "not its labels"),
        (lambda folder: [path.unlink() for path in folder.glob("*.config.json")], "not its labels .* and settings"),
    ],
)
def test_other_models_starts_labels_and_data_are_refused(spoil, told, halves, half, tmp_path):
    into = Path(shutil.copytree(halves[0], tmp_path / "into" / "demo"))
    spoil(half)
    before = _all_files(into)
    with pytest.raises(UserError, match=told):
        gather(into, half)
    assert _all_files(into) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("01_nusax_transfer.csv", ",0.", ",1."),
        ("01_nusax_transfer.config.json", '"created"', '"made"'),
        ("gold.json", '"labels"', '"label"'),
        ("circuits", '"heads"', '"head"'),
        ("theta1", '"seed"', '"seeds"'),
        ("measures", '"related"', '"relates"'),
        ("relevance", '"scorer"', '"scores"'),
    ],
)
def test_damaged_files_are_named_and_nothing_is_brought(name, old, new, half, tmp_path):
    path = half / name if (half / name).is_file() else next(path for path in sorted((half / name).glob("*.json")))
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(Damaged, match=path.stem):
        gather(tmp_path / "into", half)
    assert not _all_files(tmp_path / "into")  # but for a lock


def test_a_damaged_measure_stops_it_before_anything_is_written(halves, half, tmp_path):
    into = tmp_path / "into" / "demo"
    gather(into, half)
    [measure, *_] = sorted((into / "measures").iterdir())
    measure.write_text(measure.read_text().replace('"related"', '"relates"', 1))
    append_rows(half / "01_nusax_transfer.csv", [read_rows(halves[0] / "01_nusax_transfer.csv")[0]])
    before = _all_files(into)
    with pytest.raises(Damaged, match=measure.stem):
        gather(into, half)
    assert _all_files(into) == before


def test_a_row_that_a_run_writes_during_a_gather_stays(half, tmp_path, monkeypatch):
    into, name = tmp_path / "into" / "demo", "01_nusax_transfer.csv"
    row = read_rows(half / name)[0] | {"created": "by the run"}
    bring = gathering.add_gold

    def while_a_run_goes_on(*arguments):
        append_rows(into / name, [row])
        bring(*arguments)

    monkeypatch.setattr(gathering, "add_gold", while_a_run_goes_on)
    gather(into, half)
    assert read_cells(into)[row["cell"]] == row
    assert len(read_rows(into / name)) == len(read_rows(half / name))


def test_a_folder_without_rows_or_the_same_one_is_refused(halves, tmp_path):
    with pytest.raises(UserError, match="no result rows in"):
        gather(halves[0], tmp_path)
    with pytest.raises(UserError, match="into itself"):
        gather(halves[0], halves[0].parent / "demo")


def test_the_command_ends_in_a_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ctsft.study.gather", str(tmp_path / "into"), str(tmp_path / "gone")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no result rows in")
    assert done.stderr.count("\n") == 1
