"""The five calls, deltas, and loops of one's own, on the embedded model."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import typing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import httpx2
import numpy as np
import pytest
import torch
from conftest import random_rows, state, tiny
from own_data import write_topics
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import ctsft
from ctsft.calibration import calibration_error, confidence, fit_temperature
from ctsft.errors import UserError
from ctsft.heads import Head, Slice
from ctsft.models.load import DEMO_MODEL, weight_hash
from ctsft.study.config import StudyConfig
from ctsft.study.grid import Cell
from ctsft.study.workbench import Workbench
from ctsft.tasks.form import form_of, task_of
from ctsft.tasks.prompts import encode, label_tokens, pad_left
from ctsft.tuning import share
from ctsft.tuning.arms import get_arm, moving_slices, trainable
from ctsft.tuning.card import model_card
from ctsft.tuning.loop import Gradients, Recipe, learning_rate_factor, train

RECIPE = Recipe(lr=3e-3, epochs=2, micro_batch=16)
HEADS = [Head(0, 1), Head(2, 3), Head(2, 6)]
NO_AUTOCAST = torch.autocast("cpu", torch.bfloat16, enabled=False)


@pytest.fixture(scope="module")
def task():
    return ctsft.load_task("demo")


@pytest.fixture(scope="module")
def theta1(task):
    """The embedded model, made competent on d00."""
    model = ctsft.load_model("demo")
    ctsft.tune(model, task, "d00", arm="full", role="source", rows=200, recipe=RECIPE).apply(model.model)
    return model


@pytest.fixture(scope="module")
def delta(theta1, task):
    return ctsft.tune(theta1, task, "d50", heads=HEADS, rows=60, recipe=RECIPE)


@pytest.fixture(scope="module")
def other(theta1, task):
    return ctsft.tune(theta1, task, "d90", heads=[Head(0, 1), Head(3, 7)], rows=60, recipe=RECIPE)


def logits(loaded):
    rows = random_rows()
    return loaded.model(**pad_left(rows.prompts, loaded.layout, "cpu"), logits_to_keep=1).logits


# ---- the five calls ------------------------------------------------------------------------------------------------


def test_the_five_calls_do_what_the_readme_says(theta1, task):
    before = state(theta1.model)
    relevance = ctsft.discover(theta1, task, "d00", scorer="cdt_linear", depth=1, share=0.1)
    heads = ctsft.choose(theta1, relevance, depth=1, share=0.1)
    assert len(heads) == 6
    delta = ctsft.tune(theta1, task, "d50", heads=heads, rows=100, recipe=replace(RECIPE, lr=5e-3, epochs=5))
    plain = ctsft.evaluate(theta1, task, "d50")
    with delta.on(theta1.model):
        tuned = ctsft.evaluate(theta1, task, "d50")
    assert tuned.accuracy.value > plain.accuracy.value
    assert tuned.accuracy.low < tuned.accuracy.value < tuned.accuracy.high
    assert "majority class 0.380" in str(tuned)
    assert all(torch.equal(before[name], value) for name, value in state(theta1.model).items())


def test_the_library_does_what_a_study_does(task, tmp_path):
    """The same rows, seeds and settings give the same weights, bit for bit."""
    config = StudyConfig(
        experiment="x", preset="demo", task="demo", source="d00", targets=("d50",), model="demo", n_source=60,
        n_targets=(20,), epochs=1, lrs=(1e-3,), source_lr=3e-3, micro_batch=16, output=tmp_path,
        scorer="cdt_linear", mean_rows=24, score_rows=12,
    )  # fmt: skip
    bench = Workbench(config)
    model = ctsft.load_model("demo")
    recipe = Recipe(lr=3e-3, epochs=1, micro_batch=16)
    ctsft.tune(model, task, "d00", arm="full", role="source", rows=60, recipe=recipe).apply(model.model)
    assert weight_hash(model.model) == bench.theta1_of(31)["weight_hash"]
    from ctsft.study.circuit_stage import heads_of

    relevance = ctsft.discover(model, task, "d00", scorer="cdt_linear", depth=1, mean_rows=24, score_rows=12)
    for arm in ("circuit", "near_zero"):
        cell = Cell("d50", 20, arm, 1, 1e-3, 31)
        heads = ctsft.choose(model, relevance, arm=arm, depth=1)
        assert heads == heads_of(bench, cell)
        delta = ctsft.tune(model, task, "d50", arm=arm, heads=heads, rows=20, recipe=replace(recipe, lr=1e-3))
        with bench.tuned(cell, heads), delta.on(model.model):
            assert weight_hash(model.model) == weight_hash(bench.model)


def test_importing_the_package_loads_no_model_library():
    code = "import sys, ctsft; print('torch' in sys.modules, 'transformers' in sys.modules); ctsft.HeadDelta"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    for name in ctsft.__all__:
        assert getattr(ctsft, name) is not None
    assert set(ctsft.__all__) <= set(dir(ctsft))
    with pytest.raises(AttributeError, match="no attribute 'fine_tune'"):
        getattr(ctsft, "fine_tune")  # noqa: B009


@pytest.mark.parametrize("name", ctsft.__all__)
def test_the_public_interface_is_typed_whole(name):
    """Every parameter and every result of every public function and method has a type that can be resolved."""
    found = getattr(ctsft, name)
    assert found.__doc__
    functions = [found] if inspect.isfunction(found) else [f for _, f in inspect.getmembers(found, inspect.isfunction)]
    for function in functions:
        if not function.__code__.co_filename.startswith(str(Path(ctsft.__file__).parent)):
            continue  # inherited, or written by dataclass
        hints = typing.get_type_hints(function)
        missing = {p for p in inspect.signature(function).parameters if p != "self"} - hints.keys()
        assert not missing, (function.__qualname__, missing)
        assert "return" in hints or function.__name__ == "__init__", function.__qualname__
    assert (Path(ctsft.__file__).parent / "py.typed").is_file()


def test_wrong_calls_are_refused_in_words(theta1, task, tmp_path):
    for arguments, message in (
        (dict(arm="circuit"), "needs heads: see discover and choose"),
        (dict(arm="full", heads=HEADS), "needs no heads"),
        (dict(arm="direct"), "use full"),
        (dict(arm="zero_shot"), "tunes nothing"),
        (dict(arm="norm_only", rows=101), "pool has 100"),
        (dict(arm="norm_only", max_tokens=4096), "positions end at 128"),
    ):
        with pytest.raises(UserError, match=message):
            ctsft.tune(theta1, task, "d50", **arguments)
    relevance = ctsft.discover(theta1, task, "d00", scorer="cdt_linear", depth=0, mean_rows=12, score_rows=6)
    with pytest.raises(UserError, match="do not reach depth 2"):
        ctsft.choose(theta1, relevance, depth=2)
    with pytest.raises(UserError, match="this one has 3 of 4"):
        ctsft.choose(tiny("llama-2kv"), relevance)
    for arm in ("full", "nearzero", "lora_heads"):
        with pytest.raises(UserError, match=f"for an arm '{arm}'. Valid: circuit, near_zero, bottom, random"):
            ctsft.choose(theta1, relevance, arm=arm, depth=0)
    with pytest.raises(UserError, match="seed is -1; it must not be negative"):
        ctsft.choose(theta1, relevance, arm="random", depth=0, seed=-1)
    for temperature in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"temperature is .*; it must be a finite number above zero"):
            ctsft.evaluate(theta1, task, "d50", temperature=temperature)
    with pytest.raises(UserError, match="one word for each"):
        ctsft.load_task("demo", label_words=(" a",))


def test_words_that_mean_nothing_are_refused_and_do_not_stand_for_a_default(theta1, task):
    for arguments, message in (
        (dict(kv_policy="none"), "kv_policy is 'none'. Valid: shared, frozen, all"),
        (dict(dtype="bf16"), "dtype is 'bf16'. Valid: auto, float32, bfloat16"),
        (dict(role="Source"), "role is 'Source'. Valid: source, target"),
    ):
        with pytest.raises(UserError, match=message):
            ctsft.tune(theta1, task, "d50", arm="norm_only", **arguments)
    with pytest.raises(UserError, match="kv_policy is 'freeze'"):
        ctsft.HeadTuning(theta1, HEADS, "freeze")
    with pytest.raises(UserError, match=r"split is 'dev'\. Valid: train, valid, test"):
        ctsft.evaluate(theta1, task, "d50", split="dev")
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        ctsft.load_model("demo", device="gpu")
    for head in (Head(4, 0), Head(0, 8), Head(-1, 0)):
        with pytest.raises(UserError, match=f"no head {head}: the model has 4 layers of 8 heads"):
            ctsft.HeadTuning(theta1, [head])


@pytest.mark.parametrize(("always", "why"), [(None, "the model gets right no more"), (0, "the source has no more")])
def test_fewer_rows_to_score_on_than_were_asked_for_are_told(theta1, task, monkeypatch, always, why):
    """Whether a model that gets all right but ten of a label, or one that always gives the same answer."""

    def answers(loaded, task, rows, max_tokens):
        labels = np.array([example.label for example in rows])
        labels[np.flatnonzero(labels == 2)[10:]] = 0
        return SimpleNamespace(labels=labels if always is None else np.full(len(labels), always))

    monkeypatch.setattr("ctsft.library.answer", answers)
    asked = 48 if always is None else 900
    with pytest.warns(UserWarning, match=rf"\d+ rows are scored, not {asked}: {why} of some label"):
        ctsft.discover(theta1, task, "d00", scorer="cdt_linear", depth=0, mean_rows=12, score_rows=asked)


def test_a_model_that_knows_too_little_and_scores_of_another_one_are_told(theta1, task):
    base = ctsft.load_model("demo")
    with pytest.warns(UserWarning, match="rows that it gets wrong are scored too: make it competent"):
        of_base = ctsft.discover(base, task, "d00", scorer="cdt_linear", depth=0)
    assert ctsft.choose(base, of_base, depth=0)
    with pytest.warns(UserWarning, match="scores were made on other weights"):
        ctsft.choose(theta1, of_base, depth=0)


def test_scores_are_found_by_every_name_that_a_user_has_for_them(tmp_path):
    scores = ctsft.Relevance(np.arange(6.0).reshape(2, 3))
    scores.save(str(tmp_path / "v1.2"))
    for name in (tmp_path / "v1.2", tmp_path / "v1.2.json", str(tmp_path / "v1.2.json")):
        assert (ctsft.Relevance.load(name).logits == scores.logits).all()


def test_a_circuit_can_be_asked_whether_it_is_the_mechanism(theta1, task):
    relevance = ctsft.discover(theta1, task, "d00", scorer="cdt_linear", depth=0)
    before, shape = weight_hash(theta1.model), relevance.logits.shape
    every = [Head(*place) for place in np.ndindex(shape)]
    found = ctsft.faithfulness(theta1, task, "d00", every, relevance, draws=1)
    assert found.kept[:1] == found.kept_by_chance[:1] == (1.0,)
    assert found.left[:1] == (0.0,)
    best = sorted(every, key=lambda head: -relevance.logits[head])
    half, rest = (ctsft.faithfulness(theta1, task, "d00", part, relevance, draws=2) for part in (best[:16], best[16:]))
    assert half.kept.value > half.kept_by_chance.value
    assert half.kept == rest.left  # keeping these is leaving out the others
    assert half.left == rest.kept
    assert f"these heads alone keep {half.kept.value:.2f} [" in str(half)
    assert weight_hash(theta1.model) == before


def test_faithfulness_asks_with_the_prompts_of_the_scores_and_counts_a_head_once(theta1, task):
    relevance = ctsft.discover(theta1, task, "d00", scorer="cdt_linear", depth=0, max_tokens=9)
    asked = partial(ctsft.faithfulness, theta1, task, "d00", relevance=relevance, draws=2)
    once = asked(HEADS)
    assert once == asked(HEADS * 3) == asked(HEADS, max_tokens=9)
    assert once.kept != asked(HEADS, max_tokens=128).kept
    worded = replace(task, label_words=task.label_words[::-1])
    with pytest.raises(UserError, match="made with another prompt: here label_words"):
        ctsft.faithfulness(theta1, worded, "d00", HEADS, relevance)


def test_questions_of_faithfulness_without_an_answer_are_refused(theta1, task):
    relevance = ctsft.discover(theta1, task, "d00", scorer="cdt_linear", depth=0)
    for heads, message in (([], "name at least one"), ([(4, 0)], "of 4 layers of 8 heads"), ([(0, -1)], "of 4 layers")):
        with pytest.raises(UserError, match=message):
            ctsft.faithfulness(theta1, task, "d00", heads, relevance)
    for about in ({}, {"source": "d00", "mean_row_ids": ["nobody"]}):
        with pytest.raises(UserError, match="rows of the scores' mean are not in this task"):
            ctsft.faithfulness(theta1, task, "d00", HEADS, replace(relevance, about=about))
    for wrong, message in (
        ({"split": "dev"}, "split is 'dev'"),
        ({"draws": 0}, "draws is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1"),
    ):
        with pytest.raises(UserError, match=message):
            ctsft.faithfulness(theta1, task, "d00", HEADS, relevance, **wrong)


def test_numbers_that_mean_nothing_are_refused_before_anything_is_computed(theta1, task, monkeypatch):
    for rows in (0, -95):
        with pytest.raises(UserError, match=f"{rows} rows were asked for. Ask for at least 1"):
            ctsft.tune(theta1, task, "d50", arm="norm_only", rows=rows)
    for name in ("epochs", "batch_size", "micro_batch"):
        with pytest.raises(UserError, match=f"{name} is 0; it must be at least 1"):
            Recipe(**{name: 0})
    for lr in (0.0, -1e-3, float("nan"), float("inf")):
        with pytest.raises(UserError, match="must be a finite number above zero"):
            Recipe(lr=lr)
    for wrong in (dict(clip=0.0), dict(clip=float("nan")), dict(warmup=10), dict(warmup=-0.1), dict(weight_decay=-1.0)):
        with pytest.raises(UserError, match=f"^{next(iter(wrong))} is "):
            Recipe(**wrong)
    assert Recipe(clip=float("inf")).clip > 1  # nothing is clipped
    monkeypatch.setattr("ctsft.library.scoring_rows", lambda *a: pytest.fail("rows were scored"))
    for name in ("mean_rows", "score_rows"):
        with pytest.raises(UserError, match=f"{name} is 2; it must be at least 3"):
            ctsft.discover(theta1, task, "d00", **{name: 2})
    for size, message in (
        (dict(share=0.0), "share above 0 and at most 1"),
        (dict(share=1.5), "share above 0 and at most 1"),
        (dict(depth=-1), "depth must be at least 0"),
        (dict(depth=3, share=0.5), "asks for 64 heads, and the model has 32"),
        (dict(depth=2, share=0.6), "asks for 57 heads, and the model has 32"),
    ):
        with pytest.raises(UserError, match=message):
            ctsft.discover(theta1, task, "d00", **size)
        with pytest.raises(UserError, match=message):
            ctsft.choose(theta1, ctsft.Relevance(np.zeros((4, 8))), **size)


def test_a_control_that_may_move_other_weights_than_the_circuit_is_refused(theta1, task):
    """The embedded model's heads share keys and values; sets of one size differ in how many groups they hold whole."""
    for arm in ("near_zero", "bottom", "random"):
        with pytest.raises(UserError, match=f"of which '{arm}' may have another number than the circuit"):
            ctsft.tune(theta1, task, "d50", arm=arm, heads=HEADS, kv_policy="all")


