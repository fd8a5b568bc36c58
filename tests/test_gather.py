"""Folders that machines without a common disk have filled, brought together: what one folder would have had."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ctsft.errors import UserError
from ctsft.report.__main__ import tables_of
from ctsft.report.rows import Results
from ctsft.storage import Damaged, read_sealed, write_sealed
from ctsft.study.beside import runs_of
from ctsft.study.gather import gather
from ctsft.study.record import COLUMNS, TABLES, append_rows, read_cells, read_rows, unit_of

DEMO = Path(__file__).parents[1] / "results" / "demo"
SHARED = ("*.config.json", "gold.json")
BESIDE = ("theta1", "circuits", "relevance", "measures")


def _files(folder: Path) -> dict[str, bytes]:
    paths = (path for name in BESIDE for path in (folder / name).iterdir() if not path.name.endswith(".lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


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
    assert all("which had 0 already" in line for line in told)
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


def test_what_is_there_already_stays(whole, halves):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    line = gather(whole, halves[0])
    assert ": 0 rows came into" in line
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_rows_of_a_cell_that_another_script_ran_are_not_brought_twice(halves, tmp_path):
    source = tmp_path / "demo"
    source.mkdir()
    shutil.copy(DEMO / "gold.json", source)
    shutil.copy(DEMO / "01_nusax_transfer.config.json", source / "03_editing_preserving_tradeoff.config.json")
    rows = read_rows(halves[0] / "01_nusax_transfer.csv")
    append_rows(source / "03_editing_preserving_tradeoff.csv", rows)
    into = Path(shutil.copytree(halves[0], tmp_path / "into" / "demo"))
    assert f"0 rows came into {into}, which had {len(rows)} already" in gather(into, source)


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


def _spoil_row(folder: Path, **other: str) -> None:
    path = folder / "01_nusax_transfer.csv"
    append_rows(path, [row | other for row in read_rows(path) if row["theta1"]][:1])


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
        (lambda folder: _spoil_row(folder, model_hash="0" * 16, model="other"), "are of several models: .*other"),
        (lambda folder: _spoil_row(folder, seed="31", theta1="0" * 16), "seed 31.* has other weights in"),
        (_spoil_labels, "are others than those that rows in"),
        (_spoil_data, "has changed since the rows in"),
    ],
)
def test_other_models_starts_labels_and_data_are_refused(spoil, told, halves, half, tmp_path):
    into = Path(shutil.copytree(halves[0], tmp_path / "into" / "demo"))
    spoil(half)
    before = {path.name: path.read_bytes() for path in into.glob("*.csv")}
    with pytest.raises(UserError, match=told):
        gather(into, half)
    assert {path.name: path.read_bytes() for path in into.glob("*.csv")} == before


def test_damaged_files_are_named_and_nothing_is_brought(half, tmp_path):
    [first, *_] = sorted((half / "circuits").iterdir())
    first.write_text(first.read_text().replace('"heads"', '"head"'))
    with pytest.raises(Damaged, match=first.name):
        gather(tmp_path / "into", half)
    write_sealed(first, read_sealed(DEMO / "circuits" / first.name))
    table = half / "01_nusax_transfer.csv"
    table.write_text(table.read_text().replace(",0.", ",1.", 1))
    with pytest.raises(Damaged, match="does not have the checksum"):
        gather(tmp_path / "into", half)
    assert not (tmp_path / "into").exists() or not list((tmp_path / "into").glob("*.csv"))


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


def test_cells_are_units(halves):
    """`gather` looks for cells by their key over all tables, and for other units within theirs."""
    row = read_rows(halves[0] / "01_nusax_transfer.csv")[0]
    assert unit_of(row, COLUMNS) == row["cell"]
