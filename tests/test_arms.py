"""Every arm keeps the same promises: what it declares moves, nothing else does, its row counts it, theta1 is back."""

from __future__ import annotations

import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from conftest import CONFIGS, LABEL_TOKENS, mask_of, random_rows, state, there, tiny

from ctsft.errors import CellFailed, UserError
from ctsft.heads import Head
from ctsft.models.load import load_model, weight_hash
from ctsft.report.figures.style import COLOURS, MARKERS
from ctsft.study.circuit_stage import heads_of
from ctsft.study.config import StudyConfig
from ctsft.study.data import StudyData
from ctsft.study.grid import Cell, cell_fingerprint, cells
from ctsft.study.record import read_rows
from ctsft.study.run import run_study
from ctsft.study.workbench import Workbench
from ctsft.tasks.nusax import NUSAX
from ctsft.tasks.prompts import Encoded, Layout
from ctsft.tasks.task import Example
from ctsft.tuning.adapters import LowRank
from ctsft.tuning.arms import ARMS, get_arm, moving_slices, trainable, trained_weights
from ctsft.tuning.extra_rows import Lexicon, Material, Replay, synonyms
from ctsft.tuning.gradients import EWC, L2SP, Job, _pull
from ctsft.tuning.loop import Gradients, Recipe, text_loss, token_losses, train
from ctsft.tuning.ngrams import NGrams
from ctsft.tuning.slices import read_slices, write_slices

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
DEMO = runpy.run_path(str(EXPERIMENTS / "01_nusax_transfer.py"))["PRESETS"]["demo"]
TUNED = [name for name, arm in ARMS.items() if arm.uses_rate]
HEADS = [Head(0, 1), Head(1, 0), Head(1, 3)]
NO_AUTOCAST = torch.autocast("cpu", torch.bfloat16, enabled=False)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Workbench:
    config = replace(
        DEMO,
        targets=("d30",),
        n_targets=(20,),
        seeds=(31,),
        n_source=60,
        epochs=1,
        mean_rows=24,
        score_rows=12,
        scorer="cdt_linear",
        arms=("zero_shot", "ngrams", "lora", "lt_sft", "circuit"),
        depths=(1,),
        lrs=(1e-3,),
        output=tmp_path_factory.mktemp("results"),
    )
    return Workbench(config)


def cell_of(arm: str, lr: float = 1e-3) -> Cell:
    return Cell("d30", 20, arm, 1 if get_arm(arm).needs_heads else None, lr, 31)


@pytest.mark.parametrize("arm", TUNED)
def test_what_an_arm_declares_moves_and_nothing_else_by_a_bit(bench, arm):
    bench.theta1_of(31)
    cell = cell_of(arm)
    heads = heads_of(bench, cell)
    masks = mask_of(bench.model, moving_slices(bench.model, bench.anatomy, get_arm(arm), heads, "shared"))
    start = bench.base if get_arm(arm).start == "base" else state(bench.model)
    with bench.tuned(cell, heads) as (trained, _):
        after = state(bench.model)
    moved = {name: start[name] != value for name, value in after.items()}
    assert not any((moved[name] & ~mask).any() for name, mask in masks.items())
    n_moved, declared = (sum(int(m.sum()) for m in part.values()) for part in (moved, masks))
    if arm == "lt_sft":
        assert 0.95 * trained < n_moved <= trained < declared
    else:
        assert n_moved > 0.95 * declared
    if get_arm(arm).moves.endswith("adapters"):
        assert trained < declared
    elif arm != "lt_sft":
        assert trained == declared


@pytest.mark.parametrize("arm", list(ARMS))
def test_theta1_is_back_bit_for_bit(bench, arm):
    bench.theta1_of(31)
    before, names = weight_hash(bench.model), [name for name, _ in bench.model.named_modules()]
    cell = cell_of(arm)
    with bench.tuned(cell, heads_of(bench, cell)):
        assert (weight_hash(bench.model) != before) == get_arm(arm).uses_rate
    assert weight_hash(bench.model) == before
    assert [name for name, _ in bench.model.named_modules()] == names
    assert not any(parameter.requires_grad for parameter in bench.model.parameters())


