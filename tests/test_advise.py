"""Advice: counted from rows, refused from a start at chance, and honest about how sure it is."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ctsft.advice import evidence as evidence_module
from ctsft.advice.evidence import ARM, OFFERED, SETTING, _at_one_rate, evidence, shipped
from ctsft.advice.probe import Probe, concentration, ngrams, probe
from ctsft.advice.recommend import advise, nearest, trial
from ctsft.cli import main
from ctsft.commands.options import OnModel
from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError
from ctsft.library import drawn_rows, load_task, training_rows
from ctsft.models.load import load_model
from ctsft.report.__main__ import main as report_main
from ctsft.report.choosing import at_papers_share, at_validated_rate, by_usual_circuits
from ctsft.report.fair import at_common_rates
from ctsft.report.rows import Results
from ctsft.stats import Interval
from ctsft.study.record import append_rows, read_rows
from ctsft.tasks.task import Rows

ROOT = Path(__file__).parents[1]


def lines(target: str, transfer: float, n: int, **arms: tuple[float, float]) -> list[dict]:
    """(gain, cost) of each arm in one made-up setting."""
    setting = dict(preset="demo", task="t", dtype="float32", n_source=400, target=target, n_target=n, transfer=transfer)
    return [
        setting
        | dict(arm=arm, depth=2 if arm == "circuit" else pd.NA, gain=gain, cost=cost, lr=1e-3, cells=2, ties="logits")
        for arm, (gain, cost) in arms.items()
    ]


def table(circuit=0.2, full=0.25, full_cost=0.05, settings=4) -> pd.DataFrame:
    rows = []
    for i in range(settings):
        rows += lines(f"t{i}", 0.6, 100, circuit=(circuit, 0.0), full=(full, full_cost), norm_only=(0.1, 0.0))
    return pd.DataFrame(rows).astype({"depth": "Int64"})


def probe_of(source=0.8, source_majority=0.4, zero_shot=0.5, majority=0.4, rows=100, rarest=("a", 30)) -> Probe:
    return Probe(
        Interval(source, source - 0.05, source + 0.05), source_majority,
        Interval(zero_shot, zero_shot - 0.05, zero_shot + 0.05), majority, rows, rarest,
    )  # fmt: skip


def test_the_best_arm_within_the_loss_that_is_allowed():
    said = advise(probe_of(), table(), may_lose=0.02)
    assert "Recommended: circuit, depth 2." in said
    assert "(loses more than 0.020)" in said
    assert "fairly sure. It beats norm_only in 4 of 4 settings, by +0.100" in said
    assert "+0.100 to +0.100" in said
    assert "constructed demo alone" in said
    assert "Recommended: full." in advise(probe_of(), table(), may_lose=0.1)
    said = advise(probe_of(), table(), may_lose=-0.1)
    assert "No arm kept the source within -0.100" in said
    assert "allow more (--may-lose)." in said
    assert said.count("(loses more than -0.100)") == 3


def test_a_rate_of_the_micro_model_is_not_given_to_a_real_one():
    rows = table()
    rows["lr"] = 3e-3
    said = advise(probe_of(), rows, may_lose=0.02)
    assert "Learning rate: 3e-3 on the demo's micro model, which alone learns so." in said
    far = rows.assign(preset="small", task="nusax", target="t", transfer=0.0, lr=2e-4)
    said = advise(probe_of(), pd.concat([rows, far]), may_lose=0.02)
    assert "constructed demo alone" in said  # it is too far away to be compared, and yet it knows the rate
    assert "Learning rate: 2e-4 on a real model; 3e-3 on the demo's micro model" in said


def test_evidence_from_circuits_that_are_the_models_first_heads_says_so():
    rows = table()
    assert "earlier rule" not in advise(probe_of(), rows, may_lose=0.02)
    rows.loc[rows["arm"] == "circuit", "ties"] = "index"
    assert "Heads of demo were chosen by an earlier rule there" in advise(probe_of(), rows, may_lose=0.02)


def test_a_lead_within_the_noise_is_not_called_sure():
    said = advise(probe_of(), table(circuit=0.2, full=0.21, full_cost=0.0), may_lose=0.02)
    assert "Recommended: full." in said
    assert "not sure. It beats circuit, depth 2 in 4 of 4 settings, by +0.010" in said


def test_far_settings_are_called_a_guess():
    said = advise(probe_of(zero_shot=0.2, rows=5), table(), 0.02)
    assert "take it as a guess" in said
    assert "not sure. It beats norm_only in 4 of 4" in said
    assert "guess" not in advise(probe_of(), table(), 0.02)


def test_a_start_at_chance_gets_no_advice_on_arms():
    said = advise(probe_of(source=0.42), table(), 0.02)
    assert "First make the model competent" in said
    assert "Recommended" not in said
    assert "Collect more rows of 'b'" in advise(probe_of(rarest=("b", 2)), table(), 0.02)


def test_the_source_is_judged_by_its_own_majority_class():
    assert "Recommended" in advise(probe_of(majority=0.9), table(), 0.02)
    assert "First make the model competent" in advise(probe_of(source_majority=0.76), table(), 0.02)


@pytest.fixture(scope="module")
def demo():
    return load_model("demo"), load_task("demo")


def test_a_probe_keeps_the_majority_class_of_each_language(demo):
    """Of the source 18 of 20 validation rows have the first label."""
    model, task = demo

    def read(language: str, split: str, folder: Path | None) -> Rows:
        rows = task.read(language, split, folder)
        if (language, split) != ("d00", "valid"):
            return rows
        kept = [[e for e in rows.examples if e.label == label][: 18 if label == 0 else 1] for label in range(3)]
        return replace(rows, examples=tuple(example for part in kept for example in part))

    found = probe(model, replace(task, read=read), "d00", "d50")
    assert found.source_majority == 0.9
    gold = np.array([example.label for example in task.load("d50", "valid").examples])
    assert found.majority == np.bincount(gold).max() / len(gold) < 0.5


def test_the_scarcest_label_is_counted_among_the_rows_that_are_asked_for(demo):
    model, task = demo
    drawn = drawn_rows(training_rows(task, "d50", "target"), 25)
    counts = {label: [example.label for example in drawn].count(number) for number, label in enumerate(task.labels)}
    found = probe(model, task, "d00", "d50", rows=25)
    assert (found.rows, found.rarest[1]) == (25, min(counts.values()))
    assert counts[found.rarest[0]] == found.rarest[1]
    with pytest.raises(UserError, match=r"101 rows were asked for, but the pool has 100\."):
        probe(model, task, "d00", "d50", rows=101)


def test_a_language_is_not_advised_to_adapt_to_itself(demo):
    with pytest.raises(UserError, match="source and target are both d00"):
        probe(*demo, "d00", "d00")


def test_arms_are_compared_only_where_all_were_run():
    rows = pd.concat([table(), pd.DataFrame(lines("t0", 0.6, 100, near_zero=(0.9, 0.0)))])
    assert "near_zero" not in advise(probe_of(), rows.astype({"depth": "Int64"}), 0.02)


def test_the_nearest_settings_are_found():
    far = lines("far", 0.1, 100, circuit=(0.0, 0.0)) + lines("few", 0.6, 2, circuit=(0.0, 0.0))
    near = nearest(pd.concat([table(), pd.DataFrame(far)]), 0.6, 100)
    assert set(near["target"]) == {"t0", "t1", "t2", "t3"}


def test_concentration_is_a_share_of_the_positive_scores():
    scores = np.zeros((10, 10))
    scores[0, :4] = 3, 1, -5, 4
    assert concentration(Relevance(scores), 0.02) == pytest.approx(7 / 8)
    assert concentration(Relevance(np.zeros((2, 2)))) == 0


def test_controls_are_shown_and_never_recommended():
    rows = pd.concat([table(), *(pd.DataFrame(lines(f"t{i}", 0.6, 100, random=(0.9, 0.0))) for i in range(4))])
    said = advise(probe_of(), rows.astype({"depth": "Int64"}), 0.02)
    assert "Recommended: circuit, depth 2." in said
    assert re.search(r"random +target \+0\.900, source -0\.000, 8 cells   \(for comparison\)", said)


def test_advice_is_tried_on_languages_that_it_was_not_drawn_from():
    """Four languages where the circuit is best, one where norms are: there the advice of the others falls short."""
    odd = lines("odd", 0.6, 100, circuit=(0.0, 0.0), full=(0.3, 0.3), norm_only=(0.1, 0.0))
    rows = pd.concat([table(), pd.DataFrame(odd)]).astype({"depth": "Int64"})
    advised, always = trial(rows, 0.02)
    assert advised == always == (5, 5, pytest.approx(-0.1 / 5))
    # With more to lose the best arm is `full` everywhere; on the odd language it costs the source too much.
    advised, always = trial(rows, 0.1)
    assert (advised.kept, always.kept) == (4, 5)
    assert always.gain == pytest.approx((4 * (0.2 - 0.25) + (0.0 - 0.1)) / 5)
    assert trial(table(settings=1), 0.02) is None
    assert "tried on 5 of our settings" in advise(probe_of(), rows, 0.02)


@pytest.mark.parametrize("preset", ["demo", "small"])
def test_evidence_follows_from_the_committed_rows(preset):
    """Counted again here; and the table in the package is what the committed rows give (else: make tables)."""
    found = evidence([ROOT / "results" / preset])
    every = at_papers_share(by_usual_circuits(Results.read(ROOT / "results" / preset).rows))
    rows = at_common_rates(every, OFFERED)
    for line in found.itertuples():
        here = rows[(rows["task"] == line.task) & (rows["target"] == line.target) & (rows["n_source"] == line.n_source)]
        here = here[here["dtype"] == line.dtype]
        own = here[(here["arm"] == line.arm) & (here["n_target"] == line.n_target)]
        own = own[own["depth"].isna() if pd.isna(line.depth) else own["depth"] == line.depth]
        own = at_validated_rate(own[own["lr"].isna() if pd.isna(line.lr) else own["lr"] == line.lr])
        start = here[here["arm"] == "zero_shot"].set_index(["dtype", "seed"])["accuracy"]
        gains = [row.accuracy - start[row.dtype, row.seed] for row in own.itertuples()]
        assert line.gain == pytest.approx(np.mean(gains), abs=1e-5)
        assert line.cost == pytest.approx((own["source_accuracy_before"] - own["source_accuracy"]).mean(), abs=1e-5)
        assert line.cells == len(own)
    assert not found.duplicated([*SETTING, "arm", "depth"]).any()
    assert not found["arm"].isin(["zero_shot", "direct"]).any()
    kept = shipped()
    pd.testing.assert_frame_equal(kept[kept["preset"] == preset].reset_index(drop=True), found, check_dtype=False)


def test_starts_of_two_sources_are_not_averaged(tmp_path):
    """Else each arm would gain over a zero-shot accuracy that is neither's."""
    folder = Path(shutil.copytree(ROOT / "results" / "demo", tmp_path / "demo"))
    alone = evidence([folder])
    rows = [row for row in read_rows(folder / "01_nusax_transfer.csv") if row["arm"] in ("zero_shot", "full")]
    other = [row | {"cell": f"x{row['cell']}", "source": "d10", "accuracy": "0.9"} for row in rows]
    append_rows(folder / "01_other.csv", other)
    pd.testing.assert_frame_equal(evidence([folder]), alone)


