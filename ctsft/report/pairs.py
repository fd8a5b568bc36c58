"""Pairs of arms over all targets of a study: which is ahead on the target, and which keeps more of the source?"""

from __future__ import annotations

from itertools import product

import pandas as pd

from ctsft.report.choosing import PAPERS_RATE, at_papers_share, at_validated_rate, better_of_two, is_at_papers_rate
from ctsft.report.compare import SOURCE, TARGET, pooled, pooled_over
from ctsft.report.fair import at_rates_of_both
from ctsft.report.judging import SAME, common_seeds, pairs_of
from ctsft.report.render import GAP, Table, change, rate_text, rates_text
from ctsft.report.rows import Results
from ctsft.report.select import by_a_model, pick
from ctsft.report.transfer import SAME_ROWS, about

# An arm and its depth. `ct_sft` is one of the two that it chooses from.
Side = tuple[str, int | None]
CIRCUIT: Side = ("circuit", 2)
NEAR_ZERO: Side = ("near_zero", 2)
FULL: Side = ("full", None)
CT_SFT: Side = ("ct_sft", 2)
PAIRS: tuple[tuple[Side, Side], ...] = (
    (CT_SFT, FULL),
    (CIRCUIT, FULL),
    (NEAR_ZERO, FULL),
    (("random", 2), FULL),
    (("circuit", 0), FULL),
    (("circuit", 1), FULL),
    (CIRCUIT, NEAR_ZERO),
    (CIRCUIT, ("random", 2)),
    (("circuit", 0), CIRCUIT),
    (("circuit", 1), CIRCUIT),
    (("near_zero", 0), NEAR_ZERO),
    (("near_zero", 1), NEAR_ZERO),
    (CIRCUIT, ("norm_only", None)),
    (CIRCUIT, ("lora", None)),
    (("replay", None), FULL),
    (FULL, ("direct", None)),
    (CIRCUIT, ("ngrams", None)),
    (FULL, ("ngrams", None)),
)
# Fewer languages hardly tell how much languages differ.
ENOUGH_LANGUAGES = 8
DRAWN = ", languages drawn too"


def named(side: Side) -> str:
    """circuit 2, full"""
    return " ".join(str(part) for part in side if part is not None)


def rows_of(rows: pd.DataFrame, side: Side) -> pd.DataFrame:
    """Every row of an arm at its depth; of `ct_sft` those of both arms that it chooses from."""
    if side == CT_SFT:
        return pd.concat([rows_of(rows, CIRCUIT), rows_of(rows, NEAR_ZERO)])
    arm, depth = side
    return pick(rows, arm=arm, depth=depth)


def chosen(rows: pd.DataFrame, side: Side) -> pd.DataFrame:
    """The rows of an arm at the rates that validation prefers."""
    found = at_validated_rate(rows_of(rows, side))
    return better_of_two(found, "valid_accuracy") if side == CT_SFT else found


def compared(rows: pd.DataFrame, pair: tuple[Side, Side]) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """The two sides' rows for every target, each at its validated rate of those that both had."""
    tried = at_rates_of_both(*(rows_of(rows, side) for side in pair))
    sides = [chosen(tried, side) for side in pair]
    return pairs_of(*sides, SAME, tried) if all(len(side) for side in sides) else []


def held_back(rows: pd.DataFrame, side: Side, used: pd.DataFrame) -> bool:
    """Whether on a target and seed of `used` validation prefers a rate of this arm that the other arm lacks."""
    both = used.merge(chosen(rows, side), on=["target", "seed", "draw"], suffixes=("", "_best"))
    return bool((both["valid_accuracy_best"] > both["valid_accuracy"]).any())


