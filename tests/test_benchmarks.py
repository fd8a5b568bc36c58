"""Benchmarks are measured by hand; here that each starts and explains its flags, and what no machine changes."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest

from ctsft.study.record import append_rows, read_rows

FOLDER = Path(__file__).parents[1] / "benchmarks"


def test_agreement_pairs_cells_by_their_keys(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    pairs = runpy.run_path(str(FOLDER / "agreement.py"))["pairs"]
    one = FOLDER.parent / "results" / "demo"
    row = read_rows(one / "01_nusax_transfer.csv")[1]
    flipped = row["predictions"][:-1] + str((int(row["predictions"][-1]) + 1) % 3)
    less = f"{float(row['accuracy']) - 0.25:g}"
    append_rows(tmp_path / "x.csv", [{**row, "predictions": flipped, "accuracy": less, "theta1": "another"}])
    [line] = pairs(one, tmp_path).to_dict("records")
    assert (line["arm"], line["theta1"]) == (row["arm"], "each its own")
    assert line["answers"] == pytest.approx(1 - 1 / (len(flipped) - 1))
    assert line["target"] == pytest.approx(0.25)
    assert line["source"] == 0
    assert set(pairs(one, one)["theta1"]) == {"one", "none"}


def test_the_published_plan_follows_from_the_committed_rows(tmp_path, monkeypatch):
    """No time of this machine is in it. Else: python benchmarks/planning.py"""
    monkeypatch.syspath_prepend(str(FOLDER))
    plan = runpy.run_path(str(FOLDER / "planning.py"))["main"]
    monkeypatch.setitem(plan.__globals__, "RESULTS", tmp_path)
    monkeypatch.setattr(importlib.import_module("common"), "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["planning.py"])
    plan()
    published = FOLDER / "results" / "planning-100x10.csv"
    assert (tmp_path / published.name).read_text() == published.read_text()
    assert (tmp_path / published.with_suffix(".png").name).is_file()


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.py") if path.name != "common.py"))
def test_every_benchmark_explains_itself(name, monkeypatch, capsys):
    """In this process: a new one would import torch for each."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(FOLDER / name), run_name="__main__")
    assert stop.value.code in (0, None)
    assert f"python benchmarks/{name}" in capsys.readouterr().out
