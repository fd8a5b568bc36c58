"""The label-balanced mean, a planted circuit that every scorer must find, and relevance maps on disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CONFIGS, ENCODERS, LABEL_TOKENS, random_rows, tiny

from ctsft.discovery import scorers
from ctsft.discovery.circuits import circuit, ranked, select
from ctsft.discovery.find import score_to_depth, scoring_rows
from ctsft.discovery.mean import MIN_ROWS, label_balanced_mean
from ctsft.discovery.patching import editing_z
from ctsft.discovery.problem import Batch, Problem
from ctsft.discovery.relevance import Relevance
from ctsft.discovery.scorers import SCORERS, get_scorer
from ctsft.discovery.totals import record
from ctsft.errors import CellFailed, UserError
from ctsft.heads import Head
from ctsft.storage import read_sealed, write_sealed
from ctsft.tasks.prompts import Encoded, pad_left
from ctsft.tasks.task import Example

PLANTED = Head(1, 2)


# Configurations that say their sizes otherwise than the rest.
SMALL = {
    "gpt2": {"n_layer": 2, "n_embd": 16},
    "opt": {"num_hidden_layers": 2, "hidden_size": 16, "ffn_dim": 8, "word_embed_proj_dim": 16},
}


def put(projection, rows, columns, value):
    """Write into the rows and columns of a projection's own W [out, in]."""
    weight = projection.module.weight.T if projection.transposed else projection.module.weight
    where = torch.arange(weight.shape[0])[projection.rows][rows]
    weight[where[:, None], torch.arange(weight.shape[1])[columns]] = value


def planted(name: str):
    """Two layers without MLP effect; head 1.2 alone moves the label from the class token to the answer.

    Dimensions 0-2 hold the class of the class token, 3-5 the answer, 6 and 7 constants, 8-15 noise of the other heads.
    """
    options = CONFIGS[name][1]
    changes = dict(SMALL.get(name, {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 8}))
    changes |= {"head_dim": 4} if "head_dim" in options else {}
    changes |= {"layer_types": options["layer_types"][:2]} if "layer_types" in options else {}
    changes |= {"sliding_window": 64} if "sliding_window" in options else {}  # it must reach the class token
    loaded = tiny(name, **changes)
    anatomy, model, size, every = loaded.anatomy, loaded.model, 4, slice(None)
    generator = torch.Generator().manual_seed(1)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        head_norm = {anatomy.transform.norm} if anatomy.transform else set()
        for norm in {norm for layer in anatomy.layers for norm in layer.norms} | {anatomy.final_norm} | head_norm:
            norm.module.weight.fill_(0.0 if norm.one_plus else 1.0)
        embedding = model.get_input_embeddings().weight
        embedding[7:, 8:] = noise(54, 8)
        embedding[:, 7] = 8.0  # carries the norms, so that the answer's own size does not saturate them
        for label in range(3):
            embedding[4 + label, label] = 3.0
        for layer in anatomy.layers:
            put(layer.v, every, slice(8, 16), 0.3 * noise(anatomy.kv_heads * size, 8))
            put(layer.o, slice(8, 16), every, 0.3 * noise(8, 16))
        layer, first = anatomy.layers[1], PLANTED.index // (4 // anatomy.kv_heads) * size
        mine = PLANTED.index * size
        put(layer.v, slice(first, first + size), every, 0.0)
        put(layer.v, slice(first, first + 3), slice(0, 3), torch.eye(3))
        put(layer.v, slice(first + 3, first + 4), slice(7, 8), 1.0)
        put(layer.o, slice(3, 6), slice(mine, mine + 3), torch.eye(3))
        put(layer.o, slice(6, 7), slice(mine + 3, mine + 4), 1.0)
        if anatomy.transform:
            put(anatomy.transform.dense, every, every, torch.eye(16))
        unembedding = torch.zeros(61, 16)
        unembedding[1:4, 3:6] = 30 * torch.eye(3)
        unembedding[:, 8:] = 0.02 * noise(61, 8)
        # A parameter of its own: some families tie it to the embedding.
        model.get_output_embeddings().weight = torch.nn.Parameter(unembedding, requires_grad=False)
    return loaded


