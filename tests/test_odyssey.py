"""Script 06: what a cell leaves beside its row, and what table, page and figure make of it."""

from __future__ import annotations

import csv
import json
import math
import re
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from ctsft.calibration import brier, calibration_error
from ctsft.report.__main__ import redraw
from ctsft.report.answers import Teller
from ctsft.report.by_rate import rate_cells
from ctsft.report.choosing import at_validated_rate
from ctsft.report.costs import read_costs
from ctsft.report.figures.odyssey import odyssey_figure
from ctsft.report.forgetting import last_lines, related_change
from ctsft.report.least import CALIBRATION, FLIPS, fluent, least
from ctsft.report.measured import _asked, odyssey_results, odyssey_rows, related_lines, strayed
from ctsft.report.odyssey import odyssey_cells, odyssey_tables
from ctsft.report.outcomes import Outcome, chances_on_target, outcomes
from ctsft.report.rows import Results, labels_by_test
from ctsft.report.select import pick
from ctsft.report.situations import odyssey_page, settings_of
from ctsft.stats import Difference, calibration_difference, calibration_interval
from ctsft.study import executors
from ctsft.study.measure_files import from_per_mille, per_mille, probabilities, read_measures
from ctsft.study.measures import bits_per_byte
from ctsft.study.preferred import SAME, preferred
from ctsft.study.record import append_rows, read_cells, read_rows
from ctsft.study.run import run_study
from ctsft.study.workbench import Workbench
from ctsft.tasks.registry import TASKS
from ctsft.tasks.task import Example, from_digits

DEMO = Path(__file__).parents[1] / "results" / "demo"
PRESETS = runpy.run_path(str(Path(__file__).parents[1] / "experiments" / "06_adaptation_odyssey.py"))["PRESETS"]
ARMS_OF_A_MODEL = ("zero_shot", "full", "direct", "circuit", "lora", "dapt")
ARMS = (*ARMS_OF_A_MODEL, "ngrams")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return replace(
        PRESETS["demo"],
        targets=("d30",),
        n_targets=(20,),
        seeds=(31, 777),
        n_source=60,
        epochs=1,
        mean_rows=24,
        score_rows=12,
        scorer="cdt_linear",
        arms=ARMS,
        depths=(0,),
        lrs=(1e-3,),
        output=tmp_path_factory.mktemp("results"),
    )


@pytest.fixture(scope="module")
def results(config) -> Results:
    assert run_study(config) == 0
    return Results.read(config.folder)


def test_every_cell_leaves_its_measures(results):
    known = read_measures(results.folder)
    assert set(known) == set(results.rows["cell"])
    for _, row in results.rows.iterrows():
        found = known[row["cell"]]
        chances = from_per_mille(found["target_probabilities"], 3)
        assert chances.shape == (400, 3)
        agree = (chances.argmax(-1) == row["answers"]).mean()
        assert agree > 0.98  # a tie within a thousandth may fall to the other side
        assert set(found["related"]) == {"demo/d10", "demo/d50"}
        assert (found["train_accuracy"] is None) == (row["arm"] == "zero_shot")
        texts = set() if row["arm"] == "ngrams" else {"demo/d00", "demo/d30", "demo/d10", "demo/d50"}
        assert set(found["bits_per_byte"]) == texts
        assert [pair["kind"] for pair in found["audit"]] == ["name, first pair", "name, second pair"]


def test_measured_related_answers_stand_for_probes_where_script_04_has_not_run(results):
    lines = last_lines(results)
    assert set(lines["test"]) == {"demo/d10", "demo/d50"}
    known, gold = read_measures(results.folder), labels_by_test(results.folder)
    by_arm = {one.arm: one.related_change for one in outcomes(results)}
    assert {arm for arm, value in by_arm.items() if value} == set(lines["arm"]) == set(ARMS_OF_A_MODEL) - {"zero_shot"}

    def right(arm: str) -> float:
        cells = results.rows.loc[results.rows["arm"] == arm, "cell"]
        tests = ("demo/d10", "demo/d50")
        return np.mean([from_digits(known[cell]["related"][test]) == gold[test] for cell in cells for test in tests])

    for arm in set(lines["arm"]):
        assert by_arm[arm].value == pytest.approx(right(arm) - right("zero_shot"))
        assert by_arm[arm].value == related_change(pick(lines, arm=arm)).value


