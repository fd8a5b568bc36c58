"""The induction model: trained here, it has induction heads, and the default score ranks them before all others."""

from __future__ import annotations

from ctsft.study.known import score_known
from ctsft.tasks.known.induction import induction


def test_an_untrained_model_has_no_induction_heads():
    assert not induction(0, steps=1).heads


def test_a_trained_model_has_induction_heads_and_the_default_score_ranks_them_first():
    """Half of script 05's steps, and a seed whose first head the linear scores rank last: not every score passes."""
    known = induction(2, steps=1000)
    assert {head.layer for head in known.heads} == {0, 1}
    assert len(known.heads) < 6  # of 8: ranked before the others, it matters which they are
    row = score_known(known, "cdt", 2)
    assert sorted(map(int, row["ranks"].split())) == list(range(1, len(known.heads) + 1))
    assert (row["roc_auc"], row["of"]) == (1.0, 8)
