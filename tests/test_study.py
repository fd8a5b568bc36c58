"""The study on the embedded demo: rows, resuming, failures, bad settings, and what a results file says."""

from __future__ import annotations

import json
import math
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import shorter

from ctsft import provenance
from ctsft.errors import CellFailed, UserError
from ctsft.memory import highest_memory_mb
from ctsft.models.load import load_model, weight_hash
from ctsft.report.__main__ import main as report_main
from ctsft.report.__main__ import tables_of
from ctsft.report.forgetting import forgetting
from ctsft.report.rows import Results
from ctsft.storage import digest, locked, read_sealed, write_sealed
from ctsft.study import executors
from ctsft.study.beside import write_settings
from ctsft.study.circuit_stage import heads_of, relevance_of
from ctsft.study.config import StudyConfig
from ctsft.study.grid import Cell, cell_fingerprint, cells, theta1_settings
from ctsft.study.probes import NamedTests
from ctsft.study.record import COLUMNS, PROBE_COLUMNS, SET_COLUMNS, append_rows, read_rows
from ctsft.study.run import main, parse, run_study
from ctsft.study.workbench import Workbench
from ctsft.tasks.prompts import pad_left
from ctsft.tasks.registry import get_task
from ctsft.tasks.task import SPLITS
from ctsft.tuning.arms import ARMS

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "01_nusax_transfer.py"
PRESETS = runpy.run_path(str(SCRIPT))["PRESETS"]
TIMES = {"train_seconds", "eval_seconds", "peak_memory_mb", "created", "git_commit"}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> StudyConfig:
    """Every arm once, on one target, from a start that does not give one answer to all rows."""
    return replace(
        PRESETS["demo"],
        targets=("d30",),
        n_targets=(20,),
        seeds=(31,),
        lrs=(1e-3,),
        depths=(1,),
        arms=("zero_shot", "full", "direct", "circuit", "near_zero", "bottom", "random", "norm_only"),
        n_source=200,
        source_epochs=2,
        epochs=1,
        mean_rows=24,
        score_rows=12,
        output=tmp_path_factory.mktemp("results"),
    )


@pytest.fixture(scope="module")
def rows(config) -> list[dict]:
    assert run_study(config) == 0
    return read_rows(config.folder / "01_nusax_transfer.csv")


