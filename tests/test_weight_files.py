"""A checkpoint is read from safetensors files in its own folder, whatever its index, config or links say."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from ctsft.errors import UserError
from ctsft.models.load import DEMO_MODEL, leave_out_dropout, load_model

SHARD = "model-00001-of-00001.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path) -> Path:
    """The embedded model as a checkpoint of one shard with an index."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(DEMO_MODEL, folder)
    (folder / "model.safetensors").rename(folder / SHARD)
    name_in_index(folder, SHARD)
    return folder


def name_in_index(folder: Path, name: object) -> None:
    weights = [key for key, _ in load_model("demo").model.named_parameters()]
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, name)}))


@pytest.mark.parametrize("family", ["gpt2", "opt", "bert", "llama", "gpt_neox"])
def test_no_dropout_is_left(family):
    config = AutoConfig.for_model(family)
    leave_out_dropout(config)
    left = {name: value for name, value in config.to_dict().items() if "drop" in name and value}
    assert not left


def test_a_sharded_checkpoint_is_read(sharded):
    assert load_model(str(sharded)).weights == load_model("demo").weights


@pytest.mark.parametrize("name", ["../{}", "down/../../{}", "ABSOLUTE/{}"])
def test_an_index_that_leaves_the_folder_is_refused(sharded, name):
    """The file that it names is there and whole: transformers alone would read it."""
    (sharded / SHARD).rename(sharded.parent / SHARD)
    (sharded / "down").mkdir()
    name_in_index(sharded, name.replace("ABSOLUTE", str(sharded.parent)).format(SHARD))
    with pytest.raises(UserError, match=rf"{INDEX} names the file '.*{SHARD}' outside the checkpoint's folder"):
        load_model(str(sharded))


def test_a_link_out_of_the_folder_is_refused(sharded):
    (sharded / SHARD).rename(sharded.parent / SHARD)
    (sharded / SHARD).symlink_to(sharded.parent / SHARD)
    with pytest.raises(UserError, match=rf"'{SHARD}', which is a link out of the checkpoint's folder"):
        load_model(str(sharded))
    (sharded / SHARD).unlink()
    (sharded / "down").symlink_to(sharded.parent)
    name_in_index(sharded, f"down/{SHARD}")
    with pytest.raises(UserError, match="link out of the checkpoint's folder"):
        load_model(str(sharded))


def test_links_inside_the_folder_and_in_the_hubs_cache_are_read(sharded):
    (sharded / "files").mkdir()
    (sharded / SHARD).rename(sharded / "files" / SHARD)
    (sharded / SHARD).symlink_to(Path("files") / SHARD)
    assert load_model(str(sharded)).weights == load_model("demo").weights
    snapshot = sharded.parent / "models--some--one" / "snapshots" / "0123"
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(path for path in sharded.iterdir() if path.is_file()):
        shutil.copyfile(file, blobs / str(number))
        os.symlink(os.path.join("..", "..", "blobs", str(number)), snapshot / file.name)
    assert load_model(str(snapshot)).weights == load_model("demo").weights


def test_an_index_of_pickles_is_refused(sharded):
    weights = dict(load_model("demo").model.named_parameters())
    torch.save(weights, sharded / "weights.bin")
    name_in_index(sharded, "weights.bin")
    with pytest.raises(UserError, match=r"'weights\.bin', but weights are read from \.safetensors files alone"):
        load_model(str(sharded))


@pytest.mark.parametrize("name", [3, None, ["a.safetensors"], "a\x00.safetensors", "\ud800.safetensors"])
def test_names_that_are_none_are_refused(sharded, name):
    name_in_index(sharded, name)
    with pytest.raises(UserError, match=INDEX):
        load_model(str(sharded))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', "\xff"])
def test_an_index_that_is_none_is_named(sharded, content):
    (sharded / INDEX).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=rf"{INDEX} is no index of a sharded checkpoint"):
        load_model(str(sharded))


@pytest.mark.parametrize("name", ["../weights.safetensors", "weights.bin", "adapter_model.bin"])
def test_a_config_that_names_foreign_weights_is_refused(sharded, name):
    config = json.loads((sharded / "config.json").read_text())
    (sharded / "config.json").write_text(json.dumps(config | {"transformers_weights": name}))
    with pytest.raises(UserError, match=r"the config of .* names the file"):
        load_model(str(sharded))


def test_an_adapter_beside_the_weights_is_refused(sharded):
    (sharded / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/somewhere/else"}))
    with pytest.raises(UserError, match=r"holds an adapter .*Merge the adapter"):
        load_model(str(sharded))


def test_a_pickle_under_the_name_of_safetensors_is_refused(sharded):
    torch.save(dict(load_model("demo").model.named_parameters()), sharded / SHARD)
    with pytest.raises(UserError, match="cannot load the model"):
        load_model(str(sharded))
