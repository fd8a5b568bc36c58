"""Which files a checkpoint may be read from: safetensors inside its own folder, and nothing that they point to."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath

from transformers import PretrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME

from ctsft.errors import UserError

INDEX = ".safetensors.index.json"


def refuse_foreign_files(source: str, config: PretrainedConfig, options: dict) -> None:
    """UserError where the checkpoint `source` (folder or hub id) would make transformers read other files than its own.

    transformers follows an index wherever its names lead, reads what is not safetensors with torch.load, and adds the
    weights of an adapter that lies beside the model. `options` are those of `from_pretrained`.
    """

    def own(name: str) -> Path | None:
        found = cached_file(source, name, **options, _raise_exceptions_for_missing_entries=False)
        return None if found is None else Path(found)

    options = {key: value for key, value in options.items() if key != "gguf_file"}
    if own(ADAPTER_CONFIG_NAME) is not None:
        raise UserError(
            f"'{source}' holds an adapter ({ADAPTER_CONFIG_NAME}), whose weights would be read from wherever it says. "
            "Merge the adapter into the model, save that, and give its folder."
        )
    named = getattr(config, "transformers_weights", None) or SAFE_WEIGHTS_INDEX_NAME
    _refuse_name(named, f"the config of '{source}'", (".safetensors", INDEX))
    index = own(named) if named.endswith(INDEX) else None
    if index is not None:
        refuse_foreign_shards(index)


def refuse_foreign_shards(index: Path) -> None:
    """UserError unless every file that the index of a sharded checkpoint names is a safetensors file in its folder."""
    try:
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is no index of a sharded checkpoint ({type(error).__name__}: {error}).") from error
    folder = index.parent.resolve()
    # In the hub's cache every file is a link into blobs/, two folders up.
    homes = [folder, *([folder.parents[1] / "blobs"] if folder.parent.name == "snapshots" else [])]
    for name in shards:
        _refuse_name(name, str(index), (".safetensors",))
        file = Path(os.path.realpath(folder / name))
        if not any(file.is_relative_to(home) for home in homes):
            raise UserError(
                f"{index} names the file '{name}', which is a link out of the checkpoint's folder; "
                "nothing outside it is read. Put the file itself there."
            )


def _refuse_name(name: object, where: str, endings: tuple[str, ...]) -> None:
    """A name that is a path out of the folder, or that of a file that is not safetensors."""
    if not isinstance(name, str) or not name.endswith(endings) or not name.isprintable():
        raise UserError(f"{where} names the file {name!r}, but weights are read from .safetensors files alone.")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{where} names the file '{name}' outside the checkpoint's folder; nothing outside it is read.")