def test_a_task_of_ones_own_is_bound_to_its_folder(tmp_path):
    task = ctsft.load_task("topics", write_topics(tmp_path))
    assert len(task.load("d50", "test").examples) == 100
    assert task_of(json.loads(json.dumps(form_of(task)))).template == task.template
    with pytest.raises(UserError, match="has no rows"):
        task_of(form_of(task)).read("d50", "test", None)
    with pytest.raises(UserError, match="lacks 'labels'"):
        task_of({"name": "x"})


# ---- calibration ---------------------------------------------------------------------------------------------------


def test_temperature_undoes_overconfidence_and_changes_no_answer():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(4000, 3))
    p = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    gold = np.array([rng.choice(3, p=row) for row in p])
    temperature = fit_temperature(5 * true, gold)
    assert temperature == pytest.approx(5, rel=0.1)
    right = (5 * true).argmax(1) == gold
    assert calibration_error(confidence(5 * true, temperature), right) < 0.03
    assert calibration_error(confidence(5 * true, 1.0), right) > 0.15


@pytest.mark.parametrize("rows", [10, 100])
def test_a_perfect_split_is_believed_as_far_as_its_number_of_rows(rows):
    """All N rows are right by the same margin: the confidence is (N + 1) / (N + C), whatever the margin."""
    gold = np.arange(rows) % 4
    for margin in (1.0, 8.0):
        sure = confidence(np.eye(4)[gold] * margin, fit_temperature(np.eye(4)[gold] * margin, gold))
        assert sure == pytest.approx((rows + 1) / (rows + 4), abs=1e-3)
    assert confidence(np.eye(3, dtype=np.float32) * 400, 0.05).tolist() == [1, 1, 1]