@pytest.mark.parametrize("arm", ["direct", "ngrams"])
def test_without_theta1_the_base_model_is_back(bench, arm):
    """What another seed's theta1 has left is no start of theirs either."""
    alone = Workbench(bench.config)
    with alone.tuned(cell_of(arm), []):
        first = state(alone.model)
    assert alone.theta1_seed is None
    assert all(torch.equal(alone.base[name], value) for name, value in state(alone.model).items())
    bench.theta1_of(777)
    before = weight_hash(bench.model)
    with bench.tuned(cell_of(arm), []):
        assert arm == "ngrams" or all(torch.equal(first[name], value) for name, value in state(bench.model).items())
    assert (bench.theta1_seed, weight_hash(bench.model)) == (777, before)


@pytest.mark.parametrize("arm", ["lora", "lora_heads", "lt_sft", "dapt", "ewc"])
def test_theta1_is_back_after_a_cell_that_fails(bench, arm):
    bench.theta1_of(31)
    before = weight_hash(bench.model)
    cell = cell_of(arm, lr=1e30)
    with pytest.raises(CellFailed), bench.tuned(cell, heads_of(bench, cell)):
        pass
    assert weight_hash(bench.model) == before
    assert all(parameter.isfinite().all() for parameter in bench.model.parameters())


def test_the_row_says_how_many_weights_were_trained(bench):
    assert run_study(bench.config) == 0
    rows = {row["arm"]: row for row in read_rows(bench.config.folder / "01_nusax_transfer.csv")}
    hidden, kv = 64, 16  # of the demo model: 4 layers, 8 heads of size 8, keys and values of two heads
    assert int(rows["lora"]["trainable"]) == 4 * 8 * (2 * (hidden + hidden) + 2 * (hidden + kv))
    assert rows["lt_sft"]["trainable"] == rows["circuit"]["trainable"]
    assert rows["lt_sft"]["heads"] == rows["circuit"]["heads"] == "2"
    assert rows["zero_shot"]["trainable"] == "0"
    assert int(rows["ngrams"]["trainable"]) > 100
    assert rows["ngrams"]["lr"] == rows["ngrams"]["theta1"] == ""
    assert "-lr" not in rows["ngrams"]["cell"]
    total = sum(parameter.numel() for parameter in bench.model.parameters())
    for row in rows.values():
        assert float(row["trainable_share"]) == pytest.approx(int(row["trainable"]) / total, abs=1e-8)


def test_committed_cells_keep_their_keys():
    """New arms must not make the rows unreadable that are there already."""
    weights = load_model("demo").weights
    for script in ("01_nusax_transfer", "03_editing_preserving_tradeoff", "04_forgetting"):
        config = replace(runpy.run_path(str(EXPERIMENTS / f"{script}.py"))["PRESETS"]["demo"], dtype="float32")
        keys = {cell.key(cell_fingerprint(config, cell, weights)) for cell in cells(config)}
        committed = read_rows(EXPERIMENTS.parent / "results" / "demo" / f"{script}.csv")
        assert committed
        assert {row["cell"] for row in committed} <= keys


def test_numbers_that_an_arm_adds_are_part_of_its_key(bench, monkeypatch):
    keys = {}
    for strength in (0.1, 0.2):
        monkeypatch.setitem(ARMS, "l2sp", replace(ARMS["l2sp"], gradient_rule=L2SP(strength)))
        keys[strength] = cell_fingerprint(bench.config, cell_of("l2sp"), "0")
    assert keys[0.1] != keys[0.2]
    assert ARMS["full"].settings == ARMS["circuit"].settings == {}


def test_variants_differ_in_strength_alone_and_count_as_their_arm():
    variants = [arm for arm in ARMS.values() if arm.variant_of]
    assert {arm.variant_of for arm in variants} == {"l2sp", "ewc"}
    for arm in variants:
        main = ARMS[arm.variant_of]
        rule = replace(arm.gradient_rule, strength=main.gradient_rule.strength)
        assert replace(arm, name=main.name, gradient_rule=rule, variant_of=None) == main
        assert arm.name == f"{main.name}_{arm.gradient_rule.strength:g}"


def test_every_arm_has_a_marker_of_its_own_which_its_variants_share():
    own = [name for name, arm in ARMS.items() if arm.variant_of is None]
    assert len({MARKERS[arm] for arm in own}) == len({(str(COLOURS[arm]), MARKERS[arm]) for arm in own}) == len(own)
    assert all(MARKERS[name] == MARKERS[arm.variant_of or name] for name, arm in ARMS.items())


