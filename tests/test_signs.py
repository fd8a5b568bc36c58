"""Whether a score tells a head that works for the answer from one that works against it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import LABEL_TOKENS, random_rows, tiny

from ctsft.discovery import gradient, scorers
from ctsft.discovery.mean import label_balanced_mean
from ctsft.discovery.problem import Problem, batches
from ctsft.discovery.scorers import get_scorer
from ctsft.report.faithful_claims import directional
from ctsft.report.faithfulness import Faithfulness
from ctsft.report.signs import like_unsigned, negative, opponents
from ctsft.tasks.known.planted import AGAINST, planted

ROOT = Path(__file__).parents[1]


def turned_round(problem):
    """Every head says the opposite of what it says of a row; the model's own values stay as they are."""
    for batch in batches(problem):
        batch.beta = [-beta for beta in batch.beta]
        yield batch


@pytest.fixture(params=["llama-2kv", "qwen2-2kv"])
def problem(request) -> Problem:
    loaded = tiny(request.param)
    mean = label_balanced_mean(loaded, random_rows(18, seed=5), 3, 4)
    return Problem(loaded, random_rows(12), LABEL_TOKENS, mean)


def both_ways(problem: Problem, scorer: str, monkeypatch) -> tuple[np.ndarray, np.ndarray]:
    scores = get_scorer(scorer)(problem, None, []).logits
    for module in (scorers, gradient):
        monkeypatch.setattr(module, "batches", turned_round)
    return scores, get_scorer(scorer)(problem, None, []).logits


@pytest.mark.parametrize("scorer", ["cdt_linear", "attribution"])
def test_linear_scores_turn_round_with_the_heads(problem, scorer, monkeypatch):
    scores, turned = both_ways(problem, scorer, monkeypatch)
    np.testing.assert_allclose(turned, -scores, atol=1e-6 * np.abs(scores).max())


def test_the_clean_up_keeps_the_sign_of_most_scores(problem, monkeypatch):
    """rel stays between 0 and the total, so the answer's own sign shows through: see docs/scores.md."""
    scores, turned = both_ways(problem, "cdt", monkeypatch)
    assert (np.sign(scores) == np.sign(turned)).mean() > 0.75
    monkeypatch.undo()
    scores, turned = both_ways(problem, "cdt+linear+raw", monkeypatch)
    assert (np.sign(scores) == np.sign(turned)).mean() < 0.25


def test_the_clean_up_hides_the_planted_opponent():
    known = planted(0)
    mean = label_balanced_mean(known.loaded, known.rows(48, 1), 3, 4)
    asked = Problem(known.loaded, known.rows(24, 0), known.label_tokens, mean)
    scores = {name: get_scorer(name)(asked, None, []).logits for name in ("cdt", "cdt+linear+raw", "ablation")}
    largest = {name: np.abs(found).max() for name, found in scores.items()}
    assert scores["cdt"][AGAINST] == pytest.approx(0, abs=1e-6 * largest["cdt"])
    for signed in ("cdt+linear+raw", "ablation"):
        assert scores[signed][AGAINST] < -0.1 * largest[signed]


def test_opponents_are_counted_over_common_seeds():
    truth, own = np.array([[-1.0, -2, 3], [4, -5, 6]]), np.array([[-0.1, 0.2, -0.3], [0.4, -0.5, 0.6]])
    maps = {
        "ablation": {31: truth, 777: -truth},
        "other": {31: own, 2025: own},
        "magnitude": {31: np.abs(own), 2025: -own},
        "alone": {9: own},
    }
    found = SimpleNamespace(
        maps_of=lambda scorer: {seed: SimpleNamespace(logits=m) for seed, m in maps.get(scorer, {}).items()}
    )
    assert opponents(found, "other") == (2, 3)
    assert negative(found, "other") == 0.5
    by_size = [1, 2, 3, 4, 5, 6]  # ranks of |own|; those of own are:
    assert like_unsigned(found, "other") == pytest.approx((np.corrcoef(by_size, [3, 4, 2, 5, 1, 6])[0, 1] - 1) / 2)
    for nothing in (opponents(found, "ablation"), opponents(found, "alone"), like_unsigned(found, "magnitude")):
        assert nothing is None
    assert negative(found, "failed") is None


def test_the_verdict_on_directions_says_that_scores_without_signs_are_like_unsigned_ones():
    number = directional(Faithfulness.read(ROOT / "results" / "small")).number
    assert "; no cdt score is negative, so their signs cannot make them rank better; rank correlation" in number
