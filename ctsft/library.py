"""The method in five calls: load_model, load_task, discover, tune, evaluate.

The same stages as a study's, on one model in memory: the model is as it was after every call, and what a call made is
what it returns. `load_model` is in ctsft/models/load.py, `evaluate` in ctsft/answers.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

from ctsft.answers import EVAL_BATCH, answer, encode_rows, evaluate
from ctsft.calibration import fit_temperature
from ctsft.discovery.circuits import PAPERS_DEPTH, PAPERS_SHARE, SELECTIONS, check_size, heads_per_depth, select
from ctsft.discovery.find import score_to_depth, scoring_rows
from ctsft.discovery.relevance import SCORE_ROWS, Relevance
from ctsft.discovery.scorers import get_scorer
from ctsft.errors import UserError, refuse_negative_seed, refuse_other
from ctsft.heads import Head, KVPolicy
from ctsft.models.load import Loaded, weight_hash
from ctsft.models.precision import Asked, autocast, note_on, resolved
from ctsft.provenance import now
from ctsft.tasks.checks import findings
from ctsft.tasks.form import form_of
from ctsft.tasks.prompts import label_tokens
from ctsft.tasks.registry import data_folder, get_task
from ctsft.tasks.role import Role, drawn_rows, training_rows
from ctsft.tasks.task import MAX_TOKENS, SEED, SPLITS, Task, check_aligned
from ctsft.tuning.arms import check_control, moving_slices, plain_arm, trainable
from ctsft.tuning.delta import HeadDelta
from ctsft.tuning.loop import Gradients, Recipe, train
from ctsft.tuning.slices import put_back


def load_task(name: str, data_dir: str | Path | None = None, label_words: Sequence[str] = ()) -> Task:
    """A task by name (nusax, xnli, smsa, demo, demo_entailment), or your own files in the folder `data_dir`/<name>.

    `label_words` replaces the task's own, one per label. The result reads its rows from `data_dir` from then
    on (else from CTSFT_DATA_DIR; else published data are downloaded). Raises UserError for an unknown name, files that
    cannot be read, and another number of words.
    """
    folder = data_folder(data_dir)
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


def check(task: Task, source: str, targets: Sequence[str] = ()) -> list[str]:
    """What is odd about the rows of your own task, one sentence each; empty where nothing is.

    Texts in two splits, source rows that are nearly target rows, unequal or scarce labels, too few test rows: see
    docs/your_language.md. Published data sets were looked at when their task was added. Raises UserError where a split
    is missing, a row cannot be read, or languages that are declared parallel are not (beside `targets`, the task's
    first two languages).
    """
    if task.published:
        return []
    others = dict.fromkeys((*targets, *task.languages[:2])) if task.parallel else ()
    for other, split in product(others, SPLITS):
        check_aligned(task.load(source, split), task.load(other, split))
    rows = {pair: task.load(*pair).examples for pair in product((source, *targets), SPLITS)}
    return findings(task, source, targets, rows)


def discover(
    loaded: Loaded,
    task: Task,
    source: str,
    *,
    scorer: str = "cdt",
    depth: int = PAPERS_DEPTH,
    share: float = PAPERS_SHARE,
    mean_rows: int = 48,
    score_rows: int = SCORE_ROWS,
    seed: int = SEED,
    max_tokens: int = MAX_TOKENS,
) -> Relevance:
    """How relevant is every head to the answer? Scores [layers, heads] on labelled rows of `source`.

    The model should be competent on the source already. `mean_rows` rows make the label-balanced mean, `score_rows`
    others that the model gets right are scored; both are drawn by `seed`. The scores reach as deep as circuits of
    `depth` with `share` of all heads at each depth need. Raises UserError for fewer rows than labels and for a circuit
    larger than the model, CellFailed where a score is not finite.
    """
    # What is wrong with a setting shows before anything is computed.
    get_scorer(scorer)
    n_labels, anatomy = len(task.labels), loaded.anatomy
    for name, number in (("mean_rows", mean_rows), ("score_rows", score_rows)):
        if number < n_labels:
            raise UserError(f"{name} is {number}; it must be at least {n_labels}, so that every label has a row.")
    check_size(anatomy.n_heads, depth, share)
    rows = scoring_rows(
        training_rows(task, source, "source"),
        lambda rest: answer(loaded, task, rest, max_tokens).labels.tolist(),
        n_labels,
        mean_rows,
        score_rows,
        seed,
    )
    tokens = label_tokens(loaded.tokenizer, task, loaded.layout)
    for note in rows.oddities(n_labels * (score_rows // n_labels)):
        warnings.warn(note, stacklevel=2)
    problem = rows.problem(loaded, lambda part: encode_rows(loaded, task, part, max_tokens), tokens, EVAL_BATCH, scorer)
    relevance = score_to_depth(scorer, problem, None, depth, heads_per_depth(anatomy.n_heads, share))
    relevance.about |= {
        "model": loaded.name,
        "weights": weight_hash(loaded.model),
        "task": form_of(task),
        "max_tokens": max_tokens,
        "source": source,
        "scorer": scorer,
        "seed": seed,
        "share": share,
        "depth": depth,
        **rows.about,
        "created": now(),
    }
    return relevance


def choose(
    loaded: Loaded,
    relevance: Relevance,
    *,
    arm: str = "circuit",
    depth: int = PAPERS_DEPTH,
    share: float = PAPERS_SHARE,
    seed: int = SEED,
) -> list[Head]:
    """The heads of an arm: the circuit of `depth`, or a control with exactly its number of heads and weights.

    Warns where the scores were made on other weights than the model has now.
    """
    if relevance.logits.shape != (len(loaded.anatomy.layers), loaded.anatomy.heads):
        raise UserError(
            f"the scores are of a model with {relevance.logits.shape[0]} layers of {relevance.logits.shape[1]} heads, "
            f"this one has {len(loaded.anatomy.layers)} of {loaded.anatomy.heads}."
        )
    if (made_on := relevance.about.get("weights")) and made_on != weight_hash(loaded.model):
        warnings.warn("the scores were made on other weights than this model's", stacklevel=2)
    if arm not in SELECTIONS:
        raise UserError(f"no heads are chosen for an arm '{arm}'. Valid: {', '.join(SELECTIONS)}.")
    check_size(loaded.anatomy.n_heads, depth, share)
    refuse_negative_seed(seed)
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
    seed: int = SEED,
    max_tokens: int = MAX_TOKENS,
    dtype: Asked = "auto",
) -> HeadDelta:
    """Tune on `rows` labelled rows of `language` (all, without a number) and return what changed.

    `arm`: circuit, near_zero, bottom or random tune the norms and `heads` (see `choose`), norm_only the norms, full all
    weights. `role`: make a model competent on a "source", or adapt it to a "target"; see `training_rows`. The
    validation split then gives the delta its metrics and its temperature (see `ctsft.calibration`). `dtype` is that of
    the computation; weights are float32, and auto is bfloat16 on a GPU. Raises CellFailed where the loss explodes.
    """
    chosen, heads = plain_arm(arm), [Head(*head) for head in heads]
    refuse_other("kv_policy", kv_policy, KVPolicy)
    refuse_other("dtype", dtype, Asked)
    if chosen.needs_heads != bool(heads):
        needed = "heads: see discover and choose" if chosen.needs_heads else "no heads"
        raise UserError(f"the arm '{arm}' needs {needed}.")
    check_control(chosen, loaded.anatomy, kv_policy)
    model, device = loaded.model, next(loaded.model.parameters()).device
    drawn = drawn_rows(training_rows(task, language, role, rows or 0), rows, seed)
    encoded = encode_rows(loaded, task, drawn, max_tokens)
    tokens = label_tokens(loaded.tokenizer, task, loaded.layout)
    task.load(language, "valid")  # a split that cannot be read shows before anything is tuned
    precision = resolved(dtype, device)
    if note := note_on(precision, device):
        warnings.warn(note, stacklevel=2)
    base, moving = weight_hash(model), moving_slices(model, loaded.anatomy, chosen, heads, kv_policy)
    with put_back(model, moving):
        with trainable(model, loaded.anatomy, chosen, heads, kv_policy) as (parameters, compact):
            size = recipe.micro_batch
            gradients = Gradients(model, parameters, encoded, tokens, loaded.layout, autocast(precision, device), size)
            train(gradients, recipe, seed, compact.write_back)
        settings = {
            "task": form_of(task),
            "model": loaded.name,
            "language": language,
            "role": role,
            "arm": arm,
            "heads": [str(head) for head in heads],
            "kv_policy": kv_policy if chosen.needs_heads else None,
            "rows": len(drawn),
            "row_ids": [example.id for example in drawn],
            "recipe": asdict(recipe),
            "seed": seed,
            "dtype": precision,
            "max_tokens": max_tokens,
        }
        found = _validated(loaded, task, language, max_tokens)
        return HeadDelta.of(model, moving, base, {**settings, **found, "created": now()})


def _validated(loaded: Loaded, task: Task, language: str, max_tokens: int) -> dict[str, object]:
    """Metrics on the validation split, and the temperature that makes its confidences true."""
    found = evaluate(loaded, task, language, split="valid", max_tokens=max_tokens)
    metrics = {
        "split": "valid",
        "rows": len(found.gold),
        "accuracy": found.accuracy.value,
        "macro_f1": found.macro_f1,
        "calibration_error_uncalibrated": found.calibration_error,
    }
    return {"temperature": fit_temperature(found.predictions.logits, found.gold), "metrics": metrics}