def test_calibration_error_against_a_worked_example():
    # One bin holds .91 and .95 (mean .93, half right), another .55 (right): 2/3 * .43 + 1/3 * .45
    assert calibration_error(np.array([0.91, 0.95, 0.55]), np.array([True, False, True])) == pytest.approx(
        2 / 3 * 0.43 + 1 / 3 * 0.45
    )
    assert calibration_error(np.ones(4), np.ones(4, bool)) == 0


# ---- deltas --------------------------------------------------------------------------------------------------------


def test_a_delta_travels_with_all_that_its_user_needs(theta1, task, delta, tmp_path):
    delta.save(tmp_path)
    again = ctsft.HeadDelta.load(tmp_path)
    assert again.base == delta.base == weight_hash(theta1.model)
    assert again.about == json.loads(json.dumps(delta.about))
    assert all(torch.equal(again.values[piece], value) for piece, value in delta.values.items())
    assert again.about["heads"] == [str(head) for head in HEADS]
    with again.on(theta1.model):
        found = ctsft.evaluate(theta1, task, "d50", split="valid")
    assert again.about["metrics"]["accuracy"] == found.accuracy.value
    assert again.about["metrics"]["rows"] == len(found.gold)
    assert 0.05 <= again.about["temperature"] <= 20
    assert len(again.about["row_ids"]) == again.about["rows"] == 60
    card = (tmp_path / "README.md").read_text()
    for word in ("library_name: ctsft", delta.base, "d50", "0.1, 2.3, 2.6", "negative, neutral, positive", "accuracy:"):
        assert word in card
    # A small file: the slices and norms, not the model.
    total = sum(p.numel() for p in theta1.model.parameters())
    assert delta.size < 0.12 * total
    assert (tmp_path / "delta.safetensors").stat().st_size < 4 * delta.size + 20_000