def test_related_tests_of_different_sizes_weigh_the_same():
    """A test of four rows that gains one of them and one of two rows that gains none: half of a fourth."""

    def line(test: str, seed: int, before: list[int], after: list[int]) -> dict:
        gold = np.ones(len(before), dtype=int)
        sides = {"answers_before": np.array(before), "answers": np.array(after)}
        return {"target": "t", "n_target": 25, "test": test, "seed": seed, "draw": 0, "gold": gold, **sides}

    lines = [line("a/x", seed, [1, 1, 0, 0], [1, 1, 1, 0]) for seed in (31, 777)]
    lines += [line("b/y", seed, [1, 0], [1, 0]) for seed in (31, 777)]
    assert related_change(pd.DataFrame(lines)).value == pytest.approx(1 / 8)
    assert related_change(pd.DataFrame(lines[:-1])) is None  # not the same seeds in both: a test would be left out
    more = [one | {"target": "less", "answers": one["gold"]} for one in lines if one["seed"] == 31]
    assert related_change(pd.DataFrame(lines + more)) == related_change(pd.DataFrame(lines))  # a target may wait


@pytest.mark.parametrize(("test", "labels", "joint"), [("a/y", 1, True), ("a/y", 2, False), ("b/y", 1, False)])
def test_related_tests_are_drawn_row_by_row_only_where_they_are_parallel(test, labels, joint):
    """What one test gains on half of its rows the other loses: drawn together all rows agree."""
    gains = np.arange(40) < 20
    lines = []
    for name, gold, sign in (("a/x", np.ones(40, int), 1), (test, np.full(40, labels), -1)):
        sides = [np.where(gains, gold, 0), np.zeros(40, int)][::sign]
        one = {"target": "t", "n_target": 25, "seed": 31, "draw": 0, "test": name, "gold": gold}
        lines.append(one | dict(zip(("answers", "answers_before"), sides, strict=True)))
    change = related_change(pd.DataFrame(lines))
    assert change.value == 0
    of_rows_that_agree = 1 - 0.025 ** (1 / 40)
    assert (change.high == pytest.approx(of_rows_that_agree, abs=1e-6)) is joint


def test_finished_cells_are_measured_once(config, results, monkeypatch, tmp_path):
    """A row of another script is kept, its cell is tuned again to be measured; then nothing is left."""
    other = replace(config, output=tmp_path, arms=("zero_shot", "circuit:0"), seeds=(31,))
    assert run_study(replace(other, experiment="01_nusax_transfer", bystanders=())) == 0
    assert read_measures(other.folder) == {}
    assert run_study(other) == 0
    assert len(read_measures(other.folder)) == 2
    assert not (other.folder / "06_adaptation_odyssey.csv").exists()
    assert len(read_rows(other.folder / "01_nusax_transfer.csv")) == 2
    monkeypatch.setattr(executors, "run_cell", lambda *a: pytest.fail("a finished cell was run again"))
    assert run_study(other) == 0


def test_asking_for_another_related_test_loses_no_answers(config, tmp_path):
    one = replace(config, output=tmp_path, arms=("zero_shot",), seeds=(31,), bystanders=("demo/d10",))
    assert run_study(one) == 0
    [before] = read_measures(one.folder).values()
    assert run_study(replace(one, bystanders=("demo/d50",))) == 0
    [after] = read_measures(one.folder).values()
    assert after["related"]["demo/d10"] == before["related"]["demo/d10"]
    assert after["related"].keys() == {"demo/d10", "demo/d50"}


