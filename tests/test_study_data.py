"""The rows of a study: a start tells how many of each label there are."""

from __future__ import annotations

import runpy
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from own_data import LABELS, label_words, sentences, write_jsonl, write_topics

from ctsft.study.config import StudyConfig
from ctsft.study.data import StudyData
from ctsft.study.run import run_study
from ctsft.tasks.demo.task import DEMO
from ctsft.tasks.task import SPLITS

PRESETS = runpy.run_path(str(Path(__file__).parents[1] / "experiments" / "01_nusax_transfer.py"))["PRESETS"]


@pytest.fixture
def demo(tmp_path) -> StudyConfig:
    return replace(PRESETS["demo"], targets=("d30", "d90"), seeds=(31,), output=tmp_path / "out", dry_run=True)


def own(data: Path, *targets: str) -> StudyConfig:
    words = dict(task="topics", label_words=label_words(), source="d00", targets=targets)
    return replace(PRESETS["demo"], **words, data_dir=data, n_source=40, n_targets=(20,), output=data / "out")


def test_a_start_tells_the_labels_of_every_split_in_one_line(demo, capsys):
    assert run_study(demo) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("rows of ")]
    counts = {name: Counter(e.label for e in DEMO.load("d90", name).examples) for name in SPLITS}
    told = ", ".join(f"{name} {own[0]}/{own[1]}/{own[2]}" for name, own in counts.items())
    assert line == f"rows of negative/neutral/positive: {told}"
    assert sum(counts["test"].values()) == 400


def test_languages_with_other_numbers_have_a_line_of_their_own(tmp_path):
    data = write_topics(tmp_path, ("d00", "d50", "d90"))
    rows = [row for row in sentences("d50", "test", 100) if row["label"] != "food"]
    write_jsonl(data / "topics" / "d50" / "test.jsonl", [*rows, *sentences("d50", "test", 4)])
    what, before = f"rows of {'/'.join(LABELS)} in", "train 120/120/120/120, valid 15/15/15/15, test"
    assert StudyData(own(data, "d50", "d90")).label_counts() == [
        f"{what} d00, d90: {before} 25/25/25/25",
        f"{what} d50: {before} 26/1/26/26",
    ]


def test_a_label_that_no_row_has_is_counted_too(tmp_path):
    data = write_topics(tmp_path)
    for language in ("d00", "d50"):
        rows = [row for row in sentences(language, "valid", 60) if row["label"] != "food"]
        write_jsonl(data / "topics" / language / "valid.jsonl", rows)
    [line] = StudyData(own(data, "d50")).label_counts()
    assert ", valid 15/0/15/15, " in line