def without_times(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def test_there_is_one_whole_row_per_cell(config, rows):
    assert [row["arm"] for row in rows] == list(config.arms)
    assert list(rows[0]) == COLUMNS
    assert len({row["cell"] for row in rows}) == len(rows)


def test_accuracies_follow_from_the_predictions(config, rows):
    task = get_task("demo")
    gold = {language: [e.label for e in task.load(language, "test").examples] for language in ("d00", "d30")}
    for row in rows:
        for column, accuracy, language in (
            ("predictions", "accuracy", "d30"),
            ("source_predictions", "source_accuracy", "d00"),
        ):
            assert row[column][0] == "p"
            digits = [int(digit) for digit in row[column][1:]]
            assert len(digits) == 400
            share = sum(a == b for a, b in zip(digits, gold[language], strict=True)) / 400
            assert float(row[accuracy]) == pytest.approx(share, abs=1e-6)


def test_a_row_tells_of_its_own_model_and_of_the_splits_that_it_names(config, rows):
    """Validation is no test split, and the source's accuracy before and afterwards are those of two models."""
    by_arm = {row["arm"]: row for row in rows}
    bench = Workbench(config)
    bench.theta1_of(31)
    before = by_arm["zero_shot"]
    for column, language, split in (
        ("accuracy", "d30", "test"),
        ("valid_accuracy", "d30", "valid"),
        ("source_accuracy", "d00", "test"),
    ):
        assert float(before[column]) == pytest.approx(bench.accuracy(language, split)[1]["accuracy"], abs=1e-6)
    assert len({before["accuracy"], before["valid_accuracy"]}) == 2
    for arm in ("full", "circuit"):
        assert by_arm[arm]["source_accuracy_before"] == before["source_accuracy"]
        assert by_arm[arm]["source_predictions"] != before["source_predictions"]


def test_the_same_seed_gives_the_same_rows(config, rows, tmp_path):
    assert run_study(replace(config, output=tmp_path)) == 0
    assert without_times(read_rows(tmp_path / "demo" / "01_nusax_transfer.csv")) == without_times(rows)


def test_batch_sizes_do_not_change_a_prediction(config, rows, tmp_path):
    arms = ("zero_shot", "circuit")
    assert run_study(replace(config, output=tmp_path, eval_batch=3, micro_batch=1, arms=arms)) == 0
    again = {row["arm"]: row["predictions"] for row in read_rows(tmp_path / "demo" / "01_nusax_transfer.csv")}
    assert again == {row["arm"]: row["predictions"] for row in rows if row["arm"] in arms}


def test_checkpointing_does_not_change_a_row(config, rows, tmp_path):
    arms = ("full", "circuit", "norm_only")
    assert run_study(replace(config, output=tmp_path, checkpointing=True, arms=arms)) == 0
    # theta1 is the hash of weights that were tuned with checkpointing, too.
    found = {row["arm"]: row for row in read_rows(tmp_path / "demo" / "01_nusax_transfer.csv")}
    assert found.keys() == set(arms)
    for row in rows:
        for column in ("theta1", "predictions") if row["arm"] in arms else ():
            assert found[row["arm"]][column] == row[column]


def test_finished_cells_are_not_run_again(config, rows, monkeypatch):
    monkeypatch.setattr(executors, "run_cell", lambda *a: pytest.fail("a finished cell was run again"))
    assert run_study(config) == 0


def test_a_folder_with_rows_of_another_model_or_other_labels_is_refused(config, rows, tmp_path):
    """Such rows would stand in one table, or be scored again by labels that they were not made for."""
    again = replace(config, output=tmp_path)
    foreign = [row | {"model": "other.gguf", "model_hash": "0123"} for row in rows[:1]]
    append_rows(again.folder / "02_mine.csv", foreign)
    with pytest.raises(UserError, match=r"rows and theta1 in .* are of other\.gguf \(weights 0123\).*--model"):
        run_study(again)
    (again.folder / "02_mine.csv").unlink()
    append_rows(again.folder / "self_training" / "08_mine.csv", rows[:1])  # names no weights: its theta1 does
    shutil.copytree(config.folder / "theta1", again.folder / "theta1")
    [path] = (again.folder / "theta1").glob("*.json")
    kept = json.loads(path.read_text())
    kept.pop("sha256")
    write_sealed(path, kept | {"model": "other.gguf", "model_hash": "0123"})
    with pytest.raises(UserError, match=r"rows and theta1 in .* are of other\.gguf \(weights 0123\)"):
        run_study(again)
    shutil.rmtree(again.folder / "theta1")
    gold = json.loads((config.folder / "gold.json").read_text())
    other = "p0" + gold["demo/d30"]["labels"][2:-1] + "0"
    gold["demo/d30"] |= {"labels": other, "labels_sha256": digest(f"demo/d30 {other}")}
    (again.folder / "gold.json").write_text(json.dumps(gold))
    with pytest.raises(UserError, match=r"labels of demo/d30 are others"):
        run_study(again)
    assert not (again.folder / "01_nusax_transfer.csv").exists()


def test_theta1_and_scores_are_stored_with_where_they_came_from(config, rows):
    [theta1] = (config.folder / "theta1").glob("*.json")
    about = json.loads(theta1.read_text())
    assert about["weight_hash"]
    assert about["versions"]["torch"] == torch.__version__
    [relevance] = (config.folder / "relevance").glob("*.json")
    about = json.loads(relevance.read_text())
    assert len(about["logits"]) == 4
    assert len(about["logits"][0]) == 8
    assert about["rules"] == {"attention": "strict", "gate": "inclusive", "clean_up": True, "bias": "split"}
    assert not set(about["mean_row_ids"]) & set(about["score_row_ids"])
    assert relevance.with_suffix(".safetensors").is_file()
    assert len(list((config.folder / "circuits").glob("*.json"))) == 4
    settings = json.loads((config.folder / "01_nusax_transfer.config.json").read_text())
    assert settings["dtype"] == "float32"
    assert settings["data_sha256"]


def test_checksums_of_the_data_do_not_depend_on_what_was_read(config, rows):
    """A worker of a cluster that has not met the related tests yet writes what a whole study writes."""
    first, second = Workbench(config), Workbench(config)
    second.split("d90", "test")
    assert first.provenance == second.provenance
    assert set(first.provenance["data_sha256"]) == {f"{x}/{y}" for x in ("d00", "d30") for y in SPLITS}


def test_the_record_of_another_machines_theta1_stays_beside_ours(config, rows, tmp_path):
    """A clone has the record without the weights; they are made again, and on another machine with other bits."""
    shutil.copytree(config.folder / "theta1", tmp_path / "demo" / "theta1")
    [path] = (tmp_path / "demo" / "theta1").glob("*.json")
    write_sealed(path, read_sealed(path) | {"weight_hash": "0123456789abcdef"})
    made = Workbench(replace(config, output=tmp_path)).theta1_of(31)
    assert read_sealed(path)["weight_hash"] == made["weight_hash"]
    assert read_sealed(path.with_stem(f"{path.stem}-012345"))["weight_hash"] == "0123456789abcdef"


def test_the_same_theta1_made_again_keeps_its_record(config, rows, tmp_path):
    """Its answers were counted in rows already: asked again in other batches, one of them might fall elsewhere."""
    shutil.copytree(config.folder / "theta1", tmp_path / "demo" / "theta1")
    [path] = (tmp_path / "demo" / "theta1").glob("*.json")
    write_sealed(path, read_sealed(path) | {"test_accuracy": 0.123})
    assert Workbench(replace(config, output=tmp_path)).theta1_of(31)["test_accuracy"] == 0.123
    assert read_sealed(path)["test_accuracy"] == 0.123


def test_settings_keep_what_earlier_runs_asked_for(tmp_path):
    path = tmp_path / "x.config.json"
    for arms, target in ((("a",), "j"), (("b",), "j"), (("a",), "j"), (("b",), "k")):
        write_settings(path, {"arms": arms, "target": target, "n": 1}, {"git_commit": f"{arms[0]}{target}"})
    last = json.loads(path.read_text())
    assert (last["arms"], last["target"], last["git_commit"]) == (["b"], "k", "bk")
    whole = [last | one for one in last["earlier"]]
    assert sorted((one["arms"][0], one["target"], one["git_commit"]) for one in whole) == [
        ("a", "j", "aj"),
        ("b", "j", "bj"),
    ]


def test_settings_are_compared_as_what_they_came_to(tmp_path):
    path = tmp_path / "x.config.json"
    for asked in ("auto", "cpu", "auto"):
        write_settings(path, {"device": asked, "n": 1}, {"device": "cpu"})
    last = json.loads(path.read_text())
    assert last["device"] == "cpu"
    assert "earlier" not in last


def test_settings_are_not_those_of_a_run_that_had_nothing_to_do(config, rows):
    before = (config.folder / "01_nusax_transfer.config.json").read_text()
    assert run_study(replace(config, arms=("zero_shot",))) == 0
    assert (config.folder / "01_nusax_transfer.config.json").read_text() == before


def test_discovery_never_sees_target_rows(config, rows):
    bench = Workbench(config)
    [relevance] = (config.folder / "relevance").glob("*.json")
    about = json.loads(relevance.read_text())
    assert {*about["mean_row_ids"], *about["score_row_ids"]} <= set(bench.pool_a)
    assert not set(bench.pool_a) & set(bench.pools_b["d30"])


def test_scores_are_the_same_in_the_run_that_makes_them_and_in_the_next(config, tmp_path):
    bench = Workbench(replace(config, output=tmp_path))
    made, kept = (relevance_of(bench, bench.config, 31, 1, 0.1) for _ in range(2))
    assert (made.logits == kept.logits).all()
    np.testing.assert_allclose(made.logits, made.logits.round(9), atol=1e-9)  # rounded, as they are kept


def test_scores_are_made_on_theta1_whoever_asks_first(config, rows, tmp_path):
    """Scores that were made on other weights than theta1's are not used: they are made again, and are the same."""
    [stored] = (config.folder / "relevance").glob("*.json")
    shutil.copytree(config.folder / "theta1", tmp_path / "demo" / "theta1")
    shutil.copytree(config.folder / "cache", tmp_path / "demo" / "cache")
    shutil.copytree(config.folder / "relevance", tmp_path / "demo" / "relevance")
    stale = json.loads(stored.read_text()) | {"theta1_hash": "other", "logits": [[0.0] * 8] * 4}
    (tmp_path / "demo" / "relevance" / stored.name).write_text(json.dumps(stale))
    heads = heads_of(Workbench(replace(config, output=tmp_path)), Cell("d30", 20, "circuit", 1, 1e-3, 31))
    assert heads == heads_of(Workbench(config), Cell("d30", 20, "circuit", 1, 1e-3, 31))


def test_theta1_is_back_bit_for_bit_after_every_arm(config, rows):
    bench = Workbench(config)
    bench.theta1_of(31)
    before = weight_hash(bench.model)
    for arm in ("full", "direct", "circuit", "norm_only"):
        cell = Cell("d30", 20, arm, 1 if arm == "circuit" else None, 1e-3, 31)
        with bench.tuned(cell, heads_of(bench, cell)):
            assert weight_hash(bench.model) != before
        assert weight_hash(bench.model) == before


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(config, rows, tmp_path, monkeypatch, capsys):
    honest = executors.run_cell

    def run(bench, tests, cell, key):
        if cell.arm == "full":
            raise CellFailed("the loss became nan at step 1 of 10")
        return honest(bench, tests, cell, key)

    monkeypatch.setattr(executors, "run_cell", run)
    short = replace(config, output=tmp_path, arms=("zero_shot", "full", "norm_only"))
    assert run_study(short) == 1
    assert [row["arm"] for row in read_rows(tmp_path / "demo" / "01_nusax_transfer.csv")] == ["zero_shot", "norm_only"]
    [note] = (tmp_path / "demo" / "failed").glob("*.json")
    assert "loss became nan" in json.loads(note.read_text())["reason"]
    assert "failed: d30-n20-full" in capsys.readouterr().err
    monkeypatch.setattr(executors, "run_cell", honest)
    assert run_study(short) == 0
    assert not list((tmp_path / "demo" / "failed").glob("*.json"))


def test_a_rate_that_explodes_fails_its_cell(config, rows, tmp_path):
    shutil.copytree(config.folder, tmp_path / "demo")
    assert run_study(replace(config, output=tmp_path, lrs=(1e30,), arms=("full",))) == 1


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the mark can be started afresh on Linux alone")
def test_peak_memory_is_the_cells_and_not_the_processs(config, rows, tmp_path):
    """What was needed before a cell, and freed, is not in its row."""
    again = replace(config, output=tmp_path, arms=("norm_only",))
    for name in ("theta1", "cache/theta1"):
        shutil.copytree(config.folder / name, again.folder / name)
    ballast = torch.ones(2**27)  # half a GB
    with_ballast = highest_memory_mb(torch.device("cpu"))
    del ballast
    assert run_study(again) == 0
    [row] = read_rows(again.folder / "01_nusax_transfer.csv")
    assert 0 < int(row["peak_memory_mb"]) < with_ballast - 150


def test_arms_that_do_not_start_from_theta1_do_not_make_it(config, rows, tmp_path, capsys):
    """One that fails fails the arms that start from it alone, and the row of the others is the same without it."""
    own = replace(config, output=tmp_path, arms=("direct", "ngrams"), dry_run=True)
    assert run_study(own) == 0
    assert "of which 0.0 MB are 0 theta1" in capsys.readouterr().out
    assert run_study(replace(own, dry_run=False)) == 0
    assert not (tmp_path / "demo" / "theta1").exists()
    assert "source – ->" in capsys.readouterr().out
    found = {row["arm"]: row for row in read_rows(tmp_path / "demo" / "01_nusax_transfer.csv")}
    assert {(row["theta1"], row["source_accuracy_before"], row["n_source"]) for row in found.values()} == {
        ("", "", "0")
    }
    [same] = [row for row in rows if row["arm"] == "direct"]
    assert without_times([found["direct"]]) == without_times([same])
    assert Results.read(tmp_path / "demo").rows["source_accuracy_before"].isna().all()
    bad = replace(config, output=tmp_path / "bad", source_lr=1e30, arms=("full", "direct", "ngrams"))
    assert run_study(bad) == 1
    assert {row["arm"] for row in read_rows(bad.folder / "01_nusax_transfer.csv")} == {"direct", "ngrams"}


def test_a_start_that_fails_is_tried_once_and_told_without_a_traceback(config, tmp_path, capsys):
    bad = replace(config, output=tmp_path, source_lr=1e30, arms=("zero_shot", "full", "norm_only"))
    assert run_study(bad) == 1
    out = capsys.readouterr()
    assert len(re.findall("tuning all weights on 200 rows", out.out + out.err)) == 1
    assert out.err.count("the loss became nan") == 3

    def fails(config, table):
        raise CellFailed("the scores are not finite")

    with pytest.raises(SystemExit) as stop:
        main(PRESETS, "", argv=["--output", str(tmp_path)], study=fails)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: the scores are not finite\n"


def test_a_killed_run_leaves_whole_rows_and_goes_on_to_the_same(config, rows, tmp_path):
    settings = (
        "--targets d30 --n-targets 20 --seeds 31 --lrs 1e-3 --depths 1 --n-source 200 --source-epochs 2 --epochs 1"
    )
    flags = [
        *settings.split(),
        "--mean-rows",
        "24",
        "--score-rows",
        "12",
        "--output",
        str(tmp_path),
        "--arms",
        *config.arms,
    ]
    path = tmp_path / "demo" / "01_nusax_transfer.csv"
    process = subprocess.Popen([sys.executable, str(SCRIPT), *flags], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(read_rows(path)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = read_rows(path)
    assert 2 <= len(kept) < len(rows)
    assert subprocess.run([sys.executable, str(SCRIPT), *flags], capture_output=True).returncode == 0
    again = read_rows(path)
    assert again[: len(kept)] == kept
    assert without_times(again) == without_times(rows)
    assert not list((tmp_path / "demo").rglob("*.tmp"))


def test_a_folder_may_be_written_as_text(config, tmp_path):
    assert replace(config, output=str(tmp_path)).folder == tmp_path / config.preset


def test_the_commit_is_that_of_this_code_and_not_of_the_project_it_is_installed_in(tmp_path, monkeypatch):
    run = partial(subprocess.run, cwd=tmp_path, check=True, capture_output=True)
    installed = tmp_path / ".venv" / "ctsft" / "provenance.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    (tmp_path / ".gitignore").write_text(".venv\n")
    run(["git", "init", "-q"])
    run(["git", "add", "."])
    run(["git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "theirs"])
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert provenance.git_commit() == "unknown"
    run(["git", "add", "-f", "."])
    assert provenance.git_commit() not in ("unknown", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ("klingon",)}, r"'klingon'.*Valid: d00"),
        ({"targets": ("d00",)}, "also a target"),
        ({"arms": ("circuitt",)}, r"'circuitt'.*zero_shot"),
        ({"arms": ("full:2",)}, "has no depth"),
        ({"arms": ("circuit:x",)}, "whole numbers"),
        ({"arms": ("circuit:-1",)}, "whole numbers from 0 on"),
        ({"experiment": "09_llama3.2"}, r"'09_llama3\.2' names files"),
        ({"scorer": "magic"}, r"'magic'.*cdt"),
        ({"n_targets": (0,)}, "--n-targets must lie above 0"),
        ({"scorer": "cdt+pooled+pattern"}, r"spelt cdt\+pattern\+pooled"),
        ({"n_source": 0}, "--n-source is 0"),
        ({"seeds": (1, 1)}, "each only once"),
        ({"shares": (0.0,)}, r"--shares is \(0\.0,\)"),
        ({"probes": ("demo/klingon",)}, r"unknown probe 'demo/klingon'.*d00"),
        ({"by_epoch": True}, "needs --probes"),
        ({"lrs": (-1.0,)}, "above zero"),
        ({"lrs": (5e-5, math.nan)}, "--lrs and --source-lr must be finite"),
        ({"source_lr": math.inf}, "must be finite"),
        ({"label_words": (" a",)}, "one word for each"),
    ],
)
def test_bad_settings_are_refused_with_the_valid_ones(config, changes, message):
    with pytest.raises(UserError, match=message):
        replace(config, **changes)


def test_unknown_flags_and_presets_are_refused(capsys):
    with pytest.raises(UserError, match=r"'tiny'.*demo, small, paper"):
        parse(PRESETS, "", ["--preset", "tiny"])
    with pytest.raises(SystemExit) as stop:
        parse(PRESETS, "", ["--targetz", "d10"])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert "--targetz" in err
    assert re.search(r"valid flags: --preset .*--targets .*--n-targets .*--help", err)


def test_flags_replace_the_presets_values():
    config = parse(PRESETS, "", ["--preset", "small", "--targets", "javanese", "--seeds", "31", "--lrs", "1e-4"])
    assert (config.preset, config.targets, config.seeds, config.lrs) == ("small", ("javanese",), (31,), (1e-4,))
    assert config.n_source == 400


def test_the_paper_preset_is_the_papers_protocol():
    paper = PRESETS["paper"]
    assert paper.model == "Qwen/Qwen2.5-0.5B"
    assert paper.n_source == 50
    assert paper.n_targets == (25, 50, 75, 100)
    assert paper.seeds == (31, 777, 2025, 12345)
    assert (paper.epochs, paper.batch_size, paper.max_tokens) == (5, 16, 128)
    assert 5e-5 in paper.lrs
    alone = replace(paper, lrs=(5e-5,))
    assert len(cells(alone)) == 4 * 4 * (1 + 4 * (2 + 4 * 3 + 1))
    assert len(cells(paper)) == 4 * 4 * (1 + len(paper.lrs) * 4 * (2 + 4 * 3 + 1))


def test_more_source_rows_than_pool_a_are_refused(config):
    with pytest.raises(UserError, match="pool A has 400"):
        Workbench(replace(config, n_source=401))


def test_prompts_longer_than_the_models_positions_are_refused(config):
    with pytest.raises(UserError, match="positions end at 128"):
        Workbench(replace(config, max_tokens=129))


def test_a_hub_model_is_found_by_its_id_and_its_commit_is_recorded(tmp_path):
    """The hub's own layout in a local cache: the path that a download takes, without the download."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--micro"
    shutil.copytree(ROOT / "ctsft" / "tasks" / "demo" / "model", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    code = (
        "from ctsft.models.load import load_model; m = load_model('someone/micro', {!r}); print(m.commit, m.weights)\n"
        "try: load_model('someone/absent')\nexcept Exception as e: print(type(e).__name__, '--model' in str(e))"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    for revision in (None, commit):
        done = subprocess.run(
            [sys.executable, "-c", code.format(revision)], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines() == [f"{commit} {load_model('demo').weights}", "UserError True"]


def test_a_model_that_asks_for_remote_code_is_refused(tmp_path):
    shutil.copytree(ROOT / "ctsft" / "tasks" / "demo" / "model", tmp_path / "m")
    settings = json.loads((tmp_path / "m" / "config.json").read_text())
    settings |= {
        "model_type": "made_up",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (tmp_path / "m" / "config.json").write_text(json.dumps(settings))
    (tmp_path / "m" / "code.py").write_text("raise SystemExit('remote code ran')")
    with pytest.raises(UserError, match=r"asks to run code of its own, which is never run here: it could do anything"):
        load_model(str(tmp_path / "m"))
    # Where transformers knows the architecture itself, its own code is taken, and the model's is not run.
    (tmp_path / "m" / "config.json").write_text(json.dumps(settings | {"model_type": "qwen2"}))
    assert load_model(str(tmp_path / "m")).weights == load_model("demo").weights


def without_tokens(folder: Path, **changes) -> Path:
    """The demo's model, its tokenizer without a pad token and with `changes`."""
    shutil.copytree(ROOT / "ctsft" / "tasks" / "demo" / "model", folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": None, **changes}))
    return folder


def test_a_tokenizer_without_a_pad_token_pads_with_the_end_token(tmp_path):
    usual, other = load_model("demo"), load_model(str(without_tokens(tmp_path / "m", eos_token="<s>")))
    assert (usual.layout.pad, other.layout.pad) == tuple(usual.tokenizer.convert_tokens_to_ids(["<pad>", "<s>"]))
    rows = [[10, 11, 12, 13], [20, 21], [30]]
    answers = [m.model(**pad_left(rows, m.layout, "cpu"), logits_to_keep=1).logits for m in (usual, other)]
    assert torch.equal(*answers)
    with pytest.raises(UserError, match="neither a pad nor an end token"):
        load_model(str(without_tokens(tmp_path / "n")))


def test_pickled_weights_are_refused(tmp_path):
    shutil.copytree(ROOT / "ctsft" / "tasks" / "demo" / "model", tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"are a pickle .*Save them as safetensors"):
        load_model(str(tmp_path / "m"))


def test_weights_of_other_shapes_than_the_config_says_are_named(tmp_path):
    shutil.copytree(ROOT / "ctsft" / "tasks" / "demo" / "model", tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 8}))
    with pytest.raises(UserError, match="cannot load the model"):
        load_model(str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source_epochs": 0}, "--source-epochs is 0; it must be at least 1"),
        ({"source_batch_size": 0}, "--source-batch-size is 0"),
        ({"seeds": (1, 2), "random_draws": 5}, r"seeds 1 and 2 would share random sets.*--random-draws \(5\)"),
    ],
)
def test_settings_that_would_not_mean_what_they_say_are_refused(config, change, said):
    with pytest.raises(UserError, match=said):
        replace(config, **change)
    assert replace(config, seeds=(1, 2), random_draws=5, arms=("full",))  # which draws nothing