def test_only_what_validation_prefers_is_measured(config, monkeypatch, tmp_path):
    """A rate that has lost already costs a row, and no measures; the table chooses from both, and counts both tries."""
    two = replace(config, output=tmp_path, arms=("zero_shot", "full"), seeds=(31,), lrs=(3e-3, 1e-9))
    assert run_study(two) == 0
    rows = Results.read(two.folder).rows.set_index("lr")
    assert rows.loc[3e-3, "valid_accuracy"] > rows.loc[1e-9, "valid_accuracy"]
    assert read_measures(two.folder).keys() == {rows.loc[3e-3, "cell"], rows.loc[np.nan, "cell"]}
    full = next(one for one in outcomes(odyssey_results(two.folder)) if one.arm == "full")
    assert (full.tries, full.rates, full.chosen) == (2, [1e-9, 3e-3], (3e-3,))
    assert set(rate_cells(odyssey_results(two.folder))["learning rate"]) == {"1e-9", "3e-3"}
    monkeypatch.setattr(executors, "run_cell", lambda *a: pytest.fail("a finished cell was run again"))
    assert run_study(two) == 0


def test_what_lost_after_it_was_measured_is_not_shown(config, tmp_path):
    """The losing rate ran first, so it has measures; table and related tests are those of the winner all the same."""
    two = replace(config, output=tmp_path, arms=("zero_shot", "full"), seeds=(31,), lrs=(1e-9, 3e-3))
    assert run_study(two) == 0
    found = odyssey_results(two.folder)
    assert set(read_measures(two.folder)) == set(found.rows["cell"])
    [full] = [one for one in outcomes(found) if one.arm == "full"]
    assert (full.tries, full.chosen) == (2, (3e-3,))
    lines = last_lines(Results.read(two.folder))
    assert set(lines["lr"]) == {3e-3}


def test_rates_of_other_scripts_count_where_script_06_tried_them_too():
    """Two targets; script 01 ran `full` first, on one target at the rates of 06, on the other at a further one."""
    one = dict(
        task="t", source="s", n_source=9, n_target=5, depth=None, share=None, scorer=None, ties=None, kv_policy=None
    )
    one |= dict(dtype="float32", draw=0, seed=31, experiment="06_adaptation_odyssey")
    other = one | {"experiment": "01_nusax_transfer"}
    rows = [other | dict(target="a", arm="full", lr=rate, cell=f"a full {rate}") for rate in (1e-3, 1e-2, 1e-1)]
    rows += [one | dict(target="a", arm="lora", lr=rate, cell=f"a lora {rate}") for rate in (1e-3, 1e-2, 1e-1)]
    rows += [one | dict(target="b", arm="full", lr=rate, cell=f"b full {rate}") for rate in (1e-3, 1e-2)]
    rows += [other | dict(target="b", arm="full", lr=1e-1, cell="b full 0.1")]
    rows += [other | dict(target="a", arm="bitfit", lr=1e-3, cell="a bitfit")]
    table = pd.DataFrame(rows)
    asked = _asked(table, {"a full 0.001", "a lora 0.01", "b full 0.01"})
    assert set(table.loc[~asked, "cell"]) == {"b full 0.1", "a bitfit"}


def test_a_rate_is_preferred_as_the_tables_prefer_it():
    same = dict.fromkeys(SAME, "x")
    rows = {
        "low": same | {"arm": "full", "lr": "0.001", "valid_accuracy": "0.5"},
        "high": same | {"arm": "full", "lr": 0.01, "valid_accuracy": 0.5},
        "best of all": same | {"arm": "full", "lr": "0.1", "valid_accuracy": "0.9"},
        "weak": same | {"arm": "l2sp", "lr": "0.001", "valid_accuracy": "0.4"},
        "strong": same | {"arm": "l2sp_1", "lr": "0.001", "valid_accuracy": "0.6"},
        "other seed": same | {"seed": "y", "arm": "full", "lr": "0.01", "valid_accuracy": "0.1"},
        "without": same | {"arm": "zero_shot", "lr": "", "valid_accuracy": "0.1"},
    }
    assert preferred(rows, (1e-3, 1e-2)) == {"low", "weak", "other seed", "without"}  # the arm's own strength
    assert "best of all" in preferred(rows, (1e-3, 1e-2, 1e-1))


