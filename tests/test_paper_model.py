"""The paper's own model, as far as it can be had without its weights: its exact configuration, with random ones."""

from __future__ import annotations

import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from ctsft.heads import Head
from ctsft.models.anatomy import anatomy
from ctsft.models.load import DEMO_MODEL
from ctsft.report.paper import published
from ctsft.study.run import run_study
from ctsft.tuning.arms import get_arm, trained_weights

ROOT = Path(__file__).parents[1]
PAPER = runpy.run_path(str(ROOT / "experiments" / "01_nusax_transfer.py"))["PRESETS"]["paper"]
# Qwen/Qwen2.5-0.5B's config.json.
QWEN = dict(
    vocab_size=151_936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    max_position_embeddings=32_768,
    rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    bos_token_id=151_643,
    eos_token_id=151_643,
)


def test_a_circuit_of_the_papers_model_moves_the_share_of_weights_that_the_paper_prints():
    """In percent of 630.5 M, which counts the tied embedding twice; the heads lie in as many key/value groups."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen2Config(**QWEN))
    assert sum(parameter.numel() for parameter in model.parameters()) == 494_032_768
    parts = anatomy(model)
    assert (parts.n_heads, parts.kv_heads, parts.head_dim) == (336, 2, 64)
    table = published("trainable_share")
    for heads, percent in zip(table["heads"], table["percent_of_630.5M"], strict=True):
        chosen = [Head(layer, 0) for layer in range(heads)]
        moved = trained_weights(model, parts, get_arm("circuit"), chosen, "shared")
        assert 100 * moved / 630.5e6 == pytest.approx(percent, abs=0.006)


def test_the_paper_preset_loads_the_papers_model_and_plans(tmp_path, capsys):
    """On random weights, with the demo's tokenizer and rows: theirs are on the hub."""
    model = AutoModelForCausalLM.from_config(Qwen2Config(**QWEN), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "qwen")
    del model
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_MODEL / name, tmp_path / "qwen")
    config = replace(
        PAPER,
        model=str(tmp_path / "qwen"),
        task="demo",
        source="d00",
        targets=("d10", "d30", "d50", "d70"),
        output=tmp_path,
        dry_run=True,
    )
    assert run_study(config) == 0
    told = capsys.readouterr().out
    assert "2896 cells, 0 done, 2896 to run" in told
    assert "workers" in told