def test_settings_without_a_competent_start_are_no_evidence():
    found = evidence([ROOT / "results" / "demo"])
    entailment = found[found["task"] == "demo_entailment"]
    assert set(entailment["n_source"]) == {2000}, "50 source rows leave it at chance"
    with pytest.raises(UserError, match="give results folders, such as results/demo"):
        evidence([])


def test_rows_that_advise_on_nothing_say_so(tmp_path):
    folder = Path(shutil.copytree(ROOT / "results" / "demo", tmp_path / "demo"))
    for path in folder.glob("*.csv"):
        if "zero_shot" in path.read_text():
            kept = [line for line in path.read_text().splitlines(True) if "zero_shot" not in line]
            path.write_text("".join(kept))
            path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)
    with pytest.raises(UserError, match="needs zero_shot and tuned arms"):
        evidence([folder])
    apart = [line for line in table().to_dict("records") if (line["arm"] == "full") == (line["target"] == "t0")]
    few = pd.DataFrame(apart).astype({"depth": "Int64"})
    assert "No arm was run in all of the settings most like yours" in advise(probe_of(), few, 0.02)


@pytest.mark.parametrize("entry_point", [evidence_module.main, report_main])
def test_a_results_folder_without_rows_ends_with_one_sentence(entry_point, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", "nope"])
    with pytest.raises(SystemExit) as stop:
        entry_point()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: no result rows in nope.")


@pytest.mark.parametrize("own", [[], ["--results", str(ROOT / "results" / "small")]], ids=["ours", "own"])
def test_the_command_probes_and_never_trains(own, capsys, monkeypatch, tmp_path):
    """From any folder: our evidence travels with the package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ctsft.library.train", lambda *a, **k: pytest.fail("advice trained something"))
    main(["advise", *"--model demo --task demo --source d00 --target d50".split(), *own])
    out = capsys.readouterr().out
    # The embedded model has never seen a label, so it is not competent, and that is what is said.
    assert "First make the model competent on the source" in out
    assert "target rows: 100, scarcest label 'neutral' with 24" in out
    assert "character n-grams of these rows, without a model: 0." in out


def test_a_model_with_few_positions_is_probed_at_its_length(demo, capsys, monkeypatch):
    model, _ = demo
    monkeypatch.setattr(model.model.config, "max_position_embeddings", 64)
    monkeypatch.setattr(OnModel, "load", lambda self: model)
    main(["advise", *"--model demo --task demo --source d00 --target d50 --n 25 --max-tokens 64".split()])
    assert "target rows: 25" in capsys.readouterr().out


def test_ngrams_are_those_of_the_arm_and_a_warning_only_where_they_are_ahead():
    """The study's arm on the same rows, seed 31, has this accuracy on validation."""
    rows = pd.read_csv(ROOT / "results" / "demo" / "06_adaptation_odyssey.csv")
    [arm] = rows.loc[(rows["arm"] == "ngrams") & (rows["seed"] == 31), "valid_accuracy"]
    model, task = load_model("demo"), load_task("demo")
    drawn = drawn_rows(training_rows(task, "d70", "target"), 100, 31)
    assert ngrams(model, task, "d70", drawn).value == pytest.approx(arm)
    assert ngrams(model, task, "d70", [row for row in drawn if row.label == 0]) is None
    ahead, behind = (replace(probe_of(), ngrams=Interval(value, value, value)) for value in (0.6, 0.4))
    assert "0.600 [0.600, 0.600]; what is tuned should beat that" in advise(ahead, table(), 0.02)
    assert "without a model: 0.400 [0.400, 0.400]\n" in advise(behind, table(), 0.02)
    assert "n-grams" not in advise(probe_of(), table(), 0.02)


def test_seeds_that_choose_apart_name_the_rate_that_suits_them_together():
    """One seed prefers the lowest rate and the other the highest; the one between serves both, a fourth only one."""
    valid = {31: {5e-6: 0.60, 2e-4: 0.58, 1e-3: 0.40, 1e-2: 0.9}, 777: {5e-6: 0.40, 2e-4: 0.58, 1e-3: 0.60}}
    rows = [
        dict(zip(ARM, ["small", "nusax", "bfloat16", 400, "t", 25, "circuit", 2], strict=True))
        | dict(source="s", share=0.02, scorer="cdt", ties="logits", kv_policy="shared", draw=0)
        | dict(seed=seed, lr=lr, valid_accuracy=accuracy, cell=f"{seed} {lr}")
        for seed, rates in valid.items()
        for lr, accuracy in rates.items()
    ]
    found = _at_one_rate(pd.DataFrame(rows))
    assert list(found["lr"]) == [2e-4] * 2
    assert set(found["seed"]) == {31, 777}
