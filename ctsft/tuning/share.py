"""Deltas and checkpoints for others: a full checkpoint that plain transformers loads, and the hub."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError

from ctsft.errors import UserError, first_line
from ctsft.hub import HUB_ERRORS, hub_answers
from ctsft.models.load import Loaded
from ctsft.storage import write_json
from ctsft.tuning.delta import FILE, HeadDelta

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ABOUT = "ctsft.json"
SHARED = (FILE, "README.md")


def export(loaded: Loaded, folder: str | Path, about: Mapping | None = None) -> None:
    """Write the model as it is now, with its tokenizer, as a folder that `from_pretrained` loads without ctsft.

    `about` goes into ctsft.json beside the weights, where `ctsft predict` finds the prompt and the temperature. The
    config has no dropout, as it was tuned: set it again where you train on. Raises UserError for a folder that holds
    something or cannot be written.
    """
    folder = new_folder(folder)
    partial = folder.with_name(f".{folder.name}.partial")  # a folder of that name alone is a whole checkpoint
    try:
        shutil.rmtree(partial, ignore_errors=True)
        cast("PreTrainedModel", loaded.model).save_pretrained(partial)
        loaded.tokenizer.save_pretrained(partial)
        for weights in partial.glob("*.safetensors"):  # written for their owner alone: who may read the rest, may these
            weights.chmod((partial / "config.json").stat().st_mode)
        if about:
            write_json(partial / ABOUT, dict(about))
        partial.replace(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write the checkpoint to {folder}: {error}.") from error


def new_folder(folder: str | Path) -> Path:
    """Where a checkpoint can go, absolute; UserError where something is, or where the process is working."""
    path = Path(folder).expanduser().resolve()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{folder} exists already; give a new folder.")
    if path in (Path.cwd(), *Path.cwd().parents):
        raise UserError(
            f"{folder} is where you are, and a checkpoint is moved into its place; name a new folder in it."
        )
    return path


def merge(loaded: Loaded, delta: HeadDelta, folder: str | Path) -> None:
    """Write the model with `delta` in it as a full checkpoint, see `export`; the model in memory stays as it was.

    Raises UserError where the delta was made on other weights.
    """
    with delta.on(loaded.model):
        export(loaded, folder, delta.about)


def about_checkpoint(folder: str | Path) -> dict:
    """What `export` wrote of a checkpoint; empty for a checkpoint from elsewhere."""
    path = Path(folder).expanduser() / ABOUT
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.") from error


def push(folder: str | Path, repository: str, *, hub: str | Path | None = None, private: bool = True) -> str:
    """Put a saved delta on the hub as `repository` (owner/name); returns the commit.

    With `hub`, a folder in the layout of the hub's cache, it goes there instead: a team's shared disk, or a test.
    """
    _checked(repository)
    folder = Path(folder).expanduser()
    if missing := [name for name in SHARED if not (folder / name).is_file()]:
        raise UserError(f"{folder} holds no {' and no '.join(missing)}; give the folder that a delta was saved to.")
    HeadDelta.load(folder)  # nothing that could not be read again leaves the machine
    if hub is not None:
        return _into_folder(folder, repository, Path(hub).expanduser())
    if not hub_answers():
        raise UserError(f"cannot push to {repository}: the hub does not answer, or HF_HUB_OFFLINE is set.")
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(folder_path=folder, repo_id=repository, allow_patterns=[*SHARED])
    except HUB_ERRORS as error:
        raise UserError(f"cannot push to {repository}: {first_line(error)}") from error
    return done.oid


def pull(repository: str, *, revision: str | None = None, hub: str | Path | None = None) -> HeadDelta:
    """The delta of a hub repository, at `revision` (a commit, tag or branch; the newest without one).

    `hub` is a folder in the layout of the hub's cache; then nothing is downloaded. A hub that does not answer leaves
    what was pulled before.
    """
    _checked(repository)
    try:
        folder = snapshot_download(
            repository,
            revision=revision,
            cache_dir=hub,
            local_files_only=hub is not None or not hub_answers(),
            allow_patterns=[*SHARED],
        )
    except LocalEntryNotFoundError as error:
        silent = "the hub does not answer, or HF_HUB_OFFLINE is set, and it was not pulled before"
        raise UserError(f"cannot pull {repository}: {silent if hub is None else f'it is not in {hub}'}.") from error
    except (*HUB_ERRORS, ValueError) as error:
        raise UserError(f"cannot pull {repository}: {first_line(error)}") from error
    return HeadDelta.load(Path(folder))


def _checked(repository: str) -> None:
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"'{repository}' is no repository name: {error}") from error


def _into_folder(folder: Path, repository: str, hub: Path) -> str:
    """Snapshot and branch `main`, as the hub's cache keeps them; the commit is the hash of the files."""
    files = [folder / name for name in SHARED]
    commit = hashlib.sha1(b"".join(path.read_bytes() for path in files), usedforsecurity=False).hexdigest()
    home = hub / f"models--{repository.replace('/', '--')}"
    try:
        (home / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
        for path in files:
            shutil.copyfile(path, home / "snapshots" / commit / path.name)
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / "main").write_text(commit)
    except OSError as error:
        raise UserError(f"cannot write to the hub folder {hub}: {error}.") from error
    return commit
