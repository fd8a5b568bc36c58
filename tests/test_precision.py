"""bfloat16 on CPUs with and without instructions for it: the same numbers up to the order of sums."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import ctsft
from ctsft.models import precision
from ctsft.models.precision import RoundedProducts, autocast, products
from ctsft.study.run import run_study
from ctsft.study.workbench import Workbench
from ctsft.tasks.registry import get_task
from ctsft.tuning.loop import Recipe

ROOT = Path(__file__).parents[1]
DEMO = runpy.run_path(str(ROOT / "experiments" / "01_nusax_transfer.py"))["PRESETS"]["demo"]
CPU = torch.device("cpu")
LOW, HIGH = autocast("bfloat16", CPU), autocast("float32", CPU)
ULP = 2**-8  # of bfloat16, relative


@pytest.fixture
def short(tmp_path):
    return replace(DEMO, output=tmp_path, dtype="bfloat16", targets=("d30",), arms=("zero_shot",), seeds=(31,))


def lacking(monkeypatch, lacks: bool) -> None:
    monkeypatch.setattr(precision, "lacks_bfloat16", lambda: lacks)


@pytest.mark.parametrize("shapes", [((33, 576), (576, 70)), ((4, 9, 32), (4, 32, 9))], ids=["matrix", "batch"])
def test_a_rounded_product_is_the_exact_one_rounded(shapes):
    torch.manual_seed(0)
    first, second = (torch.randn(shape).bfloat16() for shape in shapes)
    with RoundedProducts():
        product = first @ second
    exact = first.double() @ second.double()
    assert product.dtype == torch.bfloat16
    near = (product.double() - exact).abs() <= ULP * exact.abs() + 1e-5  # sums that cancel keep float32's error
    assert near.all()
    differ = (product != first @ second).float().mean()
    assert differ < 0.01  # torch's own, which sums in another order


def test_a_bias_is_added_before_rounding():
    """As the models of the Qwen family have it: their linear layers are one operation with their bias."""
    torch.manual_seed(0)
    layer, rows = nn.Linear(64, 32).bfloat16(), torch.randn(5, 64).bfloat16()
    with torch.no_grad(), RoundedProducts():
        found = layer(rows)
    exact = rows.double() @ layer.weight.double().T + layer.bias.double()
    assert ((found.double() - exact).abs() <= ULP * exact.abs() + 1e-5).all()
    assert found.dtype == torch.bfloat16


def test_other_products_are_left_alone():
    first, second = torch.randn(8, 16), torch.randn(16, 4)
    with RoundedProducts():
        assert torch.equal(first @ second, torch.mm(first, second))
        assert (first.double() @ second.double()).dtype == torch.float64


def test_gradients_are_rounded_products_too():
    torch.manual_seed(0)
    layer, rows = nn.Linear(64, 32, bias=False), torch.randn(5, 7, 64)
    gradients = []
    for around in (torch.enable_grad(), RoundedProducts()):
        layer.zero_grad()
        with around:
            with LOW:
                loss = layer(rows).float().pow(2).sum()
            loss.backward()
        gradients.append(layer.weight.grad.clone())
    assert layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(*gradients, rtol=2 * ULP, atol=ULP * float(gradients[0].abs().max()))


def test_products_are_rounded_only_where_bfloat16_has_no_instructions(monkeypatch):
    for lacks, context, rounded in [(True, LOW, True), (True, HIGH, False), (False, LOW, False)]:
        lacking(monkeypatch, lacks)
        assert isinstance(products(context), RoundedProducts) == rounded


def test_a_study_computes_the_same_either_way(short, monkeypatch):
    """Answers of a tuned model: of these rows none lies at a tie that the order of sums would decide."""
    answers = []
    for lacks in (False, True):
        lacking(monkeypatch, lacks)
        bench = Workbench(replace(short, n_source=60, epochs=1))
        assert bench.provenance["rounded_products"] is lacks
        bench.theta1_of(31)
        answers.append(bench.predict(bench.prompts("d30", "valid")).logits)
        bench.config.folder.joinpath("cache").rename(bench.config.folder / f"cache-{lacks}")
    first, second = answers
    assert abs(first - second).max() < 0.05 * abs(first).max()
    assert (first.argmax(-1) == second.argmax(-1)).mean() > 0.95


def test_bfloat16_without_instructions_is_told(short, monkeypatch, capsys):
    """Of the commands and of the library; in float32, and where there are instructions, nothing is said."""
    dry = replace(short, dry_run=True)
    lacking(monkeypatch, True)
    assert run_study(dry) == 0
    assert "no instructions for bfloat16" in capsys.readouterr().err
    assert run_study(replace(dry, dtype="float32")) == 0
    assert "no instructions" not in capsys.readouterr().err
    with pytest.warns(UserWarning, match="no instructions for bfloat16"):
        ctsft.tune(
            ctsft.load_model("demo"), get_task("demo"), "d30", arm="norm_only", rows=8, dtype="bfloat16",
            recipe=Recipe(epochs=1),
        )  # fmt: skip
    lacking(monkeypatch, False)
    assert run_study(dry) == 0
    assert "no instructions" not in capsys.readouterr().err


def test_a_product_is_measured_in_both_precisions(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(precision.time, "perf_counter", lambda: float(next(clock)))
    assert precision.slowness(CPU) == 1