@pytest.mark.parametrize("folder", ["demo", "small"])
def test_committed_rows_are_preferred_as_the_tables_prefer_them(folder):
    """One rule in two places: while rows are made, and when tables are."""
    path = Path(__file__).parents[1] / "results" / folder
    by_task = Results.read(path).rows.groupby("task")
    chosen = {cell for _, rows in by_task for cell in at_validated_rate(rows)["cell"]}
    rows = read_cells(path)
    assert chosen == preferred(rows, {float(row["lr"]) for row in rows.values() if row["lr"]})


def test_bits_per_byte_are_the_models_own(config):
    bench = Workbench(config)
    tokenizer, model = bench.loaded.tokenizer, bench.model
    examples = bench.split("d30", "test").examples[:3]
    nats = 0.0
    for example in examples:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(example.text)["input_ids"]]])
        with torch.no_grad():
            nats += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
    expected = nats / math.log(2) / sum(len(example.text.encode()) for example in examples)
    assert bits_per_byte(bench, examples) == pytest.approx(expected, rel=1e-4)


def test_bits_per_byte_count_the_bytes_of_what_was_read(config):
    """Of a text that is cut, the bytes of the rest do not make the model look better."""
    bench = Workbench(replace(config, max_tokens=12))
    text = bench.split("d30", "test").examples[0].text
    words = text.split()
    long, short = (Example("x", " ".join(part), 0) for part in (words, words[:11]))
    assert len(words) > 12
    assert bits_per_byte(bench, [long]) == pytest.approx(bits_per_byte(bench, [short]), rel=1e-6)


def test_probabilities_survive_their_digits():
    logits = np.array([[0.0, -np.inf, 2.0], [30.0, 0.0, 0.0]], dtype=np.float32)
    chances = probabilities(logits)
    assert chances[0].tolist() == pytest.approx([1 / (1 + math.e**2), 0, math.e**2 / (1 + math.e**2)])
    np.testing.assert_allclose(from_per_mille(per_mille(chances), 3), chances, atol=2e-3)


def test_a_test_may_lack_rows_of_the_last_label():
    chances = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
    rows = pd.DataFrame({"measures": [{"target_probabilities": per_mille(chances)}], "gold": [np.array([0, 1])]})
    [found] = chances_on_target(rows)
    np.testing.assert_allclose(found, chances, atol=2e-3)


def test_calibration_by_hand():
    chances = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.3, 0.7]])
    gold = np.array([0, 1, 1, 0])
    assert brier(chances, gold).tolist() == pytest.approx([0.08, 0.72, 0.18, 0.98])
    # One bin each for .8 (right), .6 (wrong), and .7 twice (one right).
    error = calibration_error(chances.max(-1), chances.argmax(-1) == gold)
    assert error == pytest.approx((0.2 + 0.6 + 0.4) / 4)
    assert calibration_error(np.ones(2), np.array([True, True])) == 0
    assert calibration_error(np.ones(2), np.array([False, False])) == 1


def test_openings_come_in_pairs_that_differ():
    for name in ("demo", "nusax"):
        for language in TASKS[name].languages:
            pairs = TASKS[name].openings(language)
            assert len(pairs) >= 2
            assert all(one != other for _, one, other in pairs)
            assert len({kind for kind, _, _ in pairs}) == len(pairs)


def outcome(**changes) -> Outcome:
    kept = Difference(0.0, -0.02, 0.02, 1.0)
    values = dict(
        target="d30", n_target=100, arm="full", depth=None, accuracy=0.6, valid_accuracy=0.6, target_change=kept,
        source_change=kept, related_change=None, bits={}, ece=0.1, brier=0.5, brier_floor=0.6, train_accuracy=0.7,
        flips=None, trainable_share=1.0, tries=1, chosen=(1e-3, 1e-3), seeds=2,
        rates_by_seed={31: (1e-3,), 777: (1e-3,)},
    )  # fmt: skip
    return Outcome(**values | changes)


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({}, []),
        ({"target_change": Difference(0.05, 0.01, 0.1, 0.01)}, ["helped"]),
        ({"target_change": Difference(-0.05, -0.1, -0.01, 0.01)}, ["harmed"]),
        ({"source_change": Difference(-0.05, -0.1, -0.01, 0.01)}, ["forgetful"]),
        ({"source_change": Difference(-0.02, -0.03, -0.01, 0.01)}, []),
        ({"source_change": Difference(-0.05, -0.1, 0.01, 0.1)}, []),
        ({"train_accuracy": 0.8, "brier": 0.61}, ["overfitted"]),
        ({"train_accuracy": 0.8}, []),
        ({"brier": 0.61}, []),
    ],
)
def test_flags_follow_their_rules(changes, flags):
    assert outcome(**changes).flags == flags


