"""Answers to any number of texts: what is kept of rows that have none does not grow with their number."""

from __future__ import annotations

import json
import tracemalloc
from types import SimpleNamespace

import pytest
import torch

from ctsft.commands.predict import Predict
from ctsft.prediction import Labeller, Lines, Voice
from ctsft.tasks.demo.task import DEMO
from ctsft.tasks.form import form_of

NO_MODEL = SimpleNamespace(model=torch.nn.Linear(1, 1))  # an empty text is not asked


def test_rows_without_a_text_are_counted_and_only_the_first_ten_kept():
    labeller = Labeller(NO_MODEL, DEMO, [Voice("", None, 1.0)])
    rows = ((line, {"text": ""}) for line in range(2, 30_002))
    tracemalloc.start()
    try:
        for number, _ in enumerate(labeller.run(rows, "text", None), start=1):
            if number == 5_000:
                before = tracemalloc.get_traced_memory()[0]
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert labeller.skipped == Lines(30_000, list(range(2, 12)))
    assert grown < 100_000  # bytes; a number for every one of 25,000 lines is 200,000 and more


@pytest.mark.parametrize(("empty", "told"), [(9, "2, 3, 4, 5, 6, 7, 8, 9, 10"), (10, "2, 3, 4, 5, 6, 7, 8, 9, 10, 11")])
def test_all_of_a_few_rows_without_a_text_are_named(tmp_path, capsys, empty, told):
    assert note_of(tmp_path, capsys, empty) == f"note: {empty} rows have no text and got no label (lines {told})"


def test_of_many_rows_without_a_text_the_first_are_named(tmp_path, capsys):
    note = note_of(tmp_path, capsys, 1_000)
    assert note == "note: 1000 rows have no text and got no label (lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...)"


def note_of(folder, capsys, empty: int) -> str:
    """What `ctsft predict` says of a file of empty texts."""
    (folder / "ctsft.json").write_text(json.dumps({"task": form_of(DEMO), "temperature": 1.0}))
    (folder / "in.csv").write_text("text\n" + "\n" * empty)
    using = SimpleNamespace(model=str(folder), load=lambda: NO_MODEL, longest=lambda *about: 128)
    Predict(using, input=str(folder / "in.csv"), output=str(folder / "out.csv")).run()
    assert (folder / "out.csv").read_text().count("\n") == empty + 1
    return capsys.readouterr().err.splitlines()[-1]