def test_texts_are_answered_as_the_rows_of_a_split_are(theta1, task):
    rows = task.load("d50", "test").examples[:40]
    told = ctsft.predict(theta1, task, [row.text for row in rows], temperature=2.0)
    with_labels = ctsft.evaluate(theta1, task, "d50", temperature=2.0)
    assert [answer.label for answer in told] == [task.labels[i] for i in with_labels.predictions.labels[:40]]
    np.testing.assert_allclose([answer.confidence for answer in told], with_labels.confidence[:40], rtol=1e-4)
    assert ctsft.predict(theta1, task, []) == []
    two = ctsft.load_task("demo_entailment")
    for asked, texts, pairs, message in (
        (task, "one text", (), "give a list of texts"),
        (task, ["a", " "], (), "a text is empty"),
        (task, ["a"], ["b"], "pairs are 1; this task asks for 0 with 1 texts"),
        (two, ["a", "b"], ["c"], "pairs are 1; this task asks for 2 with 2 texts"),
    ):
        with pytest.raises(UserError, match=message):
            ctsft.predict(theta1, asked, texts, pairs=pairs)


def test_texts_that_lose_their_end_are_told(theta1, task):
    with pytest.warns(UserWarning, match=r"1 of 2 texts \(the first is number 1\) are longer than 40 tokens"):
        ctsft.predict(theta1, task, ["short", "long " * 100], max_tokens=40)


