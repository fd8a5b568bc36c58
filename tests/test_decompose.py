"""The decomposition against a two-stream reference, for every family, with padding and grouped keys and values."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import oracle
import pytest
import torch
from conftest import LABEL_TOKENS, random_rows, tiny

from ctsft.discovery.decompose import LINEAR, Rules
from ctsft.discovery.mean import label_balanced_mean
from ctsft.discovery.patching import ablation
from ctsft.discovery.problem import Batch, Problem
from ctsft.discovery.scorers import cdt, cdt_linear
from ctsft.discovery.totals import record
from ctsft.heads import Head
from ctsft.tasks.prompts import pad_left

RULES = {
    "paper": Rules(),
    "no clean-up": Rules(gate="linear", clean_up=False),
    "pattern": Rules(attention="pattern"),
    "linear": LINEAR,
}


def problem_for(loaded, rules=None, **changes) -> Problem:
    mean = label_balanced_mean(loaded, random_rows(18, seed=5), 3, 4)
    return Problem(loaded, random_rows(6), LABEL_TOKENS, mean, **({} if rules is None else {"rules": rules}), **changes)


def way_to_the_answer(loaded, batch, totals, number) -> torch.Tensor:
    """The unit vector [B, hidden] along which what attention writes in a layer reaches the margin directly."""
    nothing = torch.zeros_like(totals.final[:, -1], requires_grad=True)
    margin = batch.margin(oracle.straight_way(nothing, loaded, totals, number)).sum()
    [v] = torch.autograd.grad(margin, nothing)
    return v / v.norm(dim=-1, keepdim=True)


def oracle_scores(problem: Problem, rules: Rules):
    """Scores head by head from the two-stream reference: [L, H] to the logits, [L, H, L, H] to inner heads."""
    loaded, rows = problem.loaded, problem.rows
    anatomy = loaded.anatomy
    n_layers, heads, d = len(anatomy.layers), anatomy.heads, anatomy.head_dim
    batch = pad_left(rows.prompts, loaded.layout, "cpu")
    totals = record(loaded, batch)
    shared = Batch(replace(problem, rules=rules), range(len(rows)))
    logits, inner = np.zeros((n_layers, heads)), np.zeros((n_layers, heads, n_layers, heads))
    gold = torch.tensor([LABEL_TOKENS[label] for label in rows.labels])
    ways = [way_to_the_answer(loaded, shared, totals, number) for number in range(n_layers)]
    for layer in range(n_layers):
        kept = totals.layers[layer]
        mu = problem.mean.at(layer, batch["input_ids"].shape[1])
        beta = (kept.z - mu) * batch["attention_mask"][..., None]
        for head in range(heads):
            source = torch.zeros_like(beta)
            source[..., head * d : (head + 1) * d] = beta[..., head * d : (head + 1) * d]
            rel, _, rel_zs = oracle.two_streams(
                loaded, batch, totals.layers[0].x, layer, source, rules, oracle.turns(totals)
            )
            words = rel[:, LABEL_TOKENS]
            right = rel.gather(1, gold[:, None])[:, 0]
            logits[layer, head] = (right - (words.sum(1) - right) / 2).mean()
            for number, rel_z in rel_zs.items():
                if number > layer:
                    written = oracle.head_outputs(anatomy.layers[number], rel_z[:, -1], d)
                    if anatomy.layers[number].post_attention is not None:
                        total = totals.layers[number].attention_out[:, -1:]
                        scale = anatomy.layers[number].post_attention.module(total) / total
                        written = written * scale
                    inner[layer, head, number] = torch.einsum("bho,bo->bh", written, ways[number]).mean(0)
    return logits, inner


def close(actual, expected, relative):
    scale = np.abs(expected).max()
    assert scale > 0
    assert np.abs(actual - expected).max() <= relative * scale


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_the_references_two_streams_add_up_to_the_models_logits(loaded, rules):
    batch = pad_left(random_rows(5).prompts, loaded.layout, "cpu")
    totals = record(loaded, batch)
    for layer, kept in enumerate(totals.layers):
        source = torch.randn(kept.z.shape, generator=torch.Generator().manual_seed(layer)) * kept.z.std()
        source = source * batch["attention_mask"][..., None]
        rel, irrel, _ = oracle.two_streams(
            loaded, batch, totals.layers[0].x, layer, source, rules, oracle.turns(totals)
        )
        assert rel.abs().max() > 0
        torch.testing.assert_close(rel + irrel, totals.logits, rtol=1e-4, atol=1e-4 * float(totals.logits.abs().max()))


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_scores_equal_the_reference(loaded, rules):
    problem = problem_for(loaded, rules)
    relevance = cdt(problem, None, [])
    logits, inner = oracle_scores(problem, rules)
    close(relevance.logits, logits, 3e-4)  # both round in single precision: 1.4e-4 apart on a CPU with AVX-512
    actual = np.zeros_like(inner)
    for target, column in relevance.columns.items():
        actual[:, :, target.layer, target.index] = column
    close(actual, inner, 3e-4)


def test_chunks_and_batches_do_not_change_a_score(random_or_trained):
    problem = problem_for(random_or_trained)
    whole = cdt(replace(problem, sources_per_pass=64, rows_per_pass=64), None, [])
    single = cdt(replace(problem, sources_per_pass=1, rows_per_pass=1), None, [])
    close(single.logits, whole.logits, 3e-5)
    for target in (Head(1, 0), Head(2, 3)):
        close(single.columns[target], whole.columns[target], 3e-5)


def test_one_backward_pass_equals_head_by_head_propagation(loaded):
    problem = problem_for(loaded, LINEAR)
    targets = [Head(2, 1), Head(1, 3), Head(0, 2)]
    slow, fast = cdt(problem, None, []), cdt_linear(problem, None, targets)
    close(fast.logits, slow.logits, 1e-5)
    for target in targets[:2]:
        close(fast.columns[target], slow.columns[target], 1e-5)
    assert not fast.columns[Head(0, 2)].any()
    later = cdt_linear(problem, cdt_linear(problem, None, []), targets)
    close(later.columns[targets[0]], slow.columns[targets[0]], 1e-5)


def test_without_a_source_nothing_is_relevant(loaded):
    batch = Batch(replace(problem_for(loaded), rules=Rules()), range(6))
    empty = torch.zeros(2, *batch.beta[0].shape)
    for _, rel_z, stream in batch.propagation.run(0, empty):
        assert not rel_z.any()
        assert not stream.any()
    assert not batch.to_logits(stream).any()


def test_the_whole_layer_as_source_is_its_deviation_from_the_mean(loaded):
    batch = Batch(replace(problem_for(loaded), rules=LINEAR), range(6))
    layer, totals = loaded.anatomy.layers[1], batch.totals.layers[1]
    mu = problem_for(loaded).mean.at(1, totals.z.shape[1])
    at_mean = torch.nn.functional.linear(mu, layer.o.weight, layer.o.bias)
    rel = torch.nn.functional.linear(batch.beta[1], layer.o.weight)
    real = batch.totals.mask
    torch.testing.assert_close(rel[real], (totals.attention_out - at_mean)[real], rtol=1e-4, atol=1e-5)


def test_head_outputs_add_up_to_the_attention_output(loaded):
    batch = pad_left(random_rows(5).prompts, loaded.layout, "cpu")
    for layer, kept in zip(loaded.anatomy.layers, record(loaded, batch).layers, strict=True):
        total = oracle.head_outputs(layer, kept.z, loaded.anatomy.head_dim).sum(-2)
        if layer.o.bias is not None:
            total = total + layer.o.bias
        torch.testing.assert_close(total, kept.attention_out, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama-2kv", "bert", "xlm-roberta"])
def test_padding_does_not_change_a_score(name):
    loaded = tiny(name)
    loaded.model.double()  # so that no rounding hides a difference
    problem = problem_for(loaded)
    alone = [cdt(replace(problem, rows=problem.rows.subset([i])), None, []).logits for i in range(6)]
    close(np.mean(alone, axis=0), cdt(problem, None, []).logits, 1e-10)


def test_swapping_the_two_classes_flips_the_sign():
    loaded = tiny("qwen2-2kv")
    problem = replace(problem_for(loaded), label_tokens=LABEL_TOKENS[:2])
    rows = problem.rows.subset([i for i, label in enumerate(problem.rows.labels) if label < 2])
    swapped = replace(rows, labels=tuple(1 - label for label in rows.labels))
    for scorer in (cdt, cdt_linear):
        one = scorer(replace(problem, rows=rows), None, [])
        other = scorer(replace(problem, rows=swapped), None, [])
        close(one.logits, -other.logits, 1e-5)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_scores_that_are_not_finite_name_the_layer_that_broke(number):
    from ctsft.errors import CellFailed

    loaded = tiny("llama-2kv")
    with torch.no_grad():
        loaded.model.get_parameter(f"model.layers.{number}.mlp.down_proj.weight").mul_(torch.inf)
    for rules in (Rules(), LINEAR):
        with pytest.raises(CellFailed, match=f"not finite from layer {number} on. The model's own activations"):
            cdt(problem_for(loaded, rules), None, [])
    with pytest.raises(CellFailed, match=f"not finite from layer {number} on. The inclusive gate needs the clean-up"):
        cdt(problem_for(loaded, Rules(clean_up=False)), None, [])
    # The scores of a gradient, or of the model's own passes, know no layer but the head's, and no gate.
    for scorer in (cdt_linear, ablation):
        with pytest.raises(CellFailed, match=r"not finite for heads of layers 0 to \d. The model's own activations"):
            scorer(problem_for(loaded), None, [])


@pytest.mark.parametrize(("scorer", "rules"), [(cdt, Rules()), (cdt_linear, LINEAR)])
def test_a_map_records_the_rules_that_made_it(scorer, rules):
    assert scorer(problem_for(tiny("llama-2kv")), None, []).about["rules"] == asdict(rules)