def planted_rows(n: int, seed: int) -> Encoded:
    rows = random_rows(n, seed)
    prompts = tuple((4 + label, *prompt) for prompt, label in zip(rows.prompts, rows.labels, strict=True))
    return Encoded(prompts, rows.labels, rows.ids)


def asked_of(name: str) -> list[str]:
    """The scorers that must find the planted head of a family.

    `magnitude` has no direction: it counts whatever a head passes on, towards the answer or not, and on encoders puts
    other heads above the planted one. Only scores with a direction promise to find it there.
    """
    return [scorer for scorer in SCORERS if scorer != "magnitude" or name not in ENCODERS]


@pytest.mark.parametrize(("name", "scorer"), [(name, scorer) for name in CONFIGS for scorer in asked_of(name)])
def test_every_scorer_ranks_the_planted_head_first(name, scorer):
    loaded = planted(name)
    rows = planted_rows(12, 0)
    batch = pad_left(rows.prompts, loaded.layout, "cpu")
    answers = loaded.model(**batch).logits[:, -1, 1:4].argmax(-1)
    assert answers.tolist() == list(rows.labels)
    mean = label_balanced_mean(loaded, planted_rows(18, 9), 3, 8)
    relevance = get_scorer(scorer)(Problem(loaded, rows, [1, 2, 3], mean), None, [])
    assert circuit(relevance, 0, 0.02) == [[PLANTED]]
    others = np.delete(relevance.logits.ravel(), PLANTED.layer * 4 + PLANTED.index)
    if scorer == "magnitude":  # unsigned, and relative: heads that only pass by count too
        return
    assert relevance.logits[PLANTED] > 5 * np.abs(others).max()


@pytest.mark.parametrize("kept", ["no target", "the last targets alone"])
def test_a_scorer_that_drops_columns_is_refused_and_does_not_go_on_for_ever(kept, monkeypatch):
    def score(problem, relevance, targets):
        logits = np.arange(12.0)[::-1].reshape(3, 4)
        return Relevance(logits, {} if kept == "no target" else dict.fromkeys(targets, logits))

    monkeypatch.setitem(SCORERS, "forgetful", score)
    with pytest.raises(UserError, match=r"scorer 'forgetful' returned no scores to head \d\.\d"):
        score_to_depth("forgetful", Problem(tiny("llama-4kv"), random_rows(), LABEL_TOKENS, None), None, 2, 1)


def test_unknown_scorers_are_named():
    with pytest.raises(UserError, match=r"'cdtt'.*cdt, cdt_linear, magnitude, attribution, ablation"):
        get_scorer("cdtt")


def test_duplicating_a_class_leaves_the_mean_as_it_is():
    loaded = tiny("qwen2-2kv")
    rows = random_rows(18)
    ones = [i for i, label in enumerate(rows.labels) if label == 1]
    more = rows.subset([*range(18), *ones, *ones])
    a, b = label_balanced_mean(loaded, rows, 3, 5), label_balanced_mean(loaded, more, 3, 7)
    torch.testing.assert_close(a.pooled, b.pooled)
    shortest = min(len(prompt) for prompt in rows.prompts)  # offsets that every row reaches
    torch.testing.assert_close(a.aligned[:, :shortest], b.aligned[:, :shortest])


def test_the_mean_is_that_of_z_by_label_and_offset():
    loaded = tiny("llama-2kv")
    rows = random_rows(18)
    mean = label_balanced_mean(loaded, rows, 3, 4)
    z = [
        [layer.z[0] for layer in record(loaded, pad_left([prompt], loaded.layout, "cpu")).layers]
        for prompt in rows.prompts
    ]
    for offset in (0, 3):
        by_label = [
            torch.stack([z[i][1][-1 - offset] for i in range(18) if rows.labels[i] == label]).mean(0)
            for label in range(3)
        ]
        torch.testing.assert_close(mean.aligned[1, offset], torch.stack(by_label).mean(0), rtol=1e-4, atol=1e-6)
    pooled = [torch.cat([z[i][2] for i in range(18) if rows.labels[i] == label]).mean(0) for label in range(3)]
    torch.testing.assert_close(mean.pooled[2], torch.stack(pooled).mean(0), rtol=1e-4, atol=1e-6)
    longest = max(len(prompt) for prompt in rows.prompts)
    rare = [o for o in range(longest) if sum(len(p) > o for p in rows.prompts) < MIN_ROWS]
    assert rare, "the rows should have an offset that few of them reach"
    assert torch.equal(mean.aligned[:, rare[0]], mean.pooled)
    wide = mean.at(0, longest + 5)
    assert torch.equal(wide[0], mean.pooled[0])
    assert torch.equal(wide[-1], mean.aligned[0, 0])


