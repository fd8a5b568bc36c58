"""What a cell does beside its row: answers before and after tuning to related tests, target and source; with --by-epoch
those to the last two after every epoch."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch.linalg import vector_norm as norm

from ctsft.provenance import now
from ctsft.study.grid import Cell
from ctsft.study.workbench import Workbench
from ctsft.tasks.prompts import Encoded, encode, label_tokens
from ctsft.tasks.registry import get_task
from ctsft.tasks.task import Rows, digits
from ctsft.tuning.arms import get_arm


class NamedTests:
    """Test rows by name, task/language: those of the study's own task, and of related ones with their own prompts."""

    def __init__(self, bench: Workbench):
        self.bench = bench
        self.related: dict[str, Rows] = {}
        self.prompts: dict[str, tuple[Encoded, list[int]]] = {}
        self.before: dict[tuple[int, str], str] = {}

    def rows(self, test: str) -> Rows:
        name, _, language = test.partition("/")
        if name == self.bench.config.task:
            return self.bench.split(language, "test")
        if test not in self.related:
            folder = self.bench.config.data_folder
            self.related[test] = get_task(name, folder).load(language, "test", folder)
        return self.related[test]

    def hashes(self, tests: Iterable[str]) -> dict[str, dict[str, str]]:
        """By task, what the rows of these tests were read from, as `StudyData.data_sha256` has it."""
        found: dict[str, dict[str, str]] = {}
        for test in tests:
            task, _, language = test.partition("/")
            found.setdefault(task, {})[f"{language}/test"] = self.rows(test).sha256[:16]
        return found

    def answers(self, test: str) -> str:
        """The model's answers now, as digits."""
        name, _, language = test.partition("/")
        if name == self.bench.config.task:
            return self.bench.predict(self.bench.prompts(language, "test")).digits
        if test not in self.prompts:
            task = get_task(name, self.bench.config.data_folder)
            tokenizer, layout = self.bench.loaded.tokenizer, self.bench.loaded.layout
            rows = encode(tokenizer, task, self.rows(test).examples, self.bench.config.max_tokens, layout)
            self.prompts[test] = rows, label_tokens(tokenizer, task, layout)
        return self.bench.predict(*self.prompts[test]).digits

    def answers_of_theta1(self, test: str, seed: int) -> str:
        """The answers of theta1 of `seed`, asked once; those on the source are known since it was made."""
        theta1 = self.bench.theta1_of(seed)
        if test == f"{self.bench.config.task}/{self.bench.config.source}":
            return theta1["test_predictions"]
        if (seed, test) not in self.before:
            self.before[seed, test] = self.answers(test)
        return self.before[seed, test]


class Watch:
    """Collects the lines of one cell while it is tuned.

    `distance` is the Euclidean distance of all weights from where the arm started, `relative_distance` that by the
    norm of those weights; `seconds` is the time spent measuring between epochs. "Before" is always theta1, also for
    an arm that starts from the base model, which needs theta1 for this alone.
    """

    def __init__(self, bench: Workbench, tests: NamedTests, cell: Cell, key: str):
        self.bench, self.tests, self.cell, self.key = bench, tests, cell, key
        self.config = config = bench.config
        self.lines: list[dict[str, object]] = []
        self.seconds = 0.0
        self.roles = {f"{config.task}/{cell.target}": "target", f"{config.task}/{config.source}": "source"}
        self.roles |= {probe: "related" for probe in config.probes if probe not in self.roles}
        self.before = {test: tests.answers_of_theta1(test, cell.seed) for test in self.roles}
        # Taken now: while slices are tuned, stand-ins take the place of some modules, and the names change.
        self.weights = dict(bench.model.named_parameters())
        self.start = bench.base if get_arm(cell.arm).start == "base" else bench.theta1

    def after_epoch(self, epoch: int) -> None:
        """Measure target and source between epochs, where that is asked for; the last epoch is measured at the end."""
        if self.config.by_epoch and epoch < self.config.epochs:
            started = time.perf_counter()
            tests = [test for test, role in self.roles.items() if role != "related"]
            self._measure(epoch, {test: self.tests.answers(test) for test in tests})
            self.seconds += time.perf_counter() - started

    def at_the_end(self, target: str, source: str) -> None:
        """Measure the related tests, and take the answers to target and source that the row has already."""
        known = {"target": target, "source": source}
        epochs = self.config.epochs if get_arm(self.cell.arm).uses_rate else 0
        answers = {test: known.get(role) or self.tests.answers(test) for test, role in self.roles.items()}
        self._measure(epochs, answers)

    @torch.no_grad()
    def _measure(self, epoch: int, answers: dict[str, str]) -> None:
        pairs = [(parameter, self.start[name]) for name, parameter in self.weights.items()]
        moved = sum(norm(now - then, dtype=torch.float64).item() ** 2 for now, then in pairs)
        whole = sum(norm(then, dtype=torch.float64).item() ** 2 for _, then in pairs)
        for test, predictions in answers.items():
            gold = digits([example.label for example in self.tests.rows(test).examples])
            self.lines.append(
                {
                    "cell": self.key,
                    "epoch": epoch,
                    "test": test,
                    "role": self.roles[test],
                    "accuracy_before": share_right(self.before[test], gold),
                    "accuracy": share_right(predictions, gold),
                    "predictions_before": self.before[test],
                    "predictions": predictions,
                    "distance": f"{moved**0.5:.6g}",
                    "relative_distance": f"{(moved / whole) ** 0.5:.6g}",
                    "git_commit": self.bench.provenance["git_commit"],
                    "created": now(),
                }
            )


def share_right(answers: str, gold: str) -> float:
    """Accuracy of answers in digits."""
    return sum(one == other for one, other in zip(answers[1:], gold[1:], strict=True)) / (len(gold) - 1)
