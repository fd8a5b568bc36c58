"""The same seed gives the same bits; how rows are cut into batches gives the same answers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import LABEL_TOKENS, random_rows
from killing import contents, shorter

from ctsft.evaluation import predict
from ctsft.heads import Head
from ctsft.models.load import weight_hash
from ctsft.study.grid import Cell
from ctsft.study.run import run_study
from ctsft.study.workbench import Workbench

NO_AUTOCAST = torch.autocast("cpu", torch.bfloat16, enabled=False)


@pytest.fixture
def free_again():
    yield
    torch.use_deterministic_algorithms(False)


def test_a_deterministic_study_gives_the_same_files_twice(tmp_path, free_again):
    """theta1, map, circuit and the rows of tuned arms, in the cells that a study without the flag has."""
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "free"]
    for folder in folders:
        config = replace(shorter(folder), arms=("full", "circuit:1", "l2sp"), deterministic=folder.name != "free")
        assert run_study(config) == 0
        assert torch.are_deterministic_algorithms_enabled() == config.deterministic
        settings = json.loads((folder / "demo" / "01_nusax_transfer.config.json").read_text())
        assert settings["deterministic"] == config.deterministic
    one, two, free = map(contents, folders)
    assert one == two
    table = "demo/01_nusax_transfer.csv"
    assert [row["cell"] for row in one[table]] == [row["cell"] for row in free[table]]


@pytest.mark.parametrize("arm", ["full", "circuit"])
def test_the_same_cell_tuned_twice_has_the_same_weights(tmp_path, arm, free_again):
    bench = Workbench(replace(shorter(tmp_path), deterministic=True))
    heads = [Head(1, 0), Head(2, 5)] if arm == "circuit" else []
    cell, hashes = Cell("d30", 20, arm, 1 if heads else None, 1e-3, 31), []
    for _ in range(2):
        with bench.tuned(cell, heads):
            hashes.append(weight_hash(bench.model))
    assert hashes[0] == hashes[1] != bench.theta1_of(31)["weight_hash"]


def test_batch_size_and_padding_do_not_change_an_answer(loaded):
    """For every family: each row alone, which needs no pad, against batches of rows of different lengths."""
    rows = random_rows(30)
    alone, many = (predict(loaded.model, rows, LABEL_TOKENS, loaded.layout, size, NO_AUTOCAST) for size in (1, 16))
    assert alone.digits == many.digits
    assert (alone.vocabulary == many.vocabulary).all()
    np.testing.assert_allclose(many.logits, alone.logits, rtol=1e-4, atol=1e-4)
    assert np.ptp(alone.logits, axis=0).max() > 0.1