def test_relevance_survives_the_disk(tmp_path):
    rng = np.random.default_rng(0)
    relevance = Relevance(rng.normal(size=(3, 4)), {Head(1, 2): rng.normal(size=(3, 4))}, {"scorer": "cdt"})
    relevance.save(tmp_path / "map.v1")
    again = Relevance.load(tmp_path / "map.v1")
    np.testing.assert_allclose(again.logits, relevance.logits, atol=1e-8)
    np.testing.assert_array_equal(again.columns[Head(1, 2)], relevance.columns[Head(1, 2)])
    assert again.about == {"scorer": "cdt"}
    assert again.ties == "logits"
    Relevance(-relevance.logits).save(tmp_path / "map.v2")  # another map, not the same file
    np.testing.assert_array_equal(Relevance.load(tmp_path / "map.v1").logits, again.logits)


def test_small_scores_keep_their_order_on_the_disk(tmp_path):
    """A squared gradient may be of any scale."""
    small = 1e-12 * np.random.default_rng(1).uniform(size=(3, 4))
    Relevance(small).save(tmp_path / "map")
    again = Relevance.load(tmp_path / "map").logits
    np.testing.assert_allclose(again, small, rtol=1e-8)
    assert ranked(again) == ranked(small)


def test_scores_that_do_not_say_how_ties_are_decided_are_of_the_first_rule(tmp_path):
    relevance = Relevance(np.zeros((2, 2)))
    relevance.save(tmp_path / "map")
    about = read_sealed(tmp_path / "map.json")
    write_sealed(tmp_path / "map.json", {name: value for name, value in about.items() if name != "ties"})
    assert Relevance.load(tmp_path / "map").ties == "index"


def test_near_zero_and_bottom_rank_as_they_say():
    scores = np.array([[0.5, -0.01, 2.0, -3.0], [0.02, 1.0, -0.3, 0.4]])
    relevance = Relevance(scores)
    like = {"depth": 0, "share": 0.25, "per_group": 1, "seed": 0}
    assert select("circuit", relevance, **like) == [Head(0, 2), Head(1, 1)]
    assert select("near_zero", relevance, **like) == [Head(0, 1), Head(1, 0)]
    assert select("bottom", relevance, **like) == [Head(0, 3), Head(1, 2)]
    draws = {tuple(select("random", relevance, **{**like, "seed": seed})) for seed in range(10)}
    assert len(draws) > 3


def test_the_sources_of_a_longer_prompt_do_not_reach_a_shorter_row():
    """Rows of one batch do not mix: a row's share of the score is the same beside any other row."""
    loaded = tiny("llama-1kv")
    rows = random_rows(6)
    mean = label_balanced_mean(loaded, random_rows(18, 5), 3, 4)
    problem = Problem(loaded, rows, [5, 6, 7], mean, rows_per_pass=6)
    whole = get_scorer("cdt")(problem, None, []).logits
    parts = [
        get_scorer("cdt")(replace(problem, rows=rows.subset(part)), None, []).logits for part in ([0, 3], [1, 2, 4, 5])
    ]
    np.testing.assert_allclose(whole, (2 * parts[0] + 4 * parts[1]) / 6, rtol=1e-4, atol=1e-6)


def small_problem(name="qwen2-2kv") -> Problem:
    loaded = tiny(name)
    mean = label_balanced_mean(loaded, random_rows(18, 5), 3, 4)
    return Problem(loaded, random_rows(6), [5, 6, 7], mean)


