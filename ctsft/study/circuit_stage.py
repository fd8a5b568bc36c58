"""Stages 2 and 3 of a cell: score the heads of theta1 on source rows, and choose those that the arm tunes."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from ctsft.discovery.circuits import heads_per_depth, known_frontiers
from ctsft.discovery.find import score_to_depth, scoring_rows
from ctsft.discovery.problem import Problem
from ctsft.discovery.relevance import Relevance, files_of
from ctsft.errors import CellFailed
from ctsft.heads import Head
from ctsft.memory import failing_without_memory
from ctsft.provenance import now
from ctsft.storage import Damaged, locked, set_aside
from ctsft.study.circuit_files import Choice
from ctsft.study.config import StudyConfig
from ctsft.study.grid import Cell, Scores, cells, relevance_settings, short_hash, stages
from ctsft.study.workbench import Workbench
from ctsft.tuning.arms import get_arm


def relevance_of(bench: Workbench, config: StudyConfig, seed: int, depth: int, share: float) -> Relevance:
    """Scores of every head on theta1 of `seed`, with the inner columns that circuits of `share` up to `depth` need.

    `config` is the workbench's, or one that differs from it in how heads are scored.
    """
    path = config.folder / "relevance" / _name(bench, config, seed)
    k = heads_per_depth(bench.anatomy.n_heads, share)
    with locked(path, waiting=f"waiting for the scores of seed {seed}, which another process makes"):
        make = failing_without_memory()(lambda: _known_or_scored(bench, config, seed, depth, k, path))
        return bench.failures.remember(f"{path} {depth} {k}", make)


def _name(bench: Workbench, config: StudyConfig, seed: int) -> str:
    """A file's name. Weights of another machine have other last bits, so their scores and circuits stand beside ours.

    In bfloat16 they differ in more than that: now and then in an answer, or in a head of the circuit.
    """
    settings = relevance_settings(config, bench.loaded.weights)
    settings["theta1_hash"] = bench.theta1_of(seed)["weight_hash"]
    return f"{config.source}-{config.scorer}-s{seed}-{short_hash(settings)}"


def _known_or_scored(bench: Workbench, config: StudyConfig, seed: int, depth: int, k: int, path: Path) -> Relevance:
    settings = relevance_settings(config, bench.loaded.weights)
    relevance = _stored(path, bench.theta1_of(seed)["weight_hash"])
    frontiers = [] if relevance is None else known_frontiers(relevance, depth, k)
    if len(frontiers) > depth:
        return relevance
    problem, about = problem_of(bench, config, seed)
    tqdm.write(f"scores of seed {seed}: {config.scorer} on {len(problem.rows)} rows of {config.source}")
    spent = relevance.about["seconds"] if relevance else 0.0  # a deeper circuit completes what is there
    started = time.perf_counter()
    relevance = score_to_depth(config.scorer, problem, relevance, depth, k, config.ties)
    seconds = spent + time.perf_counter() - started
    relevance.about |= settings | about | {"seconds": round(seconds, 1), "created": now(), **bench.provenance}
    relevance.save(path)
    return Relevance.load(path)  # rounded as it is kept, so that this run and the next one choose the same heads


def _stored(path: Path, theta1_hash: str) -> Relevance | None:
    """The scores in the results folder, where they are whole and were made on these weights of theta1."""
    files = files_of(path)
    if not all(file.is_file() for file in files):
        return None
    try:
        stored = Relevance.load(path)
    except Damaged as error:
        for file in files:
            set_aside(file, error)
        return None
    return stored if stored.about.get("theta1_hash") == theta1_hash else None


def mend_maps(bench: Workbench) -> None:
    """Score again what circuits of this run rest on where its file is damaged, though all cells may be finished."""
    config, folder = bench.config, bench.config.folder / "relevance"
    damaged = {path for path in folder.glob("*.json") if not _whole(path.with_suffix(""))}
    scores = [stage for stage, _ in stages(cells(config)) if isinstance(stage, Scores)] if damaged else []
    for seed, depth, share in scores:
        # The name in full is known with theta1 alone, which is loaded or made where the rest fits.
        fits = any(f"-{config.scorer}-s{seed}-" in path.name for path in damaged)
        if fits and folder / f"{_name(bench, config, seed)}.json" in damaged:
            with suppress(CellFailed):  # a cell that needs them says so
                relevance_of(bench, config, seed, depth, share)


def _whole(path: Path) -> bool:
    try:
        Relevance.load(path)
    except Damaged:
        return False
    return True


def problem_of(bench: Workbench, config: StudyConfig, seed: int) -> tuple[Problem, dict]:
    """The rows of the mean, and other rows of pool A that theta1 gets right, both balanced over the labels.

    With --pool shared the scored rows are taken from those of the mean. Returns what is scored, and its record.
    """
    n_labels, theta1 = len(bench.task.labels), bench.theta1_of(seed)
    pool = bench.split(config.source, "train").by_id(bench.pool_a)
    drawn = scoring_rows(
        pool,
        lambda rest: bench.predict(bench.encode(rest)).labels,
        n_labels,
        config.mean_rows,
        config.score_rows,
        seed,
        shared=config.pool == "shared",
    )
    for oddity in drawn.oddities(n_labels * (config.score_rows // n_labels)):
        tqdm.write(f"note: seed {seed}: {oddity}")
    problem = drawn.problem(bench.loaded, bench.encode, bench.label_tokens, config.eval_batch, config.scorer)
    return problem, {"seed": seed, "theta1_hash": theta1["weight_hash"], **drawn.about}


def heads_of(bench: Workbench, cell: Cell) -> list[Head]:
    """The heads that the cell tunes, or whose size it takes, in a circuit file; none for arms that choose no heads."""
    selection = get_arm(cell.arm).heads
    if selection is None:
        return []
    config = bench.config
    relevance = relevance_of(bench, config, cell.seed, cell.depth, cell.share)
    choice = Choice(selection, cell.depth, cell.seed, cell.draw, cell.share)
    chosen = choice.heads(relevance, bench.anatomy.heads // bench.anatomy.kv_heads)
    theta1 = bench.theta1_of(cell.seed)["weight_hash"]
    choice.write(config.folder, relevance_settings(config, bench.loaded.weights), theta1, chosen)
    return chosen
