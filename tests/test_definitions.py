"""What a head, a circuit, a mean and a score are, checked against their definitions written out anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import LABEL_TOKENS, random_rows, tiny

from ctsft.discovery.circuits import circuit
from ctsft.discovery.mean import MIN_ROWS, label_balanced_mean
from ctsft.discovery.patching import ablation, editing_z
from ctsft.discovery.problem import Batch, Problem
from ctsft.discovery.relevance import Relevance
from ctsft.discovery.scorers import magnitude
from ctsft.discovery.totals import record
from ctsft.heads import Head, head_slices
from ctsft.study.circuit_files import Choice
from ctsft.tasks.prompts import pad_left
from ctsft.tuning.arms import get_arm, moving_slices
from ctsft.tuning.slices import read_slices, write_slices


@pytest.mark.parametrize("name", ["llama-2kv", "gpt2", "gpt-neox", "phi3-2kv"])
def test_the_slices_of_a_head_are_its_own_query_and_what_reads_its_activation(name):
    """Without them nothing else changes in the layer: not the layers before, no other query, no other head's output."""
    loaded, head = tiny(name), Head(1, 2)
    size = loaded.anatomy.head_dim
    batch = pad_left(random_rows(4).prompts, loaded.layout, "cpu")
    before, out = record(loaded, batch).layers, loaded.anatomy.layers[1].o
    weight, bias = out.weight.clone(), out.bias
    pieces = read_slices(loaded.model, head_slices(loaded.anatomy, [head], "frozen"))
    write_slices(loaded.model, {piece: torch.zeros_like(value) for piece, value in pieces.items()})
    after = record(loaded, batch).layers
    assert torch.equal(before[0].attention_out, after[0].attention_out)
    moved = (before[1].q != after[1].q).unflatten(-1, (-1, size)).any(-1).flatten(0, 1).any(0)
    assert moved.nonzero().flatten().tolist() == [head.index]
    z = after[1].z.unflatten(-1, (-1, size)).clone()
    z[..., head.index, :] = 0
    expected = torch.nn.functional.linear(z.flatten(-2), weight, bias)
    torch.testing.assert_close(after[1].attention_out, expected, rtol=1e-4, atol=1e-4)


def test_a_depth_is_chosen_by_its_mean_relevance_to_the_last_one():
    generator = np.random.default_rng(1)
    heads = [Head(*place) for place in np.ndindex(4, 5)]
    columns = {head: generator.normal(size=(4, 5)) for head in heads}
    relevance = Relevance(generator.normal(size=(4, 5)), columns)
    expected = [sorted(heads, key=lambda head: -relevance.logits[head])[:2]]
    for _ in range(2):
        one, other = expected[-1]
        left = [head for head in heads if not any(head in part for part in expected)]
        expected.append(sorted(left, key=lambda head: -(columns[one][head] + columns[other][head]))[:2])
    assert circuit(relevance, 2, 0.1) == expected


def test_every_draw_of_random_heads_is_another_one():
    relevance = Relevance(np.arange(64.0).reshape(8, 8))
    drawn = {tuple(Choice("random", 0, seed, draw, 0.1).heads(relevance, 1)) for seed in (31, 777) for draw in range(4)}
    assert len(drawn) == 8


@pytest.mark.parametrize("long", [MIN_ROWS - 1, MIN_ROWS])
def test_an_offset_has_a_mean_of_its_own_where_enough_rows_have_it(long):
    loaded, rows = tiny("llama-2kv"), random_rows(18)
    prompts = tuple(p[:4] if row >= long else (*p[:4], *range(10, 18)) for row, p in enumerate(rows.prompts))
    mean = label_balanced_mean(loaded, replace(rows, prompts=prompts), 3, 4)
    assert torch.equal(mean.aligned[:, 7], mean.pooled) == (long < MIN_ROWS)


def test_an_offset_that_one_label_lacks_has_none():
    loaded, rows = tiny("llama-2kv"), random_rows(18)
    prompts = tuple(
        p[:4] if label == 2 else (*p, *range(10, 18)) for p, label in zip(rows.prompts, rows.labels, strict=True)
    )
    mean = label_balanced_mean(loaded, replace(rows, prompts=prompts), 3, 4)
    assert torch.equal(mean.aligned[:, 5], mean.pooled)


@pytest.fixture(scope="module")
def problem() -> Problem:
    loaded = tiny("llama-2kv")
    return Problem(loaded, random_rows(6), LABEL_TOKENS, label_balanced_mean(loaded, random_rows(18, seed=5), 3, 4))


def test_ablation_scores_a_head_to_a_later_one_by_what_that_loses(problem):
    batch, seen = Batch(problem, range(6)), {}
    change = torch.zeros_like(batch.beta[0])
    change[..., 8:16] = -batch.beta[0][..., 8:16]
    edits = {0: lambda z: z + change, 2: lambda z: seen.setdefault(2, z)}
    with editing_z(problem.loaded, edits), torch.no_grad():
        problem.loaded.model(**batch.tokens)
    lost = batch.to_heads(batch.totals.layers[2].z[None], 2) - batch.to_heads(seen[2][None], 2)
    columns = ablation(problem, None, []).columns
    found = [columns[Head(2, index)][0, 1] for index in range(4)]
    np.testing.assert_allclose(found, lost[0].mean(0).numpy(), rtol=1e-3, atol=1e-5)


def test_magnitude_is_the_relevant_part_of_both(problem, monkeypatch):
    """|rel| / (|rel| + |irrel|), where rel and irrel may have opposite signs."""
    monkeypatch.setattr(Batch, "to_label_words", lambda batch, stream: -batch.totals.logits[:, LABEL_TOKENS][None])
    assert magnitude(problem, None, []).logits == pytest.approx(1 / 3)  # rel = -total, irrel = 2 total


def test_the_top_layers_are_the_last():
    loaded = tiny("llama-2kv")
    for arm, inside, outside in (("layers_top", 2, 0), ("layers_below", 0, 2)):
        names = {piece.parameter for piece in moving_slices(loaded.model, loaded.anatomy, get_arm(arm), [], "shared")}
        assert any(name.startswith(f"model.layers.{inside}.") for name in names)
        assert not any(name.startswith(f"model.layers.{outside}.mlp") for name in names)
