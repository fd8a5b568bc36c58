"""`ctsft tune`: a head delta, or a whole checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import ctsft
from ctsft.commands.options import OnTask, check_output, load_scores, tell_checks
from ctsft.commands.tuned import OnTuned
from ctsft.discovery.circuits import PAPERS_DEPTH, PAPERS_SHARE
from ctsft.errors import UserError
from ctsft.heads import KVPolicy
from ctsft.tasks.form import told_form
from ctsft.tasks.task import SEED

if TYPE_CHECKING:
    from ctsft.discovery.relevance import Relevance
    from ctsft.models.load import Loaded
    from ctsft.tasks.task import Task


@dataclass(frozen=True)
class Tune:
    """Tune on labelled rows of a language; writes a head delta, or with --arm full a whole checkpoint."""

    using: OnTuned
    data: OnTask
    language: str
    """The language to tune on."""
    output: Path
    """A new folder."""
    arm: str = "circuit"
    """circuit, near_zero, bottom or random (heads chosen by --scores, and the norms), norm_only, or full."""
    role: Literal["source", "target"] = "target"
    """source: make a base model competent; target: adapt it. In parallel data the two never share a sentence."""
    scores: Path | None = None
    """What `ctsft discover` wrote."""
    depth: int = PAPERS_DEPTH
    """Depth of the circuit."""
    share: float = PAPERS_SHARE
    """Share of all heads in one depth of the circuit."""
    n: int | None = None
    """How many rows to tune on; without it, all that the role allows."""
    lr: float = 5e-5
    """Learning rate; the default is the paper's. In our rows heads learned more at 2e-4: ask `ctsft advise`."""
    epochs: int = 5
    """How often every row is met."""
    batch_size: int = 16
    """Rows per optimizer step."""
    micro_batch: int = 4
    """Rows per forward and backward pass; does not change the gradient."""
    kv_policy: KVPolicy = "shared"
    """Keys and values: shared (those of a chosen head's group move), all (of wholly chosen groups), or frozen."""
    seed: int = SEED
    """Draws the rows, orders them, and draws random heads."""

    def run(self) -> None:
        from ctsft.tuning.arms import plain_arm
        from ctsft.tuning.share import new_folder

        new_folder(self.output)
        check_output(self.output, folder=True)
        # Before files are read and the model is loaded, which takes long.
        arm, task = plain_arm(self.arm), self.data.load()
        recipe = ctsft.Recipe(self.lr, self.epochs, self.batch_size, micro_batch=self.micro_batch)
        scores = self._load_scores() if arm.needs_heads else None
        self._tell_checks(task, scores)
        self.using.tell_other_prompt(task)
        loaded = self.using.load()
        longest = self.using.longest_of_checkpoint()
        self._tell_cut_texts(task, loaded, longest)
        heads = (
            ctsft.choose(loaded, scores, arm=self.arm, depth=self.depth, share=self.share, seed=self.seed)
            if scores
            else ()
        )
        delta = ctsft.tune(
            loaded,
            task,
            self.language,
            arm=self.arm,
            heads=heads,
            rows=self.n,
            role=self.role,
            recipe=recipe,
            kv_policy=self.kv_policy,
            seed=self.seed,
            max_tokens=longest,
        )
        metrics = delta.about["metrics"]
        print(f"validation: accuracy {metrics['accuracy']:.3f} on {metrics['rows']} rows that were not trained on")
        if arm.moves == "all":
            delta.apply(loaded.model)
            ctsft.export(loaded, self.output, delta.about)
            print(f"checkpoint: {self.output}")
        else:
            delta.save(self.output)
            print(f"delta of {delta.size:,} weights for {delta.base}: {self.output}")

    def _tell_cut_texts(self, task: Task, loaded: Loaded, longest: int) -> None:
        from ctsft.tasks.checks import cut_texts
        from ctsft.tasks.prompts import cut_rows
        from ctsft.tasks.role import training_rows

        rows = training_rows(task, self.language, self.role)
        cut = cut_rows(loaded.tokenizer, task, rows, longest, loaded.layout)
        for finding in cut_texts(self.language, rows, cut, longest):
            print(f"check: {finding}", flush=True)

    def _load_scores(self) -> Relevance:
        if self.scores is None:
            raise UserError(f"the arm '{self.arm}' chooses heads: give --scores, which `ctsft discover` writes.")
        return load_scores(self.scores)

    def _tell_checks(self, task: Task, scores: Relevance | None) -> None:
        """Of both languages, where the scores say which the source was."""
        about = scores.about if scores else {}
        name = told_form(about).get("name", about.get("task"))  # scores of a study have the task's name alone
        source = about.get("source") if name == task.name else None
        if self.role == "target" and source in task.languages and source != self.language:
            tell_checks(task, source, [self.language])
        else:
            tell_checks(task, self.language)