# ---- adapters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("arm", ["lora", "lora_heads"])
def test_adapters_train_what_they_count_in_every_family(name, arm):
    loaded = tiny(name)
    model, parts = loaded.model, loaded.anatomy
    masks = mask_of(model, moving_slices(model, parts, get_arm(arm), HEADS, "shared"))
    before, trained = state(model), trained_weights(model, parts, get_arm(arm), HEADS, "shared")
    with trainable(model, parts, get_arm(arm), HEADS, "shared", seed=5) as (parameters, held):
        start = [parameter.detach().clone() for parameter in parameters]
        recipe = Recipe(lr=1e-2, epochs=2, batch_size=6)
        gradients = Gradients(model, parameters, random_rows(), LABEL_TOKENS, Layout(0), NO_AUTOCAST, 4)
        train(gradients, recipe, 3, held.write_back)
        changed = sum(int((p != then).sum()) for p, then in zip(parameters, start, strict=True))
        assert 0.9 * trained < changed <= trained
        inputs = {"input_ids": torch.tensor([[9, 10, 11, 12]])}
        with_adapters = model(**inputs).logits
    torch.testing.assert_close(model(**inputs).logits, with_adapters, rtol=1e-3, atol=1e-3)
    after = state(model)
    assert after.keys() == before.keys()
    for key, mask in masks.items():
        assert torch.equal(before[key][~mask], after[key][~mask]), key
    assert any((before[key] != after[key]).any() for key in masks)


def test_adapters_start_as_theta1_and_the_seed_draws_them():
    inputs = {"input_ids": torch.tensor([[9, 10, 11, 12]])}
    drawn = []
    for seed in (1, 1, 2):
        loaded = tiny("llama-2kv")
        own = loaded.model(**inputs).logits
        with trainable(loaded.model, loaded.anatomy, get_arm("lora"), [], "shared", seed) as (parameters, _):
            assert torch.equal(loaded.model(**inputs).logits, own)
            drawn.append(parameters[0].detach().clone())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_looking_at_adapters_between_epochs_changes_no_bit():
    loaded = tiny("qwen2-2kv")
    with trainable(loaded.model, loaded.anatomy, get_arm("lora"), [], "shared") as (parameters, held):
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.1 * torch.randn_like(parameter))
        before = weight_hash(loaded.model)
        with held.shown():
            assert weight_hash(loaded.model) != before
        assert weight_hash(loaded.model) == before


def test_a_merge_leaves_the_bits_of_zeros_outside_the_slices():
    loaded = tiny("llama-2kv")
    weight = loaded.model.get_parameter("model.layers.0.self_attn.q_proj.weight")
    weight.data[24:] = -0.0  # of the last head, which is not among the adapted ones
    arm = get_arm("lora_heads")
    moving = moving_slices(loaded.model, loaded.anatomy, arm, [Head(0, 0)], "shared")
    before = weight_hash(loaded.model)
    kept = read_slices(loaded.model, moving)
    with trainable(loaded.model, loaded.anatomy, arm, [Head(0, 0)], "shared") as (parameters, _):
        loaded.model(input_ids=torch.tensor([[9, 10, 11, 12]])).logits.square().sum().backward()
        for parameter in parameters:
            parameter.data.sub_(parameter.grad)
    assert weight_hash(loaded.model) != before
    write_slices(loaded.model, kept)
    assert weight_hash(loaded.model) == before


def test_memory_that_runs_out_while_adapters_are_put_in_leaves_the_model_as_it_was(monkeypatch):
    loaded = tiny("llama-2kv")
    before = state(loaded.model)
    inject = peft.inject_adapter_in_model

    def runs_out(config, model):
        inject(replace(config, target_modules=sorted(config.target_modules)[:1]), model)
        raise MemoryError

    monkeypatch.setattr(peft, "inject_adapter_in_model", runs_out)
    with pytest.raises(MemoryError), trainable(loaded.model, loaded.anatomy, get_arm("lora"), [], "shared"):
        pass
    assert state(loaded.model).keys() == before.keys()
    assert not hasattr(loaded.model, "peft_config")


