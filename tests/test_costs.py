"""Script 07: L-Mul against a scalar reference, products found in a model, and costs that follow from what was run."""

from __future__ import annotations

import math
import platform
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import tiny

from ctsft.costs.arithmetic import (
    ARITHMETICS,
    Exact,
    Float8,
    LMul,
    Operands,
    Pairs,
    computing_in,
    eager_attention,
    power_below,
    relative_error,
    rounded,
)
from ctsft.costs.measure import cost_of, energy_of, flops_of, stored_bytes
from ctsft.costs.run import ARITHMETIC_COLUMNS, COST_COLUMNS, run_costs
from ctsft.errors import UserError
from ctsft.memory import highest_memory_mb, start_memory
from ctsft.report.costs import arithmetic_cells, cost_cells, cost_tables, costs
from ctsft.report.figures.costs import arithmetic_figure, costs_figure
from ctsft.study.grid import Cell
from ctsft.study.record import append_rows, read_rows
from ctsft.study.run import main
from ctsft.study.workbench import Workbench

PRESETS = runpy.run_path(str(Path(__file__).parents[1] / "experiments" / "07_cost_and_energy.py"))["PRESETS"]
INPUTS = {"input_ids": torch.tensor([[9, 10, 11, 12, 13], [20, 21, 22, 23, 24]])}


def round_scalar(x: float, bits: int) -> float:
    if x == 0:
        return 0.0
    exponent = math.floor(math.log2(abs(x)))
    step = 2.0 ** (exponent - bits)
    return round(x / step) * step  # Python rounds ties to even


def lmul_scalar(x: float, y: float, bits: int) -> float:
    """The formula as it stands in the paper, number by number."""
    x, y = round_scalar(x, bits), round_scalar(y, bits)
    if x == 0 or y == 0:
        return 0.0
    x_e, y_e = (math.floor(math.log2(abs(v))) for v in (x, y))
    x_m, y_m = abs(x) / 2**x_e - 1, abs(y) / 2**y_e - 1
    offset = bits if bits <= 3 else 3 if bits == 4 else 4
    return math.copysign(1, x) * math.copysign(1, y) * (1 + x_m + y_m + 2**-offset) * 2 ** (x_e + y_e)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 7])
def test_lmul_is_the_papers_formula(bits):
    generator = torch.Generator().manual_seed(bits)
    a, b = (
        torch.randn(300, generator=generator) * 10 ** torch.randint(-4, 4, (300,), generator=generator) for _ in "ab"
    )
    a[:3] = torch.tensor([0.0, 1.0, -2.0])
    expected = torch.tensor([lmul_scalar(x, y, bits) for x, y in zip(a.tolist(), b.tolist(), strict=True)])
    torch.testing.assert_close(LMul(bits).multiply(a, b), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [3, 4])
def test_a_matrix_product_is_the_sum_of_lmul_products(bits):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 7, generator=generator), torch.randn(2, 7, 3, generator=generator)
    a[0, 0] = 0
    expected = torch.zeros(2, 5, 3)
    for n, i, j in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(3)).tolist():
        expected[n, i, j] = sum(lmul_scalar(float(a[n, i, k]), float(b[n, k, j]), bits) for k in range(7))
    torch.testing.assert_close(LMul(bits).matmul(a, b), expected, rtol=1e-5, atol=1e-5)


def test_rounding_and_powers_by_hand():
    x = torch.tensor([1.0, 1.0625, 1.1875, -3.3, 0.0, 1.97, 0.15])
    assert rounded(x, 3).tolist() == pytest.approx([1.0, 1.0, 1.25, -3.25, 0.0, 2.0, 0.15625])
    assert power_below(x).tolist() == [1.0, 1.0, 1.0, -2.0, 0.0, 1.0, 0.125]


