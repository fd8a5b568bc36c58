"""The command line: `ctsft advise | discover | tune | evaluate | predict | show`, one dataclass a command."""

from __future__ import annotations

import contextlib
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Literal

import tyro
from transformers.utils import logging as transformers_logging

from ctsft import library
from ctsft.advise import advise, evidence, probe
from ctsft.discovery.relevance import Relevance
from ctsft.errors import CellFailed, UserError
from ctsft.heads import Head, KVPolicy
from ctsft.heatmap import picture, terminal
from ctsft.models.load import Loaded, device_of, load_model
from ctsft.prediction import Labeller, Voice
from ctsft.tasks.files import separated
from ctsft.tasks.form import task_of
from ctsft.tasks.task import Task
from ctsft.tuning.arms import get_arm
from ctsft.tuning.delta import HeadDelta
from ctsft.tuning.loop import Recipe
from ctsft.tuning.share import about_checkpoint, export, pull

ABOUT = """Tune only the attention heads that carry a task, for a language of your own.

The usual way: make a model competent on a source language (tune --role source --arm full), find its heads (discover),
tune them on the target language (tune --scores ...), and use the result (evaluate, predict)."""


@dataclass(frozen=True)
class OnModel:
    """What every command that runs a model needs."""

    model: str
    """Hub id, folder (such as `ctsft tune --arm full` writes), .gguf file, or demo."""
    revision: str | None = None
    """Hub revision of the model."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    max_tokens: int = library.MAX_TOKENS
    """Longest prompt; the text is cut, never the label field."""

    def load(self) -> Loaded:
        return load_model(self.model, self.revision, str(device_of(self.device)))


@dataclass(frozen=True)
class OnTask:
    """Which labelled rows."""

    task: str
    """nusax, xnli, smsa, demo, demo_entailment, or a folder in --data-dir that holds your own files."""
    data_dir: Path | None = None
    """Folder with the data; without it CTSFT_DATA_DIR, else published data are downloaded."""
    label_words: tuple[str, ...] = ()
    """One word per label, in the order of the labels; without them, the task's own."""

    def load(self) -> Task:
        folder = self.data_dir or os.environ.get("CTSFT_DATA_DIR") or None
        return library.load_task(self.task, folder, self.label_words)


@dataclass(frozen=True)
class Discover:
    """Score every attention head on labelled rows of the source language."""

    using: OnModel
    data: OnTask
    source: str
    """The language that the model is competent on."""
    output: Path
    """Where the scores go: OUTPUT.json, and OUTPUT.safetensors beside it."""
    scorer: str = "cdt"
    """cdt (the paper's), or cdt_linear (one backward pass, much faster)."""
    depth: int = 2
    """How deep a circuit the scores should reach."""
    share: float = 0.02
    """Share of all heads in one depth of the circuit."""
    mean_rows: int = 48
    """Rows of the label-balanced mean, which stands for "no information"."""
    score_rows: int = 48
    """Other rows, which the model gets right, to score on."""
    seed: int = 31
    """Draws the rows."""

    def run(self) -> None:
        task, loaded = self.data.load(), self.using.load()
        relevance = library.discover(
            loaded,
            task,
            self.source,
            scorer=self.scorer,
            depth=self.depth,
            share=self.share,
            mean_rows=self.mean_rows,
            score_rows=self.score_rows,
            seed=self.seed,
            max_tokens=self.using.max_tokens,
        )
        relevance.save(self.output)
        print(terminal(relevance, self.depth, self.share, _colour()))
        if not relevance.about["only_correct_rows"]:
            print("note: the model never gives some label, so rows that it gets wrong were scored too")
        print(f"scores: {self.output.with_suffix('.json')}")