def test_rows_are_read_from_where_the_variable_says(tmp_path, monkeypatch):
    write_topics(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="unknown task 'topics'"):
        ctsft.load_task("topics")
    monkeypatch.setenv("CTSFT_DATA_DIR", str(tmp_path / "elsewhere"))
    task = ctsft.load_task("topics")
    monkeypatch.delenv("CTSFT_DATA_DIR")
    assert len(task.load(task.languages[0], "train").examples) > 0


def test_a_card_says_only_what_is_known():
    loaded = tiny("llama-2kv")
    bare = ctsft.HeadDelta.of(loaded.model, [Slice("model.norm.weight", 0, 0, 4)], "abc")
    assert "None" not in model_card(bare)
    assert "base_model: someone/model\n" in model_card(replace(bare, about={"model": "someone/model@0123"}))
    # What a user keeps beside a delta is told as it stands.
    card = model_card(replace(bare, about={"task": "topics", "recipe": "by hand", "metrics": {"accuracy": 0.9}}))
    for line in ("| task | topics |", "| recipe | by hand |", "| metrics | {'accuracy': 0.9} |"):
        assert line in card
    assert "| recipe | lr 0.001, optimizer SGD |" in model_card(
        replace(bare, about={"recipe": {"lr": 1e-3, "optimizer": "SGD"}})
    )
    odd = {"model": 3, "language": None, "heads": [Head(0, 1), Head(2, 3)], "parts": None, "task": {"labels": None}}
    card = model_card(replace(bare, about=odd))
    assert "| model | 3 |" in card
    assert "| heads (layer.index) | 0.1, 2.3 |" in card
    assert "None" not in card


def test_several_languages_on_one_base_are_switched_bit_for_bit(theta1, delta, other):
    base, base_logits = state(theta1.model), logits(theta1)
    expected = {}
    for name, each in (("d50", delta), ("d90", other)):
        with each.on(theta1.model):
            expected[name] = logits(theta1)
    switch = ctsft.Switch(theta1.model, {"d50": delta, "d90": other})
    for name in ("d50", "d90", None, "d90", "d50", "d50", None):
        switch.to(name)
        assert torch.equal(logits(theta1), base_logits if name is None else expected[name])
    assert all(torch.equal(base[name], value) for name, value in state(theta1.model).items())
    with pytest.raises(UserError, match=r"no delta 'd10'\. Loaded: d50, d90"):
        switch.to("d10")
    with delta.on(theta1.model), pytest.raises(UserError, match="'d90' was made on weights"):
        ctsft.Switch(theta1.model, {"d90": other})


def test_a_delta_that_does_not_fit_is_refused_before_it_is_written(theta1, delta):
    before = weight_hash(theta1.model)
    piece = next(iter(delta.values))
    for values in (
        {Slice("model.absent.weight", 0, 0, 1): torch.zeros(1)},
        {Slice(piece.parameter, 0, 0, 10**6): torch.zeros(1)},
        {Slice(piece.parameter, 7, 0, 1): torch.zeros(1)},
        {piece: torch.zeros(1)},
        {piece: delta.values[piece].double()},
    ):
        with pytest.raises(UserError, match="does not fit"):
            ctsft.HeadDelta(before, values).apply(theta1.model)
    assert weight_hash(theta1.model) == before


def test_the_sum_of_two_deltas_adds_changes_and_names_conflicts(theta1, delta, other):
    base = state(theta1.model)
    both, conflicts = ctsft.add(delta, other, theta1.model)
    swapped, again = ctsft.add(other, delta, theta1.model)
    assert weight_hash(theta1.model) == delta.base
    results = []
    for each in (delta, other, both, swapped):
        with each.on(theta1.model):
            results.append(state(theta1.model))
    one, two, total, turned = results
    for name, value in base.items():
        torch.testing.assert_close(total[name], one[name] + two[name] - value)
        torch.testing.assert_close(total[name], turned[name])
        for mine, theirs in ((one, two), (two, one)):
            alone = theirs[name] == value
            assert torch.equal(total[name][alone], mine[name][alone])
    # What a delta holds and did not move is not its to keep.
    still = replace(other, values={piece: piece.of(base[piece.parameter]).clone() for piece in other.values})
    alone, none = ctsft.add(delta, still, theta1.model)
    assert not none
    assert all(torch.equal(alone.values[piece], value) for piece, value in delta.values.items())
    # Both move the norms and head 0.1, so these conflict; head 2.3 belongs to one alone.
    names = {conflict.parameter for conflict in conflicts}
    assert "model.layers.0.self_attn.q_proj.weight" in names
    assert "model.norm.weight" in names
    assert "model.layers.2.self_attn.q_proj.weight" not in names
    assert conflicts == sorted(conflicts, key=lambda c: -c.opposed)
    assert {c.parameter: round(c.cosine, 6) for c in conflicts} == {c.parameter: round(c.cosine, 6) for c in again}
    [own] = [c for c in ctsft.add(delta, delta, theta1.model)[1] if c.parameter == "model.norm.weight"]
    assert (own.opposed, own.cosine) == (0, pytest.approx(1))
    with pytest.raises(UserError, match="different weights"):
        ctsft.add(delta, replace(other, base="x"), theta1.model)
    with delta.on(theta1.model), pytest.raises(UserError, match="take deltas off"):
        ctsft.add(delta, other, theta1.model)


