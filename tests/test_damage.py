"""Every kind of stored file: damaged, it is named, never used, and set aside and made again by the next run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from damaging import DAMAGES
from killing import ROOT, contents, shorter

from ctsft.discovery.circuits import heads_per_depth, known_frontiers
from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError
from ctsft.report.rows import Results
from ctsft.report.stored import stored
from ctsft.storage import Damaged, read_json, read_sealed, set_aside, write_json, write_sealed
from ctsft.study import self_training
from ctsft.study.beside import DATA, keep_hashes, refuse_other_data
from ctsft.study.circuit_files import Choice
from ctsft.study.grid import SCORING, relevance_settings, scoring_of
from ctsft.study.measure_files import MEASURES, path_of, read_measures, related_by_cell
from ctsft.study.run import run_study

FOLDERS = sorted(path.parent for path in (ROOT / "results").glob("*/circuits"))


@pytest.fixture(params=DAMAGES)
def damage(request):
    return DAMAGES[request.param]


def spoil(path: Path, damage) -> bytes:
    path.write_bytes(damage(path.read_bytes()))
    return path.read_bytes()


def whole(folder: Path) -> dict[str, object]:
    return {name: content for name, content in contents(folder).items() if ".damaged-" not in name}


def test_a_damaged_circuit_ends_a_report_and_a_finished_study_takes_it_from_its_map_again(
    one_cell, tmp_path, capsys, damage
):
    shutil.copytree(one_cell / "demo", tmp_path / "demo")
    [path] = (tmp_path / "demo" / "circuits").glob("*.json")
    damaged, before = spoil(path, damage), sorted((tmp_path / "demo").rglob("*"))
    with pytest.raises(UserError, match=rf"{path.name}.* Run the script that wrote it again"):
        Results.read(tmp_path / "demo")
    assert sorted((tmp_path / "demo").rglob("*")) == before
    assert run_study(shorter(tmp_path)) == 0
    assert f"warning: {path}" in capsys.readouterr().err
    assert path.with_name(f"{path.name}.damaged-1").read_bytes() == damaged
    assert whole(tmp_path) == contents(one_cell)
    assert read_sealed(path) == read_sealed(next((one_cell / "demo" / "circuits").glob("*.json")))


def test_a_run_that_does_not_tune_a_damaged_circuit_mends_it_or_says_what_is_missing(one_cell, tmp_path, capsys):
    shutil.copytree(one_cell / "demo", tmp_path / "demo")
    [path] = (tmp_path / "demo" / "circuits").glob("*.json")
    other = replace(shorter(tmp_path), arms=("zero_shot",), dry_run=True)
    good = path.read_bytes()
    spoil(path, DAMAGES["truncated"])
    assert run_study(other) == 0
    assert path.read_bytes() == good
    spoil(path, DAMAGES["truncated"])
    [scores] = (tmp_path / "demo" / "relevance").glob("*.json")
    spoil(scores, DAMAGES["truncated"])
    assert run_study(other) == 0
    assert not path.exists()
    assert f"warning: {path} has no whole map beside it" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".json", ".safetensors"])
def test_damaged_scores_end_a_report_and_a_finished_study_makes_them_again(one_cell, tmp_path, capsys, ending):
    shutil.copytree(one_cell / "demo", tmp_path / "demo")
    [path] = (tmp_path / "demo" / "relevance").glob(f"*{ending}")
    [chosen] = (tmp_path / "demo" / "circuits").glob("*.json")
    damaged = spoil(path, DAMAGES["flipped"])
    with pytest.raises(UserError, match=r"relevance/.* Run the script that wrote it again"):
        Results.read(tmp_path / "demo")
    spoil(chosen, DAMAGES["flipped"])
    assert run_study(shorter(tmp_path)) == 0
    assert path.with_name(f"{path.name}.damaged-1").read_bytes() == damaged
    assert whole(tmp_path) == contents(one_cell)


def test_scores_without_their_columns_are_damaged(one_cell, tmp_path):
    shutil.copytree(one_cell / "demo" / "relevance", tmp_path / "relevance")
    [columns] = (tmp_path / "relevance").glob("*.safetensors")
    columns.unlink()
    with pytest.raises(Damaged, match="is gone"):
        Relevance.load(columns.with_suffix(""))


def test_the_settings_of_scores_are_read_back_from_them():
    for change in ({}, {"pool": "shared", "ties": "index"}, {"dtype": "bfloat16", "source_epochs": 2}):
        config = replace(shorter(Path("results")), **change)
        settings = json.loads(json.dumps(relevance_settings(config, "0123")))
        assert settings.keys() <= set(SCORING)
        kept = {"dtype": "float32", "seconds": 1.0} | {k: v for k, v in settings.items() if k != "ties"}
        assert scoring_of(Relevance(None, {}, kept, settings.get("ties", "index"))) == settings


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_committed_circuits_follow_from_their_maps(folder):
    """By name and content, so that any of them could be mended."""
    maps = [Relevance.load(path.with_suffix("")) for path in sorted((folder / "relevance").glob("*.json"))]
    for path in sorted((folder / "circuits").glob("*.json")):
        said = read_sealed(path)
        choice = Choice(*(said[name] for name in ("arm", "depth", "seed", "draw", "share")))
        same = [
            relevance
            for relevance in maps
            if choice.path(folder, scoring_of(relevance), relevance.about["theta1_hash"]) == path
            and len(known_frontiers(relevance, choice.depth, heads_per_depth(relevance.logits.size, choice.share)))
            > choice.depth
        ]
        assert same, path
        if choice.selection == "circuit":
            assert [str(head) for head in choice.heads(same[0], per_group=1)] == said["heads"]


def test_damaged_labels_are_named_and_written_again(one_cell, tmp_path, damage):
    shutil.copytree(one_cell / "demo", tmp_path / "demo")
    gold = tmp_path / "demo" / "gold.json"
    damaged = spoil(gold, damage)
    with pytest.raises(UserError, match=r"gold\.json.* Run the script that wrote it again"):
        Results.read(tmp_path / "demo")
    assert run_study(shorter(tmp_path)) == 0
    assert gold.with_name("gold.json.damaged-1").read_bytes() == damaged
    assert gold.read_bytes() == (one_cell / "demo" / "gold.json").read_bytes()


def test_where_the_hashes_of_the_data_are_damaged_the_settings_beside_them_count(tmp_path, capsys, damage):
    write_json(tmp_path / "02.config.json", {"task": "other", "data_sha256": {"c/test": "3" * 16}})
    write_json(tmp_path / "01.config.json", {"task": "demo", "data_sha256": {"a/test": "1" * 16, "b/test": "2" * 16}})
    known = {"a/test": "1" * 16, "b/test": "2" * 16}
    keep_hashes(tmp_path, "demo", known)
    good = (tmp_path / DATA).read_bytes()
    damaged = spoil(tmp_path / DATA, damage)
    with pytest.raises(UserError, match="demo/b/test has changed"):
        refuse_other_data(tmp_path, "demo", {"b/test": "9" * 16})
    assert "warning:" in capsys.readouterr().err
    assert (tmp_path / f"{DATA}.damaged-1").read_bytes() == damaged
    refuse_other_data(tmp_path, "demo", known)
    keep_hashes(tmp_path, "demo", {"a/test": "1" * 16})
    assert (tmp_path / DATA).read_bytes() == good


def test_a_file_that_another_process_has_just_set_aside_is_damage(tmp_path, capsys):
    with pytest.raises(Damaged, match="is gone"):
        read_json(tmp_path / "gone.json")
    set_aside(tmp_path / "gone.json", "why")
    path = tmp_path / "there.json"
    path.write_text("{")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctsft.storage.os.replace", lambda *a: (_ for _ in ()).throw(FileNotFoundError))
        set_aside(path, "why")
    assert capsys.readouterr().err == ""


def test_damaged_settings_are_set_aside(tmp_path, capsys):
    write_json(tmp_path / "01.config.json", {"task": "demo", "data_sha256": {"a/test": "1" * 16}})
    spoil(tmp_path / "01.config.json", DAMAGES["truncated"])
    refuse_other_data(tmp_path, "demo", {"a/test": "1" * 16})
    assert "01.config.json is not whole JSON" in capsys.readouterr().err
    assert not (tmp_path / "01.config.json").exists()


def test_a_damaged_generation_is_set_aside_and_made_again(tmp_path, capsys, damage):
    config = replace(shorter(tmp_path), output=tmp_path)
    made = {"line": {"n_rows": 120}, "labels": "p012012012"}
    assert self_training._kept(config, "a", "x", lambda: dict(made)) == made | {"theta1": "a"}
    path = config.folder / "cache" / "generations" / "x.json"
    damaged = spoil(path, damage)
    assert self_training._kept(config, "a", "x", lambda: {"labels": "p2"}) == {"labels": "p2", "theta1": "a"}
    assert f"warning: {path}" in capsys.readouterr().err
    assert path.with_name("x.json.damaged-1").read_bytes() == damaged


def test_a_generation_from_before_there_were_checksums_is_read(tmp_path):
    config = shorter(tmp_path)
    write_json(config.folder / "cache" / "generations" / "x.json", {"labels": "p1", "theta1": "a"})
    found = self_training._kept(config, "a", "x", lambda: pytest.fail("made again"))
    assert found == {"labels": "p1", "theta1": "a"}


def test_damaged_measures_end_a_report_and_are_set_aside_by_a_study(tmp_path, capsys, damage):
    path = path_of(tmp_path, "cell")
    write_sealed(path, dict.fromkeys(MEASURES, "p0120") | {"related": {"demo/d10": "p012"}})
    assert related_by_cell(tmp_path) == {"cell": {"demo/d10"}}
    damaged = spoil(path, damage)
    with pytest.raises(Damaged, match=r"cell\.json"):
        read_measures(tmp_path)
    assert related_by_cell(tmp_path) == {}
    assert f"warning: {path}" in capsys.readouterr().err
    assert path.with_name("cell.json.damaged-1").read_bytes() == damaged


def test_measures_without_a_part_are_damaged(tmp_path):
    write_json(path_of(tmp_path, "cell"), {"related": {}})
    with pytest.raises(Damaged, match="lacks some of a cell's measures"):
        read_measures(tmp_path)


def test_committed_measures_are_read():
    assert any(read_measures(folder) for folder in FOLDERS)


def test_a_report_names_a_file_that_is_gone(tmp_path):
    with pytest.raises(UserError, match=r"no .*absent\.json.* Run the script that wrote it again"):
        stored(tmp_path / "absent.json")
