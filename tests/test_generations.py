"""Claim B6, what self-training loses under the circuit and under all weights: judged by fresh rows, and in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ctsft.report.baseline_claims import ASKED, by_generations


def chains(circuit: float, full: float, answers: str = "01", rows: str = "same") -> pd.DataFrame:
    """Two arms' chains that give these answers; behind generation 0 they are right on these shares of 400 rows."""
    lines = [
        dict(arm=arm, depth=depth, generation=number, right=np.arange(400) < 400 * (later if number else 0.7))
        | dict.fromkeys(("predictions", "source_predictions"), f"p{answer}")
        for arm, depth, later in (("circuit", 2, circuit), ("full", None, full))
        for number, answer in enumerate(answers)
    ]
    about = dict(dtype="float32", target="d70", n_target=25, unlabelled=50, rows=rows, rates="0.001", lr=1e-3)
    about |= dict(human=False, seed=31, label_entropy=1.5, gold_entropy=1.5)
    return pd.DataFrame(lines).assign(**about, gold=[np.ones(400, int)] * len(lines))


@pytest.mark.parametrize(
    ("circuit", "full", "verdict"),
    [
        (0.7, 0.5, "supported"),
        (0.3, 0.5, "contradicted"),
        (0.5, 0.5, "undecided"),
        (0.9, 0.7, "undecided"),  # nothing has decayed
        (0.5, 0.7, "undecided"),
    ],
)
def test_generations_are_judged_by_what_the_last_one_lost(circuit, full, verdict):
    rows = chains(circuit, full)
    judged = by_generations("B6", ASKED["B6"], rows)
    assert judged.verdict == verdict
    # A seed that one of the two arms has not finished waits.
    begun = rows[(rows["arm"] == "full") | (rows["generation"] == 0)].assign(seed=777)
    assert by_generations("B6", ASKED["B6"], pd.concat([rows, begun])) == judged
    assert by_generations("B6", ASKED["B6"], begun).verdict == "not run"


@pytest.mark.parametrize("fresh_first", [True, False])
def test_generations_are_judged_on_fresh_rows_in_whatever_order_they_stand(fresh_first):
    same, fresh = chains(0.3, 0.5), chains(0.7, 0.5, rows="fresh")
    judged = by_generations("B6", ASKED["B6"], pd.concat([fresh, same] if fresh_first else [same, fresh]))
    assert judged.verdict == "supported"
    assert "then 50 fresh rows" in judged.data
    # Fresh chains of one arm alone, or that have only begun, compare nothing; those on the same rows do.
    for part in (fresh[fresh["arm"] == "circuit"], fresh[fresh["generation"] == 0]):
        judged = by_generations("B6", ASKED["B6"], pd.concat([part, same] if fresh_first else [same, part]))
        assert judged.verdict == "contradicted"
        assert "then 50 rows" in judged.data


def test_decay_of_chains_that_repeat_generation_1_is_told_as_one_step():
    def judged(answers: str) -> str:
        """Of chains whose generations give these answers; all but the first are right less often."""
        return by_generations("B6", ASKED["B6"], chains(0.5, 0.5, answers)).number

    once = judged("0111")
    assert "in 2 of 2 chains all later generations equal an earlier one in every answer (generation 1 in 2)" in once
    assert once.endswith("no decay over generations")
    later = judged("0122")
    assert "(generation 2 in 2)" in later
    assert "one step" not in later
    assert "in none of 2 chains do generations repeat one another" in judged("0123")
    assert "in none of 2 chains" in judged("0121")  # the last differs
