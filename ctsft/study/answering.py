"""A study's model on a study's rows: prompts, answers, and the bare texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ctsft.errors import CellFailed
from ctsft.evaluation import Predictions, predict, scores
from ctsft.models.load import device_of, load_model
from ctsft.models.precision import autocast, resolved
from ctsft.study.config import StudyConfig
from ctsft.study.data import StudyData
from ctsft.study.determinism import set_determinism
from ctsft.study.grid import Cell
from ctsft.tasks.checks import cut_texts
from ctsft.tasks.prompts import Encoded, cut_rows, encode, label_tokens
from ctsft.tasks.task import SPLITS, Example, draw
from ctsft.tuning.arms import Arm
from ctsft.tuning.extra_rows import Material
from ctsft.tuning.ngrams import FittedNGrams


class Answering(StudyData):
    """The loaded model, and what it answers to the study's rows in its present state."""

    def __init__(self, config: StudyConfig):
        set_determinism(config.deterministic)
        self.device = device_of(config.device)
        config = replace(config, dtype=resolved(config.dtype, self.device))
        # Data first: a missing file must show before a large model is loaded.
        super().__init__(config)
        self.autocast = autocast(config.dtype, self.device)
        self.loaded = load_model(config.model, config.revision, str(self.device))
        self.model, self.anatomy = self.loaded.model, self.loaded.anatomy
        self.loaded.refuse_prompts_of(config.max_tokens, "--max-tokens")
        self.label_tokens = label_tokens(self.loaded.tokenizer, self.task, self.loaded.layout)
        self.findings += self._cut_texts()
        self.encoded: dict[tuple[str, str], Encoded] = {}
        # While an arm without a model is measured, this answers in the model's place.
        self.classifier: FittedNGrams | None = None

    def _cut_texts(self) -> list[str]:
        """How many texts are longer than --max-tokens allows: a line a language, of a published task one for all."""
        found, limit, told = [], self.config.max_tokens, []
        for language in dict.fromkeys((self.config.source, *self.config.targets)):
            rows = [example for name in SPLITS for example in self.split(language, name).examples]
            cut = cut_rows(self.loaded.tokenizer, self.task, rows, limit, self.loaded.layout)
            found += [f"{said} --max-tokens allows more." for said in cut_texts(language, rows, cut, limit)]
            told += [f"{language} {len(cut)} of {len(rows)}"] if cut else []
        if self.task.published and told:
            # The published protocol sets the limit, so a longer one is not advised.
            return [f"{self.task.name}: texts lose their end at {limit} tokens with the prompt: {', '.join(told)}."]
        return found

    def prompts(self, language: str, name: str) -> Encoded:
        """A whole split as prompts, in the official order."""
        if (language, name) not in self.encoded:
            self.encoded[language, name] = self.encode(self.split(language, name).examples)
        return self.encoded[language, name]

    def encode(self, examples: Sequence[Example]) -> Encoded:
        """Rows as prompts of at most --max-tokens tokens."""
        return encode(self.loaded.tokenizer, self.task, examples, self.config.max_tokens, self.loaded.layout)

    def predict(self, rows: Encoded, words: Sequence[int] | None = None) -> Predictions:
        """Answers in the study's own label words, or in the tokens `words` of another task."""
        words, layout = words or self.label_tokens, self.loaded.layout
        if self.classifier is not None:
            return self.classifier.answer(rows, words)
        return predict(self.model, rows, words, layout, self.config.eval_batch, self.autocast)

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Answers without autocast, whatever the study computes in."""
        before, self.autocast = self.autocast, autocast("float32", self.device)
        try:
            yield
        finally:
            self.autocast = before

    def accuracy(self, language: str, name: str) -> tuple[Predictions, dict[str, float]]:
        rows = self.prompts(language, name)
        predictions = self.predict(rows)
        return predictions, scores(predictions.labels, rows.labels)

    def training_rows(self, arm: Arm, cell: Cell) -> Encoded:
        """The cell's n target rows, and those that its arm adds."""
        examples = self.split(cell.target, "train").by_id(draw(self.pools_b[cell.target], cell.n_target, cell.seed))
        if arm.extra_rows is None:
            return self.encode(examples)
        source, task, folder = self.config.source, self.task, self.config.data_folder
        material = Material(
            examples,
            self.source_rows.by_id(self.competence_ids(cell.seed)),
            lambda: task.dictionary(source, cell.target, folder),
            cell.seed,
        )
        return self.encode([*examples, *arm.extra_rows.examples(material)])

    @staticmethod
    def text(example: Example) -> str:
        """All that a row says, without the prompt around it."""
        return " ".join(filter(None, (example.text, example.pair)))

    def texts(self, examples: Sequence[Example]) -> Encoded:
        """The bare texts as tokens, of at most --max-tokens, after a start token where the tokenizer has one."""
        if self.anatomy.family.masked:
            raise CellFailed(
                "a masked language model does not predict a text word by word; leave out dapt arms and --bystanders"
            )
        tokenizer = self.loaded.tokenizer
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        size = self.config.max_tokens - len(start)
        ids = tokenizer([self.text(example) for example in examples], add_special_tokens=False)["input_ids"]
        return Encoded(
            tuple((*start, *one[:size]) for one in ids),
            tuple(example.label for example in examples),
            tuple(example.id for example in examples),
        )

    def text_of(self, prompt: Sequence[int]) -> str:
        return self.loaded.tokenizer.decode(prompt)
