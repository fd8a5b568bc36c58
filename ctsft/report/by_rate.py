"""What every learning rate gave: a choice on a small validation split is a noisy one, and here stands the rest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ctsft.discovery.circuits import PAPERS_DEPTH
from ctsft.report.choosing import at_own_strength, at_papers_share, at_validated_rate
from ctsft.report.compare import SOURCE, TARGET, right, stack
from ctsft.report.judging import MARGIN
from ctsft.report.render import GAP, Table, change, described, fraction, interval, rate_text
from ctsft.report.rows import Results
from ctsft.report.select import pick
from ctsft.report.transfer import lines_of
from ctsft.stats import mean_interval, paired_difference


def rate_points(results: Results) -> pd.DataFrame:
    """One line per target, n, arm, depth and learning rate, and for rates that every target has one over all of them.

    Every strength of a penalty stands for itself, as an arm under its full name.
    `right` and `source_right` [seeds, N] are the answers of `seeds`, averaged over `targets`, which is a number. The
    targets of a task are parallel: a test row is drawn in all of them at once. `before`: accuracy on the source, of
    theta1.
    """
    rows = at_papers_share(results.rows[results.rows["lr"].notna()])
    rows = rows.assign(arm=rows["variant"].fillna(rows["arm"]))
    points = []
    for where, parts in _parts(rows):
        one = parts[0].iloc[0]
        on_target, on_source = (
            np.mean([stack(right(part, columns)) for part in parts], axis=0) for columns in (TARGET, SOURCE)
        )
        points.append(
            {
                **{name: one[name] for name in ("n_source", "n_target", "arm", "depth", "lr")},
                "target": where,
                "targets": len(parts),
                "seeds": sorted(set(parts[0]["seed"])),
                "valid": np.mean([part["valid_accuracy"].mean() for part in parts]),
                "before": np.mean([part["source_accuracy_before"].mean() for part in parts]),
                "right": on_target,
                "source_right": on_source,
            }
        )
    return pd.DataFrame(points)


def _parts(rows: pd.DataFrame) -> Iterator[tuple[str, list[pd.DataFrame]]]:
    """What a line is of: a target's rows at one rate, or the same of every target that has rows of this n."""
    for line in lines_of(rows):
        for _, here in pick(rows, **line).groupby("lr"):
            yield line["target"], [here]
    for keys, arm in rows.groupby(["n_source", "n_target", "arm", "depth"], dropna=False, sort=False):
        every = pick(rows, n_target=keys[1])
        targets, seeds = every["target"].nunique(), set(every["seed"])
        for _, here in arm.groupby("lr"):
            parts = [part for _, part in here.groupby("target", sort=False)]
            whole = len(parts) == targets > 1 and all(set(part["seed"]) == seeds for part in parts)
            parallel = len({part["gold"].iloc[0].tobytes() for part in parts}) == 1
            if whole and parallel:
                yield f"all {targets} targets", parts


def over_all(points: pd.DataFrame) -> pd.DataFrame:
    """Of `rate_points` those over most targets, for every n."""
    if points.empty:
        return points
    return points[points["targets"] == points.groupby("n_target")["targets"].transform("max")]


def rate_cells(results: Results) -> pd.DataFrame:
    """`rate_points` as text."""
    return _as_text(rate_points(results))


def _as_text(points: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "target": one["target"],
            "source rows": one["n_source"],
            "n": one["n_target"],
            "arm": one["arm"],
            "depth": GAP if pd.isna(one["depth"]) else one["depth"],
            "learning rate": rate_text(one["lr"]),
            "validation": fraction(one["valid"]),
            "accuracy": interval(mean_interval(one["right"])),
            "source after": interval(mean_interval(one["source_right"])),
            "seeds": len(one["right"]),
        }
        for one in points.to_dict("records")
    )


def edges(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Arms by the rate that each chose on a target: the `only` one, on all seeds the `highest` or `lowest`; or another.

    Those at an end of several may want rates beyond it.
    """
    found: dict[str, list[str]] = {"highest": [], "lowest": [], "only": [], "another": []}
    rows = at_papers_share(at_own_strength(rows[rows["lr"].notna()]))
    keys = ["n_source", "target", "n_target", "arm", "depth"]
    several = len(set(rows["n_source"]) - {0}) > 1
    for key, chosen in at_validated_rate(rows).groupby(keys, dropna=False, sort=False):
        tried = set(pick(rows, **dict(zip(keys, key, strict=True)))["lr"])
        ends = {"only": {max(tried)}} if len(tried) == 1 else {"highest": {max(tried)}, "lowest": {min(tried)}}
        which = next((word for word, end in ends.items() if set(chosen["lr"]) == end), "another")
        start, target, n, arm, depth = key
        begun = f" from {start}" if several and start else ""
        found[which].append(f"{arm}{'' if pd.isna(depth) else f' {depth:g}'} ({target}, {n} rows{begun})")
    return found


def edges_text(rows: pd.DataFrame) -> str:
    """Which arms chose an end of their rates on every seed."""
    found = edges(rows)
    return "".join(
        f" Arms that chose the {word} of several rates on every seed, and so are perhaps not at their best: "
        f"{', '.join(found[word])}."
        for word in ("highest", "lowest")
        if found[word]
    )


def kept_text(points: pd.DataFrame) -> str:
    """Of the rates that cost the source at most MARGIN, what heads of depth 2 learn more than all weights.

    From the most source rows.
    """
    told = []
    competent = points[points["n_source"] == points["n_source"].max()] if len(points) else points
    for (n_target, target), here in over_all(competent).groupby(["n_target", "target"], sort=False):
        kept = here[[one["before"] - one["source_right"].mean() <= MARGIN for one in here.to_dict("records")]]
        for arm in ("circuit", "near_zero"):
            sides = [pick(kept, arm=arm, depth=PAPERS_DEPTH), pick(kept, arm="full")]
            if any(side.empty for side in sides):
                continue
            heads, full = (max(side.to_dict("records"), key=lambda one: one["right"].mean()) for side in sides)
            if heads["seeds"] == full["seeds"]:
                value = change(paired_difference(heads["right"], full["right"]))
                rates = f"{arm} at {rate_text(heads['lr'])} − full at {rate_text(full['lr'])}"
                told.append(f"{target}, n = {n_target}: {rates}, on the target {value}")
    if not told:
        return ""
    return (
        f" Each arm at its best rate for the target among those that cost the source at most {MARGIN} on average "
        f"(picked on test rows, and asked after we had seen them): {'; '.join(told)}."
    )


def rate_tables(results: Results, number: str) -> list[Table]:
    """Of the rows of a script, by its `number`; none where no arm was tried at several rates."""
    rows = results.rows[results.rows["lr"].notna()]
    if rows["lr"].nunique() < 2:
        return []
    points = rate_points(results)
    return [
        Table(
            f"{results.name}_{number}_by_rate",
            f"Every learning rate that was tried, folder {results.name}",
            f"{described(rows, results.rows['source'].iloc[0])}. Computed in {rows['dtype'].iloc[0]}. Accuracies are "
            "means over seeds; those on test rows have 95 % intervals. `validation` is a small split, so a choice by "
            "it is noisy: this table shows what other choices would have given. Every strength of a penalty that was "
            "tried has its own lines; everywhere else a penalty has the one that bears its name. All targets: the "
            "mean over the targets above with the same n, if all of them have the "
            f"rate on every seed.{kept_text(points)}{edges_text(rows)}",
            _as_text(points),
        )
    ]
