"""Real trained weights, where they are at hand: loading, the sum check, and the smallest cell to the end."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import oracle
import pytest
import torch
from conftest import there

from ctsft.discovery.decompose import LINEAR, Rules
from ctsft.discovery.totals import record
from ctsft.models.load import load_model
from ctsft.study.record import read_rows
from ctsft.study.run import run_study
from ctsft.tasks.nusax import NUSAX
from ctsft.tasks.prompts import encode, label_tokens, pad_left
from ctsft.tasks.task import draw_balanced

ROOT = Path(__file__).parents[1]
SMOLLM2 = "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"


def close_to_logits(loaded, batch, rules, layers):
    totals = record(loaded, batch)
    for number in layers:
        kept = totals.layers[number]
        source = torch.zeros_like(kept.z)
        source[..., : loaded.anatomy.head_dim] = kept.z[..., : loaded.anatomy.head_dim]
        source = source * batch["attention_mask"][..., None]
        rel, irrel, _ = oracle.two_streams(
            loaded, batch, totals.layers[0].x, number, source, rules, oracle.turns(totals)
        )
        error = (rel + irrel - totals.logits).abs().max() / totals.logits.abs().max()
        assert torch.isfinite(rel).all()
        assert rel.abs().max() > 0
        assert error < 1e-4, (number, float(error))


def test_stories260k_speaks_and_adds_up(model_dir):
    there(model_dir, "stories260k-llama")
    loaded = load_model(str(model_dir / "stories260k-llama"))
    ids = loaded.tokenizer("Zoo", return_tensors="pt")
    out = loaded.model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert loaded.tokenizer.decode(out[0], skip_special_tokens=True).startswith("Zoo was a little girl named Lily")
    rows = [loaded.tokenizer(text)["input_ids"] for text in ("Once upon a time", "Lily saw a big red ball.")]
    batch = pad_left(rows, loaded.layout, "cpu")
    for rules in (Rules(), LINEAR):
        close_to_logits(loaded, batch, rules, range(5))


def test_smollm2_adds_up_on_real_rows(model_dir, real_data):
    there(model_dir, SMOLLM2)
    loaded = load_model(str(model_dir / SMOLLM2))
    assert sum(p.numel() for p in loaded.model.parameters()) == 134_515_008
    assert label_tokens(loaded.tokenizer, NUSAX, loaded.layout) == [3524, 9174, 2731]
    rows = draw_balanced(NUSAX.load("indonesian", "valid", real_data).examples, 1, 3, 0)
    encoded = encode(loaded.tokenizer, NUSAX, rows, 24, loaded.layout)
    assert all(len(prompt) <= 24 for prompt in encoded.prompts)
    batch = pad_left(encoded.prompts, loaded.layout, "cpu")
    close_to_logits(loaded, batch, Rules(), (0, 15, 29))
    close_to_logits(loaded, batch, LINEAR, (0, 29))


@pytest.mark.parametrize("scorer", ["cdt", "cdt_linear"])
def test_the_smallest_cell_runs_on_real_weights_and_real_rows(model_dir, real_data, tmp_path, scorer):
    """Chance is what a 260-thousand-weight model of English children's stories gives here; it must say so, and end."""
    there(model_dir, "stories260k-llama")
    small = runpy.run_path(str(ROOT / "experiments" / "01_nusax_transfer.py"))["PRESETS"]["small"]
    config = replace(
        small,
        model=str(model_dir / "stories260k-llama"),
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
