"""The stages of one study on one loaded model: competence, discovery, tuning, evaluation.

The model is loaded once. Stages move it between three states (base, theta1 of a seed, a tuned cell), always by
writing weights in place; nothing is reloaded between cells.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from ctsft.discovery.circuits import circuit, next_frontier, select
from ctsft.discovery.mean import label_balanced_mean
from ctsft.discovery.problem import Problem
from ctsft.discovery.relevance import Relevance
from ctsft.discovery.scorers import get_scorer
from ctsft.errors import UserError
from ctsft.evaluation import Predictions, predict, scores
from ctsft.heads import Head
from ctsft.models.load import load_model, weight_hash
from ctsft.storage import write_atomic, write_json
from ctsft.study.config import StudyConfig
from ctsft.study.grid import Cell, relevance_settings, short_hash, theta1_settings
from ctsft.study.record import git_commit, now, peak_memory_mb, versions
from ctsft.tasks.prompts import Encoded, encode, label_tokens
from ctsft.tasks.task import Rows, check_aligned, draw, draw_balanced, split_pools
from ctsft.tuning.arms import Arm, get_arm, moving_slices, trainable
from ctsft.tuning.loop import Recipe, train
from ctsft.tuning.slices import count, read_slices, write_slices


class Workbench:
    """Holds the model, the data and the current state of the weights for `config`."""

    def __init__(self, config: StudyConfig):
        self.config, self.task = config, config.effective_task
        self.device = _device(config.device)
        low = config.dtype == "bfloat16" or (config.dtype == "auto" and self.device.type == "cuda")
        self.dtype = "bfloat16" if low else "float32"
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=low)
        # Data first: a missing file must show before a large model is loaded.
        self.rows: dict[tuple[str, str], Rows] = {}
        source_train = self.split(config.source, "train")
        self.pool_a, self.pool_b = split_pools(source_train, self.task.target_pool, len(self.task.labels))
        if config.n_source > len(self.pool_a):
            raise UserError(f"--n-source is {config.n_source}, but pool A has {len(self.pool_a)} rows.")
        for target in config.targets:
            for name in ("train", "valid", "test"):
                check_aligned(self.split(config.source, name), self.split(target, name))
        self.loaded = load_model(config.model, config.revision, str(self.device))
        self.model, self.anatomy = self.loaded.model, self.loaded.anatomy
        longest = getattr(self.model.config, "max_position_embeddings", config.max_tokens)
        if config.max_tokens > longest:
            raise UserError(f"--max-tokens is {config.max_tokens}, but this model's positions end at {longest}.")
        self.label_tokens = label_tokens(self.loaded.tokenizer, self.task)
        self.encoded: dict[tuple[str, str], Encoded] = {}
        self.theta1_seed: int | None = None
        self.theta1: dict[str, Tensor] = {}
        self.base = self._snapshot()
        self.circuits = config.folder / "circuits"

    # ---- data -------------------------------------------------------------------------------------------------

    def split(self, language: str, name: str) -> Rows:
        if (language, name) not in self.rows:
            self.rows[language, name] = self.task.load(language, name, self.config.data_folder)
        return self.rows[language, name]

    def prompts(self, language: str, name: str) -> Encoded:
        """A whole split as prompts, in the official order."""
        if (language, name) not in self.encoded:
            self.encoded[language, name] = self._encode(self.split(language, name).examples)
        return self.encoded[language, name]

    def _encode(self, examples) -> Encoded:
        return encode(self.loaded.tokenizer, self.task, examples, self.config.max_tokens)

    def predict(self, rows: Encoded) -> Predictions:
        pad = self.loaded.tokenizer.pad_token_id
        return predict(self.model, rows, self.label_tokens, pad, self.config.eval_batch, self.autocast)

    def accuracy(self, language: str, name: str) -> tuple[Predictions, dict[str, float]]:
        rows = self.prompts(language, name)
        predictions = self.predict(rows)
        return predictions, scores(predictions.labels, rows.labels)

    # ---- weights ----------------------------------------------------------------------------------------------

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}

    @torch.no_grad()
    def _restore(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights[name])

    @contextmanager
    def tuned(self, cell: Cell, heads: list[Head]) -> Iterator[tuple[int, float]]:
        """Tune the cell's arm on its target rows; at the end theta1 is back, bit for bit.

        Yields (number of trainable weights, seconds of training).
        """
        arm = get_arm(cell.arm)
        self.theta1_of(cell.seed)
        moving = moving_slices(self.model, self.anatomy, arm, heads, self.config.kv_policy)
        before = read_slices(self.model, moving) if arm.start == "theta1" and arm.moves != "all" else {}
        if arm.start == "base":
            self._restore(self.base)
        try:
            started = time.perf_counter()
            if arm.moves != "nothing":
                ids = draw(self.pool_b, cell.n_target, cell.seed)
                rows = self._encode(self.split(cell.target, "train").by_id(ids))
                self._train(arm, heads, rows, cell.lr, cell.seed)
            yield count(self.model, moving), time.perf_counter() - started
        finally:
            if arm.moves == "all":
                self._restore(self.theta1)
            else:
                write_slices(self.model, before)

    def _train(self, arm: Arm, heads: list[Head], rows: Encoded, lr: float, order_seed: int) -> None:
        config = self.config
        recipe = Recipe(lr, config.epochs, config.batch_size, micro_batch=config.micro_batch)
        with trainable(self.model, self.anatomy, arm, heads, config.kv_policy) as (parameters, compact):
            pad = self.loaded.tokenizer.pad_token_id
            write_back = compact.write_back
            if config.checkpointing:
                self.model.gradient_checkpointing_enable({"use_reentrant": False})
            train(self.model, parameters, rows, self.label_tokens, pad, recipe, order_seed, self.autocast, write_back)
        self.model.gradient_checkpointing_disable()

    # ---- stages -----------------------------------------------------------------------------------------------

    @cached_property
    def provenance(self) -> dict:
        """What every JSON file beside the results says of where it came from."""
        data = {f"{language}/{name}": rows.sha256[:16] for (language, name), rows in sorted(self.rows.items())}
        return {
            "model": self.config.model,
            "model_commit": self.loaded.commit,
            "data_sha256": data,
            "versions": versions(),
            "git_commit": git_commit(),
            "device": str(self.device),
            "dtype": self.dtype,
        }

    def theta1_of(self, seed: int) -> dict[str, float]:
        """Put the model into theta1 of `seed`: read it back if it was trained before, else train it.

        Returns what theta1 scores on the source: {"accuracy", "macro_f1", "predictions"...}.
        """
        if self.theta1_seed == seed:
            return self.theta1_scores
        settings = theta1_settings(self.config, self.loaded.weights)
        name = f"{self.config.source}-n{self.config.n_source}-s{seed}-{short_hash(settings)}"
        about_path = self.config.folder / "theta1" / f"{name}.json"
        weights_path = self.config.folder / "cache" / "theta1" / f"{name}.safetensors"
        self.theta1_seed = None
        if about_path.is_file() and weights_path.is_file():
            about = json.loads(about_path.read_text())
            self._restore({key: value.to(self.device) for key, value in load_file(weights_path).items()})
            if weight_hash(self.model) != about["weight_hash"]:
                raise UserError(f"{weights_path} does not hold the weights that {about_path.name} names. Delete both.")
        else:
            about = self._make_competent(seed, settings)
            write_atomic(weights_path, save(self._snapshot()))
            write_json(about_path, about)
        self.theta1, self.theta1_seed, self.theta1_scores = self._snapshot(), seed, about
        return about

    def _make_competent(self, seed: int, settings: dict) -> dict:
        config = self.config
        tqdm.write(f"theta1 of seed {seed}: tuning all weights on {config.n_source} rows of {config.source}")
        self._restore(self.base)
        ids = draw(self.pool_a, config.n_source, seed)
        rows = self._encode(self.split(config.source, "train").by_id(ids))
        started = time.perf_counter()
        self._train(get_arm("full"), [], rows, config.source_lr, seed)
        seconds = time.perf_counter() - started
        predictions, test = self.accuracy(config.source, "test")
        _, valid = self.accuracy(config.source, "valid")
        return {
            "seed": seed,
            **settings,
            "row_ids": ids,
            "test_accuracy": test["accuracy"],
            "test_macro_f1": test["macro_f1"],
            "test_predictions": predictions.digits,
            "valid_accuracy": valid["accuracy"],
            "weight_hash": weight_hash(self.model),
            "train_seconds": round(seconds, 1),
            "peak_memory_mb": peak_memory_mb(self.device),
            "created": now(),
            **self.provenance,
        }

    def relevance_of(self, seed: int, depth: int) -> Relevance:
        """Scores of every head on theta1 of `seed`, with the inner columns that circuits up to `depth` need."""
        config = self.config
        settings = relevance_settings(config, self.loaded.weights)
        name = f"{config.source}-{config.scorer}-s{seed}-{short_hash(settings)}"
        path = config.folder / "relevance" / name
        relevance = None
        if path.with_suffix(".json").is_file() and path.with_suffix(".safetensors").is_file():
            relevance = Relevance.load(path)
        frontiers = [] if relevance is None else self._known_frontiers(relevance, depth)
        if len(frontiers) > depth:
            return relevance
        problem, about = self._problem(seed, settings)
        tqdm.write(f"scores of seed {seed}: {config.scorer} on {len(problem.rows)} rows of {config.source}")
        started = time.perf_counter()
        scorer = get_scorer(config.scorer)
        relevance = scorer(problem, relevance, [])
        k = len(circuit(relevance, 0, config.share)[0])
        frontiers = []
        for _ in range(depth + 1):
            frontiers.append(next_frontier(relevance, frontiers, k))
            if len(frontiers) <= depth:
                relevance = scorer(problem, relevance, frontiers[-1])
        seconds = time.perf_counter() - started
        relevance.about |= about | {"seconds": round(seconds, 1), "created": now(), **self.provenance}
        relevance.save(path)
        return relevance

    def _known_frontiers(self, relevance: Relevance, depth: int) -> list[list[Head]]:
        """As many depths of the circuit as the stored columns allow."""
        k = len(circuit(relevance, 0, self.config.share)[0])
        frontiers: list[list[Head]] = []
        while len(frontiers) <= depth and (not frontiers or set(frontiers[-1]) <= relevance.columns.keys()):
            frontiers.append(next_frontier(relevance, frontiers, k))
        return frontiers

    def _problem(self, seed: int, settings: dict) -> tuple[Problem, dict]:
        """The rows of the mean, and other rows of pool A that theta1 gets right, both balanced over the labels."""
        config, n_labels = self.config, len(self.task.labels)
        self.theta1_of(seed)
        pool = self.split(config.source, "train").by_id(self.pool_a)
        mean_rows = draw_balanced(pool, config.mean_rows // n_labels, n_labels, seed)
        used = {example.id for example in mean_rows}
        rest = [example for example in pool if example.id not in used]
        answers = self.predict(self._encode(rest)).labels
        right = [example for example, answer in zip(rest, answers, strict=True) if example.label == answer]
        scored = draw_balanced(right, config.score_rows // n_labels, n_labels, seed)
        only_right = bool(scored)
        if not only_right:
            # A start so weak that it never gives some label (the paper's case of 50 XNLI rows) is scored all the same.
            scored = draw_balanced(rest, config.score_rows // n_labels, n_labels, seed)
        mean = label_balanced_mean(self.loaded, self._encode(mean_rows), n_labels, config.eval_batch)
        problem = Problem(self.loaded, self._encode(scored), self.label_tokens, mean)
        about = {
            "seed": seed,
            **settings,
            "theta1_hash": self.theta1_scores["weight_hash"],
            "mean_row_ids": [example.id for example in mean_rows],
            "score_row_ids": [example.id for example in scored],
            "only_correct_rows": only_right,
        }
        return problem, about

    def heads_of(self, cell: Cell) -> list[Head]:
        """The heads that the cell tunes, written down as a circuit file; none for arms that choose no heads."""
        if not get_arm(cell.arm).needs_heads:
            return []
        config = self.config
        relevance = self.relevance_of(cell.seed, cell.depth)
        per_group = self.anatomy.heads // self.anatomy.kv_heads
        chosen = select(cell.arm, relevance, cell.depth, config.share, per_group, cell.seed + cell.draw)
        settings = relevance_settings(config, self.loaded.weights) | {"share": config.share}
        draw_name = f"-draw{cell.draw}" if cell.draw else ""
        name = f"{config.source}-{cell.arm}-d{cell.depth}{draw_name}-s{cell.seed}-{short_hash(settings)}"
        content = {"arm": cell.arm, "depth": cell.depth, "seed": cell.seed, "draw": cell.draw, **settings}
        write_json(self.circuits / f"{name}.json", content | {"heads": [str(head) for head in chosen]})
        return chosen

    def _model_name(self) -> str:
        """The hub id with the commit it resolved to, or the name of the local folder or file."""
        name, commit = self.config.model, self.loaded.commit
        return f"{name}@{commit[:12]}" if commit else Path(name).name

    def run(self, cell: Cell, key: str) -> dict[str, object]:
        """Run one cell and return its row."""
        config = self.config
        theta1 = self.theta1_of(cell.seed)
        heads = self.heads_of(cell)
        rows = self.prompts(cell.target, "test")
        with self.tuned(cell, heads) as (trainable_weights, train_seconds):
            started = time.perf_counter()
            predictions, test = self.accuracy(cell.target, "test")
            _, valid = self.accuracy(cell.target, "valid")
            if cell.arm == "zero_shot":
                source_digits, source_accuracy = theta1["test_predictions"], theta1["test_accuracy"]
            else:
                source, source_scores = self.accuracy(config.source, "test")
                source_digits, source_accuracy = source.digits, source_scores["accuracy"]
            eval_seconds = time.perf_counter() - started
        gold = [self.label_tokens[label] for label in rows.labels]
        total = sum(parameter.numel() for parameter in self.model.parameters())
        arm = get_arm(cell.arm)
        return {
            "cell": key,
            "experiment": config.experiment,
            "preset": config.preset,
            "model": self._model_name(),
            "model_hash": self.loaded.weights,
            "task": config.task,
            "source": config.source,
            "target": cell.target,
            "n_source": config.n_source if arm.start == "theta1" else 0,
            "n_target": cell.n_target,
            "arm": cell.arm,
            "depth": cell.depth,
            "draw": cell.draw,
            "scorer": config.scorer if arm.needs_heads else None,
            "lr": None if arm.moves == "nothing" else cell.lr,
            "seed": cell.seed,
            "draw_seed": cell.seed,
            "order_seed": cell.seed,
            "accuracy": round(test["accuracy"], 6),
            "macro_f1": round(test["macro_f1"], 6),
            "full_vocab_accuracy": round(float((predictions.vocabulary == gold).mean()), 6),
            "valid_accuracy": round(valid["accuracy"], 6),
            "source_accuracy": round(source_accuracy, 6),
            "source_accuracy_before": round(theta1["test_accuracy"], 6),
            "heads": len(heads),
            "trainable": trainable_weights,
            "trainable_share": round(trainable_weights / total, 8),
            "predictions": predictions.digits,
            "source_predictions": source_digits,
            "dtype": self.dtype,
            "device": str(self.device),
            "train_seconds": round(train_seconds, 2),
            "eval_seconds": round(eval_seconds, 2),
            "peak_memory_mb": peak_memory_mb(self.device),
            "git_commit": self.provenance["git_commit"],
            "created": now(),
        }


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device '{name}'. Valid: auto, cpu, cuda, cuda:<number>.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda was asked for, but torch sees no GPU here. Use --device cpu.")
    return device
