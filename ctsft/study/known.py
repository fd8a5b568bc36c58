"""Do the scores find circuits that are known? ROC AUC of every scorer on planted and trained ones (script 05)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sklearn.metrics import roc_auc_score

from ctsft.discovery.circuits import ranked
from ctsft.discovery.faithfulness import marked
from ctsft.discovery.mean import label_balanced_mean
from ctsft.discovery.problem import Problem
from ctsft.discovery.scorers import get_scorer
from ctsft.errors import CellFailed
from ctsft.provenance import git_commit, now
from ctsft.study.record import KNOWN_COLUMNS, append_rows, read_rows
from ctsft.tasks.known import KnownCircuit
from ctsft.tasks.known.induction import induction
from ctsft.tasks.known.ioi import ioi
from ctsft.tasks.known.planted import planted

CIRCUITS: dict[str, Callable[[int], KnownCircuit]] = {"planted": planted, "induction": induction, "ioi": ioi}
MEAN_ROWS, SCORE_ROWS, ROWS_PER_PASS = 48, 24, 16


def score_known(known: KnownCircuit, scorer: str, seed: int) -> dict[str, object]:
    """How well one scorer tells the known heads from all others: the row without its names.

    Heads that work against the answer stand behind the others with a minus sign, and their ranks count from the lowest
    score: -1 is the lowest of all.
    """
    loaded, way = known.loaded, get_scorer(scorer)
    mean = label_balanced_mean(
        loaded, known.rows(MEAN_ROWS, seed + 1), len(known.label_tokens), ROWS_PER_PASS, way.aligned
    )
    started = time.perf_counter()
    scores = way(Problem(loaded, known.rows(SCORE_ROWS, seed), known.label_tokens, mean), None, []).logits
    first = ranked(scores)
    return {
        "roc_auc": round(float(roc_auc_score(marked(known.heads, scores.shape).ravel(), scores.ravel())), 6),
        "heads": " ".join([*map(str, known.heads), *(f"-{head}" for head in known.against)]),
        "ranks": " ".join(
            str(rank)
            for rank in (
                *(first.index(head) + 1 for head in known.heads),
                *(first.index(head) - len(first) for head in known.against),
            )
        ),
        "of": scores.size,
        "seconds": round(time.perf_counter() - started, 3),
    }


def run_known(path: Path, names: Sequence[str], scorers: Sequence[str], seeds: Sequence[int]) -> int:
    """Append a row for every circuit of `names`, seed and scorer that `path` lacks; returns how many failed."""
    failed = 0
    done = {(row["circuit"], int(row["seed"]), row["scorer"]) for row in read_rows(path, KNOWN_COLUMNS)}
    for name in names:
        for seed in seeds:
            left = [scorer for scorer in scorers if (name, seed, scorer) not in done]
            if not left:
                continue
            known = CIRCUITS[name](seed)
            about = {"circuit": name, "seed": seed, "git_commit": git_commit(), "created": now()}
            for scorer in left:
                try:
                    row = about | {"scorer": scorer} | score_known(known, scorer, seed)
                except CellFailed as error:
                    failed += 1
                    print(f"failed: {scorer} on {name}, seed {seed}: {error}", file=sys.stderr)
                else:
                    append_rows(path, [row], KNOWN_COLUMNS)
    return failed