def test_rows_that_no_table_could_tell_apart_are_refused_before_anything_is_trained(config, rows, monkeypatch):
    """Those of other seeds too; arms that start from no theta1 do not depend on the settings of one."""
    monkeypatch.setattr(executors, "run_cell", lambda *_: pytest.fail("a cell was run"))
    for change in ({"epochs": config.epochs + 1}, {"source_lr": 1e-5}, {"seeds": (99,), "mean_rows": 15}):
        with pytest.raises(UserError, match=r"rows that were made with other settings \(epochs.* there, .* here"):
            run_study(replace(config, **change))
    plain = replace(config, source_epochs=None, source_batch_size=None)
    same = replace(config, source_epochs=config.epochs, source_batch_size=config.batch_size)
    assert theta1_settings(same, "w") == theta1_settings(plain, "w")
    assert run_study(replace(config, arms=("direct",), epochs=config.epochs + 1, dry_run=True)) == 0


def test_dictionaries_and_related_tests_that_have_changed_are_refused(tmp_path, monkeypatch):
    """Their rows would be mixed as those of other training rows would."""
    config = replace(shorter(tmp_path), arms=("zero_shot",), probes=("demo/d50",))
    assert run_study(config) == 0
    known = read_sealed(tmp_path / "demo" / "data.json")["demo"]
    assert "d50/test" in known
    with_dictionary = Workbench(replace(config, arms=("lexicon",))).data_sha256()
    assert with_dictionary.keys() - known.keys() == {"lexicon/d30"}
    monkeypatch.setattr(NamedTests, "hashes", lambda self, tests: {"demo": {"d50/test": "0" * 16}})
    with pytest.raises(UserError, match=r"demo/d50/test has changed since .* another --output"):
        run_study(config)


