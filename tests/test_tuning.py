"""What moves and what does not: compact slices against masked dense gradients, and bit-identity outside the mask."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import LABEL_TOKENS, STORIES, mask_of, random_rows, state, tiny
from transformers.pytorch_utils import Conv1D

from ctsft.discovery.circuits import circuit, heads_per_depth, select
from ctsft.discovery.relevance import Relevance
from ctsft.errors import CellFailed, UserError
from ctsft.heads import Head, head_slices, kv_groups
from ctsft.models.load import weight_hash
from ctsft.tasks.prompts import by_length, pad_left
from ctsft.tuning.arms import ARMS, get_arm, moving_slices, trainable
from ctsft.tuning.delta import HeadDelta
from ctsft.tuning.loop import Gradients, Recipe, learning_rate_factor, train
from ctsft.tuning.slices import compact, count, read_slices, write_slices

HEADS = [Head(0, 1), Head(1, 0), Head(1, 3), Head(2, 2)]
RECIPE = Recipe(lr=1e-2, epochs=3, batch_size=5, weight_decay=0.1, micro_batch=2)
NO_AUTOCAST = torch.autocast("cpu", torch.bfloat16, enabled=False)
BF16 = torch.autocast("cpu", torch.bfloat16)


def tune(loaded, arm, heads=HEADS, policy="shared", autocast=NO_AUTOCAST, recipe=RECIPE):
    with trainable(loaded.model, loaded.anatomy, get_arm(arm), heads, policy) as (parameters, compact_slices):
        size = recipe.micro_batch
        gradients = Gradients(loaded.model, parameters, random_rows(), LABEL_TOKENS, loaded.layout, autocast, size)
        return train(gradients, recipe, 3, compact_slices.write_back)


def masked_dense(loaded, slices, recipe=RECIPE):
    """The reference route: gradients of every weight, masked before clipping; entries outside the mask put back."""
    model, rows = loaded.model, random_rows()
    masks, before = mask_of(model, slices), state(model)
    touched = {name: p for name, p in model.named_parameters() if masks[name].any()}
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(touched.values(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    generator = torch.Generator().manual_seed(3)
    per_epoch = -(-len(rows) // recipe.batch_size)
    total, step = per_epoch * recipe.epochs, 0
    model.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(len(rows), generator=generator).tolist()
        for start in range(0, len(rows), recipe.batch_size):
            batch = rows.subset(order[start : start + recipe.batch_size])
            inputs = pad_left(batch.prompts, loaded.layout, "cpu")
            gold = torch.tensor([LABEL_TOKENS[label] for label in batch.labels])
            loss = torch.nn.functional.cross_entropy(model(**inputs).logits[:, -1], gold)
            model.zero_grad()
            loss.backward()
            for name, parameter in touched.items():
                parameter.grad.mul_(masks[name])
            torch.nn.utils.clip_grad_norm_(touched.values(), recipe.clip)
            optimizer.param_groups[0]["lr"] = recipe.lr * learning_rate_factor(step, total, recipe.warmup)
            optimizer.step()
            step += 1
            with torch.no_grad():
                for name, parameter in touched.items():
                    parameter.copy_(torch.where(masks[name], parameter, before[name]))
    model.eval()
    model.requires_grad_(False)


# Rows of a Linear, columns of a Conv1D, fused projections whole (Phi-3) and head by head (GPT-NeoX), and real weights.
ROUTES = ("llama-2kv", "llama-4kv", "qwen2-1kv", "gpt2", "bert", "phi3-2kv", "gpt-neox", STORIES)


def in_double(loaded):
    """So that rounding hides nothing, and what cancels exactly (a key bias in the softmax) stays below Adam's eps."""
    loaded.model.double()
    return loaded


@pytest.mark.parametrize("policy", ["shared", "frozen", "all"])
@pytest.mark.parametrize("name", ROUTES)
def test_compact_slices_end_with_the_weights_of_masked_dense_gradients(name, policy, fresh):
    one, other = in_double(fresh(name)), in_double(fresh(name))
    tune(one, "circuit", policy=policy)
    masked_dense(other, moving_slices(other.model, other.anatomy, ARMS["circuit"], HEADS, policy))
    for (key, a), (_, b) in zip(state(one.model).items(), state(other.model).items(), strict=True):
        difference = (a - b).abs()  # the loss itself is taken in single precision
        assert difference.max() < 0.01 * RECIPE.lr, key
        assert difference.mean() < 1e-4 * RECIPE.lr, key