def test_an_exported_checkpoint_is_plain_transformers(theta1, delta, tmp_path):
    with delta.on(theta1.model):
        ctsft.export(theta1, tmp_path / "full", delta.about)
        expected, tuned = logits(theta1), weight_hash(theta1.model)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "full")
    batch = pad_left(random_rows().prompts, theta1.layout, "cpu")
    torch.testing.assert_close(plain(**batch, logits_to_keep=1).logits, expected, rtol=1e-5, atol=1e-5)
    again = ctsft.load_model(str(tmp_path / "full"))
    assert again.weights == tuned
    assert torch.equal(logits(again), expected)
    assert share.about_checkpoint(tmp_path / "full")["temperature"] == delta.about["temperature"]
    with pytest.raises(UserError, match="exists already"):
        ctsft.export(theta1, tmp_path / "full")


@pytest.mark.parametrize("where", [".", "..", "../here"])
def test_a_checkpoint_does_not_take_the_place_of_the_working_folder(theta1, tmp_path, monkeypatch, where):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=r"is where you are|exists already"):
        ctsft.export(theta1, where)
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


def test_a_delta_goes_to_the_hubs_layout_and_comes_back(theta1, delta, other, tmp_path):
    commits = []
    for name, each in (("a", delta), ("b", other)):
        each.save(tmp_path / name)
        commits.append(ctsft.push(tmp_path / name, "someone/topics", hub=tmp_path / "hub"))
    assert ctsft.pull("someone/topics", hub=tmp_path / "hub").about["language"] == "d90"
    back = ctsft.pull("someone/topics", revision=commits[0], hub=tmp_path / "hub")
    with back.on(theta1):  # what load_model gives will do
        tuned = logits(theta1)
    with delta.on(theta1.model):
        assert torch.equal(tuned, logits(theta1))
    with pytest.raises(UserError, match="cannot pull someone/absent"):
        ctsft.pull("someone/absent", hub=tmp_path / "hub")
    for wrong in ("a/b/c", "../x", ""):
        with pytest.raises(UserError, match="no repository name"):
            ctsft.push(tmp_path / "a", wrong, hub=tmp_path / "hub")
    with pytest.raises(UserError, match=r"is a whole checkpoint, not a head delta: load it as the model"):
        ctsft.HeadDelta.load(DEMO_MODEL)
    for wrong, missing in ((tmp_path / "hub", "delta"), (tmp_path / "a" / "delta.safetensors", "delta")):
        with pytest.raises(UserError, match=f"holds no {missing}.*the folder that a delta was saved to"):
            ctsft.push(wrong, "someone/topics", hub=tmp_path / "hub")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to the hub folder"):
        ctsft.push(tmp_path / "a", "someone/topics", hub=tmp_path / "file")
    (tmp_path / "a" / "README.md").unlink()
    with pytest.raises(UserError, match=r"holds no README\.md"):
        ctsft.push(tmp_path / "a", "someone/topics", hub=tmp_path / "hub")


def test_an_upload_sends_the_two_files_and_a_refusal_is_told(delta, tmp_path, monkeypatch):
    """The hub's client is replaced; what it is asked to do is what is tested."""
    calls = []

    class Api:
        def create_repo(self, repository, private, exist_ok):
            calls.append((repository, private, exist_ok))

        def upload_folder(self, folder_path, repo_id, allow_patterns):
            found = sorted(path.name for path in Path(folder_path).iterdir() if path.name in allow_patterns)
            calls.append((repo_id, found))
            return type("Done", (), {"oid": "c0ffee"})

    delta.save(tmp_path)
    monkeypatch.setattr(share, "HfApi", Api)
    monkeypatch.setattr(share, "hub_answers", lambda: True)
    assert ctsft.push(tmp_path, "someone/topics", private=False) == "c0ffee"
    assert calls == [("someone/topics", False, True), ("someone/topics", ["README.md", "delta.safetensors"])]
    for lost in (httpx2.ConnectError, httpx2.ReadTimeout, OSError):
        monkeypatch.setattr(Api, "create_repo", lambda *a, lost=lost, **k: (_ for _ in ()).throw(lost("no connection")))
        with pytest.raises(UserError, match="cannot push to someone/topics: no connection"):
            ctsft.push(tmp_path, "someone/topics")
        monkeypatch.setattr(share, "snapshot_download", Api.create_repo)
        with pytest.raises(UserError, match="cannot pull someone/topics: no connection"):
            ctsft.pull("someone/topics")


# ---- loops of one's own --------------------------------------------------------------------------------------------


def rows_of(loaded, task, n=24):
    return encode(loaded.tokenizer, task, task.load("d50", "train").examples[:n], 128, loaded.layout)