@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_float8_rounds_to_its_bits_and_keeps_the_largest(kind):
    x = torch.tensor([1000.0, -1.0, 0.3, 0.0, 1e4])
    out = Float8(kind).round(x)
    assert out.isfinite().all()
    step = 2.0**-3 if kind == "e4m3" else 2.0**-2
    assert ((out - x).abs() <= x.abs() * step / 2 + 1e-12).all()
    assert Float8(kind).round(torch.zeros(3)).tolist() == [0, 0, 0]


def test_errors_on_operands_around_one_rank_as_published():
    """4 bits about as precise as float8 e4m3, 3 bits better than e5m2. On a model's own operands this does not hold:
    the committed costs say how far off each is there."""
    generator = torch.Generator().manual_seed(0)
    pair = Pairs(*(torch.rand(20000, generator=generator) + 0.5 for _ in range(2)))
    errors = {arithmetic.name: relative_error(arithmetic, [pair]) for arithmetic in ARITHMETICS}
    assert errors["float32"] < 1e-7
    assert errors["L-Mul, 3 bits"] < errors["float8 e5m2"]
    assert errors["L-Mul, 4 bits"] < 2 * errors["float8 e4m3"]


@pytest.mark.parametrize("name", ["llama-2kv", "qwen2-4kv", "gpt2", "gemma2-2kv", "gpt-neox", "opt", "phi3-2kv"])
def test_every_product_of_a_model_is_found(name):
    """In exact arithmetic nothing changes, and each layer's two attention products and all its maps are answered."""
    loaded = tiny(name)
    model, layers = loaded.model, len(loaded.anatomy.layers)
    before = model.config._attn_implementation
    with torch.no_grad(), eager_attention(model):
        own = model(**INPUTS).logits
    with computing_in(model, Exact(), "everywhere") as calls:
        out = model(**INPUTS).logits
    torch.testing.assert_close(out, own)
    assert calls["attention"] == 2 * layers
    linear = sum(type(module).__name__ in ("Linear", "Conv1D") for module in model.modules())
    assert calls["linear"] == linear
    with Operands() as operands:
        model(**INPUTS)
    assert len(operands.pairs["linear"]) == linear
    assert model.config._attn_implementation == before


def test_places_are_told_apart():
    loaded = tiny("llama-2kv")
    with torch.no_grad():
        own = loaded.model(**INPUTS).logits
    seen = {}
    for where in ("attention", "linear"):
        with computing_in(loaded.model, LMul(3), where) as calls:
            seen[where] = loaded.model(**INPUTS).logits
        assert calls["attention" if where == "linear" else "linear"] == 0
        assert not torch.equal(seen[where], own)
    assert not torch.equal(seen["attention"], seen["linear"])
    with torch.no_grad():
        assert torch.equal(loaded.model(**INPUTS).logits, own)


def test_a_model_without_products_is_refused():
    with pytest.raises(UserError, match="no matrix product"), computing_in(tiny("llama-2kv").model, LMul(3), "linear"):
        pass


def test_operands_are_pairs_that_meet_in_a_product():
    a, b = torch.arange(6.0).reshape(1, 2, 3) + 1, torch.arange(12.0).reshape(1, 3, 4) + 101
    with Operands(each=200) as operands:
        torch.matmul(a, b)
        torch.nn.functional.linear(a, b[0].T)
    meeting = {(float(a[0, i, k]), float(b[0, k, j])) for i in range(2) for k in range(3) for j in range(4)}
    for part in ("attention", "linear"):
        [found] = operands.pairs[part]
        assert set(zip(found.a.tolist(), found.b.tolist(), strict=True)) == meeting
        assert [float(top) for top in found.tops] == [6, 112]


@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_errors_on_a_models_operands_take_each_tensors_own_scale(kind):
    """As its answers do: tensors of unlike sizes do not push each other's entries below the format's least number."""
    generator = torch.Generator().manual_seed(0)
    sizes = [10.0**power for power in range(-6, 7, 3)]
    with Operands() as operands:
        for size in sizes:
            a = torch.randn(64, 64, generator=generator) * size
            torch.matmul(a, a)
    found = relative_error(Float8(kind), operands.pairs["attention"])
    one = relative_error(Float8(kind), operands.pairs["attention"][:1])
    assert found == pytest.approx(one, rel=0.1)
    a, b = torch.tensor([1.0, 0.001]), torch.tensor([1.0, 1.0])
    tops = (torch.tensor(1000.0), torch.tensor(1.0))
    whole = Float8(kind).round(torch.tensor([1000.0, 1.0, 0.001]))[1:]
    assert torch.equal(Float8(kind).multiply(a, b, tops), whole)


