"""Real trained weights, where they are at hand: loading, the decomposition, and the smallest cell to the end."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import oracle
import pytest
import torch
from conftest import LABEL_TOKENS, STORIES, there
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from ctsft.discovery.decompose import LINEAR, Rules
from ctsft.discovery.mean import label_balanced_mean
from ctsft.discovery.problem import Batch, Problem
from ctsft.heads import Head
from ctsft.models.load import Loaded, load_model
from ctsft.study.record import read_rows
from ctsft.study.run import run_study
from ctsft.tasks.nusax import NUSAX
from ctsft.tasks.prompts import Encoded, encode, label_tokens
from ctsft.tasks.task import draw_balanced

ROOT = Path(__file__).parents[1]
SMOLLM2 = "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def in_double(monkeypatch) -> Callable[[str], Loaded]:
    """Loads a Llama in double precision throughout; its norms would round to single by themselves."""

    def normed(self, x):
        return x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt() * self.weight

    def load(name: str) -> Loaded:
        monkeypatch.setattr(LlamaRMSNorm, "forward", normed)
        loaded = load_model(name)
        loaded.model.double()
        return loaded

    return load


def same(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Up to the rounding of double precision; never where nothing, or what is not finite, is expected."""
    scale = float(expected.abs().max())
    return 0 < scale < float("inf") and float((actual - expected).abs().max()) < 1e-9 * scale


def adds_up_and_agrees(loaded, rows, tokens, rules, heads):
    """The reference's two streams are the model's own logits, and its rel in every layer is that of the propagation."""
    mean = label_balanced_mean(loaded, rows, len(tokens), len(rows))
    batch = Batch(Problem(loaded, rows, tokens, mean, rules), range(len(rows)))
    d, totals = loaded.anatomy.head_dim, batch.totals
    for head in heads:
        source = torch.zeros_like(batch.beta[head.layer])
        own = slice(head.index * d, (head.index + 1) * d)
        source[..., own] = batch.beta[head.layer][..., own]
        rel, irrel, rel_z = oracle.two_streams(
            loaded, batch.tokens, totals.layers[0].x, head.layer, source, rules, oracle.turns(totals)
        )
        assert same(rel + irrel, totals.logits), head
        passed = list(batch.propagation.run(head.layer, source[None]))
        assert [number for number, _, _ in passed] == list(rel_z)
        assert all(same(z[0, :, -1], rel_z[number][:, -1]) for number, z, _ in passed), head
        assert same(batch.to_label_words(passed[-1][2])[0], rel[:, tokens]), head


def test_stories260k_speaks(model_dir):
    there(model_dir, STORIES)
    loaded = load_model(str(model_dir / STORIES))
    ids = loaded.tokenizer("Zoo", return_tensors="pt")
    out = loaded.model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert loaded.tokenizer.decode(out[0], skip_special_tokens=True).startswith("Zoo was a little girl named Lily")


@pytest.mark.parametrize("rules", [Rules(), LINEAR], ids=["paper", "linear"])
def test_stories260k_is_decomposed_as_the_reference_says(model_dir, in_double, rules):
    there(model_dir, STORIES)
    loaded = in_double(str(model_dir / STORIES))
    texts = ("Once upon a time", "Lily saw a big red ball.", "Tom was sad.")
    prompts = tuple(tuple(loaded.tokenizer(text)["input_ids"]) for text in texts)
    rows = Encoded(prompts, (0, 1, 2), ("a", "b", "c"))
    heads = [Head(layer, index) for layer in range(5) for index in (0, 5)]
    adds_up_and_agrees(loaded, rows, LABEL_TOKENS, rules, heads)


def test_smollm2_is_decomposed_as_the_reference_says_on_real_rows(model_dir, real_data, in_double):
    there(model_dir, SMOLLM2)
    loaded = in_double(str(model_dir / SMOLLM2))
    assert sum(p.numel() for p in loaded.model.parameters()) == 134_515_008
    tokens = label_tokens(loaded.tokenizer, NUSAX, loaded.layout)
    assert tokens == [3524, 9174, 2731]
    rows = draw_balanced(NUSAX.load("indonesian", "valid", real_data).examples, 1, 3, 0)
    encoded = encode(loaded.tokenizer, NUSAX, rows, 24, loaded.layout)
    assert all(len(prompt) <= 24 for prompt in encoded.prompts)
    adds_up_and_agrees(loaded, encoded, tokens, Rules(), [Head(0, 0), Head(15, 4), Head(29, 8)])
    adds_up_and_agrees(loaded, encoded, tokens, LINEAR, [Head(0, 0), Head(29, 8)])


@pytest.mark.parametrize("scorer", ["cdt", "cdt_linear"])
def test_the_smallest_cell_runs_on_real_weights_and_real_rows(model_dir, real_data, tmp_path, scorer):
    """Chance is what a 260-thousand-weight model of English children's stories gives here; it must say so, and end."""
    there(model_dir, STORIES)
    small = runpy.run_path(str(ROOT / "experiments" / "01_nusax_transfer.py"))["PRESETS"]["small"]
    config = replace(
        small,
        model=str(model_dir / STORIES),
        label_words=("e", "a", "o"),
        targets=("javanese",),
        n_targets=(25,),
        n_source=25,
        epochs=1,
        seeds=(31,),
        depths=(1,),
        lrs=(5e-5,),
        arms=("zero_shot", "circuit"),
        scorer=scorer,
        score_rows=6,
        data_dir=real_data,
        output=tmp_path,
    )
    assert run_study(config) == 0
    rows = read_rows(tmp_path / "small" / "01_nusax_transfer.csv")
    assert [row["arm"] for row in rows] == ["zero_shot", "circuit"]
    assert 0.2 < float(rows[1]["accuracy"]) < 0.5
    assert len(rows[1]["predictions"]) == 401