def test_the_rank_is_counted_by_hand():
    loaded = tiny("llama-4kv")  # hidden size 32, four heads of eight
    one_head = moving_slices(loaded.model, loaded.anatomy, get_arm("lora_heads"), [Head(0, 0)], "shared")
    assert LowRank(r=2).count(loaded.model, one_head) == 2 * 4 * (8 + 32)


# ---- layers and biases --------------------------------------------------------------------------------------------


def test_a_model_without_biases_fails_bitfit_with_the_reason():
    loaded = tiny("llama-2kv")
    with pytest.raises(CellFailed, match="no bias"):
        moving_slices(loaded.model, loaded.anatomy, get_arm("bitfit"), [], "shared")


# ---- rules for the gradients --------------------------------------------------------------------------------------


def job_of(loaded, parameters, n=5) -> Job:
    rows = random_rows(n)
    return Job(loaded.model, parameters, rows, LABEL_TOKENS, Layout(0), NO_AUTOCAST, 10, lambda: None)


def test_penalties_add_the_gradient_of_their_formula():
    torch.manual_seed(0)
    start, weights = torch.randn(4, 3), torch.rand(4, 3)
    p = torch.nn.Parameter(torch.randn(4, 3))
    q = torch.nn.Parameter(p.detach().clone())
    p.grad = torch.randn(4, 3)
    value = (weights * (q - start).square()).sum() / 2
    value.backward()
    expected = p.grad + q.grad
    assert _pull([p], [start], [weights]) == pytest.approx(value.item(), rel=1e-6)
    torch.testing.assert_close(p.grad, expected)


def test_the_fisher_is_the_expected_square_of_single_rows_gradients_over_its_mean():
    loaded = tiny("llama-2kv")
    loaded.model.requires_grad_(True)
    parameters = list(loaded.model.parameters())
    found = EWC(strength=1.0, rows=4).fisher(job_of(loaded, parameters))
    rows = random_rows(5)
    expected = [torch.zeros_like(parameter) for parameter in parameters]
    for i in range(4):
        row = rows.subset([i])
        logits = loaded.model(input_ids=torch.tensor([row.prompts[0]])).logits[0, -1]
        chances = logits[list(LABEL_TOKENS)].softmax(-1)
        for token, chance in zip(LABEL_TOKENS, chances.tolist(), strict=True):
            gradients = torch.autograd.grad(-logits.log_softmax(-1)[token], parameters, retain_graph=True)
            for total, gradient in zip(expected, gradients, strict=True):
                total += chance * gradient.square() / 4
    mean = torch.cat([total.flatten() for total in expected]).mean()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other / mean, rtol=1e-4, atol=1e-6)
    assert torch.cat([one.flatten() for one in found]).mean() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("arm", ["l2sp", "ewc"])
def test_a_stronger_penalty_ends_nearer_to_theta1(bench, arm, monkeypatch):
    bench.theta1_of(31)
    distances = []
    for factor in (0, 1, 1000):
        rule = replace(ARMS[arm].gradient_rule, strength=ARMS[arm].gradient_rule.strength * factor)
        monkeypatch.setitem(ARMS, arm, replace(ARMS[arm], gradient_rule=rule))
        with bench.tuned(cell_of(arm), []):
            distances.append(
                sum(float((p - bench.theta1[n]).square().sum()) for n, p in bench.model.named_parameters())
            )
        monkeypatch.undo()
    assert distances[0] > distances[1] > distances[2]


def test_the_lottery_keeps_the_weights_that_moved_farthest(bench, monkeypatch):
    bench.theta1_of(31)
    cell = cell_of("lt_sft")
    heads = heads_of(bench, cell)
    with monkeypatch.context() as first:
        first.setitem(ARMS, "lt_sft", replace(ARMS["lt_sft"], gradient_rule=None))
        with bench.tuned(cell, heads):
            whole = {n: (p - bench.theta1[n]).abs() for n, p in bench.model.named_parameters()}
    with bench.tuned(cell, heads) as (trained, _):
        moved = torch.cat([(p != bench.theta1[n]).flatten() for n, p in bench.model.named_parameters()])
    distances = torch.cat([value.flatten() for value in whole.values()])
    assert distances[moved].min() >= distances.topk(trained).values.min() > 0  # several may lie at the same distance