def test_every_arm_of_random_heads_has_its_draws(config, monkeypatch):
    monkeypatch.setitem(ARMS, "random_again", replace(ARMS["random"], name="random_again"))
    asked = replace(config, seeds=(1,), arms=("random_again:0",), random_draws=3)
    assert sorted({cell.draw for cell in cells(asked)}) == [0, 1, 2]
    with pytest.raises(UserError, match="would share random sets"):
        replace(asked, seeds=(1, 2))


def test_the_label_position_alone_gives_the_models_own_logits():
    """The shortcut through the unembedding against the plain forward pass over all positions."""
    loaded = load_model("demo")
    rows = [[10, 11, 12, 13], [20, 21], [30]]
    for size in (3, 1):
        batch = pad_left(rows[:size], loaded.layout, "cpu")
        short = loaded.model(**batch, logits_to_keep=1).logits
        assert short.shape[:2] == (size, 1)
        torch.testing.assert_close(short[:, 0], loaded.model(**batch).logits[:, -1], rtol=1e-5, atol=1e-5)


def test_errors_end_with_one_sentence_and_status_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(PRESETS, "", argv=["--targets", "klingon"])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: unknown language 'klingon'")
    assert "Traceback" not in err


def test_an_output_folder_that_cannot_be_written_is_refused_before_training(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        run_study(replace(config, output=tmp_path / "file"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": (0.5,), "arms": ("circuit:2",)}, "48 heads, and the model has 32"),
        ({"kv_policy": "all", "arms": ("circuit:1", "bottom:1")}, "'bottom' may have another number"),
    ],
)
def test_circuits_and_controls_that_do_not_fit_the_model_are_refused(config, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run_study(replace(config, output=tmp_path, **changes))


def test_a_dry_run_of_a_shard_lists_its_own_cells(config, tmp_path, capsys):
    assert run_study(replace(config, output=tmp_path, dry_run=True, shard="1/2")) == 0
    out = capsys.readouterr().out
    assert out.count("to run  d30") == 4
    assert "done    " not in out


def test_dry_run_runs_nothing(config, tmp_path, capsys):
    assert run_study(replace(config, output=tmp_path, dry_run=True)) == 0
    out = capsys.readouterr().out
    assert "8 cells, 0 done, 8 to run" in out
    assert "to run  d30-n20-full" in out
    assert re.search(r"about \d+ (s|min) on one worker", out)
    assert not (tmp_path / "demo" / "01_nusax_transfer.csv").exists()


def test_a_torn_results_file_is_named(rows, tmp_path):
    path = tmp_path / "rows.csv"
    append_rows(path, [rows[0]])
    append_rows(path, [rows[1]])
    text = path.read_text()
    path.write_text(text[: len(text) - 40])
    with pytest.raises(UserError, match="line 3: the row is not whole"):
        read_rows(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="other columns"):
        append_rows(path, [rows[0]])


def test_models_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"(?s)cannot load the model.*--model.*--data-dir"):
        load_model(str(tmp_path / "nothing-here"))
    with pytest.raises(UserError, match="there is no such file or folder here"):
        load_model(tmp_path / "nothing-here")
    with pytest.raises(UserError, match="no model file"):
        load_model(str(tmp_path / "absent.gguf"))
    shutil.copytree(ROOT / "ctsft" / "tasks" / "demo" / "model", tmp_path / "m")
    for path in (tmp_path / "m").glob("*token*"):
        path.unlink()
    with pytest.raises(UserError, match=r"knows no tokens: its files \(such as tokenizer.json\) are not there"):
        load_model(tmp_path / "m")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(UserError, match=r"'mamba' has state-space.*Supported: Llama.*Qwen2.*GPT-2"):
        load_model(str(tmp_path))


def test_committed_rows_rescore_from_their_predictions():
    """Every committed accuracy follows from its predictions and the labels beside the rows (which are the task's:
    test_report.py)."""
    for path in sorted((ROOT / "results").glob("*/0?_*.csv")):
        if "." in path.stem:  # what was measured beside the rows
            continue
        gold = {test: entry["labels"] for test, entry in json.loads((path.parent / "gold.json").read_text()).items()}
        for row in read_rows(path):
            for language, digits, accuracy in (
                (row["target"], row["predictions"], row["accuracy"]),
                (row["source"], row["source_predictions"], row["source_accuracy"]),
            ):
                labels = gold[f"{row['task']}/{language}"]
                hits = sum(digit == label for digit, label in zip(digits[1:], labels[1:], strict=True))
                assert float(accuracy) == pytest.approx(hits / (len(labels) - 1), abs=1e-6), row["cell"]


def test_probes_are_measured_beside_the_rows_and_rows_are_not_run_twice(config, rows, tmp_path):
    """Script 04's way: the rows exist, the cells are tuned again, and only the answers to related tests are added."""
    shutil.copytree(config.folder, tmp_path / "demo")
    probing = replace(
        config,
        output=tmp_path,
        experiment="04_forgetting",
        arms=("zero_shot", "full", "direct", "circuit"),
        probes=("demo/d50",),
        by_epoch=True,
        epochs=1,
    )
    assert run_study(probing) == 0
    assert not (tmp_path / "demo" / "04_forgetting.csv").exists()
    lines = read_rows(tmp_path / "demo" / "04_forgetting.probes.csv", PROBE_COLUMNS)
    by_cell = {row["cell"]: row for row in rows}
    for line in lines:
        row = by_cell[line["cell"]]
        expected = {"target": row["predictions"], "source": row["source_predictions"]}.get(line["role"])
        assert expected is None or line["predictions"] == expected
        assert line["same_row"] == "True"
        assert (float(line["distance"]) == 0) == (row["arm"] == "zero_shot")
        if row["arm"] == "zero_shot":
            assert line["predictions"] == line["predictions_before"]
    assert {line["test"] for line in lines} == {"demo/d30", "demo/d00", "demo/d50"}
    assert len(lines) == 4 * 3
    assert run_study(probing) == 0
    assert len(read_rows(tmp_path / "demo" / "04_forgetting.probes.csv", PROBE_COLUMNS)) == 4 * 3
    assert run_study(replace(probing, arms=("zero_shot", "full"), probes=("demo/d50", "demo/d90"))) == 0
    lines = read_rows(tmp_path / "demo" / "04_forgetting.probes.csv", PROBE_COLUMNS)
    assert [line["test"] for line in lines].count("demo/d90") == 2
    assert len(lines) == 4 * 3 + 2
    assert run_study(replace(probing, arms=("zero_shot",), probes=("demo/d10",))) == 0
    more = read_rows(tmp_path / "demo" / "04_forgetting.probes.csv", PROBE_COLUMNS)
    assert len(more) == len(lines) + 1  # what was not asked again is still there


def test_rows_are_read_whole_while_another_process_replaces_them(tmp_path):
    """Between its two writes the checksums are the new ones and the rows the old: whoever reads then waits."""
    path = tmp_path / "x.sets.csv"
    row = dict.fromkeys(SET_COLUMNS, "1")
    append_rows(path, [row], SET_COLUMNS)
    old = path.read_bytes()
    append_rows(path, [row | {"margin": "2"}], SET_COLUMNS)
    new = path.read_bytes()
    with locked(path):
        path.write_bytes(old)
        found: list[list[dict]] = []
        reader = threading.Thread(target=lambda: found.append(read_rows(path, SET_COLUMNS)))
        reader.start()
        reader.join(0.2)
        assert not found
        path.write_bytes(new)
    reader.join(10)
    assert [[line["margin"] for line in rows] for rows in found] == [["2"]]


def test_measuring_between_epochs_changes_nothing(config, tmp_path):
    """The answers after the last epoch are those of a run that never looked before."""
    short = replace(config, arms=("full", "circuit"), epochs=2, probes=("demo/d50",))
    texts = []
    for name, by_epoch in (("a", False), ("b", True)):
        assert run_study(replace(short, output=tmp_path / name, by_epoch=by_epoch)) == 0
        texts.append(without_times(read_rows(tmp_path / name / "demo" / "01_nusax_transfer.csv")))
    assert texts[0] == texts[1]
    lines = read_rows(tmp_path / "b" / "demo" / "01_nusax_transfer.probes.csv", PROBE_COLUMNS)
    first = [line for line in lines if line["epoch"] == "1"]
    assert {line["role"] for line in first} == {"target", "source"}
    moved = {line["cell"]: float(line["distance"]) for line in first}
    assert all(distance > 0 for distance in moved.values())


def test_forgetting_by_itself_leaves_no_gap(tmp_path, capsys):
    """Script 04 in an empty folder measures everything that its table shows."""
    fourth = runpy.run_path(str(ROOT / "experiments" / "04_forgetting.py"))
    short = dict(n_source=60, epochs=1, seeds=(31,), targets=("d30",), n_targets=(20,), lrs=(1e-3,), by_epoch=False)
    scored = dict(scorer="cdt_linear", mean_rows=24, score_rows=12)
    assert run_study(replace(fourth["PRESETS"]["demo"], output=tmp_path, **short, **scored), forgetting) == 0
    table, _, related = capsys.readouterr().out.partition("| related test")
    assert "| circuit" in table
    for line in table.splitlines():
        if line.startswith("| d30") and "| full" not in line:
            assert line.count("–") == (0 if "| 2 " in line else 1), line  # the depth, where there is none
    assert "zero_shot" not in related


def test_every_share_of_heads_is_a_cell_of_its_own(config, tmp_path):
    sweep = replace(config, output=tmp_path, arms=("circuit",), depths=(0,), shares=(0.02, 0.1), scorer="cdt_linear")
    assert run_study(sweep) == 0
    found = read_rows(tmp_path / "demo" / "01_nusax_transfer.csv")
    assert [(row["share"], row["heads"]) for row in found] == [("0.02", "1"), ("0.1", "3")]
    assert len({row["cell"] for row in found}) == 2


def test_precision_makes_other_cells(config):
    low, high = replace(config, dtype="bfloat16"), replace(config, dtype="float32")
    for cell in cells(config):
        assert cell_fingerprint(low, cell, "0") != cell_fingerprint(high, cell, "0")
    assert Workbench(replace(config, dtype="auto", device="cpu")).config.dtype == "float32"


def test_the_scripts_share_their_competence_stage():
    """Scripts 01, 03 and 04 read each other's cells, so what makes theta1 must agree in every preset."""
    scripts = [path for path in sorted((ROOT / "experiments").glob("*.py")) if path.name[:2] in ("01", "03", "04")]
    presets = [runpy.run_path(str(path))["PRESETS"] for path in scripts]
    assert len(presets) == 3
    for name in ("demo", "small", "paper"):
        assert len({json.dumps(theta1_settings(preset[name], "0"), sort_keys=True) for preset in presets}) == 1


def test_a_copied_script_prints_its_own_rows(config, tmp_path, capsys, monkeypatch):
    """Under another name, in the folder of other scripts: its table holds its cells, and theirs it shares."""
    short = replace(config, output=tmp_path, arms=("zero_shot",))
    assert run_study(replace(short, targets=("d30", "d50"))) == 0
    capsys.readouterr()
    assert run_study(replace(short, experiment="my_language", targets=("d50", "d70"))) == 0
    out = capsys.readouterr().out
    assert out.count("zero_shot") >= 2
    assert "| d50" in out
    assert "| d70" in out
    assert "| d30" not in out
    assert "preset demo: demo, d00 to d50, d70, demo\n" in out
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "demo")])
    report_main()
    table = (tmp_path / "demo_01_nusax_transfer.md").read_text()
    assert all(target in table for target in ("d30", "d50", "d70"))
    assert not list(tmp_path.glob("table*.md"))  # these stand beside the paper's numbers, and no row is of its tasks