def test_outcomes_compare_with_zero_shot(results):
    by_arm = {one.arm: one for one in outcomes(results)}
    rows = results.rows
    for arm in ("full", "circuit", "lora", "dapt", "direct"):
        mine, zero = rows[rows["arm"] == arm], rows[rows["arm"] == "zero_shot"]
        gain = mine["accuracy"].mean() - zero["accuracy"].mean()
        assert by_arm[arm].target_change.value == pytest.approx(gain)
        assert by_arm[arm].source_change.value == pytest.approx(
            mine["source_accuracy"].mean() - zero["source_accuracy"].mean()
        )
        assert by_arm[arm].seeds == 2
    assert by_arm["ngrams"].source_change is None
    assert by_arm["ngrams"].bits == {}
    # Reading the target's text makes it likelier; nothing else here does so.
    assert by_arm["dapt"].bits["demo/d30"] < min(by_arm[arm].bits["demo/d30"] for arm in ("full", "lora", "circuit"))


def test_the_table_has_a_line_for_every_arm_and_gaps_for_what_is_not_known(results):
    cells = odyssey_cells(results)
    assert list(cells["arm"]) == ["zero_shot", "full", "direct", "circuit", "lora", "dapt", "ngrams"]
    assert cells.loc[cells["arm"] == "ngrams", "bits/byte target"].item() == "–"
    assert cells.loc[cells["arm"] == "zero_shot", "target change"].item() == "–"
    assert cells["ECE"].str.fullmatch(r"0\.\d{3}").all()


def test_every_rate_that_was_tried_has_its_line():
    results = odyssey_results(Path(__file__).parents[1] / "results" / "demo")
    penalties = results.only(results.rows["arm"] == "ewc")
    results = results.only(results.rows["arm"].isin(["full", "lora", "norm_only", "ngrams"]))
    rates = rate_cells(results)
    assert len(rates) == 3 * 3
    strengths = rate_cells(penalties)
    assert len(strengths) == 3 * 3
    assert set(strengths["arm"]) == {"ewc", "ewc_0.1", "ewc_10"}
    assert rate_cells(results.only(results.rows["arm"] == "ngrams")).empty
    for (target, n, arm), lines in rates.groupby(["target", "n", "arm"]):
        own = pick(results.rows, target=target, n_target=n, arm=arm)
        assert sorted(map(float, lines["learning rate"])) == sorted(own["lr"].unique())
        means = own.groupby("lr")["valid_accuracy"].mean()
        assert list(map(float, lines["validation"])) == pytest.approx(list(means), abs=6e-4)


@pytest.fixture(scope="module")
def uneven() -> Results:
    """The demo's rows of script 06 without one rate of LoRA on one seed, which validation has not chosen there."""
    found = odyssey_results(DEMO)
    [kept] = [one for one in outcomes(found) if one.arm == "lora"]
    assert (kept.tries, kept.uneven, kept.short_of_rates) == (3, False, False)
    rows = found.rows
    gone = (rows["arm"] == "lora") & (rows["seed"] == 31) & ~rows["cell"].isin(at_validated_rate(rows)["cell"])
    return found.only(rows["cell"] != rows.loc[gone, "cell"].iloc[0])


def test_the_fewest_tries_of_a_seed_are_told_with_a_mark(uneven):
    """Four rates on one seed and three on the other are no four tries."""
    known = dict(zip(odyssey_cells(uneven)["arm"], odyssey_cells(uneven)[["tries", "rates"]].to_numpy(), strict=True))
    tries, rates = known.pop("lora")
    assert tries == "2*"
    assert rates.partition(" → ")[0].count("*") == 1
    assert "*" not in rates.partition(" → ")[2]
    assert not any("*" in cell for cells in known.values() for cell in cells)
    assert "*: not all seeds had this rate" in odyssey_tables(uneven)[0].caption
    assert "not all seeds had" not in odyssey_tables(odyssey_results(DEMO))[0].caption


