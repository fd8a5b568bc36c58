"""The rows of a study: source and target splits, the pools that rows are drawn from, and what is odd about them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product

from ctsft.errors import UserError
from ctsft.storage import digest
from ctsft.study.config import StudyConfig
from ctsft.tasks.checks import findings
from ctsft.tasks.task import SPLITS, Rows, check_aligned, draw, pools
from ctsft.tuning.arms import get_arm
from ctsft.tuning.extra_rows import Lexicon


class StudyData:
    """Every split that `config` names, read and checked; a missing file or too few rows is a UserError."""

    def __init__(self, config: StudyConfig):
        self.config, self.task = config, config.effective_task
        lexicon = [arm for arm, _ in config.arm_depths() if isinstance(get_arm(arm).extra_rows, Lexicon)]
        if lexicon and self.task.dictionary is None:
            told = f"{config.task} has none. Leave {', '.join(lexicon)} out of --arms."
            raise UserError(f"the arm '{lexicon[0]}' needs a dictionary, and {told}")
        self.rows: dict[tuple[str, str], Rows] = {}
        source_train = self.split(config.source, "train")
        targets_train = {target: self.split(target, "train") for target in config.targets}
        self.pool_a, self.pools_b = pools(self.task, source_train, targets_train)
        self.source_rows = self._source_rows(source_train)
        for target, name in product(config.targets, SPLITS if self.task.parallel else ()):
            check_aligned(self.split(config.source, name), self.split(target, name))
        for target, pool in self.pools_b.items():
            if max(config.n_targets) > len(pool):
                whose = " (pool B; the source has the others)" if self.task.parallel else ""
                raise UserError(
                    f"--n-targets asks for {max(config.n_targets)} rows, but {target} has {len(pool)} to train on"
                    f"{whose}. Ask for at most {len(pool)}."
                )
        self._check_scoring_rows(source_train)
        self.dictionaries = {
            f"lexicon/{target}": digest(json.dumps(self.task.dictionary(config.source, target, config.data_folder)))
            for target in (config.targets if lexicon else ())
        }
        self.findings = self._findings()

    def split(self, language: str, name: str) -> Rows:
        if (language, name) not in self.rows:
            self.rows[language, name] = self.task.load(language, name, self.config.data_folder)
        return self.rows[language, name]

    def data_sha256(self) -> dict[str, str]:
        """Checksums of all splits of source and targets, whatever has been read of them so far.

        Of the dictionaries too, where an arm is asked for that makes rows with them; and of a user's own task that of
        which training rows are whose: `parallel` and `target_pool`.
        """
        languages = {self.config.source, *self.config.targets}
        for pair in product(languages, SPLITS):
            self.split(*pair)
        hashes = {
            f"{language}/{name}": rows.sha256[:16]
            for (language, name), rows in sorted(self.rows.items())
            if language in languages
        }
        hashes |= self.dictionaries
        whose = {"parallel": self.task.parallel, "target_pool": self.task.target_pool if self.task.parallel else None}
        return (
            hashes if self.task.published else hashes | {"task.json (parallel, target_pool)": digest(json.dumps(whose))}
        )

    def label_counts(self) -> list[str]:
        """How many rows of each label every split has, in a line; languages with other numbers have one of their own.

        The rows of a parallel task have the same labels in all languages.
        """
        alike: dict[str, list[str]] = {}
        for language in dict.fromkeys((self.config.source, *self.config.targets)):
            counts = {name: Counter(e.label for e in self.split(language, name).examples) for name in SPLITS}
            every = range(len(self.task.labels))
            told = ", ".join(f"{name} {'/'.join(str(counts[name][n]) for n in every)}" for name in SPLITS)
            alike.setdefault(told, []).append(language)
        what = f"rows of {'/'.join(self.task.labels)}"
        if len(alike) == 1:
            return [f"{what}: {told}" for told in alike]
        return [f"{what} in {', '.join(languages)}: {told}" for told, languages in alike.items()]

    def _source_rows(self, train: Rows) -> Rows:
        """Where the rows of the competence stage come from: pool A, or the task's further rows when it is too small."""
        n_source, language = self.config.n_source, self.config.source
        if n_source <= len(self.pool_a):
            return replace(train, examples=tuple(train.by_id(self.pool_a)))
        if self.task.more_source_rows is None:
            raise UserError(f"--n-source is {n_source}, but pool A has {len(self.pool_a)} rows. Ask for no more.")
        rows = self.task.more_source_rows(language, self.config.data_folder)
        if n_source > len(rows.examples):
            raise UserError(f"--n-source is {n_source}, but {self.task.name} has {len(rows.examples)} further rows.")
        self.rows[language, rows.split] = rows
        return rows

    def _check_scoring_rows(self, train: Rows) -> None:
        """Rows of every label must be left to score on when the mean has taken its own."""
        counts = Counter(example.label for example in train.by_id(self.pool_a))
        label, scarcest = min(((n, counts[n]) for n in range(len(self.task.labels))), key=lambda pair: pair[1])
        per_label = self.config.mean_rows // len(self.task.labels)
        apart = self.config.pool == "disjoint"
        if apart and scarcest <= per_label and any(get_arm(arm).needs_heads for arm, _ in self.config.arm_depths()):
            raise UserError(
                f"--mean-rows {self.config.mean_rows} takes {per_label} source rows of each label, but there are "
                f"{scarcest} of '{self.task.labels[label]}', and none would be left to score heads on. Lower it."
            )

    def _findings(self) -> list[str]:
        """What is odd about a user's own rows; of a published task, which of the files are not the published ones."""
        languages = (self.config.source, *self.config.targets)
        if self.task.published:
            return [] if self.task.checksum is None else self._changed(languages, self.task.checksum)
        rows = {pair: self.split(*pair).examples for pair in product(languages, SPLITS)}
        return findings(self.task, self.config.source, self.config.targets, rows)

    def _changed(self, languages: Iterable[str], checksum: Callable[[str, str], str]) -> list[str]:
        """Files of a published task with another content than was published (line ends count too)."""
        pairs = [pair for pair in product(languages, SPLITS) if self.split(*pair).sha256 != checksum(*pair)]
        return [
            f"{self.task.name}/{language}/{name} is not the published file (its sha256 is another): results on it are "
            "not comparable with those on the published rows."
            for language, name in pairs
        ]

    def competence_ids(self, seed: int) -> list[str]:
        """The source rows that theta1 of `seed` is tuned on."""
        return draw([example.id for example in self.source_rows.examples], self.config.n_source, seed)
