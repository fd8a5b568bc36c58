"""The method in five calls: load_model, load_task, discover, tune, evaluate.

The same stages as a study's, on one model in memory: the model is as it was after every call, and what a call made is
what it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ctsft.calibration import calibration_error, confidence, fit_temperature
from ctsft.discovery.circuits import heads_per_depth, select
from ctsft.discovery.find import score_to_depth, scoring_rows
from ctsft.discovery.mean import label_balanced_mean
from ctsft.discovery.problem import Problem
from ctsft.discovery.relevance import Relevance
from ctsft.discovery.scorers import get_scorer
from ctsft.errors import UserError
from ctsft.evaluation import Predictions, predict, scores
from ctsft.heads import Head, KVPolicy
from ctsft.models.load import Loaded, weight_hash
from ctsft.report.stats import Interval, mean_interval
from ctsft.study.record import now
from ctsft.tasks.form import form_of
from ctsft.tasks.prompts import Encoded, encode, label_tokens
from ctsft.tasks.registry import get_task
from ctsft.tasks.task import Example, Task, draw, pools
from ctsft.tuning.arms import get_arm, moving_slices, trainable
from ctsft.tuning.delta import HeadDelta
from ctsft.tuning.loop import Recipe, train
from ctsft.tuning.slices import read_slices, write_slices

MAX_TOKENS = 128
EVAL_BATCH = 32
Role = Literal["source", "target"]


def load_task(name: str, data_dir: str | Path | None = None, label_words: Sequence[str] = ()) -> Task:
    """A task by name (nusax, xnli, smsa, demo, demo_entailment), or your own files in the folder DATA_DIR/<name>.

    `label_words` replaces the task's own, one per label. The result reads its rows from `data_dir` from then on.
    """
    folder = None if data_dir is None else Path(data_dir).expanduser()
    task = get_task(name, folder)
    if label_words and len(label_words) != len(task.labels):
        raise UserError(f"label_words needs one word for each of: {', '.join(task.labels)}.")
    more = task.more_source_rows
    return replace(
        task,
        label_words=tuple(label_words) or task.label_words,
        read=lambda language, split, _: task.read(language, split, folder),
        more_source_rows=None if more is None else lambda language, _: more(language, folder),
    )


def training_rows(task: Task, language: str, role: Role, at_least: int = 0) -> list[Example]:
    """The rows that a language may be trained on in its role.

    In a parallel task a source language has pool A and a target language pool B, so that no target row translates a
    source row; otherwise both have all training rows. A source that needs `at_least` more than its pool takes the
    task's further source rows, where it has some.
    """
    rows = task.load(language, "train")
    pool_a, pools_b = pools(task, rows, {language: rows})
    if role == "source" and at_least > len(pool_a) and task.more_source_rows is not None:
        return list(task.more_source_rows(language, None).examples)
    return rows.by_id(pool_a if role == "source" else pools_b[language])


def discover(
    loaded: Loaded,
    task: Task,
    source: str,
    *,
    scorer: str = "cdt",
    depth: int = 2,
    share: float = 0.02,
    mean_rows: int = 48,
    score_rows: int = 48,
    seed: int = 31,
    max_tokens: int = MAX_TOKENS,
) -> Relevance:
    """How relevant is every head to the answer? Scores [layers, heads] on labelled rows of `source`.

    The model should be competent on the source already. `mean_rows` rows make the label-balanced mean, `score_rows`
    others that the model gets right are scored; both are drawn by `seed`. The scores reach as deep as circuits of
    `depth` with `share` of all heads at each depth need. Raises CellFailed where a score is not finite.
    """
    get_scorer(scorer)  # an unknown name shows before anything is computed
    n_labels, anatomy = len(task.labels), loaded.anatomy
    rows = scoring_rows(
        training_rows(task, source, "source"),
        lambda rest: _answers(loaded, task, rest, max_tokens).labels.tolist(),
        n_labels,
        mean_rows,
        score_rows,
        seed,
    )
    encoded = _encode(loaded, task, rows.mean, max_tokens)
    mean = label_balanced_mean(loaded, encoded, n_labels, EVAL_BATCH, get_scorer(scorer).aligned)
    scored = _encode(loaded, task, rows.scored, max_tokens)
    problem = Problem(loaded, scored, label_tokens(loaded.tokenizer, task, loaded.layout), mean)
    relevance = score_to_depth(scorer, problem, None, depth, heads_per_depth(anatomy.n_heads, share))
    relevance.about |= {
        "weights": weight_hash(loaded.model),
        "task": task.name,
        "source": source,
        "scorer": scorer,
        "seed": seed,
        "share": share,
        "depth": depth,
        "mean_row_ids": [example.id for example in rows.mean],
        "score_row_ids": [example.id for example in rows.scored],
        "only_correct_rows": rows.only_right,
        "created": now(),
    }
    return relevance


def choose(
    loaded: Loaded, relevance: Relevance, *, arm: str = "circuit", depth: int = 2, share: float = 0.02, seed: int = 31
) -> list[Head]:
    """The heads of an arm: the circuit of `depth`, or a control with exactly its number of heads and weights."""
    if relevance.logits.shape != (len(loaded.anatomy.layers), loaded.anatomy.heads):
        raise UserError(
            f"the scores are of a model with {relevance.logits.shape[0]} layers of {relevance.logits.shape[1]} heads, "
            f"this one has {len(loaded.anatomy.layers)} of {loaded.anatomy.heads}."
        )
    per_group = loaded.anatomy.heads // loaded.anatomy.kv_heads
    try:
        return select(arm, relevance, depth, share, per_group, seed)
    except KeyError as error:
        raise UserError(
            f"the scores do not reach depth {depth} with share {share}: head {error.args[0]} has none. Discover again "
            "with this depth and share."
        ) from error


def tune(
    loaded: Loaded,
    task: Task,
    language: str,
    *,
    arm: str = "circuit",
    heads: Sequence[Head] = (),
    rows: int | None = None,
    role: Role = "target",
    recipe: Recipe = Recipe(),  # noqa: B008, a frozen dataclass
    kv_policy: KVPolicy = "shared",
    seed: int = 31,
    max_tokens: int = MAX_TOKENS,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> HeadDelta:
    """Tune on `rows` labelled rows of `language` (all, without a number) and return what changed.

    `arm`: circuit, near_zero, bottom or random tune the norms and `heads` (see `choose`), norm_only the norms, full all
    weights. `role`: make a model competent on a "source", or adapt it to a "target"; see `training_rows`. The
    validation split then gives the delta its metrics and its temperature (see `ctsft.calibration`). `dtype` is that of
    the computation; weights are float32, and auto is bfloat16 on a GPU. Raises CellFailed where the loss explodes.
    """
    chosen = get_arm(arm)
    if chosen.moves == "nothing" or chosen.start == "base":
        raise UserError(f"the arm '{arm}' tunes nothing of this model. To tune all weights of a base model, use full.")
    if not chosen.plain:
        raise UserError(
            f"the arm '{arm}' is a baseline of the experiment scripts; here circuit, norm_only or full tune."
        )
    if chosen.needs_heads != bool(heads):
        raise UserError(
            f"the arm '{arm}' needs {'heads: see discover and choose' if chosen.needs_heads else 'no heads'}."
        )
    model, device = loaded.model, next(loaded.model.parameters()).device
    examples = training_rows(task, language, role, rows or 0)
    ids = draw([e.id for e in examples], len(examples) if rows is None else rows, seed)
    by_id = {example.id: example for example in examples}
    encoded = _encode(loaded, task, [by_id[i] for i in ids], max_tokens)
    tokens = label_tokens(loaded.tokenizer, task, loaded.layout)
    low = dtype == "bfloat16" or (dtype == "auto" and device.type == "cuda")
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=low)
    base = weight_hash(model)
    moving = moving_slices(model, loaded.anatomy, chosen, list(heads), kv_policy)
    before = read_slices(model, moving)
    try:
        with trainable(model, loaded.anatomy, chosen, list(heads), kv_policy) as (parameters, compact):
            train(model, parameters, encoded, tokens, loaded.layout, recipe, seed, autocast, compact.write_back)
        delta = HeadDelta.of(model, moving, base)
        found = evaluate(loaded, task, language, split="valid", max_tokens=max_tokens)
    finally:
        write_slices(model, before)
    temperature = fit_temperature(found.predictions.logits, found.gold)
    delta.about.update(
        task=form_of(task),
        model=loaded.name,
        language=language,
        arm=arm,
        heads=[str(head) for head in heads],
        kv_policy=kv_policy if chosen.needs_heads else None,
        rows=len(ids),
        row_ids=ids,
        recipe=asdict(recipe),
        seed=seed,
        dtype="bfloat16" if low else "float32",
        max_tokens=max_tokens,
        temperature=temperature,
        metrics={
            "split": "valid",
            "rows": len(found.gold),
            "accuracy": found.accuracy.value,
            "macro_f1": found.macro_f1,
            "calibration_error_uncalibrated": found.calibration_error,
        },
        created=now(),
    )
    return delta


@dataclass(frozen=True)
class Evaluation:
    """Answers and labels [N] of one split; confidences are those at `temperature`."""

    predictions: Predictions
    gold: np.ndarray
    temperature: float = 1.0

    @property
    def accuracy(self) -> Interval:
        """A fraction with its 95 % interval (bootstrap over rows)."""
        return mean_interval((self.predictions.labels == self.gold)[None].astype(float))

    @property
    def macro_f1(self) -> float:
        return scores(self.predictions.labels.tolist(), self.gold.tolist())["macro_f1"]

    @property
    def majority(self) -> float:
        """What always giving the commonest label would score."""
        return float(np.bincount(self.gold).max() / len(self.gold))

    @property
    def confidence(self) -> np.ndarray:
        """Probability of each answer among the label words, [N]."""
        return confidence(self.predictions.logits, self.temperature)

    @property
    def calibration_error(self) -> float:
        return calibration_error(self.confidence, self.predictions.labels == self.gold)

    def __str__(self) -> str:
        value, low, high = self.accuracy
        return (
            f"accuracy {value:.3f} [{low:.3f}, {high:.3f}], macro-F1 {self.macro_f1:.3f}, majority class "
            f"{self.majority:.3f}, {len(self.gold)} rows"
        )


def evaluate(
    loaded: Loaded,
    task: Task,
    language: str,
    *,
    split: str = "test",
    temperature: float = 1.0,
    max_tokens: int = MAX_TOKENS,
) -> Evaluation:
    """Answer every row of a split with the model as it is now; use `with delta.on(model.model):` around it."""
    rows = task.load(language, split).examples
    return Evaluation(
        _answers(loaded, task, rows, max_tokens), np.array([example.label for example in rows]), temperature
    )


def _answers(loaded: Loaded, task: Task, rows: Sequence[Example], max_tokens: int) -> Predictions:
    """In float32, whatever the model was tuned in."""
    device = next(loaded.model.parameters()).device
    encoded = _encode(loaded, task, rows, max_tokens)
    exact = torch.autocast(device.type, torch.bfloat16, enabled=False)
    tokens = label_tokens(loaded.tokenizer, task, loaded.layout)
    return predict(loaded.model, encoded, tokens, loaded.layout, EVAL_BATCH, exact)


def _encode(loaded: Loaded, task: Task, rows: Sequence[Example], max_tokens: int) -> Encoded:
    longest = getattr(loaded.model.config, "max_position_embeddings", max_tokens)
    longest -= loaded.layout.first_position
    if max_tokens > longest:
        raise UserError(f"max_tokens is {max_tokens}, but this model's positions end at {longest}.")
    return encode(loaded.tokenizer, task, rows, max_tokens, loaded.layout)