@pytest.mark.parametrize("name", ROUTES)
def test_gradients_of_compact_slices_are_those_of_the_dense_weights(name, fresh):
    """Weights alone would not show it: AdamW moves them as far whatever a gradient is multiplied by."""
    loaded = in_double(fresh(name))
    model, rows = loaded.model, range(8)
    paths = {id(module): path for path, module in model.named_modules()}
    arguments = (random_rows(), LABEL_TOKENS, loaded.layout, NO_AUTOCAST, 3)
    model.requires_grad_(True)
    Gradients(model, list(model.parameters()), *arguments).of(rows)
    dense = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    with trainable(model, loaded.anatomy, ARMS["circuit"], HEADS, "shared") as (parameters, held):
        Gradients(model, parameters, *arguments).of(rows)
        pairs = [(p.grad, dense[name]) for name, p in model.named_parameters() if p.grad is not None and name in dense]
        for module in held.modules:
            path, transposed = paths[id(module.inner)], isinstance(module.inner, Conv1D)
            weight = dense[f"{path}.weight"].T if transposed else dense[f"{path}.weight"]
            pairs.append((module.part.grad, weight.index_select(0 if module.outputs else 1, module.index)))
            if module.bias_part is not None:
                pairs.append((module.bias_part.grad, dense[f"{path}.bias"][module.index]))
        assert len(pairs) == len(parameters)
    for compact_one, dense_one in pairs:
        torch.testing.assert_close(compact_one, dense_one, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("arm", ["full", "circuit"])
@pytest.mark.parametrize("name", ["llama-2kv", "gpt2", "gpt-neox", "bert"])
def test_checkpointing_gives_the_same_weights(name, arm):
    one, other = tiny(name), tiny(name)
    passes = [count_passes(loaded) for loaded in (one, other)]
    other.model.activation_checkpointing_enable({"use_reentrant": False})
    for loaded in (one, other):
        tune(loaded, arm)
    assert passes[1] == [2 * passes[0][0]]  # else nothing was computed again
    assert weight_hash(one.model) == weight_hash(other.model) != weight_hash(tiny(name).model)


def count_passes(loaded) -> list[int]:
    """How often the first layer's MLP has run, from now on."""
    passes = [0]

    def counted(*_):
        passes[0] += 1

    loaded.anatomy.layers[0].up.module.register_forward_hook(counted)
    return passes


@pytest.mark.parametrize("autocast", [NO_AUTOCAST, BF16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("arm", ["circuit", "norm_only"])
def test_nothing_outside_the_mask_moves_by_a_bit(random_or_trained, arm, autocast):
    loaded = random_or_trained
    before = state(loaded.model)
    moving = moving_slices(loaded.model, loaded.anatomy, ARMS[arm], HEADS, "shared")
    tune(loaded, arm, autocast=autocast)
    masks, after = mask_of(loaded.model, moving), state(loaded.model)
    assert count(loaded.model, moving) == sum(int(mask.sum()) for mask in masks.values())
    for name, mask in masks.items():
        assert torch.equal(before[name][~mask], after[name][~mask]), name
    moved = sum(int((before[name] != after[name]).sum()) for name in masks)
    assert moved > 0.95 * count(loaded.model, moving)
    write_slices(loaded.model, read_slices_from(before, moving))
    assert all(torch.equal(before[name], value) for name, value in state(loaded.model).items())


def read_slices_from(weights, slices):
    return {s: weights[s.parameter].narrow(s.dim, s.start, s.stop - s.start) for s in slices}


def test_a_warm_optimizer_moves_nothing_outside_the_mask():
    """AdamW keeps moving an entry whose gradient is zero while its momentum is not: the slices have none to share."""
    loaded = tiny("qwen2-2kv")
    before = state(loaded.model)
    pieces = head_slices(loaded.anatomy, HEADS, "shared")
    with compact(loaded.model, pieces) as slices:
        optimizer = torch.optim.AdamW(slices.parameters(), lr=0.1, weight_decay=0.5)
        for _ in range(3):
            loaded.model(**pad_left(random_rows().prompts, loaded.layout, "cpu")).logits[
                :, -1
            ].square().sum().backward()
            optimizer.step()
            slices.write_back()
        optimizer.zero_grad(set_to_none=False)
        optimizer.step()
        slices.write_back()
    masks = mask_of(loaded.model, pieces)
    for name, value in state(loaded.model).items():
        assert torch.equal(value[~masks[name]], before[name][~masks[name]])


def test_full_tuning_moves_everything_it_declares(loaded):
    before = state(loaded.model)
    tune(loaded, "full")
    for name, value in state(loaded.model).items():
        if "embed" not in name and "wte" not in name and "wpe" not in name:
            assert (value != before[name]).float().mean() > 0.9, name


def test_key_value_policies():
    anatomy = tiny("llama-2kv").anatomy  # four query heads on two groups
    heads = [Head(0, 0), Head(0, 1), Head(1, 2)]
    assert kv_groups(anatomy, heads, "shared") == {(0, 0), (1, 1)}
    assert kv_groups(anatomy, heads, "all") == {(0, 0)}
    assert kv_groups(anatomy, heads, "frozen") == set()


@pytest.mark.parametrize("control", ["near_zero", "bottom", "random"])
def test_controls_have_exactly_the_circuits_trainable_weights(loaded, control):
    anatomy = loaded.anatomy
    per_group = anatomy.heads // anatomy.kv_heads
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shape = (len(anatomy.layers), anatomy.heads)
        columns = {Head(i, j): rng.normal(size=shape) for i in range(shape[0]) for j in range(shape[1])}
        relevance = Relevance(rng.normal(size=shape), columns)
        for depth in range(3):
            for share in (0.1, 0.2, 0.25):
                sizes = {
                    count(loaded.model, head_slices(anatomy, select(arm, relevance, depth, share, per_group, seed)))
                    for arm in ("circuit", control)
                }
                assert len(sizes) == 1


def test_circuit_depths_are_disjoint_and_nested():
    rng = np.random.default_rng(0)
    columns = {Head(i, j): rng.normal(size=(10, 10)) for i in range(10) for j in range(10)}
    relevance = Relevance(rng.normal(size=(10, 10)), columns)
    frontiers = circuit(relevance, 2, 0.05)
    assert [len(frontier) for frontier in frontiers] == [5, 5, 5]
    assert len({head for frontier in frontiers for head in frontier}) == 15
    assert circuit(relevance, 1, 0.05) == frontiers[:2]
    best = sorted(columns, key=lambda h: -relevance.logits[h])[:5]
    assert frontiers[0] == best


def test_a_share_of_the_heads_is_rounded_down_but_not_for_a_last_bit():
    assert [heads_per_depth(100, share) for share in (0.29, 0.57, 0.58, 0.299)] == [29, 57, 58, 29]
    assert heads_per_depth(270, 0.02) == 5
    assert heads_per_depth(32, 0.02) == 1


def test_heads_that_feed_no_head_of_the_last_depth_are_told_apart_by_their_own_relevance():
    """Nothing comes before the first layer: all other heads have 0 to it, and index would take the model's first."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 5))
    logits[0, 3] = 9
    nothing = {Head(i, j): np.zeros((4, 5)) for i in range(4) for j in range(5)}
    best = [head for part in circuit(Relevance(logits, nothing), 2, 0.05) for head in part]
    assert best == sorted(nothing, key=lambda head: -logits[head])[:3]
    first = [head for part in circuit(Relevance(logits, nothing, ties="index"), 2, 0.05) for head in part]
    assert first == [Head(0, 3), Head(0, 0), Head(0, 1)]
    feeds = {**nothing, Head(0, 3): np.where(np.arange(20).reshape(4, 5) == 7, 1e-9, 0.0)}
    assert circuit(Relevance(logits, feeds), 1, 0.05)[1] == [Head(1, 2)]  # what feeds it at all comes first


def test_micro_batches_do_not_change_the_gradient():
    one, other = tiny("llama-2kv"), tiny("llama-2kv")
    tune(one, "circuit", recipe=Recipe(lr=1e-3, batch_size=6, micro_batch=1))
    tune(other, "circuit", recipe=Recipe(lr=1e-3, batch_size=6, micro_batch=6))
    for (_, a), (_, b) in zip(state(one.model).items(), state(other.model).items(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_clipping_sees_only_what_moves(monkeypatch):
    loaded = tiny("llama-2kv")
    clipped, honest = [], torch.nn.utils.clip_grad_norm_

    def noting(parameters, clip):
        clipped.append(sum(p.grad.numel() for p in parameters))
        return honest(parameters, clip)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noting)
    tune(loaded, "circuit")
    moving = moving_slices(loaded.model, loaded.anatomy, ARMS["circuit"], HEADS, "shared")
    assert set(clipped) == {count(loaded.model, moving)}


def test_a_loss_that_is_not_finite_fails_the_cell():
    loaded = tiny("llama-2kv")
    with torch.no_grad():
        loaded.model.get_parameter("model.norm.weight").fill_(torch.nan)
    with pytest.raises(CellFailed, match=r"step 1 of \d+; try a lower learning rate$"):
        tune(loaded, "full")


def test_a_gradient_that_is_not_finite_fails_the_cell_and_makes_no_step():
    """Kernels may give one beside a finite loss; a step by it would leave no finite weight behind."""
    loaded = tiny("llama-2kv")
    weight = loaded.model.get_parameter("model.norm.weight")
    weight.requires_grad_().register_hook(lambda gradient: torch.full_like(gradient, torch.nan))
    before = state(loaded.model)
    with pytest.raises(CellFailed, match=r"^the gradient became nan at step 1 of \d+; try a lower learning rate$"):
        tune(loaded, "full")
    assert all(torch.equal(value, before[name]) for name, value in state(loaded.model).items())


def test_training_without_memory_names_what_every_caller_can_do():
    """Scripts have a flag for checkpointing, and neither the commands nor the library do."""
    loaded = tiny("llama-2kv")

    def too_large(*_):
        raise MemoryError

    gradients = Gradients(loaded.model, [], random_rows(), LABEL_TOKENS, loaded.layout, NO_AUTOCAST, 1, too_large)
    with pytest.raises(
        CellFailed, match=r"one row at a time; shorter prompts, or --checkpointing in a study, take less$"
    ):
        gradients.of(range(4))


def test_unknown_arm_names_the_valid_ones():
    with pytest.raises(UserError, match=r"'lorra'.*zero_shot.*norm_only"):
        get_arm("lorra")


def test_a_delta_on_a_fresh_copy_gives_identical_logits_and_reverts(random_or_trained, tmp_path):
    loaded = random_or_trained
    fresh = state(loaded.model)
    base = weight_hash(loaded.model)
    inputs = pad_left(random_rows().prompts, loaded.layout, "cpu")
    tune(loaded, "circuit")
    tuned_logits = loaded.model(**inputs).logits
    moving = moving_slices(loaded.model, loaded.anatomy, ARMS["circuit"], HEADS, "shared")
    HeadDelta.of(loaded.model, moving, base).save(tmp_path)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            parameter.copy_(fresh[name])
    undo = HeadDelta.load(tmp_path).apply(loaded.model)
    assert torch.equal(loaded.model(**inputs).logits, tuned_logits)
    undo.apply(loaded.model)
    assert weight_hash(loaded.model) == base


def test_a_delta_of_another_model_is_refused(tmp_path):
    one, other = tiny("llama-2kv"), tiny("llama-2kv", seed=1)
    pieces = head_slices(one.anatomy, HEADS)
    HeadDelta.of(one.model, pieces, weight_hash(one.model)).save(tmp_path)
    with pytest.raises(UserError, match="made on weights"):
        HeadDelta.load(tmp_path).apply(other.model)
    # Unless its user says so: then it is the delta's values that stand there, and it can be taken back.
    before, wanted = weight_hash(other.model), HeadDelta.load(tmp_path).values
    with HeadDelta.load(tmp_path).on(other.model, other_weights=True):
        assert all(torch.equal(found, wanted[piece]) for piece, found in read_slices(other.model, pieces).items())
    assert weight_hash(other.model) == before
    (tmp_path / "broken.safetensors").write_bytes((tmp_path / "delta.safetensors").read_bytes()[:100])
    with pytest.raises(UserError, match="cannot read"):
        HeadDelta.load(tmp_path / "broken.safetensors")


def test_groups_by_length_hold_every_row_once():
    groups = by_length(random_rows(11).prompts, 4)
    assert sorted(i for group in groups for i in group) == list(range(11))
    assert [len(group) for group in groups] == [4, 4, 3]


def test_the_recipe_is_the_protocols():
    """No key of a row names these."""
    assert (Recipe().warmup, Recipe().clip, Recipe().weight_decay) == (0.1, 1.0, 0.0)
    assert (Recipe().epochs, Recipe().batch_size) == (5, 16)


def test_the_learning_rate_warms_up_and_falls_to_zero():
    factors = [learning_rate_factor(step, 35, 0.1) for step in range(35)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(a > b > 0 for a, b in pairwise(factors[3:]))
    assert factors[-1] == pytest.approx(1 / 32)


def test_reading_slices_gives_copies():
    loaded = tiny("gpt2")
    pieces = head_slices(loaded.anatomy, [Head(1, 2)])
    kept = read_slices(loaded.model, pieces)
    tune(loaded, "circuit", heads=[Head(1, 2)])
    assert all(not torch.equal(value, read_slices(loaded.model, [piece])[piece]) for piece, value in kept.items())