def pair_line(here: pd.DataFrame, pair: tuple[Side, Side]) -> dict[str, object] | None:
    """What two arms did on rows from one start and of one n; None where they share no target and seed."""
    pairs = compared(here, pair)
    if not pairs:
        return None
    alone = compared(here[is_at_papers_rate(here)], pair)
    models = len(by_a_model(pairs[0][1]))
    seeds = common_seeds(pairs)
    targets = [{first["target"].iloc[0] for first, _ in found} for found in (pairs, alone)]
    whole = targets[0] == targets[1] and common_seeds(alone) == seeds
    many = pairs if len(pairs) >= ENOUGH_LANGUAGES else []
    sides = pd.concat([side for pair in pairs for side in pair])
    used = [pd.concat(own) for own in zip(*pairs, strict=True)]
    held = [named(side) for side, own in zip(pair, used, strict=True) if held_back(here, side, own)]
    return {
        "arms": " − ".join(map(named, pair)),
        "target": change(pooled(pairs)),
        "source afterwards": change(pooled(pairs, SOURCE) if models else None),
        f"target{DRAWN}": change(pooled_over(many)),
        f"source{DRAWN}": change(pooled_over(many, SOURCE) if models else None),
        f"target, at {rate_text(PAPERS_RATE)}": change(pooled(alone, TARGET) if whole else None),
        f"source, at {rate_text(PAPERS_RATE)}": change(pooled(alone, SOURCE) if whole and models else None),
        "chosen rates": rates_text(set(sides.loc[sides["seed"].isin(seeds), "lr"].dropna())) or GAP,
        "held back": ", ".join(held) or GAP,
        "targets": ", ".join(first["target"].iloc[0] for first, _ in pairs),
        "seeds": len(seeds),
    }


def pair_cells(results: Results) -> pd.DataFrame:
    """One line per start, number of target rows and pair of arms that both were run on a common target and seed.

    The start from the most source rows comes first; `source rows` tells starts apart where there are several.
    """
    rows = at_papers_share(results.rows)
    starts = sorted(set(rows["n_source"]) - {0}, reverse=True)
    table: list[dict[str, object]] = []
    for start, n_target in product(starts or [0], sorted(set(rows["n_target"]) - {0})):
        here = rows[rows["n_source"].isin([0, start]) & (rows["n_target"] == n_target)]
        lines = (pair_line(here, pair) for pair in PAIRS)
        table += [{"source rows": start, "n": n_target, **line} for line in lines if line is not None]
    found = pd.DataFrame(table)
    gone = [name for name in found if name.endswith(DRAWN) and set(found[name]) == {GAP}]
    gone += [name for name in found if name == "source rows" and found[name].nunique() == 1]
    return found.drop(columns=gone)


def pair_tables(results: Results, number: str) -> list[Table]:
    """Of the rows of a script, by its `number`; none where no two arms were run on common ground."""
    cells = pair_cells(results)
    if cells.empty:
        return []
    told = results if "source rows" in cells else results.from_most_source_rows()
    drawn = any(name.endswith(DRAWN) for name in cells)
    also = f"over languages as well where `{DRAWN.removeprefix(', ')}` is said, as if these were a sample of them"
    return [
        Table(
            f"{results.name}_{number}_pairs",
            f"Pairs of arms over all targets, folder {results.name}",
            f"{about(told, told.rows)} Differences in accuracy, paired on test rows and averaged over targets, "
            f"with 95 % intervals over rows and seeds ({also if drawn else 'not over languages'}). Both arms of a pair "
            "have the same learning rates to choose from on each target and seed; `chosen rates` are those that "
            "validation chose. An arm is `held back` where, on some target and seed, validation prefers a rate that "
            "the other arm lacks: at that it might do better. `ct_sft` chooses between two arms as well, so it has "
            f"twice the tries. {SAME_ROWS} Only targets with as many common seeds as any other count. A gap: an arm "
            "without a source to keep, or not all targets and seeds at that rate"
            f"{f', or fewer than {ENOUGH_LANGUAGES} languages' if drawn else ''}.",
            cells,
        )
    ]
