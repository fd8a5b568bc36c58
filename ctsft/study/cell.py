"""One cell from theta1 to its row."""

from __future__ import annotations

import time

from ctsft.memory import highest_memory_mb, start_memory
from ctsft.provenance import now
from ctsft.study.circuit_stage import heads_of
from ctsft.study.grid import Cell, told
from ctsft.study.measures import measure
from ctsft.study.preferred import preferred
from ctsft.study.probes import NamedTests, Watch
from ctsft.study.record import read_cells
from ctsft.study.workbench import Workbench
from ctsft.tuning.arms import get_arm


def run_cell(
    bench: Workbench, tests: NamedTests, cell: Cell, key: str
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Run one cell; returns its row, and the lines of its probes where the configuration has any."""
    theta1 = bench.start_of(cell)
    heads = heads_of(bench, cell)
    watch = Watch(bench, tests, cell, key) if bench.config.probes else None
    start_memory(bench.device)
    with bench.tuned(cell, heads, watch and watch.after_epoch) as (trainable_weights, train_seconds):
        started = time.perf_counter()
        predictions, test = bench.accuracy(cell.target, "test")
        _, valid = bench.accuracy(cell.target, "valid")
        if cell.arm == "zero_shot":
            source_digits, source_accuracy = theta1["test_predictions"], theta1["test_accuracy"]
        else:
            source, source_scores = bench.accuracy(bench.config.source, "test")
            source_digits, source_accuracy = source.digits, source_scores["accuracy"]
        eval_seconds, megabytes = time.perf_counter() - started, highest_memory_mb(bench.device)
        about = _identity(bench, cell, theta1) | {"valid_accuracy": round(valid["accuracy"], 6)}
        if bench.config.bystanders:
            known = {key: about} | read_cells(bench.config.folder)
            if key in preferred(known, bench.config.lrs):
                measure(bench, tests, cell, key, predictions)
        if watch is not None:
            watch.at_the_end(predictions.digits, source_digits)
    gold = [bench.label_tokens[label] for label in bench.prompts(cell.target, "test").labels]
    total = sum(parameter.numel() for parameter in bench.model.parameters())
    row = {
        "cell": key,
        **about,
        "accuracy": round(test["accuracy"], 6),
        "macro_f1": round(test["macro_f1"], 6),
        "full_vocab_accuracy": round(float((predictions.vocabulary == gold).mean()), 6),
        "source_accuracy": round(source_accuracy, 6),
        "source_accuracy_before": round(theta1["test_accuracy"], 6) if theta1 else None,
        "heads": len(heads),
        "trainable": trainable_weights,
        "trainable_share": round(trainable_weights / total, 8),
        "predictions": predictions.digits,
        "source_predictions": source_digits,
        "train_seconds": round(train_seconds - (watch.seconds if watch else 0), 2),
        "eval_seconds": round(eval_seconds, 2),
        "peak_memory_mb": megabytes,
        "created": now(),
    }
    return row, watch.lines if watch else []


def _identity(bench: Workbench, cell: Cell, theta1: dict | None) -> dict[str, object]:
    """What was asked for, and where it ran; a setting that the arm does not use stays empty."""
    config, arm = bench.config, get_arm(cell.arm)
    return {
        "experiment": config.experiment,
        "preset": config.preset,
        "model": bench.loaded.name,
        "model_hash": bench.loaded.weights,
        "theta1": theta1["weight_hash"] if theta1 else None,
        **told(config, cell),
        "target": cell.target,
        "n_target": cell.n_target,
        "arm": cell.arm,
        "depth": cell.depth,
        "draw": cell.draw,
        "lr": cell.lr if arm.uses_rate else None,
        "seed": cell.seed,
        "draw_seed": cell.seed,
        "order_seed": cell.seed,
        "device": str(bench.device),
        "git_commit": bench.provenance["git_commit"],
    }
