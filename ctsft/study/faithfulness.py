"""Which heads are the mechanism? Faithfulness by scorer and size, and the scores that stability rests on (script 05).

Everything is asked on validation rows, which no score has seen; heads are put to the mean that discovery uses.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from tqdm import tqdm
from tyro.conf import Suppress

from ctsft.discovery.circuits import PAPERS_DEPTH
from ctsft.discovery.faithfulness import heads_at_mean, margins, marked
from ctsft.discovery.mean import LabelBalancedMean
from ctsft.discovery.relevance import Relevance
from ctsft.discovery.scorers import get_scorer
from ctsft.errors import CellFailed, OutOfMemory, UserError
from ctsft.heads import Head
from ctsft.memory import failing_without_memory
from ctsft.provenance import now
from ctsft.study.beside import write_settings
from ctsft.study.circuit_stage import problem_of, relevance_of
from ctsft.study.config import OneProcess
from ctsft.study.flags import refuse_shared_draws
from ctsft.study.head_sets import HeadSet, heads_of_set, plan, tuned_sets
from ctsft.study.known import CIRCUITS, run_known
from ctsft.study.opening import Printed, keep_data, opened, run_alone
from ctsft.study.other_maps import maps_from, other_starts, stability_maps
from ctsft.study.record import KNOWN, SET_COLUMNS, SETS, append_rows, read_rows
from ctsft.study.workbench import Workbench
from ctsft.tasks.task import digits


@dataclass(frozen=True)
class FaithfulnessConfig(OneProcess):
    """What to measure. `scorer` is the one whose circuit is compared with controls and other rows."""

    scorers: tuple[str, ...] = ("cdt", "cdt_linear", "magnitude", "attribution", "ablation")
    """Scorers whose curves are drawn, with options as in cdt+pattern+pooled."""
    sizes: tuple[float, ...] = (0.02, 0.04, 0.06, 0.1, 0.2, 0.4, 0.6, 0.8)
    """Share of all heads in a set."""
    matched_sizes: tuple[float, ...] = (0.06, 0.2, 0.4)
    """Sizes at which random sets of the same layers are drawn, --random-draws of each."""
    random_draws: int = 20
    """Random sets of the same size and layers, for each size of --matched-sizes."""
    row_counts: tuple[int, ...] = (8, 16, 48, 96)
    """Numbers of scored rows at which the circuit is found again (its stability)."""
    other_sources: tuple[str, ...] = ()
    """Languages that theta1 is tuned on as well, to compare circuits: does the source matter?"""
    checkpoints: tuple[int, ...] = ()
    """Numbers of source rows that theta1 is tuned on as well, to compare circuits: does competence matter?"""
    known: tuple[str, ...] = ()
    """Models whose circuits are known: planted, induction (trained here in minutes), ioi (GPT-2, from the hub)."""
    known_seeds: tuple[int, ...] = ()
    """Seeds of those, which cost no theta1, so there may be more of them; without any, those of the study."""
    arms: Annotated[tuple[str, ...], Suppress] = ("circuit",)
    n_targets: Annotated[tuple[int, ...], Suppress] = (1,)
    depths: Annotated[tuple[int, ...], Suppress] = (PAPERS_DEPTH,)
    lrs: Annotated[tuple[float, ...], Suppress] = (5e-5,)
    kv_policy: Annotated[str, Suppress] = "shared"
    shares: Annotated[tuple[float, ...], Suppress] = OneProcess.shares

    def __post_init__(self) -> None:
        super().__post_init__()
        for scorer in self.scorers:
            get_scorer(scorer)
        if self.scorer not in self.scorers:
            raise UserError(f"--scorer is {self.scorer}, which must be one of --scorers: {', '.join(self.scorers)}.")
        if self.shares != OneProcess.shares:  # a set is known by its size, which is another number of depths then
            share = OneProcess.shares[0]
            raise UserError(f"circuits are asked about at {share:.0%} of the heads a depth; --sizes asks about others.")
        refuse_shared_draws(self.seeds, self.random_draws)
        for name in self.known:
            if name not in CIRCUITS:
                raise UserError(f"unknown circuit '{name}' in --known. Valid: {', '.join(CIRCUITS)}.")
        fewest = len(self.effective_task.labels)
        if min(self.row_counts, default=fewest) < fewest:
            raise UserError(
                f"--row-counts has {min(self.row_counts)}; {self.task} needs {fewest}, a row of every label."
            )
        if not all(0 < size < 1 for size in (*self.sizes, *self.matched_sizes)):
            raise UserError("--sizes and --matched-sizes are shares of all heads and lie between 0 and 1.")


class Asked:
    """The sets of one seed, asked one after the other; finished ones are in the file already."""

    def __init__(self, bench: Workbench, seed: int):
        self.bench, self.seed = bench, seed
        self.config: FaithfulnessConfig = bench.config
        self.theta1 = bench.theta1_of(seed)
        self.maps: dict[str, Relevance] = {}
        self.tuned = tuned_sets(bench, seed)
        self.mean: LabelBalancedMean | None = None

    def key(self, wanted: HeadSet) -> str:
        return wanted.key(self.config, self.bench.loaded.weights)

    def is_another_theta1(self, known: Sequence[dict[str, str]], mine: Sequence[HeadSet]) -> bool:
        """Whether earlier runs asked some of these sets of another theta1 than ours (another machine's)."""
        keys = {self.key(wanted) for wanted in mine}
        return any(row["theta1"] != self.theta1["weight_hash"] for row in known if row["set"] in keys)

    def ends(self) -> list[HeadSet]:
        """No head and all heads, of the theta1 that circuits were tuned from."""
        source, theta1 = self.config.source, f"theta1-{self.theta1['weight_hash']}"
        sizes = {"none": 0, "all": self.bench.anatomy.n_heads}
        return [HeadSet(source, self.seed, name, size=size, circuit=theta1) for name, size in sizes.items()]

    def map_of(self, scorer: str) -> Relevance:
        """The scores of `scorer`."""
        if scorer not in self.maps:
            config = replace(self.config, scorer=scorer)
            depth = PAPERS_DEPTH if scorer == self.config.scorer else 0
            self.maps[scorer] = relevance_of(self.bench, config, self.seed, depth, config.shares[0])
        return self.maps[scorer]

    def heads_of(self, wanted: HeadSet) -> list[Head]:
        if wanted in self.tuned:
            return self.tuned[wanted].heads
        return heads_of_set(wanted, self.map_of(wanted.scorer), self.config.shares[0])

    def _score_rows(self, wanted: HeadSet) -> int | None:
        if wanted in self.tuned:
            return self.tuned[wanted].score_rows
        return self.config.score_rows if wanted.scorer else None

    def ask(self, wanted: HeadSet) -> dict[str, object]:
        """The row of one set: accuracy and mean margin on the validation rows, or why there is none."""
        bench, shape = self.bench, (len(self.bench.anatomy.layers), self.bench.anatomy.heads)
        if self.mean is None:
            # One mean for all scorers, aligned by offset, so that only the choice of heads differs.
            self.mean = problem_of(bench, replace(self.config, scorer="cdt", scorers=("cdt",)), self.seed)[0].mean
        started = time.perf_counter()
        rows, answers, error = bench.prompts(wanted.language, "valid"), None, None
        try:
            if wanted.selection in ("none", "all"):
                kept = np.full(shape, wanted.selection == "all")
            else:
                kept = marked(self.heads_of(wanted), shape)
            out = kept if wanted.direction == "knock_out" else ~kept
            with failing_without_memory(), heads_at_mean(bench.loaded, self.mean, out):
                answers = bench.predict(rows)
        except OutOfMemory:  # with more of it there may be a row, so none is written now
            raise
        except CellFailed as reason:
            error = str(reason)
        by_row = margins(answers.logits, rows.labels) if answers else None
        return {
            "set": self.key(wanted),
            "preset": self.config.preset,
            "model": bench.loaded.name,
            "model_hash": bench.loaded.weights,
            "theta1": self.theta1["weight_hash"],
            "task": self.config.task,
            "source": self.config.source,
            "score_rows": self._score_rows(wanted),
            **wanted._asdict(),
            "heads": bench.anatomy.n_heads,
            "accuracy": round(float((answers.labels == np.array(rows.labels)).mean()), 6) if answers else None,
            "margin": round(float(by_row.mean()), 6) if answers else None,
            "answers": digits(answers.labels) if answers else None,
            "margins": " ".join(f"{value:.4g}" for value in by_row) if answers else None,
            "error": error,
            "dtype": self.config.dtype,
            "device": str(bench.device),
            "seconds": round(time.perf_counter() - started, 2),
            "git_commit": bench.provenance["git_commit"],
            "created": now(),
        }


@run_alone
def run_faithfulness(config: FaithfulnessConfig, table: Printed) -> int:
    """Ask every set that no earlier run has asked; the rows go to results/<preset>/<experiment>.sets.csv.

    Returns the exit status: 1 when a seed, or a score on a known circuit, failed, else 0.
    """
    path = config.folder / f"{config.experiment}{SETS}"
    bench = opened(config)
    config = bench.config
    starts = other_starts(config)
    known = read_rows(path, SET_COLUMNS)
    finished = {row["set"] for row in known}
    todo = [wanted for seed in config.seeds for wanted in plan(config, seed, bench.anatomy.n_heads)]
    left = sum(wanted.key(config, bench.loaded.weights) not in finished for wanted in todo)
    # Circuits that cells tuned come on top; which ones are theta1's is known once there is a theta1.
    print(
        f"{len(todo)} sets of heads, {left} left to ask on {bench.device} in {config.dtype}, besides newly tuned "
        f"circuits; rows: {path}"
    )
    if config.dry_run:
        return 0
    languages = (config.source, *config.targets)
    keep_data(bench, {f"{config.task}/{name}:valid": bench.split(name, "valid") for name in languages})
    failed = 0
    with tqdm(todo, unit="set", disable=None) as bar:
        for seed in config.seeds:
            try:
                _ask_all(bench, seed, [wanted for wanted in todo if wanted.seed == seed], known, bar)
            except CellFailed as error:  # theta1 diverged, or the scores of the main scorer: other seeds may do
                failed += 1
                print(f"failed: seed {seed}: {error}", file=sys.stderr)
    maps_from(starts)
    kept, seeds = config.folder / f"{config.experiment}{KNOWN}", config.known_seeds or config.seeds
    try:
        failed += run_known(kept, config.known, config.scorers, seeds)
    finally:
        print(f"\n{table(config.folder)}\n\nrows: {path}")
    return 1 if failed else 0


def _ask_all(bench: Workbench, seed: int, mine: Sequence[HeadSet], known: Sequence[dict[str, str]], bar: tqdm) -> None:
    """The sets `mine` of one seed, of which the rows `known` are finished, and those that cells of the folder tuned."""
    config, path = bench.config, bench.config.folder / f"{bench.config.experiment}{SETS}"
    asked, finished = Asked(bench, seed), {row["set"] for row in known}
    again = asked.is_another_theta1(known, mine)
    # A curve has one theta1: what another machine has begun is not completed on ours.
    if again and any(asked.key(wanted) not in finished for wanted in mine):
        tqdm.write(
            f"seed {seed}: sets of another theta1 are in {path}, so the others are not asked of ours "
            f"({asked.theta1['weight_hash']}). Give another --output to ask all of them of it."
        )
    tuned = (*asked.tuned, *(asked.ends() if asked.tuned else ()))
    wanted_here = tuned if again else (*mine, *asked.tuned)
    if any(asked.key(wanted) not in finished for wanted in wanted_here):
        about = {"model_hash": bench.loaded.weights, **bench.provenance}
        write_settings(config.folder / f"{config.experiment}.config.json", config.to_dict(), about)
    for wanted in wanted_here:
        if asked.key(wanted) not in finished:
            append_rows(path, [asked.ask(wanted)], SET_COLUMNS)
        bar.update()
    if again:
        relevance_of(bench, config, seed, PAPERS_DEPTH, config.shares[0])
    else:
        stability_maps(bench, seed)
