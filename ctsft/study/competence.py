"""Stage 1 of a study: theta1 of a seed, trained once, kept with the record of what it is, and read back."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load, save
from tqdm import tqdm

from ctsft.errors import CellFailed
from ctsft.memory import highest_memory_mb, start_memory
from ctsft.models.load import weight_hash
from ctsft.provenance import now
from ctsft.storage import Damaged, locked, read_or_aside, read_sealed, set_aside, write_atomic, write_sealed
from ctsft.study.failing import known_failure, note_failure
from ctsft.study.grid import short_hash, theta1_settings
from ctsft.tuning.arms import get_arm

if TYPE_CHECKING:
    from ctsft.study.workbench import Workbench


def theta1_paths(bench: Workbench, seed: int) -> tuple[Path, Path]:
    """Where theta1 of `seed` is kept: what it is, and its weights."""
    config, settings = bench.config, theta1_settings(bench.config, bench.loaded.weights)
    name = f"{config.source}-n{config.n_source}-s{seed}-{short_hash(settings)}"
    return config.folder / "theta1" / f"{name}.json", config.folder / "cache" / "theta1" / f"{name}.safetensors"


def read_or_make(bench: Workbench, seed: int) -> dict:
    """Put the model into theta1 of `seed`, from the store where it lies there; returns the record of what it is."""
    about_path, weights_path = theta1_paths(bench, seed)
    # Whoever comes second waits, and reads what the first has made.
    with locked(about_path, waiting=f"waiting for theta1 of seed {seed}, which another process makes"):
        about = _stored(bench, about_path, weights_path)
        if about is None:
            note = bench.config.folder / "failed" / f"theta1-{about_path.stem}.json"
            if (reason := known_failure(note, bench.begun)) is not None:
                raise CellFailed(reason)
            try:
                about = _make(bench, seed)
            except CellFailed as error:
                note_failure(note, error)
                raise
            note.unlink(missing_ok=True)
            write_atomic(weights_path, save(bench.snapshot()))
            about = _recorded(about_path, about)
    return about


def _stored(bench: Workbench, about_path: Path, weights_path: Path) -> dict | None:
    """Put the model into the stored theta1, if there is one and it is what it says; a damaged file is set aside."""
    if not (about_path.is_file() and weights_path.is_file()):
        return None
    try:
        about = read_sealed(about_path)
    except Damaged as error:
        set_aside(about_path, error)
        return None
    try:
        weights = load(weights_path.read_bytes())
        bench.restore({name: weights[name] for name, _ in bench.model.named_parameters()})
    except (SafetensorError, KeyError, RuntimeError) as error:
        set_aside(weights_path, f"{weights_path} cannot be read ({error}).")
        return None
    if weight_hash(bench.model) != about.get("weight_hash"):
        set_aside(weights_path, f"{weights_path} does not hold the weights that {about_path.name} names.")
        return None
    return about


def _make(bench: Workbench, seed: int) -> dict:
    """Tune all weights of the base model on the source rows of `seed`, and ask what that gave."""
    config = bench.config
    tqdm.write(f"theta1 of seed {seed}: tuning all weights on {config.n_source} rows of {config.source}")
    start_memory(bench.device)
    bench.restore(bench.base)
    ids = bench.competence_ids(seed)
    rows = bench.encode(bench.source_rows.by_id(ids))
    started = time.perf_counter()
    recipe = replace(
        bench.recipe(config.source_lr),
        epochs=config.source_epochs or config.epochs,
        batch_size=config.source_batch_size or config.batch_size,
    )
    bench.train_arm(get_arm("full"), [], rows, recipe, seed)
    seconds = time.perf_counter() - started
    predictions, test = bench.accuracy(config.source, "test")
    _, valid = bench.accuracy(config.source, "valid")
    labels = [example.label for example in bench.split(config.source, "valid").examples]
    if valid["accuracy"] <= (majority := max(map(labels.count, labels)) / len(labels)):
        tqdm.write(
            f"note: theta1 of seed {seed} gets {valid['accuracy']:.3f} of {config.source}'s validation rows right, and "
            f"their commonest label alone {majority:.3f}: it is not competent, and no arm can be judged from it. Give "
            "it more rows (--n-source), more epochs or another rate (--source-lr)."
        )
    return {
        "seed": seed,
        **theta1_settings(config, bench.loaded.weights),
        "row_ids": ids,
        "test_accuracy": test["accuracy"],
        "test_macro_f1": test["macro_f1"],
        "test_predictions": predictions.digits,
        "valid_accuracy": valid["accuracy"],
        "weight_hash": weight_hash(bench.model),
        "train_seconds": round(seconds, 1),
        "peak_memory_mb": highest_memory_mb(bench.device),
        "created": now(),
        **bench.provenance,
    }


def _recorded(path: Path, made: dict) -> dict:
    """The record of theta1 at `path`: that of the same weights where it lies there, so that their answers stay one.

    The record of another theta1 is renamed by its hash: rows that another machine made from it name that.
    """
    known = read_or_aside(path)
    if known and known["weight_hash"] == made["weight_hash"]:
        return known
    if known:
        path.rename(path.with_stem(f"{path.stem}-{known['weight_hash'][:6]}"))
        tqdm.write(
            f"note: theta1 of seed {made['seed']} was there with other weights ({known['weight_hash']}, of another "
            f"machine or library) than it has now ({made['weight_hash']}). Where rows in {path.parents[1]} began from "
            "that one, differences between arms are between starts too: give another --output to keep them apart."
        )
    write_sealed(path, made)
    return made