def test_arms_with_fewer_rates_are_marked_where_they_are_picked(uneven):
    assert {one.arm for one in outcomes(uneven) if one.short_of_rates} == {"lora"}
    [setting] = settings_of(uneven, pd.DataFrame())
    assert [one.arm for one in setting.short] == ["lora"]
    told = "".join(answer.told + answer.taken for answer in setting.answers)
    assert "`lora`†" in told
    assert "`lora`" not in told.replace("`lora`†", "")
    assert told.count("†") == told.count("`lora`†")
    [whole] = settings_of(odyssey_results(DEMO), pd.DataFrame())
    assert whole.short == []
    assert "†" not in "".join(answer.told + answer.taken for answer in whole.answers)


def test_the_page_says_which_arms_had_fewer_rates(uneven, tmp_path):
    folder = shutil.copytree(DEMO, tmp_path / "demo", ignore=shutil.ignore_patterns("cache"))
    gone = set(odyssey_results(DEMO).rows["cell"]) - set(uneven.rows["cell"])
    told = "so worse chances to be picked"
    assert told not in odyssey_page([Results.read(folder)])
    for path in folder.glob("0*.csv"):
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        if "cell" in rows and rows["cell"].isin(gone).any():
            path.with_name(f"{path.name}.sha256").unlink()
            rows[~rows["cell"].isin(gone)].to_csv(path, index=False)
    page = odyssey_page([Results.read(folder)])
    assert f"{told}: `lora`†." in page


def test_the_page_names_an_arm_for_every_situation(results):
    page = odyssey_page([results])
    assert "### d30, 20 rows" in page
    for situation in ("Only the target counts", "source must be kept", "Storage is limited", "No language model"):
        assert situation in page
    assert "Overlapping intervals decide nothing" in page
    assert "nan" not in page
    assert page == odyssey_page([results])
    found = {one.arm: one for one in outcomes(results) if one.arm != "zero_shot"}
    for situation, value in (("must be calibrated", "ece"), ("must not change the answer", "flips")):
        least = re.search(rf"{situation}\* \(on test rows\): `(\w+)`.*?: [a-z ]+ [\d.]+%? \[", page)
        assert getattr(found[least[1]], value) == min(getattr(one, value) for one in found.values())
    first = re.search(r"Only the target counts\*: `(\w+)`", page)[1]
    assert found[first].valid_accuracy == max(one.valid_accuracy for one in found.values())
    kept = re.search(r"source must be kept\*.*: (`(\w+)`|no arm)", page)
    assert kept[1] == "no arm" or found[kept[2]].source_change.low > -0.025
    models = [one for one in found.values() if one.arm != "ngrams"]
    row = next(line for line in page.splitlines() if line.startswith("| Probabilities must be calibrated"))
    best = min(models, key=lambda one: one.ece)
    assert row.split("|")[2].strip().split("; ")[-1].partition(" (")[0] == f"`{best.arm}` {best.ece:.3f}"
    picked = next(line for line in page.splitlines() if line.startswith("| Only the target counts")).split("|")[2]
    best = max(models, key=lambda one: one.valid_accuracy)
    level = [one for one in models if one is not best and one.valid_accuracy >= best.valid_accuracy - 0.025]
    assert f"`{best.arm}` {best.target_change.value:+.3f}".replace("-", "−") in picked
    assert picked.strip().endswith(f"({len(level)})") or not level
    fluent = re.search(r"must not get worse\*.*?\): (.+)\.", page)[1].partition("; but")[0]
    for one in found.values():
        assert (f"`{one.arm}`" in fluent) == (one.arm != "ngrams" and max(one.bits.values()) < 0.02)


def fakes(**values: dict) -> list[Outcome]:
    """Outcomes of these arms, by what differs in them."""
    return [outcome(arm=arm, **of) for arm, of in values.items()]