def test_a_start_that_is_not_competent_is_told(config, tmp_path, capsys):
    weak = replace(config, output=tmp_path, n_source=12, epochs=1, arms=("circuit:0",), score_rows=6, mean_rows=12)
    assert run_study(weak) == 0
    out = capsys.readouterr().out
    assert "note: theta1 of seed 31 gets 0." in out
    assert "it is not competent, and no arm can be judged from it. Give it more rows (--n-source)" in out
    assert "note: seed 31: the model gets too few rows of some label right" in out


def test_source_rows_beyond_pool_a_come_from_the_tasks_further_rows(tmp_path):
    second = runpy.run_path(str(ROOT / "experiments" / "02_xnli_generalization.py"))["PRESETS"]["demo"]
    short = replace(second, output=tmp_path, n_source=450, source_epochs=1, seeds=(31,), arms=("zero_shot",))
    assert run_study(replace(short, targets=("d30",))) == 0
    [theta1] = (tmp_path / "demo" / "theta1").glob("*.json")
    about = json.loads(theta1.read_text())
    assert len(about["row_ids"]) == 450
    assert all(row.startswith("more-") for row in about["row_ids"])
    assert (about["source_epochs"], about["source_batch_size"], about["epochs"]) == (1, 32, 5)
    with pytest.raises(UserError, match="has 4000 further rows"):
        Workbench(replace(short, n_source=4001))


