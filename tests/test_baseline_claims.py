"""Claims about baselines: verdicts follow the rows both ways, and what has not been run is said to be not run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ctsft.report import baseline_claims as module
from ctsft.report.baseline_claims import ASKED, Arithmetics, Arms, judge_baselines
from ctsft.report.choosing import ODYSSEY, at_one_rate, at_validated_rate
from ctsft.report.claims import judge
from ctsft.report.claims_page import claims_page
from ctsft.report.fair import at_common_rates, rates_by_seed
from ctsft.report.measured import odyssey_results
from ctsft.report.otherwise import judge_otherwise
from ctsft.report.render import rate_text
from ctsft.report.rows import Results
from ctsft.report.situations import odyssey_page
from ctsft.report.summary import report_page
from ctsft.storage import write_json
from ctsft.study.measure_files import path_of
from ctsft.study.record import append_rows, read_rows

DEMO = Path(__file__).parents[1] / "results" / "demo"


@pytest.fixture(scope="module")
def without(tmp_path_factory) -> Results:
    """The committed demo rows, but for those of scripts 06, 07 and 08."""
    folder = tmp_path_factory.mktemp("results") / "demo"
    missing = shutil.ignore_patterns("cache", "measures", "costs", "self_training", "06_*")
    return Results.read(shutil.copytree(DEMO, folder, ignore=missing))


def test_what_was_not_run_is_said_to_be_not_run(without):
    judged = judge_baselines(without)
    assert [judgement.claim for judgement in judged] == list(ASKED)
    assert {judgement.verdict for judgement in judged} == {"not run"}
    assert claims_page([without]).count("**not run**") == len(ASKED)
    assert odyssey_page([without]).endswith("Not run (scripts 06 and 08).\n")


def test_the_claims_page_begins_with_all_verdicts(without):
    glance = claims_page([without]).split("## At a glance")[1].split("## C1.")[0]
    judged = {j.claim: j.verdict for j in [*judge(without), *judge_baselines(without)]}
    lines = [line.split("|") for line in glance.splitlines() if line.startswith(("| C", "| B"))]
    assert {line[1].split(".")[0].strip(): line[2].split(";")[0].strip() for line in lines} == judged
    others = {
        f"{which}: {j.verdict}"
        for which, j in judge_otherwise(without)
        if j.verdict not in ("not run", judged[j.claim])
    }
    assert others
    assert {told.strip() for line in lines for told in line[2].split(";")[1:]} == others


def test_what_another_folder_of_the_model_has_run_is_not_told_as_missing(without, tmp_path):
    whole, part = Results.read(DEMO), Results.read(shutil.copytree(without.folder, tmp_path / "part"))
    for folders in ([whole, part], [part, whole]):
        page = claims_page(folders)
        assert "**not run**" not in page
        assert "- `part` (demo): " in page.split("## C1.")[1].split("## C2.")[0]
        assert "`part`" not in page.split("## B1.")[1]
    report = report_page([part, whole])
    assert report.count("- C1. ") == report.count("- B1. ") == 1
    told = next(line for line in report.splitlines() if line.startswith("- B1. "))
    assert "not run" not in told
    assert "(`demo`)." in told


def test_no_verdict_without_its_interval():
    judged = judge_baselines(Results.read(DEMO))
    assert {judgement.verdict for judgement in judged} <= {"supported", "contradicted", "undecided", "not run"}
    for judgement in judged:
        assert judgement.verdict == "not run" or ("[" in judgement.number and judgement.data)


def test_arms_are_compared_at_the_rates_that_both_had():
    """A grid that is half done must not favour the arm with more tries."""
    rows, asked = odyssey_results(DEMO).rows, ASKED["B11"]
    highest = rows["lr"] == rows["lr"].max()
    gone = highest & (rows["arm"] == asked.first)
    told = module.by_arms("B11", asked, rows[~gone])
    assert told == module.by_arms("B11", asked, rows[~highest])
    assert rate_text(rows["lr"].max()) not in told.data
    assert rate_text(rows["lr"].max()) in module.by_arms("B11", asked, rows).data
    assert module.by_arms("B11", asked, rows[(rows["arm"] != asked.first) | highest]).verdict != "not run"
    apart = rows[((rows["arm"] == asked.first) & highest) | ((rows["arm"] == asked.second) & ~highest)]
    assert module.by_arms("B11", asked, apart).verdict == "not run"


def test_a_rate_that_one_seed_lacks_is_left_out_for_both_arms_on_that_seed_alone():
    rows, asked = odyssey_results(DEMO).rows, ASKED["B11"]
    highest = (rows["lr"] == rows["lr"].max()) & (rows["seed"] == 31)
    told = module.by_arms("B11", asked, rows[~(highest & (rows["arm"] == asked.first))])
    assert told == module.by_arms("B11", asked, rows[~(highest & rows["arm"].isin([asked.first, asked.second]))])
    assert "(fewer on d70 n = 100, seed 31)" in told.data
    assert "fewer" not in module.by_arms("B11", asked, rows).data
    assert f"{rate_text(rows['lr'].max())} (fewer" in told.data  # the other seed has it


@pytest.mark.parametrize("claim", [claim for claim, asked in ASKED.items() if isinstance(asked, Arms)])
def test_arms_are_judged_by_their_answers(claim):
    """The arm that answers everything right wins against one that answers nothing right."""
    asked, results = ASKED[claim], odyssey_results(DEMO)
    rows = results.rows
    answers, gold = asked.of
    verdicts = []
    for winner in (asked.first, asked.second):
        right = [g if arm == winner else (g + 1) % 3 for arm, g in zip(rows["arm"], rows[gold], strict=True)]
        verdicts.append(module.by_arms(claim, asked, rows.assign(**{answers: right})).verdict)
    assert verdicts == ["supported", "contradicted"]


def share(of: float, n: int = 400) -> np.ndarray:
    """Answers of which this share is right, where all labels are 1."""
    return (np.arange(n) < of * n).astype(int)


@pytest.mark.parametrize(
    ("first", "second", "threshold", "verdict"),
    [
        (0.8, 0.6, 0.0, "supported"),
        (0.6, 0.8, 0.0, "contradicted"),
        (0.8, 0.8, 0.0, "undecided"),
        (0.8, 0.8, -0.025, "supported"),
        (0.7, 0.8, -0.025, "contradicted"),
    ],
)
def test_arithmetics_are_judged_by_paired_answers(first, second, threshold, verdict):
    columns = dict(where="everywhere", gold=[np.ones(400, int)] * 2, real_error=0.05, n_rows=400, language="d00")
    rows = pd.DataFrame({"arithmetic": ["one", "other"], "answers": [share(first), share(second)]}).assign(**columns)
    judged = module.by_arithmetics("B", Arithmetics("", "one", "other", threshold), rows)
    assert judged.verdict == verdict
    assert "5.0% against 5.0%" in judged.number
    unknown = module.by_arithmetics(
        "B", Arithmetics("", "one", "other", threshold), rows.assign(real_error=[0.05, None])
    )
    assert (unknown.verdict, "5.0% against –" in unknown.number) == (verdict, True)


def test_of_a_cell_that_two_scripts_ran_each_reads_its_own_row(without, tmp_path):
    folder = Path(shutil.copytree(without.folder, tmp_path / "demo"))
    row = next(row for row in read_rows(folder / "01_nusax_transfer.csv") if row["arm"] == "full")
    answers = "p" + "0" * (len(row["predictions"]) - 1)
    append_rows(folder / f"{ODYSSEY}.csv", [row | {"experiment": ODYSSEY, "predictions": answers, "theta1": "other"}])
    write_json(path_of(folder, row["cell"]), {})
    for results, theta1 in ((Results.read(folder), row["theta1"]), (odyssey_results(folder), "other")):
        [found] = results.rows[results.rows["cell"] == row["cell"]].to_dict("records")
        assert found["theta1"] == theta1
        assert (found["answers"].max() == 0) == (theta1 == "other")


def test_variants_are_never_picked(without, tmp_path):
    """Not even where validation prefers them: an arm with three strengths would have three times as many tries."""
    folder = Path(shutil.copytree(without.folder, tmp_path / "demo"))
    row = next(row for row in read_rows(folder / "01_nusax_transfer.csv") if row["arm"] == "full")
    made = [
        row | {"arm": arm, "cell": f"{arm}-{row['cell']}", "experiment": ODYSSEY, "valid_accuracy": valid}
        for arm, valid in (("l2sp", 0.5), ("l2sp_1", 0.7), ("l2sp_0.01", 0.6))
    ]
    append_rows(folder / f"{ODYSSEY}.csv", made)
    rows = Results.read(folder).rows
    rows = rows[rows["arm"] == "l2sp"]
    assert len(rows) == 3
    for found in (at_validated_rate(rows), at_one_rate(rows), at_common_rates(rows, ("l2sp", "full"))):
        assert found["cell"].tolist() == [made[0]["cell"]]
    higher = rows["lr"].where(rows["variant"].isna(), 0.5)
    assert rates_by_seed(rows, rows.assign(lr=higher)) == {int(row["seed"]): {float(row["lr"])}}


def test_thresholds_are_the_same_both_ways():
    """Swapping the arms of a claim with threshold 0 swaps its verdict."""
    asked, results = ASKED["B4"], odyssey_results(DEMO)
    verdicts = {
        module.by_arms("B4", one, results.rows).verdict
        for one in (asked, replace(asked, first=asked.second, second=asked.first))
    }
    assert verdicts in ({"supported", "contradicted"}, {"undecided"})


def test_a_penalty_is_judged_at_one_strength_and_says_how_many_were_tried():
    rows = odyssey_results(DEMO).rows
    alone = rows[rows["variant"].isna()]
    for claim in ("B3", "B16", "B17", "B19"):
        several, one = (module.by_arms(claim, ASKED[claim], some) for some in (rows, alone))
        assert several.number == one.number
        assert "(3 were tried, and none was picked)" in several.data
        assert "(no other was tried)" in one.data
    assert "strength" not in module.by_arms("B4", ASKED["B4"], rows).data