# ---- costs --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return replace(
        PRESETS["demo"],
        n_targets=(20,),
        n_source=60,
        epochs=1,
        mean_rows=24,
        score_rows=12,
        scorer="cdt_linear",
        arms=("full", "circuit:0", "norm_only", "lt_sft:0", "dapt", "ngrams"),
        arithmetic_rows=40,
        output=tmp_path_factory.mktemp("results"),
    )


@pytest.fixture(scope="module")
def measured(config):
    assert run_costs(config, costs) == 0
    return config.folder


def test_every_arm_has_its_costs(config, measured):
    rows = {row["arm"]: row for row in read_rows(measured / "costs" / "07_cost_and_energy.csv", COST_COLUMNS)}
    assert list(rows) == ["full", "circuit", "norm_only", "lt_sft", "dapt", "ngrams"]
    flops = {arm: int(row["flops"]) for arm, row in rows.items()}
    assert flops["ngrams"] == 0
    assert flops["norm_only"] < flops["circuit"] < flops["full"]
    # It tunes twice; frozen embeddings save their own gradient, and that of what the first layer reads.
    assert 1.95 * flops["full"] < flops["lt_sft"] < 2 * flops["full"]
    assert flops["dapt"] > 5 * flops["full"]  # it reads 500 texts before its 20 rows, each time that it is counted
    assert int(rows["lt_sft"]["stored_bytes"]) == 2 * int(rows["circuit"]["stored_bytes"])
    assert int(rows["full"]["stored_bytes"]) == 4 * int(rows["full"]["trainable"])
    assert all(
        row["energy_is"].startswith(("estimate: processor seconds x 15 W", "codecarbon")) for row in rows.values()
    )
    assert all(int(row["peak_memory_mb"]) > 50 for row in rows.values())


def test_what_is_measured_is_not_measured_again(config, measured, monkeypatch):
    before = [path.read_bytes() for path in sorted((measured / "costs").glob("*.*"))]
    monkeypatch.setattr("ctsft.costs.run.cost_of", lambda *a: pytest.fail("measured again"))
    assert run_costs(config, costs) == 0
    assert [path.read_bytes() for path in sorted((measured / "costs").glob("*.*"))] == before


def test_cells_that_were_measured_elsewhere_are_told(config, measured, monkeypatch, capsys):
    for threads, told in ((torch.get_num_threads(), False), (97, True)):
        monkeypatch.setattr("ctsft.costs.run.torch.get_num_threads", lambda threads=threads: threads)
        assert run_costs(replace(config, dry_run=True), costs) == 0
        assert ("6 cells were measured on another device or with other threads" in capsys.readouterr().out) is told


