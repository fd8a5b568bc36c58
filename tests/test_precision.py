"""bfloat16 on CPUs with and without instructions for it: the same numbers up to the order of sums."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import ctsft
from ctsft.models import load, precision
from ctsft.models.precision import RoundedProducts, autocast, products
from ctsft.study.grid import Cell
from ctsft.study.measures import bits_per_byte
from ctsft.study.run import run_study
from ctsft.study.workbench import Workbench
from ctsft.tasks.prompts import by_length
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


def test_on_a_gpu_cudnn_attention_is_left_out():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        precision.leave_out_cudnn_attention(CPU)
        assert torch.backends.cuda.cudnn_sdp_enabled()
        precision.leave_out_cudnn_attention(torch.device("cuda"))
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_every_model_is_loaded_without_it(monkeypatch):
    seen = []
    monkeypatch.setattr(load, "leave_out_cudnn_attention", seen.append)
    ctsft.load_model("demo")
    assert seen == [CPU]


def lacking(monkeypatch, lacks: bool) -> None:
    monkeypatch.setattr(precision, "lacks_bfloat16", lambda: lacks)


class Recorder(TorchDispatchMode):
    """What products reach torch, and in which precision. Around `RoundedProducts` it sees those that are passed on."""

    def __init__(self):
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if operation in precision.PRODUCTS:
            self.seen.add(arguments[0].dtype)
        return operation(*arguments, **(options or {}))


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


def answer(bench, cell):
    bench.predict(bench.prompts("d30", "valid"))


def tune(bench, cell):
    with bench.tuned(cell, []):
        pass


def read(bench, cell):
    bits_per_byte(bench, bench.split("d30", "test").examples[:8])


def test_label_words_that_bfloat16_makes_equal_are_told_apart(short):
    """The answer is that of the unrounded logits, not the first label's, and the vocabulary's best agrees with it."""
    bench = Workbench(short)
    unembedding, words = bench.model.get_output_embeddings(), list(bench.label_tokens)
    with torch.no_grad():
        common = unembedding.weight[words].mean(0)
        unembedding.weight[words] = 0.999 * common + 0.001 * unembedding.weight[words]
    rows, states = bench.prompts("d30", "valid"), []
    hook = unembedding.register_forward_pre_hook(lambda module, args: states.append(args[0].reshape(-1, len(common))))
    found = bench.predict(rows)
    hook.remove()
    order = np.concatenate(by_length(rows.prompts, bench.config.eval_batch))
    exact = (torch.cat(states).double() @ unembedding.weight[words].double().T).numpy()[np.argsort(order)]
    rounded = torch.from_numpy(exact).bfloat16().float().numpy()
    assert (rounded.argmax(-1) != exact.argmax(-1)).mean() > 0.2
    np.testing.assert_array_equal(found.labels, exact.argmax(-1))
    np.testing.assert_allclose(found.logits, exact, rtol=1e-4)
    of_words = np.isin(found.vocabulary, words)
    np.testing.assert_array_equal(np.array(words)[found.labels][of_words], found.vocabulary[of_words])
    assert "forward" not in unembedding.__dict__


@pytest.mark.parametrize(("run", "arm"), [(answer, "full"), (tune, "full"), (tune, "ewc"), (read, "full")])
def test_all_that_is_computed_takes_rounded_products(short, monkeypatch, run, arm):
    """Answers, gradients, the Fisher information of EWC, and language modelling: no product in bfloat16 is left."""
    bench = Workbench(replace(short, n_source=20, epochs=1))
    bench.theta1_of(31)
    cell = Cell("d30", 20, arm, None, 1e-3, 31)
    for lacks in (False, True):
        lacking(monkeypatch, lacks)
        with Recorder() as recorder:
            run(bench, cell)
        assert (torch.bfloat16 in recorder.seen) is not lacks
        assert torch.float32 in recorder.seen or not lacks


def test_a_study_computes_the_same_either_way(short, monkeypatch):
    """What tuning does to the answers is the same up to 2 % of it: the order of sums grows over the steps."""
    answers, before = [], None
    for lacks in (False, True):
        lacking(monkeypatch, lacks)
        bench = Workbench(replace(short, n_source=60, epochs=1, seeds=(2025,)))
        prompts = bench.prompts("d30", "valid")
        if before is None:
            before = bench.predict(prompts).logits
        assert bench.provenance["rounded_products"] is lacks
        bench.theta1_of(2025)
        answers.append(bench.predict(prompts).logits)
        bench.config.folder.joinpath("cache").rename(bench.config.folder / f"cache-{lacks}")
    first, second = answers
    assert np.linalg.norm(first - second) < 0.02 * np.linalg.norm(first - before)
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


@pytest.mark.parametrize(
    ("capabilities", "lacks"),
    [
        ({"avx2": True, "avx512_bf16": False}, True),
        ({"avx512_bf16": True}, False),
        ({"neon": True, "bf16": True}, False),
    ],
)
def test_instructions_are_read_off_the_cpu(monkeypatch, capabilities, lacks):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert precision.lacks_bfloat16.__wrapped__() is lacks