def margin_with(problem: Problem, changes: dict[int, torch.Tensor]) -> float:
    """Mean margin of the model's own forward pass with `changes[layer]` added to z."""
    batch = Batch(problem, range(len(problem.rows)))
    edits = {layer: (lambda z, change=change: z + change) for layer, change in changes.items()}
    with editing_z(problem.loaded, edits), torch.no_grad():
        return float(batch.margin(problem.loaded.model(**batch.tokens).logits[:, -1]).mean())


def test_ablation_is_the_margin_lost_without_the_head():
    problem = small_problem()
    beta = Batch(problem, range(6)).beta
    scores = get_scorer("ablation")(problem, None, []).logits
    for head in (Head(0, 1), Head(2, 3)):
        change = torch.zeros_like(beta[head.layer])
        change[..., head.index * 8 : (head.index + 1) * 8] = -beta[head.layer][
            ..., head.index * 8 : (head.index + 1) * 8
        ]
        lost = margin_with(problem, {}) - margin_with(problem, {head.layer: change})
        assert scores[head] == pytest.approx(lost, rel=1e-3, abs=1e-5)


def test_attribution_is_the_slope_towards_the_mean():
    problem = small_problem()
    beta = Batch(problem, range(6)).beta
    scores = get_scorer("attribution")(problem, None, []).logits
    step = 2e-3
    for layer in range(3):
        for index in (0, 2):
            change = torch.zeros_like(beta[layer])
            change[..., index * 8 : (index + 1) * 8] = step * beta[layer][..., index * 8 : (index + 1) * 8]
            slope = (margin_with(problem, {layer: change}) - margin_with(problem, {layer: -change})) / (2 * step)
            assert scores[layer, index] == pytest.approx(slope, rel=0.03, abs=3e-3)


@pytest.mark.parametrize("scorer", SCORERS)
def test_heads_are_fed_by_earlier_layers_alone(scorer):
    problem = small_problem("llama-2kv")
    targets = [Head(2, 1), Head(0, 3)]
    relevance = get_scorer(scorer)(problem, get_scorer(scorer)(problem, None, []), targets)
    assert relevance.columns[targets[0]][:2].all()
    assert not relevance.columns[targets[0]][2].any()
    assert not relevance.columns[targets[1]].any()


def test_out_of_memory_halves_the_sources_and_changes_no_score(monkeypatch):
    problem = small_problem()
    expected = get_scorer("cdt")(problem, None, [])
    honest = scorers.propagate

    def greedy(batch, layer, chunk, *readers):
        if len(chunk) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return honest(batch, layer, chunk, *readers)

    monkeypatch.setattr(scorers, "propagate", greedy)
    with pytest.warns(UserWarning, match="out of memory: going on with"):
        actual = get_scorer("cdt")(problem, None, [])
    np.testing.assert_allclose(actual.logits, expected.logits, rtol=1e-5, atol=1e-7)

    def full(batch, layer, chunk, *readers):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(scorers, "propagate", full)
    with pytest.warns(UserWarning, match="out of memory"), pytest.raises(CellFailed, match="fewer or shorter rows"):
        get_scorer("cdt")(problem, None, [])


@pytest.mark.parametrize(("right", "only_right"), [(12, True), (4, True), (3, False), (0, False)])
def test_a_start_that_gets_too_few_rows_right_is_scored_on_any(right, only_right):
    """Eight rows of each of three labels are asked for; of the last one only `right` are right."""
    pool = [Example(str(i), "text", i % 3) for i in range(90)]

    def answers(rows):
        wrong = {example.id for example in [e for e in rows if e.label == 2][right:]}
        return [-1 if example.id in wrong else example.label for example in rows]

    drawn = scoring_rows(pool, answers, 3, 6, 24, seed=1)
    assert drawn.only_right == only_right
    sizes = {sum(example.label == label for example in drawn.scored) for label in range(3)}
    assert sizes == {min(right, 8) if only_right else 8}
    assert not {e.id for e in drawn.scored} & {e.id for e in drawn.mean}