def reference(loaded, task, recipe):
    """Our own loop on the same rows; returns the tuned slices and puts the weights back."""
    rows, tokens = rows_of(loaded, task), label_tokens(loaded.tokenizer, task, loaded.layout)
    moving = moving_slices(loaded.model, loaded.anatomy, get_arm("circuit"), HEADS, "shared")
    undo = ctsft.HeadDelta.of(loaded.model, moving, "")
    with trainable(loaded.model, loaded.anatomy, get_arm("circuit"), HEADS, "shared") as (parameters, compact):
        gradients = Gradients(loaded.model, parameters, rows, tokens, loaded.layout, NO_AUTOCAST, recipe.micro_batch)
        train(gradients, recipe, 3, compact.write_back)
    tuned = ctsft.HeadDelta.of(loaded.model, moving, "")
    ctsft.HeadDelta(weight_hash(loaded.model), undo.values).apply(loaded.model)
    return tuned


def order_of(n, epochs, seed=3):
    """The order in which our loop meets the rows."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(n, generator=generator).tolist() for _ in range(epochs)]


def assert_same(one, two, lr):
    assert one.values.keys() == two.values.keys()
    for piece, value in one.values.items():
        # Adam divides by the gradient's size, so another order of summing shows where a gradient is all but zero.
        difference = (value - two.values[piece]).abs()
        assert difference.max() < 0.05 * lr, piece
        assert difference.mean() < 1e-3 * lr, piece


def test_a_loop_of_ones_own_gives_our_loops_weights(theta1, task):
    recipe = Recipe(lr=1e-3, epochs=2, batch_size=8, weight_decay=0.1, micro_batch=3, clip=0.05)
    expected, before = reference(theta1, task, recipe), state(theta1.model)
    rows, tokens, layout = rows_of(theta1, task), label_tokens(theta1.tokenizer, task, theta1.layout), theta1.layout
    with ctsft.HeadTuning(theta1, HEADS) as tuning:
        optimizer = tuning.follow(torch.optim.AdamW(tuning.parameters(), lr=1e-3, weight_decay=0.1))
        step = 0
        for order in order_of(24, 2):
            for start in range(0, 24, 8):
                batch = rows.subset(order[start : start + 8])
                for half in (range(4), range(4, 8)):
                    part = batch.subset(list(half))
                    gold = torch.tensor([tokens[label] for label in part.labels])
                    out = theta1.model(**pad_left(part.prompts, layout, "cpu")).logits[:, -1]
                    (torch.nn.functional.cross_entropy(out, gold) / 2).backward()
                torch.nn.utils.clip_grad_norm_(tuning.parameters(), 0.05)
                optimizer.param_groups[0]["lr"] = 1e-3 * learning_rate_factor(step, 6, 0.1)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
    assert_same(tuning.delta(), expected, 1e-3)
    assert tuning.delta(language="d50").about["language"] == "d50"
    tuning.revert()
    assert all(torch.equal(before[name], value) for name, value in state(theta1.model).items())


def test_an_optimizer_may_ask_for_the_loss_inside_its_step(theta1, task):
    """Every loss that it is told must be that of the heads as they are then, or the step ends elsewhere."""
    rows, tokens, layout = rows_of(theta1, task), label_tokens(theta1.tokenizer, task, theta1.layout), theta1.layout
    gold = torch.tensor([tokens[label] for label in rows.labels])

    def loss() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(
            theta1.model(**pad_left(rows.prompts, layout, "cpu")).logits[:, -1], gold
        )

    with ctsft.HeadTuning(theta1, [tuple(head) for head in HEADS]) as tuning:
        optimizer = tuning.follow(torch.optim.LBFGS(tuning.parameters(), max_iter=4, line_search_fn="strong_wolfe"))
        told = []

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            now = loss()
            now.backward()
            told.append(now.item())
            return now

        optimizer.step(closure)
        assert loss().item() == pytest.approx(min(told), rel=1e-4)
        assert told[-1] < 0.95 * told[0]
    assert tuning.heads == HEADS
    tuning.revert()


@pytest.mark.parametrize("scorer", ["cdt_linear", "ablation"])
def test_heads_can_be_scored_while_they_are_tuned(theta1, task, scorer):
    """Discovery watches and edits the chosen layers too, as they are by then."""
    asked = partial(ctsft.discover, theta1, task, "d00", scorer=scorer, depth=0, mean_rows=12, score_rows=6)
    with ctsft.HeadTuning(theta1, HEADS) as tuning:
        optimizer = tuning.follow(torch.optim.SGD(tuning.parameters(), lr=0.5))
        at_first = asked().logits
        rows = rows_of(theta1, task)
        out = theta1.model(**pad_left(rows.prompts, theta1.layout, "cpu")).logits[:, -1]
        out.logsumexp(-1).sum().backward()
        optimizer.step()
        while_tuned = asked().logits
    np.testing.assert_allclose(while_tuned, asked().logits, rtol=1e-4, atol=1e-6)
    tuning.revert()
    np.testing.assert_allclose(at_first, asked().logits, rtol=1e-4, atol=1e-6)
    assert np.abs(at_first - while_tuned).max() > 1e-3


def test_a_loop_without_its_optimizer_is_told(theta1):
    before = weight_hash(theta1.model)

    def step_by_oneself():
        with ctsft.HeadTuning(theta1, HEADS) as tuning:
            for parameter in tuning.parameters():
                parameter.grad = torch.ones_like(parameter)
            torch.optim.SGD(tuning.parameters(), lr=0.1).step()

    with pytest.raises(UserError, match=r"call follow\(optimizer\)"):
        step_by_oneself()
    assert weight_hash(theta1.model) == before
    tuning = ctsft.HeadTuning(theta1, [])
    with pytest.raises(UserError, match="nothing has been tuned"):
        tuning.delta()


def test_a_loop_that_has_not_ended_has_no_delta_yet(theta1):
    before = weight_hash(theta1.model)
    with ctsft.HeadTuning(theta1, HEADS) as tuning:
        tuning.follow(torch.optim.SGD(tuning.parameters(), lr=0.1))
        for asked in (tuning.delta, tuning.revert):
            with pytest.raises(UserError, match=rf"call {asked.__name__}\(\) after it"):
                asked()
    assert tuning.delta(task="topics").about["task"] == "topics"
    tuning.revert()
    assert weight_hash(theta1.model) == before
    with pytest.raises(UserError, match=r"call delta\(\) before revert\(\)"):
        tuning.delta()


class HeadTrainer(ctsft.HeadTrainerMixin, Trainer):
    """In the order and at the rates of our loop, so that the two can be compared."""

    def _get_train_sampler(self, train_dataset=None):
        return [index for order in order_of(24, 1) for index in order]

    def create_scheduler(self, num_training_steps, optimizer=None):
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, num_training_steps, 0.1)
        )
        return self.lr_scheduler


def collate(loaded, tokens):
    def batch_of(rows):
        """Prompt and label word as a language model reads them: the loss falls on the label word alone."""
        whole = [(*row["prompt"], tokens[row["label"]]) for row in rows]
        batch = pad_left(whole, loaded.layout, "cpu")
        labels = torch.full_like(batch["input_ids"], -100)
        labels[:, -1] = batch["input_ids"][:, -1]
        return {**batch, "labels": labels}

    return batch_of


def arguments(tmp_path, **changes) -> TrainingArguments:
    settings = dict(
        output_dir=str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=4, num_train_epochs=1,
        learning_rate=1e-3, weight_decay=0.0, max_grad_norm=0.05, save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True, logging_strategy="no", remove_unused_columns=False,
    )  # fmt: skip
    return TrainingArguments(**settings | changes)


def test_a_trainer_that_would_copy_the_model_to_several_gpus_is_refused(theta1, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=0"):
        HeadTrainer(loaded=theta1, heads=HEADS, args=arguments(tmp_path))


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_trainer_gives_our_loops_weights_with_its_clipping_and_accumulation(theta1, task, tmp_path, accumulation):
    recipe = Recipe(lr=1e-3, epochs=1, batch_size=8, micro_batch=3, clip=0.05)
    expected, before = reference(theta1, task, recipe), state(theta1.model)
    rows, tokens = rows_of(theta1, task), label_tokens(theta1.tokenizer, task, theta1.layout)
    data = [{"prompt": prompt, "label": label} for prompt, label in zip(rows.prompts, rows.labels, strict=True)]
    sizes = dict(per_device_train_batch_size=8 // accumulation, gradient_accumulation_steps=accumulation)
    trainer = HeadTrainer(
        loaded=theta1, heads=HEADS, args=arguments(tmp_path, **sizes), train_dataset=data,
        data_collator=collate(theta1, tokens),
    )  # fmt: skip
    trainer.train()
    delta = trainer.head_delta(language="d50")
    assert_same(delta, expected, 1e-3)
    after = state(theta1.model)
    trainer.tuning.revert()
    moved = {piece.parameter for piece in delta.values}
    for name, value in before.items():
        assert name in moved or torch.equal(after[name], value)
        assert torch.equal(theta1.model.get_parameter(name), value)


def test_the_trainer_leaves_its_precision_to_nobody(theta1, task, tmp_path):
    rows, tokens = rows_of(theta1, task), label_tokens(theta1.tokenizer, task, theta1.layout)
    data = [{"prompt": prompt, "label": label} for prompt, label in zip(rows.prompts, rows.labels, strict=True)]
    before = ctsft.evaluate(theta1, task, "d50", split="valid").predictions.logits
    trainer = HeadTrainer(
        loaded=theta1, heads=HEADS, args=arguments(tmp_path, bf16=True, learning_rate=1e-3), train_dataset=data,
        data_collator=collate(theta1, tokens),
    )  # fmt: skip
    trainer.train()
    assert not theta1.model.training
    trainer.tuning.revert()
    assert (ctsft.evaluate(theta1, task, "d50", split="valid").predictions.logits == before).all()


def test_checkpoints_in_between_are_refused(theta1, tmp_path):
    with pytest.raises(UserError, match='save_strategy="no"'):
        HeadTrainer(loaded=theta1, heads=HEADS, args=arguments(tmp_path, save_strategy="epoch"), train_dataset=[])