def test_a_damaged_line_is_mended_and_a_cell_that_does_not_fit_fails_alone(config, measured, tmp_path, monkeypatch):
    again = replace(config, output=tmp_path, arithmetic_rows=0)
    shutil.copytree(measured, again.folder)
    path = again.table(again.experiment)
    rows = read_rows(path, COST_COLUMNS)
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\ntorn")

    def too_large(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    with monkeypatch.context() as patched:
        patched.setattr("ctsft.costs.run.cost_of", too_large)
        assert run_costs(again, costs) == 1
    assert read_rows(path, COST_COLUMNS) == rows[:-1]
    assert run_costs(again, costs) == 0
    assert [row["cell"] for row in read_rows(path, COST_COLUMNS)] == [row["cell"] for row in rows]


def test_every_arithmetic_answers_in_every_place(measured):
    rows = read_rows(measured / "costs" / "07_cost_and_energy.arithmetic.csv", ARITHMETIC_COLUMNS)
    assert len(rows) == 1 + 4 * 3
    exact = rows[0]
    assert exact["arithmetic"] == "float32"
    assert exact["predictions"] == exact["predictions_float32"]
    assert float(exact["real_error"]) < 1e-6
    for row in rows[1:]:
        assert len(row["predictions"]) == 41
        assert 0.001 < float(row["random_error"]) < 0.3
        assert float(row["real_error"]) > 0.001
        assert (row["energy_saved"] == "") == ("L-Mul" not in row["arithmetic"])
    shares = {row["where"]: float(row["share_of_flops"]) for row in rows}
    assert shares["attention"] + shares["linear"] == pytest.approx(shares["everywhere"]) == 1
    saved = {row["where"]: float(row["energy_saved"]) for row in rows if row["energy_saved"]}
    assert saved["everywhere"] == pytest.approx(0.8)


def test_counted_operations_are_those_of_the_products(config, measured):
    """One forward pass of n tokens through the maps of the demo model, two operations for each weight and token."""
    bench = Workbench(config)
    ids = torch.randint(5, 100, (1, 10))
    with torch.no_grad():
        counted = flops_of(bench, lambda: bench.model(input_ids=ids))
    linear = sum(m.weight.numel() for m in bench.model.modules() if isinstance(m, torch.nn.Linear))
    attention = 4 * 8 * 2 * (10 * 10 * 8)  # 4 layers, 8 heads of size 8, two products
    assert counted == 2 * (10 * linear + attention)


def test_arithmetics_multiply_float32_whatever_the_study_computes_in(config):
    """Of a model tuned in bfloat16, L-Mul would else be told from bfloat16's products, not from float32's."""
    short, exact = (Workbench(replace(config, dtype=dtype)) for dtype in ("bfloat16", "float32"))
    rows = exact.prompts("d00", "test").subset(range(20))
    with short.in_float32():
        assert np.array_equal(short.predict(rows).logits, exact.predict(rows).logits)
    assert not np.array_equal(short.predict(rows).logits, exact.predict(rows).logits)


def test_theta1_is_made_in_the_studys_precision_before_arithmetics_are_asked(config, tmp_path, monkeypatch):
    """Nothing left to tune, and no theta1 here: it must not be trained as its name does not say."""
    seen = []
    make = Workbench.train_arm
    monkeypatch.setattr(
        Workbench, "train_arm", lambda bench, *a, **k: (seen.append(bench.autocast), make(bench, *a, **k))[1]
    )
    only = replace(config, dtype="bfloat16", arms=("zero_shot",), arithmetic_rows=4, output=tmp_path)
    assert run_costs(only, costs) == 0
    assert [autocast._enabled for autocast in seen] == [True]


def test_costs_leave_theta1_as_it_was(config, measured):
    bench = Workbench(config)
    bench.theta1_of(31)
    before = {name: p.clone() for name, p in bench.model.named_parameters()}
    cost_of(bench, Cell("d70", 20, "full", None, 1e-3, 31), 10)
    assert all(torch.equal(before[name], p) for name, p in bench.model.named_parameters())
    assert bench.model.config._attn_implementation == "sdpa"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process start its mark of memory afresh")
def test_the_memory_mark_starts_afresh():
    device = torch.device("cpu")
    ballast = torch.ones(60_000_000)
    start_memory(device)
    with_ballast = highest_memory_mb(device)
    del ballast
    start_memory(device)
    assert highest_memory_mb(device) < with_ballast - 150


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library keeps freed memory")
def test_freed_memory_does_not_count_for_the_next_arm():
    device = torch.device("cpu")
    start_memory(device)
    before = highest_memory_mb(device)
    # The library keeps blocks up to the size of the largest that was freed, 32 MB at most.
    largest = torch.ones(8 * 2**20 - 100)
    del largest
    blocks = [torch.ones(7 * 2**18) for _ in range(100)]
    del blocks
    start_memory(device)
    assert highest_memory_mb(device) < before + 150


def test_energy_without_codecarbon_is_labelled_an_estimate(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    energy = energy_of(lambda: None, 100.0, torch.device("cpu"))
    assert energy.how == "estimate: processor seconds x 100 W"
    assert 0 < energy.joules < 10


def test_codecarbon_is_asked_where_it_is_installed(monkeypatch):
    class Tracker:
        def __init__(self, **options):
            self.events = []

        def start(self):
            self.events.append("start")

        def stop(self):
            assert self.events == ["start"]
            self.final_emissions_data = SimpleNamespace(energy_consumed=2e-6)

    fake = ModuleType("codecarbon")
    fake.OfflineEmissionsTracker = Tracker
    monkeypatch.setitem(sys.modules, "codecarbon", fake)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: fake)
    energy = energy_of(lambda: None, 1.0, torch.device("cpu"))
    assert energy.joules == pytest.approx(7.2)
    assert energy.how.startswith("codecarbon")
    monkeypatch.setattr(Tracker, "stop", lambda self: None)  # it swallows its own errors
    assert energy_of(lambda: None, 1.0, torch.device("cpu")).how.startswith("estimate")


def test_sparse_weights_are_stored_with_their_places():
    assert stored_bytes("lt_sft", 100) == 800
    assert stored_bytes("circuit", 100) == 400


def test_tables_say_what_is_measured_and_what_is_published(measured):
    tables = {table.name: table for table in cost_tables(measured)}
    assert set(tables) == {"demo_07_cost_and_energy", "demo_07_arithmetic"}
    assert "**not measured**" in tables["demo_07_arithmetic"].caption
    assert "95 % for element-wise products is used nowhere" in tables["demo_07_arithmetic"].caption
    assert list(cost_cells(measured)["arm"]) == ["full", "circuit", "norm_only", "lt_sft", "dapt", "ngrams"]
    cells = arithmetic_cells(measured)
    assert cells["against float32"].iloc[0] == "–"  # float32 itself
    assert cost_tables(measured / "nowhere") == []


def test_an_error_that_was_not_measured_is_a_gap(measured, tmp_path):
    shutil.copytree(measured, tmp_path / "demo")
    path = tmp_path / "demo" / "costs" / "07_cost_and_energy.arithmetic.csv"
    rows = [
        row | {"real_error": ""} for row in read_rows(path, ARITHMETIC_COLUMNS) if row["arithmetic"] == "float8 e4m3"
    ]
    append_rows(path, rows, ARITHMETIC_COLUMNS)
    cells = arithmetic_cells(tmp_path / "demo").set_index("arithmetic")["error, real"]
    assert set(cells["float8 e4m3"]) == {"–"}
    assert "–" not in set(cells.drop("float8 e4m3"))
    plt.close(arithmetic_figure(tmp_path / "demo"))


def test_bad_settings_end_with_one_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        main(PRESETS, "", argv=["--watts", "-1"], study=run_costs)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: --watts must be above zero, and --arithmetic-rows must not be negative.\n"


def test_figures_have_a_line_for_every_arm_and_arithmetic(measured, tmp_path):
    figure, other = costs_figure(measured), arithmetic_figure(measured)
    assert len(figure.axes) == 4
    assert len(figure.axes[0].get_yticklabels()) == 6
    assert [label.get_text() for label in other.axes[0].get_yticklabels()] == [a.name for a in ARITHMETICS[1:]]
    assert costs_figure(measured / "nowhere") is None
    half = shutil.copytree(measured, tmp_path / "half")  # stopped before the last arithmetic was everywhere
    table = half / "costs" / "07_cost_and_energy.arithmetic.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    (table.with_name(table.name + ".sha256")).unlink()
    assert len(arithmetic_figure(half).axes[0].get_yticklabels()) == len(ARITHMETICS) - 1
    assert arithmetic_figure(measured / "nowhere") is None
    plt.close("all")