@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_lottery_leaves_embeddings_and_norms_alone_in_every_family(name):
    loaded = tiny(name)
    free = {piece.parameter for piece in moving_slices(loaded.model, loaded.anatomy, get_arm("lt_sft"), [], "shared")}
    ends = (loaded.model.get_input_embeddings(), loaded.model.get_output_embeddings())
    frozen = {id(parameter) for end in ends for parameter in end.parameters()}
    frozen |= {id(loaded.model.get_parameter(norm)) for norm in loaded.anatomy.norm_parameters}
    assert free == {n for n, p in loaded.model.named_parameters() if id(p) not in frozen}
    assert len(free) >= 4


# ---- added rows and stages ----------------------------------------------------------------------------------------


def examples(words: str) -> list[Example]:
    return [Example(f"r{i}", text, i % 3) for i, text in enumerate(words.split(";"))]


def test_replay_adds_one_source_row_for_every_four_target_rows(bench):
    rows = bench.training_rows(get_arm("replay"), cell_of("replay"))
    known = bench.theta1_of(31)["row_ids"]
    added = Replay().examples(Material(range(20), bench.source_rows.by_id(known), dict, 31))
    assert len(rows) == 20 + 5
    assert rows.ids[20:] == tuple(row.id for row in added)
    assert set(rows.ids[20:]) <= set(known)
    assert set(rows.ids[:20]) <= set(bench.pools_b["d30"])


def test_lexicon_rows_are_translated_word_by_word_and_keep_their_labels():
    dictionary = {"bagus": ("apik",), "buruk": ("elek", "ala")}
    source = examples("Bagus sekali;tidak ada;semua bagus")
    target = examples("iki elek;iki apik;liyane")
    made = Lexicon().examples(Material(target, source, lambda: dictionary, 0))
    assert {(row.text, row.label) for row in made} == {("apik sekali", 0), ("semua apik", 2), ("iki ala", 0)}


def test_synonyms_translate_the_same_word():
    assert synonyms({"a": ("x", "y"), "b": ("y", "z"), "c": ("w",)}) == {"x": ("y",), "y": ("x", "z"), "z": ("y",)}


def test_an_empty_dictionary_fails_the_cell():
    with pytest.raises(CellFailed, match="no entry"):
        Lexicon().examples(Material(examples("a"), examples("b"), dict, 0))


def test_the_demos_dictionary_knows_half_of_the_meanings(bench):
    known = bench.task.dictionary("d00", "d50", None)
    assert 30 < len(known) < 70
    assert any(source != target for source, (target,) in known.items())


def test_an_arm_that_needs_a_dictionary_is_refused_where_there_is_none():
    settings = dict(task="xnli", source="english", targets=("thai",))
    with pytest.raises(UserError, match="'lexicon' needs a dictionary, and xnli has none"):
        StudyData(replace(DEMO, **settings, arms=("zero_shot", "lexicon")))


def test_a_lexicon_that_cannot_be_read_shows_before_anything_is_tuned(tmp_path, real_data):
    data = tmp_path / "data"
    data.mkdir()
    (data / "nusax_senti").symlink_to(real_data / "nusax_senti")
    config = StudyConfig(
        experiment="e", preset="p", task="nusax", source="indonesian", targets=("javanese",), arms=("full", "lexicon"),
        n_source=50, n_targets=(25,), seeds=(31,), data_dir=data, model="demo", output=tmp_path,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"no file .*nusax_lexicon/javanese.csv"):
        StudyData(config)
    StudyData(replace(config, arms=("full",)))


def test_a_file_that_is_not_the_published_one_is_named(tmp_path, real_data):
    shutil.copytree(real_data / "nusax_senti", tmp_path / "data" / "nusax_senti", copy_function=shutil.copyfile)
    config = StudyConfig(
        experiment="e", preset="p", task="nusax", source="indonesian", targets=("javanese",), arms=("full",),
        n_source=50, n_targets=(25,), seeds=(31,), data_dir=tmp_path / "data", model="demo", output=tmp_path,
    )  # fmt: skip
    assert StudyData(config).findings == []
    path = tmp_path / "data" / "nusax_senti" / "javanese" / "valid.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (finding,) = StudyData(config).findings
    assert finding.startswith("nusax/javanese/valid is not the published file")