@dataclass(frozen=True)
class Tune:
    """Tune on labelled rows of a language; writes a head delta, or with --arm full a whole checkpoint."""

    using: OnModel
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
    depth: int = 2
    """Depth of the circuit."""
    share: float = 0.02
    """Share of all heads in one depth of the circuit."""
    n: int | None = None
    """How many rows to tune on; without it, all that the role allows."""
    lr: float = 5e-5
    """Learning rate."""
    epochs: int = 5
    batch_size: int = 16
    """Rows per optimizer step."""
    micro_batch: int = 4
    """Rows per forward and backward pass; does not change the gradient."""
    kv_policy: KVPolicy = "shared"
    """Whether the keys and values of a chosen head's group move."""
    seed: int = 31
    """Draws the rows, orders them, and draws random heads."""

    def run(self) -> None:
        if self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir())):
            raise UserError(f"{self.output} exists already; give a new folder with --output.")
        task, loaded = self.data.load(), self.using.load()
        delta = library.tune(
            loaded,
            task,
            self.language,
            arm=self.arm,
            heads=self._heads(loaded),
            rows=self.n,
            role=self.role,
            recipe=Recipe(self.lr, self.epochs, self.batch_size, micro_batch=self.micro_batch),
            kv_policy=self.kv_policy,
            seed=self.seed,
            max_tokens=self.using.max_tokens,
        )
        metrics = delta.about["metrics"]
        print(f"validation: accuracy {metrics['accuracy']:.3f} on {metrics['rows']} rows that were not trained on")
        if get_arm(self.arm).moves == "all":
            delta.apply(loaded.model)
            export(loaded, self.output, delta.about)
            print(f"checkpoint: {self.output}")
        else:
            delta.save(self.output)
            print(f"delta of {delta.size:,} weights for {delta.base}: {self.output}")

    def _heads(self, loaded: Loaded) -> list[Head]:
        if not get_arm(self.arm).needs_heads:
            return []
        if self.scores is None:
            raise UserError(f"the arm '{self.arm}' chooses heads: give --scores, which `ctsft discover` writes.")
        choice = dict(arm=self.arm, depth=self.depth, share=self.share, seed=self.seed)
        return library.choose(loaded, load_scores(self.scores), **choice)


@dataclass(frozen=True)
class Evaluate:
    """Accuracy with its interval, macro-F1 and calibration on a split; with --delta before and after."""

    using: OnModel
    data: OnTask
    language: str
    """The language to answer in."""
    delta: str | None = None
    """Folder or hub id of a head delta."""
    split: Literal["train", "valid", "test"] = "test"

    def run(self) -> None:
        task, loaded = self.data.load(), self.using.load()
        about = about_checkpoint(self.using.model)
        states = {"model": (None, about.get("temperature"))}
        if self.delta:
            delta = load_delta(self.delta)
            states["with delta"] = (delta, delta.about.get("temperature"))
        for name, (applied, temperature) in states.items():
            with applied.on(loaded.model) if applied else contextlib.nullcontext():
                found = library.evaluate(
                    loaded,
                    task,
                    self.language,
                    split=self.split,
                    temperature=temperature or 1.0,
                    max_tokens=self.using.max_tokens,
                )
            print(f"{name}: {found}")
            print(
                f"{name}: calibration error {found.calibration_error:.3f}{'' if temperature else ' (not calibrated)'}"
            )


@dataclass(frozen=True)
class Predict:
    """Write the rows of a CSV or TSV file, however long, with a label and a confidence beside each text."""

    using: OnModel
    delta: str | None = None
    """Folder or hub id of a head delta; without it the checkpoint itself answers."""
    input: str = "-"
    """.csv or .tsv with a header; - is standard input, as .csv."""
    output: str = "-"
    """Where the rows go; - is standard output."""
    text: str = "text"
    """Column with the text (or premise)."""
    pair: str | None = None
    """Column with the second text, where the task has one."""
    with_source: bool = False
    """Also give the answer of the model without the delta, in source_label and source_confidence."""

    def run(self) -> None:
        loaded = self.using.load()
        checkpoint = about_checkpoint(self.using.model)
        delta = load_delta(self.delta) if self.delta else None
        about = delta.about if delta else checkpoint
        if "task" not in about:
            raise UserError("neither a delta nor the checkpoint says which labels to give: tune with `ctsft tune`.")
        task = task_of(about["task"])
        self._check_pair(task)
        voices = [Voice("", delta, _temperature(about, "the answers"))]
        if self.with_source:
            voices.append(Voice("source_", None, _temperature(checkpoint, "the source's answers")))
        labeller = Labeller(loaded, task, voices, self.using.max_tokens)
        with _reading(self.input) as file, _writing(self.output) as out:
            kind = ".tsv" if self.input.endswith(".tsv") else ".csv"
            where = "standard input" if self.input == "-" else self.input
            writer = None
            for row in labeller.run(self._checked(separated(file, where, kind), labeller), self.text, self.pair):
                if writer is None:
                    writer = csv.DictWriter(out, list(row), lineterminator="\n")
                    writer.writeheader()
                writer.writerow(row)
        if writer is None:
            print("note: the input has no rows", file=sys.stderr)
        if labeller.skipped:
            lines = ", ".join(map(str, labeller.skipped[:10])) + (", ..." if len(labeller.skipped) > 10 else "")
            print(f"note: {len(labeller.skipped)} rows have no text and got no label (lines {lines})", file=sys.stderr)

    def _check_pair(self, task: Task) -> None:
        if ("{pair}" in task.template) != (self.pair is not None):
            raise UserError(
                "this task has two texts: name the column of the second with --pair."
                if self.pair is None
                else "this task has one text, so --pair does not apply."
            )

    def _checked(self, records: Iterator, labeller: Labeller) -> Iterator:
        for line, row in records:
            taken = sorted(set(labeller.columns) & row.keys())
            if taken:
                raise UserError(f"the input has a column '{taken[0]}' already; rename it, so that nothing is lost.")
            yield line, row


