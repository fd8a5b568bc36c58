"""Did adapting help or hurt, by arm (script 06)? The table of outcomes; their flags are explained in `outcomes.py`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ctsft.report.by_rate import rate_tables
from ctsft.report.choosing import ODYSSEY
from ctsft.report.judging import MARGIN
from ctsft.report.measured import odyssey_rows, strayed
from ctsft.report.outcomes import GAP_TO_TRAINING, Outcome, outcomes
from ctsft.report.pairs import pair_tables
from ctsft.report.render import GAP, Table, change, fraction, listed, markdown, rate_text, rates_text
from ctsft.report.rows import Results
from ctsft.report.transfer import UNEVEN, about


def _signed(value: float | None) -> str:
    return GAP if value is None or np.isnan(value) else f"{value:+.2f}".replace("-", "−")


def _rates_told(one: Outcome) -> str:
    """The rates of an arm, those that not every seed had with a mark."""
    everywhere = set.intersection(*map(set, one.rates_by_seed.values()))
    return ", ".join(rate_text(rate) + ("" if rate in everywhere else UNEVEN) for rate in one.rates)


def odyssey_cells(results: Results) -> pd.DataFrame:
    """The table as text, one line per target, n, arm and depth."""
    every = outcomes(results)
    source = f"{results.rows['task'].iloc[0]}/{results.rows['source'].iloc[0]}"
    table = []
    for one in every:
        target = f"{results.rows['task'].iloc[0]}/{one.target}"
        others = [value for text, value in one.bits.items() if text not in (source, target)]
        table.append(
            {
                "target": one.target,
                "n": one.n_target,
                "arm": one.arm,
                "depth": GAP if one.depth is None else one.depth,
                "accuracy": fraction(one.accuracy),
                "target change": change(one.target_change),
                "source change": change(one.source_change),
                "related change": change(one.related_change),
                "bits/byte target": _signed(one.bits.get(target)),
                "source": _signed(one.bits.get(source)),
                "others": _signed(float(np.mean(others)) if others else None),
                "on own rows": fraction(one.train_accuracy),
                "ECE": fraction(one.ece),
                "Brier": fraction(one.brier),
                "answers changed by a name": GAP if one.flips is None else f"{one.flips:.1%}",
                "weights trained": f"{one.trainable_share:.2%}",
                "flags": ", ".join(one.flags) or GAP,
                "tries": f"{one.tries}{UNEVEN if one.uneven else ''}",
                "rates": f"{_rates_told(one)} → {rates_text(one.chosen)}" if one.rates else GAP,
                "seeds": one.seeds,
            }
        )
    return pd.DataFrame(table)


def odyssey_tables(results: Results) -> list[Table]:
    """None where script 06 has not run."""
    if odyssey_rows(results).empty:
        return []
    cells = odyssey_cells(results)
    uneven = any(tries.endswith(UNEVEN) for tries in cells["tries"])
    marked = f"{UNEVEN}: not all seeds had this rate; the fewest tries of a seed are told. " if uneven else ""
    gone = strayed(results)
    left_out = (
        f" Cells whose measures are left out: {len(gone)} ({listed(gone['arm'])} on {listed(gone['target'])}); tuned "
        "again on another machine, the model did not answer as the row says."
    )
    return [
        Table(
            f"{results.name}_{ODYSSEY}",
            f"Does adapting help or hurt? Folder {results.name}",
            f"{about(results, odyssey_rows(results))} Changes are after minus before (theta1), paired on test rows, "
            "with 95 % intervals. Bits per byte of held-out text are after minus before (above zero is worse; `others` "
            "are the related languages). `harmed` / `helped`: the target's interval lies below / above zero. "
            f"`forgetful`: the source's interval lies below zero and the loss is above {MARGIN}. `overfitted`: "
            f"accuracy is at least {GAP_TO_TRAINING} higher on its own n rows than on test rows, and the Brier score "
            "is no better than zero-shot's or than that of predicting the labels' shares. Answers changed by a name: "
            "share of rows whose answer changes when only the prepended name or group does. Tries: models (learning "
            "rates, regularisations of the n-grams) that a seed's validation split has chosen from; a penalty has the "
            "one strength that bears its name. "
            "Rates: those tried and, after the arrow, those chosen by the seeds; an arm that chooses the highest might "
            f"learn more beyond it. {marked}Where n is all of pool B, every seed has the same target rows, so the "
            f"interval does not cover how much other rows would change.{left_out if len(gone) else ''}",
            cells,
        ),
        *rate_tables(results, "06"),
        *pair_tables(results, "06"),
    ]


def odyssey(results: Results) -> str:
    """What script 06 prints at the end."""
    return markdown(odyssey_cells(results))