def test_arms_of_equal_validation_are_all_named():
    """The order of a list decides nothing."""
    gain = Difference(0.1, 0.05, 0.15, 0.01)
    here = [replace(one, target_change=gain) for one in fakes(full={}, lora={}, dapt={"valid_accuracy": 0.59})]
    teller = Teller(pd.DataFrame(columns=["arm", "depth"]), pd.DataFrame())
    for order in (here, here[::-1]):
        answer = teller.answer("Only the target counts", order)
        names = re.findall("`(.+?)`", answer.told)
        assert sorted(names[:2]) == ["full", "lora"]
        assert names[2:] == ["dapt"]
        assert "Tied with it" in answer.told
        assert answer.taken.count(" = ") == 1
        assert answer.taken.endswith("(1)")
    rows = np.ones(50)
    alike = fakes(full={"changed": {31: 0 * rows}}, lora={"changed": {31: 0 * rows}}, dapt={"changed": {31: rows}})
    for order in (alike, alike[::-1]):
        taken = least("Names", FLIPS, order, outcome(arm="zero_shot")).taken
        assert sorted(re.findall("`(.+?)`", taken)) == ["full", "lora"]


def test_what_test_rows_pick_has_its_interval_and_those_not_told_apart():
    generator = np.random.default_rng(0)
    draws = {arm: {s: generator.random(50) < p for s in (31, 777)} for arm, p in (("full", 0.1), ("lora", 0.9))}
    draws["dapt"] = {31: np.roll(draws["full"][31], 1), 777: draws["full"][777] | (np.arange(50) < 2)}
    here = fakes(**{arm: {"changed": {s: v.astype(float) for s, v in of.items()}} for arm, of in draws.items()})
    answer = least("Names", FLIPS, here, outcome(arm="zero_shot"))
    [low, high] = re.search(r"share of answers changed [\d.]+% \[([\d.]+)%, ([\d.]+)%\]", answer.told).groups()
    assert float(low) < 100 * np.mean([values.mean() for values in here[0].changed.values()]) < float(high)
    assert "(not told apart from it: `dapt`)" in answer.told
    assert "highest: `lora` (LoRA, all heads), " in answer.told
    assert answer.taken.endswith("(1)")
    assert "not measured" in least("Names", CALIBRATION, here, here[0]).told


def test_bits_per_byte_are_told_with_their_seeds():
    texts = ({"a": 0.03, "b": -0.01}, {"a": -0.01, "b": 0.0})
    here = fakes(full=dict(bits={"a": 0.01, "b": -0.005}, bits_by_seed=texts), lora=dict(bits={"a": 0.05}))
    told = fluent("Language", here).told
    assert told.startswith("`full` +0.010 [−0.010, +0.030]; but on some seed a text passes that limit: `full`.")
    assert "`lora`" not in told


def test_intervals_of_the_calibration_error_hold_it(results):
    for one in outcomes(results):
        value = calibration_interval(list(one.gaps.values()))
        assert value.value == pytest.approx(one.ece)
        assert 0 <= value.low <= value.value <= value.high
        assert set(one.gaps) == set(one.changed) == {31, 777}
        assert np.mean(list(one.changed.values())) == pytest.approx(one.flips)
    same = calibration_difference(*[list(one.gaps.values())] * 2)
    assert same == (0, 0, 0)


def test_measures_of_a_model_that_answers_otherwise_than_its_row_are_left_out(config, results, tmp_path):
    folder = Path(shutil.copytree(results.folder, tmp_path / "demo"))
    assert strayed(odyssey_results(folder)).empty
    path = folder / "06_adaptation_odyssey.csv"
    lora = results.rows.loc[results.rows["arm"] == "lora", "cell"].iloc[0]
    rows = list(csv.DictReader(path.open()))
    for row in rows:
        if row["cell"] == lora:
            row["predictions"] = "p" + row["predictions"][1:].translate(str.maketrans("012", "120"))
    path.unlink()
    path.with_suffix(".csv.sha256").unlink()
    append_rows(path, rows)
    again = odyssey_results(folder)
    assert strayed(again)["cell"].tolist() == [lora]
    assert lora not in set(odyssey_rows(again)["cell"])
    assert lora not in {line["cell"] for line in related_lines(folder, again.rows)}
    assert "Cells whose measures are left out: 1 (lora on d30)" in odyssey_tables(again)[0].caption