def test_the_tasks_of_a_folder_are_kept_apart(tmp_path):
    second = runpy.run_path(str(ROOT / "experiments" / "02_xnli_generalization.py"))["PRESETS"]["demo"]
    first = replace(PRESETS["demo"], output=tmp_path, n_source=20, epochs=1, seeds=(31,), arms=("zero_shot",))
    assert run_study(replace(first, targets=("d30",))) == 0
    assert (
        run_study(replace(second, output=tmp_path, n_source=20, source_epochs=1, seeds=(31,), arms=("zero_shot",))) == 0
    )
    results = Results.read(tmp_path / "demo")
    assert len(results.rows) == 3
    assert set(results.of("01_nusax_transfer").rows["task"]) == {"demo"}
    assert set(results.of("02_xnli_generalization").rows["task"]) == {"demo_entailment"}
    assert results.of("03_editing_preserving_tradeoff") is None


def test_a_second_task_under_the_same_script_is_a_study_of_its_own(tmp_path):
    first = replace(PRESETS["demo"], output=tmp_path, n_source=20, epochs=1, seeds=(31,), arms=("zero_shot",))
    assert run_study(replace(first, targets=("d30", "d50"))) == 0
    assert run_study(replace(first, task="demo_entailment", targets=("d70",))) == 0
    main, other = Results.read(tmp_path / "demo").studies("01_nusax_transfer")
    assert (set(main.rows["task"]), set(other.rows["task"])) == ({"demo"}, {"demo_entailment"})
    assert main.set_aside == (("of demo_entailment", 1),)
    assert {"demo_01_nusax_transfer", "demo_01_nusax_transfer_demo_entailment"} <= {
        table.name for table in tables_of(Results.read(tmp_path / "demo"))
    }
