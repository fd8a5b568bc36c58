"""Plans of a study: cases that a pencil can check, the bounds of list scheduling, and what --dry-run prints."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import small_study

from ctsft.study.estimate import Times, size
from ctsft.study.grid import Cell, Scores, Theta1, cells, stages
from ctsft.study.planning import Plan, Stage, best, duration, makespan, plans
from ctsft.study.record import read_rows
from ctsft.study.run import run_study
from ctsft.study.workbench import Workbench

ROOT = Path(__file__).parents[1]

# theta1 10, scores 2, a cell without heads 4, four cells with heads of 3.
STUDY = [Stage(10), Stage(2, 0), Stage(4, 0), Stage(3, 1), Stage(3, 1), Stage(3, 1), Stage(3, 1)]


@pytest.mark.parametrize(
    ("workers", "seconds"),
    [
        (1, 28),  # all of it
        # From 10 on one makes the scores, then cells at 12 and 15; the other is free at 14, and does two more.
        (2, 20),
        (3, 18),  # two do cells at 12, the third joins them at 14, and the last cell begins at 15
        (5, 15),  # the chain: 10 + 2 + 3
        (100, 15),
    ],
)
def test_a_study_small_enough_for_a_pencil(workers, seconds):
    assert makespan(STUDY, workers) == seconds


def test_a_plan_is_the_time_and_what_limits_it():
    assert plans(STUDY, (1, 2, 100)) == [
        Plan(1, 28, 1.0, 1.0, "work"),
        Plan(2, 20, pytest.approx(28 / 20), pytest.approx(28 / 40), "chain"),
        Plan(100, 15, pytest.approx(28 / 15), pytest.approx(28 / 1500), "chain"),
    ]
    assert best(plans(STUDY)).workers == 1


def test_seeds_beside_each_other_share_nothing():
    two = [*STUDY, *(Stage(stage.seconds, None if stage.after is None else stage.after + 7) for stage in STUDY)]
    assert makespan(two, 1) == 56
    assert makespan(two, 10) == 15


def test_nothing_to_do_takes_no_time():
    assert makespan([], 3) == 0
    assert best(plans([])).workers == 1


@st.composite
def forests(draw) -> list[Stage]:
    seconds = draw(st.lists(st.integers(0, 20), min_size=1, max_size=30))
    return [
        Stage(float(length), draw(st.none() | st.integers(0, number - 1)) if number else None)
        for number, length in enumerate(seconds)
    ]


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(forests(), st.integers(1, 12))
def test_no_plan_beats_its_bounds_and_none_is_worse_than_grahams(study, workers):
    total = sum(stage.seconds for stage in study)
    ends: list[float] = []
    for stage in study:
        ends.append(stage.seconds + (0.0 if stage.after is None else ends[stage.after]))
    chain = max(ends)
    taken = makespan(study, workers)
    assert max(total / workers, chain) - 1e-9 <= taken
    assert taken <= total / workers + chain * (1 - 1 / workers) + 1e-9
    assert makespan(study, 1) == total
    assert makespan(study, len(study)) == chain


def test_the_stages_of_a_grid_wait_for_theta1_and_scores(tmp_path):
    todo = cells(replace(small_study(tmp_path), arms=("direct", "full", "ngrams", "circuit:1,0,1", "near_zero:2")))
    found = stages(todo)
    assert [stage for stage, _ in found if isinstance(stage, Cell)] == todo
    assert [stage for stage, _ in found if isinstance(stage, Theta1)] == [Theta1(31), Theta1(777)]
    for number, (stage, after) in enumerate(found):
        before = None if after is None else found[after][0]
        assert after is None or after < number
        if isinstance(stage, Theta1):
            assert before is None
        elif isinstance(stage, Scores):
            assert before == {1: Theta1(stage.seed), 0: Scores(stage.seed, 1, 0.02)}.get(
                stage.depth, Scores(stage.seed, 0, 0.02)
            )
        elif stage.arm in ("direct", "ngrams"):
            assert before is None
        else:
            needs = Theta1(stage.seed) if stage.arm == "full" else Scores(stage.seed, stage.depth, 0.02)
            assert before == needs


def test_dry_run_plans_from_what_was_measured(tmp_path, capsys):
    config = replace(small_study(tmp_path), probes=(), scorer="cdt")
    assert run_study(replace(config, seeds=(31,))) == 0
    capsys.readouterr()
    assert run_study(replace(config, n_targets=(20, 40), dry_run=True)) == 0
    out = capsys.readouterr().out
    assert "medians of 5 cells, 1 theta1 and 1 maps" in out
    assert "CPU hours for 13 cells" in out
    assert "disk: about 1.5 MB, of which 1.4 MB are 1 theta1" in out
    assert [line.split()[0] for line in out.splitlines() if line.endswith((" work", " chain"))] == [
        str(2**power) for power in range(9)
    ]
    times = Times(Workbench(replace(config, n_targets=(20, 40))))
    [row] = [row for row in read_rows(tmp_path / "demo" / "01_nusax_transfer.csv") if row["arm"] == "full"]
    seconds = [times.of(Cell("d30", n, "full", None, 1e-3, 777)) for n in (20, 40)]
    assert seconds[0] == pytest.approx(float(row["train_seconds"]) + float(row["eval_seconds"]))
    assert seconds[1] - seconds[0] == pytest.approx(float(row["train_seconds"]))
    assert times.of(Theta1(31)) == 0 < times.of(Theta1(777))
    # What the default score gives it gives of all depths at once. On the micro model it may take no time to speak of.
    times.scores = [one | {"seconds": 2.0} for one in times.scores]
    deeper = [Scores(seed, depth, 0.02) for seed in (31, 777) for depth in (0, 1)]
    assert [times.of(stage) > 0 for stage in deeper] == [False, False, True, False]
    assert [times.of(stage) > 0 for stage in deeper] == [False, False, True, False]


def test_where_tests_are_compared_with_theta1_every_cell_waits_for_it():
    todo = [Cell("d30", 20, "direct", None, 1e-3, 31), Cell("d30", 20, "full", None, 1e-3, 31)]
    assert [after for _, after in stages(todo)] == [None, None, 1]
    assert [after for _, after in stages(todo, compared=True)] == [None, 0, 0]


def test_probes_take_time_too(tmp_path):
    config = replace(small_study(tmp_path), by_epoch=False)
    cell = Cell("d30", 20, "full", None, 1e-3, 31)
    plain, probed = (Times(Workbench(replace(config, probes=probes))) for probes in ((), ("demo/d50",)))
    plain.forward = probed.forward = 1.0
    assert probed.of(cell) - plain.of(cell) == len(probed.bench.split("d50", "test").examples)


def test_a_reader_that_goes_early_is_no_error(tmp_path):
    command = f"'{sys.executable}' '{ROOT}/experiments/01_nusax_transfer.py' --dry-run --output '{tmp_path}'"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    read = subprocess.run(["bash", "-c", f"{command} | head -1"], capture_output=True, text=True, env=environment)
    assert read.stdout == "preset demo: demo, d00 to d10, d30, d50, d70, d90, demo\n"
    assert read.stderr == ""


def test_times_and_sizes_are_in_readable_units():
    assert [duration(value) for value in (90, 150, 7200, 864_000)] == ["90 s", "2 min", "2.0 h", "10 days"]
    assert [size(value) for value in (1_400_000, 2e9)] == ["1.4 MB", "2.0 GB"]