def test_an_arm_without_measures_is_named_and_not_picked():
    """Of a run that was stopped: validation prefers a rate by now that nobody has measured."""
    found = odyssey_results(Path(__file__).parents[1] / "results" / "demo")
    known, full = read_measures(found.folder), found.rows["arm"] == "full"
    waiting = full & ~found.rows["cell"].isin(known)
    rows = found.rows.assign(valid_accuracy=found.rows["valid_accuracy"].where(~waiting, 1.0))
    [setting] = settings_of(replace(found, rows=rows), pd.DataFrame())
    assert "full" in setting.fewer
    assert not any("`full` (" in answer.told for answer in setting.answers)


def test_the_figure_has_a_line_for_every_tuned_arm(results):
    figure = odyssey_figure(results)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == len(ARMS) - 1
    assert "LoRA, all heads" in labels
    plt.close(figure)


def test_an_arm_with_fewer_rates_or_seeds_is_marked_in_the_figure(results, monkeypatch):
    known = outcomes(results)
    less = {"lora": {"short_of_rates": True}, "direct": {"seeds": 1}}
    told = [replace(one, **less.get(one.arm, {})) for one in known]
    monkeypatch.setattr("ctsft.report.figures.odyssey.outcomes", lambda _: told)
    figure = odyssey_figure(results)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert [label for label in labels if label.endswith(("*", ")"))] == [
        "all weights, no source (1 seed)",
        "LoRA, all heads*",
    ]
    assert "(* had fewer rates)" in figure.get_suptitle()
    plt.close(figure)


def test_the_report_writes_the_page_and_leaves_other_tables_alone(config, results, tmp_path):
    names = {path.name for path in redraw([results], tmp_path / "t", tmp_path / "f")}
    assert {"odyssey.md", "demo_06_adaptation_odyssey.md", "demo_06_adaptation_odyssey.png"} <= names
    own = replace(config, output=tmp_path / "o", arms=("zero_shot", "circuit:0"), seeds=(31,))
    assert run_study(replace(own, experiment="01_nusax_transfer", bystanders=())) == 0
    assert run_study(replace(own, arms=(*own.arms, "lora"))) == 0
    both = Results.read(own.folder)
    assert set(both.rows["arm"]) == {"zero_shot", "circuit", "lora"}
    assert set(both.of("01_nusax_transfer").rows["arm"]) == {"zero_shot", "circuit"}
    assert set(both.of("06_adaptation_odyssey").rows["arm"]) == {"zero_shot", "circuit", "lora"}


def test_helpful_arms_whose_cost_was_not_measured_are_named():
    committed = Path(__file__).parents[1] / "results" / "demo"
    results, spent = odyssey_results(committed), read_costs(committed)
    alone = spent[spent["arm"].isin(["full", "layers_top"])]

    def told(costs: pd.DataFrame) -> str:
        [setting] = settings_of(results, costs)
        return next(answer.line for answer in setting.answers if answer.situation == "Compute is limited")

    assert "for `ngrams`" in told(spent)
    assert "`lora`" not in told(spent)
    assert "for `layers_top`" in told(alone)
    assert "`lora`" in told(alone).split("not measured: ")[1]
    assert "not run (script 07)" in told(alone.assign(n_target=25))


def test_measures_hold_no_number_that_json_cannot(results):
    files = list((results.folder / "measures").glob("*.json"))
    assert files
    for path in files:
        json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in a file of measures"))


def test_the_presets_share_their_start_with_script_01():
    first = runpy.run_path(str(Path(__file__).parents[1] / "experiments" / "01_nusax_transfer.py"))["PRESETS"]
    for name, own in PRESETS.items():
        for field in ("model", "source", "n_source", "source_lr", "epochs", "batch_size", "max_tokens"):
            assert getattr(own, field) == getattr(first[name], field), (name, field)
