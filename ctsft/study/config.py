"""The one configuration of a study: validated, and written beside every result."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from tyro.conf import Suppress

from ctsft.discovery.circuits import PAPERS_SHARE
from ctsft.discovery.relevance import SCORE_ROWS, Ties
from ctsft.discovery.scorers import get_scorer
from ctsft.errors import UserError
from ctsft.heads import KVPolicy
from ctsft.study.flags import arm_depths, refuse_shared_draws
from ctsft.tasks import registry
from ctsft.tasks.task import Task
from ctsft.tuning.arms import get_arm

Item = TypeVar("Item")


@dataclass(frozen=True)
class StudyConfig:
    """What to run. Every field is a flag of the experiment scripts."""

    experiment: str
    """Name of the CSV: results/<preset>/<experiment>.csv."""
    preset: str
    """Name of the results folder."""
    task: str
    """Registered task, or a folder in --data-dir that holds your own files."""
    source: str
    """Language the model is made competent on, and the circuit is found in."""
    targets: tuple[str, ...]
    """Languages to adapt to."""
    model: str
    """Hub id, local folder, or .gguf file."""
    n_source: int
    """Labelled source rows for competence, from pool A (training rows that are no target's); or from further rows."""
    label_words: tuple[str, ...] = ()
    """One word per label, each a single token after the prompt; without them, the task's own."""
    revision: str | None = None
    """Hub revision of the model; without one the resolved commit is recorded."""
    n_targets: tuple[int, ...] = (25, 50, 75, 100)
    """Labelled target rows, drawn from pool B (training rows that are no source's); the fewer are among the more."""
    arms: tuple[str, ...] = ("zero_shot", "full", "direct", "circuit", "near_zero", "random", "norm_only")
    """Arms, baselines too (docs/arms.md); `circuit:0,2` runs one at its own depths instead of --depths."""
    depths: tuple[int, ...] = (0, 1, 2)
    """Depths of the circuit and of the controls of its size: K, 2K, 3K heads, with K a share (--shares) of all."""
    seeds: tuple[int, ...] = (31, 777, 2025, 12345)
    """A seed draws the rows and orders them."""
    lrs: tuple[float, ...] = (5e-5,)
    """Learning rates of the target stage; each is a cell of its own."""
    source_lr: float = 5e-5
    """Learning rate of the competence stage."""
    source_epochs: int | None = None
    """Epochs of the competence stage; without it --epochs."""
    source_batch_size: int | None = None
    """Rows per optimizer step of the competence stage; without it --batch-size."""
    epochs: int = 5
    """Epochs of the target stage."""
    batch_size: int = 16
    """Rows per optimizer step."""
    eval_batch: int = 32
    """Rows per forward pass in evaluation. In float32 it changes no prediction; in bfloat16 one at a tie may change."""
    micro_batch: int = 4
    """Rows per forward and backward pass in training; does not change the gradient."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time, the same gradient."""
    max_tokens: int = 128
    """Longest prompt; the text is cut, never the label field."""
    scorer: str = "cdt"
    """cdt (the paper's), cdt_linear (one backward pass), magnitude, attribution or ablation; or cdt+pattern+pooled."""
    ties: Ties = "logits"
    """What breaks ties between heads of equal relevance to inner heads: that to the logits, or index (their place)."""
    shares: tuple[float, ...] = (PAPERS_SHARE,)
    """Share of all heads in one depth of the circuit; each is a cell of its own."""
    mean_rows: int = 48
    """Source rows of the label-balanced mean."""
    score_rows: int = SCORE_ROWS
    """Correctly predicted source rows to score on."""
    pool: Literal["disjoint", "shared"] = "disjoint"
    """Whether the scored rows are other rows than those of the mean, or some of them."""
    kv_policy: KVPolicy = "shared"
    """Keys and values: shared (those of a chosen head's group move), all (of wholly chosen groups), or frozen."""
    random_draws: int = 1
    """Draws of the random control per seed."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the computation (weights stay float32); auto is bfloat16 on a GPU, float32 on a CPU."""
    deterministic: bool = False
    # Like micro_batch, no part of a cell's key.
    """Only torch's deterministic algorithms: on a GPU the same bits, slower; an operation without one ends the run."""
    data_dir: Path | None = None
    """Folder with the data; without it (and without CTSFT_DATA_DIR) the data are downloaded."""
    output: Path = Path("results")
    """Results folder."""
    probes: tuple[str, ...] = ()
    """Related tests that every cell answers before and after tuning, each as task/language (smsa/indonesian)."""
    by_epoch: bool = False
    """With --probes: answer the target's and the source's test rows after every epoch too."""
    executor: Literal["local", "ray"] = "local"
    """Where cells run: in this process, or as tasks of a Ray cluster (pip install -e '.[ray]')."""
    ray_address: str | None = None
    """Address of a running Ray cluster, or auto; without one, Ray starts on this machine."""
    cell_cpus: float = 1
    """CPUs that a Ray task asks for; torch uses as many threads."""
    cell_gpus: float = 0
    """GPUs that a Ray task asks for; 0.5 puts two cells on one."""
    cell_memory_gb: float = 0
    """Memory that a Ray task asks for; 0 asks for none."""
    shard: str | None = None
    """i/k: run only the i-th of k parts of the cells, for array jobs; all parts share one results folder."""
    bystanders: tuple[str, ...] = ()
    """Related tests, as in --probes: cells at the rate that validation prefers also leave measures/<cell>.json."""
    dry_run: bool = False
    """Print the cells, how many are done, and an estimate of time, disk and the best number of workers; run nothing."""

    def __post_init__(self) -> None:
        for name in ("data_dir", "output"):
            if isinstance(value := getattr(self, name), str):  # as a script may write it
                object.__setattr__(self, name, Path(value))
        task = self.effective_task
        for language in (self.source, *self.targets):
            if language not in task.languages:
                raise UserError(f"unknown language '{language}' for {self.task}. Valid: {', '.join(task.languages)}.")
        if len(task.label_words) != len(task.labels):
            raise UserError(f"--label-words needs one word for each of: {', '.join(task.labels)}.")
        for name in ("experiment", "preset"):
            if not re.fullmatch(r"[\w-]+", getattr(self, name)):
                raise UserError(f"the {name} '{getattr(self, name)}' names files: use letters, digits, _ and - alone.")
        if self.source in self.targets:
            raise UserError(f"the source '{self.source}' is also a target; leave it out of --targets.")
        get_scorer(self.scorer)
        for name, low in {
            "n_source": 1,
            "epochs": 1,
            "batch_size": 1,
            "eval_batch": 1,
            "micro_batch": 1,
            "max_tokens": 2,
            "mean_rows": len(task.labels),
            "score_rows": len(task.labels),
            "random_draws": 1,
            "source_epochs": 1,
            "source_batch_size": 1,
        }.items():
            if (value := getattr(self, name)) is not None and value < low:
                raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least {low}.")
        for name in ("targets", "n_targets", "arms", "depths", "seeds", "lrs", "shares"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise UserError(f"--{name.replace('_', '-')} needs at least one value, and each only once.")
        if min(self.n_targets) < 1:
            raise UserError("--n-targets must lie above 0.")
        if min(self.depths) < 0 or min(self.seeds) < 0:
            raise UserError("--depths and --seeds must not be negative.")
        if not all(0 < lr < inf for lr in (*self.lrs, self.source_lr)):
            raise UserError("--lrs and --source-lr must be finite numbers above zero.")
        if not all(0 < share <= 1 for share in self.shares):
            raise UserError(f"--shares is {self.shares}; each must lie in (0, 1].")
        for probe in (*self.probes, *self.bystanders):
            name, _, language = probe.partition("/")
            languages = registry.get_task(name, self.data_folder).languages
            if language not in languages:
                raise UserError(f"unknown probe '{probe}'. Give task/language; {name} has: {', '.join(languages)}.")
        if self.executor == "local" and self.ray_address is not None:
            raise UserError("--ray-address needs --executor ray.")
        if min(self.cell_cpus, self.cell_gpus, self.cell_memory_gb) < 0:
            raise UserError("--cell-cpus, --cell-gpus and --cell-memory-gb must not be negative.")
        if any(get_arm(arm).heads == "random" for arm, _ in self.arm_depths()):
            refuse_shared_draws(self.seeds, self.random_draws)
        self.part(())
        if self.by_epoch and not self.probes:
            raise UserError("--by-epoch needs --probes: its measurements are kept beside theirs.")

    def arm_depths(self) -> list[tuple[str, int | None]]:
        """Every (arm, depth) to run; the depth is None for arms that choose no heads."""
        return arm_depths(self.arms, self.depths)

    def part(self, cells: Sequence[Item]) -> Sequence[Item]:
        """The cells of this shard: neighbours in the grid, because they share theta1 and scores."""
        if self.shard is None:
            return cells
        number, slash, of = self.shard.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise UserError(f"--shard is '{self.shard}'; give i/k with i from 1 to k, as in 2/8.")
        first, last = (len(cells) * i // int(of) for i in (int(number) - 1, int(number)))
        return cells[first:last]

    @cached_property
    def effective_task(self) -> Task:
        """The task, with --label-words in place of its own words where they are given."""
        task = registry.get_task(self.task, self.data_folder)
        return replace(task, label_words=self.label_words) if self.label_words else task

    def __getstate__(self) -> dict:
        """Without the task, which other machines read again: one of the user's own holds its open tables."""
        return {name: value for name, value in vars(self).items() if name != "effective_task"}

    @property
    def data_folder(self) -> Path | None:
        """--data-dir, else CTSFT_DATA_DIR, else None (download)."""
        return registry.data_folder(self.data_dir)

    @property
    def folder(self) -> Path:
        return self.output / self.preset

    def to_dict(self) -> dict:
        """For the record: folders by their last name, because the rest belongs to one machine."""
        return {key: value.name if isinstance(value, Path) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class OneProcess(StudyConfig):
    """For measurements that are no grid of cells: they run in one process, without flags that spread or probe cells."""

    executor: Annotated[Literal["local", "ray"], Suppress] = "local"
    ray_address: Annotated[str | None, Suppress] = None
    cell_cpus: Annotated[float, Suppress] = 1
    cell_gpus: Annotated[float, Suppress] = 0
    cell_memory_gb: Annotated[float, Suppress] = 0
    shard: Annotated[str | None, Suppress] = None
    bystanders: Annotated[tuple[str, ...], Suppress] = ()
    probes: Annotated[tuple[str, ...], Suppress] = ()
    by_epoch: Annotated[bool, Suppress] = False
    dry_run: bool = False
    """Print how many sets of heads (script 05), cells (07) or chains (08) there are, and how many are left."""