def test_the_published_lexicon_is_read(real_data):
    there(real_data, "nusax_lexicon")
    known = NUSAX.dictionary("indonesian", "javanese", real_data)
    assert known["abu"] == ("awu",)
    assert 400 < len(known) < 1000
    with pytest.raises(UserError, match="from Indonesian"):
        NUSAX.dictionary("english", "javanese", real_data)


def test_token_losses_are_the_models_own_and_ignore_padding():
    loaded = tiny("qwen2-2kv")
    texts = [(9, 10, 11, 12, 13), (20, 21, 22)]
    losses, real = token_losses(loaded.model, texts, Layout(0), NO_AUTOCAST)
    for text, own, kept in zip(texts, losses, real, strict=True):
        ids = torch.tensor([text])
        expected = loaded.model(input_ids=ids, labels=ids).loss
        assert own[kept].mean().item() == pytest.approx(expected.item(), rel=1e-4)
        assert int(kept.sum()) == len(text) - 1
    rows = Encoded(tuple(texts), (0, 0), ("a", "b"))
    total = text_loss(loaded.model, rows, [], Layout(0), NO_AUTOCAST)
    assert total.item() == pytest.approx(sum(float(o[k].mean()) for o, k in zip(losses, real, strict=True)), rel=1e-5)


def test_further_pretraining_lowers_the_loss_on_target_text(bench):
    bench.theta1_of(31)
    held_out = bench.texts(bench.split("d30", "test").examples[:40])
    assert held_out.prompts[0][0] == bench.loaded.tokenizer.bos_token_id

    def loss() -> float:
        with torch.no_grad():
            return text_loss(bench.model, held_out, [], bench.loaded.layout, NO_AUTOCAST).item() / 40

    before = loss()
    with bench.tuned(cell_of("circuit_dapt"), heads_of(bench, cell_of("circuit_dapt"))):
        assert loss() < before - 0.02


def test_a_targets_texts_are_read_once_for_all_rates(bench, monkeypatch):
    """The second rate starts from the same weights as if the texts had been read again, and its time counts that."""

    def tuned(lr: float) -> tuple[dict, float]:
        with bench.tuned(cell_of("dapt", lr), []) as (_, seconds):
            return bench.snapshot(), seconds

    bench.read = None
    fresh, _ = tuned(3e-3)
    bench.read = None
    tuned(1e-3)
    objectives = []
    train_arm = bench.train_arm
    monkeypatch.setattr(
        bench, "train_arm", lambda *a, **k: (objectives.append(k.get("objective")), train_arm(*a, **k))[1]
    )
    again, second = tuned(3e-3)
    assert objectives == [None]  # the labels alone
    assert second > bench.read[2]
    assert all(torch.equal(fresh[name], again[name]) for name in fresh)
    bench.theta1_of(777)
    objectives.clear()
    with bench.tuned(replace(cell_of("dapt"), seed=777), []):
        assert objectives == [text_loss, None]


# ---- n-grams ------------------------------------------------------------------------------------------------------


def test_ngrams_learn_from_letters_and_answer_like_a_model():
    texts = {(1,): "sangat bagus", (2,): "bagus sekali", (3,): "sangat buruk", (4,): "buruk sekali", (5,): "buruknya"}
    rows = Encoded(((1,), (2,), (3,), (4,)), (2, 2, 0, 0), tuple("abcd"))
    fitted = NGrams().fit(rows, Encoded(((5,),), (0,), ("v",)), texts.__getitem__)
    answers = fitted.answer(Encoded(((5,), (1,)), (0, 2), ("v", "w")), [71, 72, 73])
    assert answers.labels.tolist() == [0, 2]
    assert answers.vocabulary.tolist() == [71, 73]
    assert np.isneginf(answers.logits[:, 1]).all()
    np.testing.assert_allclose(np.exp(answers.logits).sum(-1), 1, rtol=1e-5)
    with pytest.raises(CellFailed, match="one label"):
        NGrams().fit(rows.subset([0, 1]), rows, texts.__getitem__)


def test_ngrams_answer_only_inside_their_cell(bench):
    bench.theta1_of(31)
    rows = bench.prompts("d30", "test").subset(range(50))
    own = bench.predict(rows).logits
    with bench.tuned(cell_of("ngrams"), []):
        assert not np.allclose(bench.predict(rows).logits, own)
    np.testing.assert_array_equal(bench.predict(rows).logits, own)
