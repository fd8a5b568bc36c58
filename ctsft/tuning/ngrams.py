"""The cheap baseline: logistic regression on character n-grams of the same n target rows, without a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctsft.errors import CellFailed
from ctsft.tasks.prompts import Encoded

if TYPE_CHECKING:  # scikit-learn and the metrics library take memory that other arms are measured without
    from sklearn.pipeline import Pipeline

    from ctsft.evaluation import Predictions


@dataclass(frozen=True)
class NGrams:
    """TF-IDF of character n-grams within words; of the inverse regularisations C validation chooses, first on a tie."""

    shortest: int = 1
    longest: int = 4
    choices: tuple[float, ...] = (1.0, 10.0, 100.0)

    def fit(self, rows: Encoded, valid: Encoded, text_of: Callable[[Sequence[int]], str]) -> FittedNGrams:
        """`text_of` turns a prompt's tokens back into text: it is what a model would have read, cut where it was."""
        if len(set(rows.labels)) < 2:
            raise CellFailed(f"all {len(rows)} target rows have one label: a classifier needs two")
        texts, held_out = ([text_of(prompt) for prompt in part.prompts] for part in (rows, valid))
        fitted = [self._pipeline(c).fit(texts, rows.labels) for c in self.choices]
        scores = [float((one.predict(held_out) == np.array(valid.labels)).mean()) for one in fitted]
        return FittedNGrams(fitted[int(np.argmax(scores))], text_of)

    def _pipeline(self, c: float) -> Pipeline:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(self.shortest, self.longest), sublinear_tf=True)
        return make_pipeline(vectors, LogisticRegression(C=c, max_iter=1000))


@dataclass(frozen=True)
class FittedNGrams:
    pipeline: Pipeline
    text_of: Callable[[Sequence[int]], str]

    @property
    def weights(self) -> int:
        """Coefficients and intercepts."""
        regression = self.pipeline[-1]
        return int(regression.coef_.size + regression.intercept_.size)

    def answer(self, rows: Encoded, label_tokens: Sequence[int]) -> Predictions:
        """As a model would: the logits are log-probabilities, -inf for a label that was never seen."""
        from ctsft.evaluation import Predictions

        logits = np.full((len(rows), len(label_tokens)), -np.inf, dtype=np.float32)
        seen = self.pipeline[-1].classes_
        known = self.pipeline.predict_log_proba([self.text_of(prompt) for prompt in rows.prompts])
        inside = seen < len(label_tokens)  # a related task may have fewer labels
        logits[:, seen[inside]] = known[:, inside]
        labels = logits.argmax(-1)
        return Predictions(labels, logits, np.array(label_tokens)[labels])
