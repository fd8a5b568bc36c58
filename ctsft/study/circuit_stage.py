"""Stages 2 and 3 of a cell: score the heads of theta1 on source rows, and choose those that the arm tunes."""

from __future__ import annotations

import time

from tqdm import tqdm

from ctsft.discovery.circuits import heads_per_depth, known_frontiers, next_frontier, select
from ctsft.discovery.mean import label_balanced_mean
from ctsft.discovery.problem import Problem
from ctsft.discovery.relevance import Relevance
from ctsft.discovery.scorers import get_scorer
from ctsft.heads import Head
from ctsft.storage import write_json
from ctsft.study.config import StudyConfig
from ctsft.study.grid import Cell, relevance_settings, short_hash
from ctsft.study.record import now
from ctsft.study.workbench import Workbench
from ctsft.tasks.task import draw_balanced
from ctsft.tuning.arms import get_arm


def relevance_of(bench: Workbench, config: StudyConfig, seed: int, depth: int, share: float) -> Relevance:
    """Scores of every head on theta1 of `seed`, with the inner columns that circuits of `share` up to `depth` need.

    `config` is the workbench's, or one that differs from it in how heads are scored.
    """
    theta1 = bench.theta1_of(seed)
    settings = relevance_settings(config, bench.loaded.weights)
    name = f"{config.source}-{config.scorer}-s{seed}-{short_hash(settings)}"
    path = config.folder / "relevance" / name
    k = heads_per_depth(bench.anatomy.n_heads, share)
    relevance = None
    if path.with_suffix(".json").is_file() and path.with_suffix(".safetensors").is_file():
        stored = Relevance.load(path)
        # theta1 of another machine has other last bits; scores of its weights are not scores of ours.
        relevance = stored if stored.about["theta1_hash"] == theta1["weight_hash"] else None
    frontiers = [] if relevance is None else known_frontiers(relevance, depth, k)
    if len(frontiers) > depth:
        return relevance
    problem, about = problem_of(bench, config, seed)
    tqdm.write(f"scores of seed {seed}: {config.scorer} on {len(problem.rows)} rows of {config.source}")
    started = time.perf_counter()
    scorer = get_scorer(config.scorer)
    relevance = scorer(problem, relevance, [])
    frontiers = []
    for _ in range(depth + 1):
        frontiers.append(next_frontier(relevance, frontiers, k))
        if len(frontiers) <= depth:
            relevance = scorer(problem, relevance, frontiers[-1])
    seconds = time.perf_counter() - started
    relevance.about |= settings | about | {"seconds": round(seconds, 1), "created": now(), **bench.provenance}
    relevance.save(path)
    return relevance


def problem_of(bench: Workbench, config: StudyConfig, seed: int) -> tuple[Problem, dict]:
    """The rows of the mean, and other rows of pool A that theta1 gets right, both balanced over the labels.

    With --pool shared the scored rows are taken from those of the mean. Returns what is scored, and its record.
    """
    n_labels, theta1 = len(bench.task.labels), bench.theta1_of(seed)
    pool = bench.split(config.source, "train").by_id(bench.pool_a)
    mean_rows = draw_balanced(pool, config.mean_rows // n_labels, n_labels, seed)
    used = {example.id for example in mean_rows}
    shared = config.pool == "shared"
    rest = [example for example in pool if (example.id in used) == shared]
    answers = bench.predict(bench.encode(rest)).labels
    right = [example for example, answer in zip(rest, answers, strict=True) if example.label == answer]
    scored = draw_balanced(right, config.score_rows // n_labels, n_labels, seed)
    only_right = bool(scored)
    if not only_right:
        # A start so weak that it never gives some label (the paper's case of 50 XNLI rows) is scored all the same.
        scored = draw_balanced(rest, config.score_rows // n_labels, n_labels, seed)
    aligned = get_scorer(config.scorer).aligned
    mean = label_balanced_mean(bench.loaded, bench.encode(mean_rows), n_labels, config.eval_batch, aligned)
    problem = Problem(bench.loaded, bench.encode(scored), bench.label_tokens, mean)
    about = {
        "seed": seed,
        "theta1_hash": theta1["weight_hash"],
        "mean_row_ids": [example.id for example in mean_rows],
        "score_row_ids": [example.id for example in scored],
        "only_correct_rows": only_right,
    }
    return problem, about


def heads_of(bench: Workbench, cell: Cell) -> list[Head]:
    """The heads that the cell tunes, or whose size it takes, in a circuit file; none for arms that choose no heads."""
    selection = get_arm(cell.arm).heads
    if selection is None:
        return []
    config = bench.config
    relevance = relevance_of(bench, config, cell.seed, cell.depth, cell.share)
    per_group = bench.anatomy.heads // bench.anatomy.kv_heads
    chosen = select(selection, relevance, cell.depth, cell.share, per_group, cell.seed + cell.draw)
    settings = relevance_settings(config, bench.loaded.weights) | {"share": cell.share}
    draw_name = f"-draw{cell.draw}" if cell.draw else ""
    name = f"{config.source}-{selection}-d{cell.depth}{draw_name}-s{cell.seed}-{short_hash(settings)}"
    content = {"arm": selection, "depth": cell.depth, "seed": cell.seed, "draw": cell.draw, **settings}
    write_json(config.folder / "circuits" / f"{name}.json", content | {"heads": [str(head) for head in chosen]})
    return chosen