@dataclass(frozen=True)
class Show:
    """Print the scores of every head as a heat map, with the circuit marked; --png draws it."""

    scores: Annotated[Path, tyro.conf.Positional]
    """What `ctsft discover` wrote, or a file in results/<preset>/relevance/."""
    depth: int = 2
    """Depth of the circuit that is marked."""
    share: float = 0.02
    """Share of all heads in one depth."""
    png: Path | None = None
    """Write a picture here."""

    def run(self) -> None:
        relevance = load_scores(self.scores)
        print(terminal(relevance, self.depth, self.share, _colour()))
        if self.png:
            picture(relevance, self.share, self.png)
            print(f"picture: {self.png}")


@dataclass(frozen=True)
class Advise:
    """Probe your setting (no training) and recommend an arm, from our result rows of the settings most like it."""

    using: OnModel
    data: OnTask
    source: str
    """The language that the model is competent on."""
    target: str
    """The language to adapt to."""
    n: int | None = None
    """How many target rows you have; without it, all training rows."""
    may_lose: float = 0.02
    """How much accuracy on the source you can give up."""
    scores: Path | None = None
    """What `ctsft discover` wrote, to say how concentrated relevance is."""
    results: tuple[Path, ...] = (Path("results/demo"), Path("results/small"))
    """Folders of result rows to draw on: ours, or your own."""

    def run(self) -> None:
        task, loaded = self.data.load(), self.using.load()
        table = evidence(self.results)
        scores = load_scores(self.scores) if self.scores else None
        print(advise(probe(loaded, task, self.source, self.target, scores, self.n), table, self.may_lose))


COMMANDS = {
    "advise": Advise,
    "discover": Discover,
    "tune": Tune,
    "evaluate": Evaluate,
    "predict": Predict,
    "show": Show,
}


def load_scores(path: Path) -> Relevance:
    path = path if path.suffix == ".json" else path.with_name(path.name + ".json")
    if not path.is_file() or not path.with_suffix(".safetensors").is_file():
        raise UserError(
            f"no scores at {path}: both the .json and the .safetensors that `ctsft discover` writes are needed."
        )
    try:
        return Relevance.load(path.with_suffix(""))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not hold scores: {error}.") from error


def load_delta(name: str) -> HeadDelta:
    """From a folder or file, else from the hub."""
    return HeadDelta.load(Path(name)) if Path(name).exists() else pull(name)


def _temperature(about: dict, what: str) -> float:
    if "temperature" not in about:
        print(f"note: no validation rows were seen, so the confidence of {what} is not calibrated", file=sys.stderr)
    return about.get("temperature", 1.0)


def _colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


@contextlib.contextmanager
def _reading(name: str) -> Iterator[IO[str]]:
    where = "standard input" if name == "-" else name
    try:
        if name == "-":
            sys.stdin.reconfigure(encoding="utf-8-sig", newline="")
        with contextlib.nullcontext(sys.stdin) if name == "-" else open(name, encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 (byte {error.start}). Save it as UTF-8.") from error
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"cannot open {error.filename}: {error.strerror}.") from error


@contextlib.contextmanager
def _writing(name: str) -> Iterator[IO[str]]:
    """Standard output, or a file that takes its name when it is whole; a run that stops leaves NAME.partial."""
    if name == "-":
        yield sys.stdout
        return
    partial = Path(f"{name}.partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        yield file
    os.replace(partial, name)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Exits with 2 and one sentence where the user can mend something."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="ctsft", description=ABOUT, args=argv, config=(tyro.conf.OmitArgPrefixes,)
    )
    try:
        command.run()
    except (UserError, CellFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone (| head); there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
