"""What tuning on a target costs the source and related tasks, by arm, epoch and number of rows (script 04)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ctsft.report.choosing import at_papers_share, at_validated_rate
from ctsft.report.compare import SOURCE, accuracy, mean_difference, on_common_seeds, paired, right, stack
from ctsft.report.fair import fair_pair, rates_by_seed, short_of_rates
from ctsft.report.measured import with_related
from ctsft.report.render import GAP, Table, change, fraction, interval, markdown, rates_text, with_holm
from ctsft.report.rows import Results
from ctsft.report.select import EXPERIMENT, by_a_model, pick
from ctsft.report.transfer import KEYS, about, lines_of
from ctsft.stats import Interval, ratio_interval

BEFORE = ("answers_before", "gold")


def forgetting_cells(results: Results) -> pd.DataFrame:
    """One line per target, n, arm and depth: gain on the target, loss on the source, retention; against `full`.

    From the most source rows.
    """
    results = results.from_most_source_rows()
    tried = at_papers_share(results.rows)
    rows = at_validated_rate(tried)
    seeds = rows["seed"].nunique()
    probes = results.probes[results.probes["role"] == "source"]
    table, p_values = [], []
    for line in lines_of(by_a_model(_own(results, tried))):
        if line["arm"] == "zero_shot":
            continue
        here = pick(rows, **line)
        start = line["n_source"] or rows["n_source"].max()
        zero = pick(rows, arm="zero_shot", target=line["target"], n_source=start)
        full = pick(tried, **(line | {"arm": "full", "depth": None, "n_source": start}))
        sides = on_common_seeds(here, zero, SOURCE)
        both = fair_pair(pick(tried, **line), full)
        against = None if line["arm"] == "full" else paired(*both, SOURCE)
        moved = probes[probes["cell"].isin(here["cell"])].groupby("cell")["relative_distance"].last()
        p_values.append(against and against.p)
        table.append(
            {
                "target": line["target"],
                "n": line["n_target"],
                "arm": line["arm"],
                "depth": GAP if pd.isna(line["depth"]) else line["depth"],
                "target gain": change(paired(here, zero)),
                "source change": change(paired(here, zero, SOURCE)),
                "retention": interval(sides and ratio_interval(*sides)),
                "source, against full": change(against),
                "their rates": _rates_of(both) if against else GAP,
                "distance moved": f"{moved.mean():.2%}" if len(moved) else GAP,
                "seeds": f"{here['seed'].nunique()}/{seeds}{_fewer(here, both) if against else ''}",
            }
        )
    return with_holm(table, p_values, "source, against full")


def _rates_of(both: Sequence[pd.DataFrame]) -> str:
    """What validation chose among the rates that an arm and `full` both had, which may be few."""
    arm, full = (rates_text(set(side["lr"].dropna())) for side in both)
    return f"{arm}; full {full}"


def _fewer(here: pd.DataFrame, both: Sequence[pd.DataFrame]) -> str:
    """How many seeds a comparison with `full` rests on, where that is fewer than the line's."""
    common = set.intersection(*(set(side["seed"]) for side in both))
    return f"; full {len(common)}" if len(common) < here["seed"].nunique() else ""


def _own(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """Those of `rows` on the grid of script 04, where it has run; else on that of 01."""
    probes = results.probes[results.probes["role"] == "source"]
    asked = {*probes["cell"], *results.strayed}
    return rows[rows["cell"].isin(asked) if asked else rows["experiment"] == EXPERIMENT]


def _tuned_with_probes(results: Results) -> pd.DataFrame:
    """The rows that have probes, at their validated learning rates and the paper's share of heads.

    Without zero-shot's, which change nothing.
    """
    probed = results.rows["cell"].isin(results.probes["cell"]) & (results.rows["arm"] != "zero_shot")
    return at_papers_share(at_validated_rate(results.rows[probed]))


def last_lines(results: Results) -> pd.DataFrame:
    """The probe lines after the last epoch, every arm at its validated learning rate and the paper's share of heads.

    Where script 04 has not run, what script 06 measured of related tests.
    """
    results = with_related(results) or results
    rows = _tuned_with_probes(results)
    lines = results.probes[results.probes["cell"].isin(rows["cell"])]
    return lines[lines["epoch"] == lines.groupby("cell")["epoch"].transform("max")]


def related_change(lines: pd.DataFrame, other: pd.DataFrame | None = None) -> Interval | None:
    """Accuracy after minus before on related tests, averaged over targets, n and tests; or minus another arm's.

    Every test weighs the same, however many rows it has. Targets that have fewer seeds than others are left
    out. Tests of one task with the same labels are parallel, so their rows are drawn together.
    """
    found: dict[tuple[str, int], list[tuple[tuple[int, ...], tuple[str, bytes], np.ndarray]]] = {}
    for (target, n, test), group in lines.groupby(["target", "n_target", "test"]):
        after = right(group)
        than = right(group, BEFORE) if other is None else right(pick(other, target=target, n_target=n, test=test))
        seeds = sorted(after.keys() & than.keys())
        if seeds:
            apart = stack(after, seeds) - stack(than, seeds)
            key = (test.partition("/")[0], group["gold"].iloc[0].tobytes())
            found.setdefault((target, n), []).append((tuple(seeds), key, apart))
    # A target that lacks a seed may wait, a test may not: it would be left out of the mean.
    seeds_of = [{seeds for seeds, _, _ in tests} for tests in found.values()]
    if not found or any(len(seeds) > 1 for seeds in seeds_of):
        return None
    counted = Counter(seeds for (seeds,) in seeds_of)
    most = max(counted, key=lambda seeds: (len(seeds), counted[seeds]))
    kept = [(apart, key) for tests in found.values() for seeds, key, apart in tests if seeds == most]
    return mean_difference(*zip(*kept, strict=True))


def related_cells(results: Results) -> pd.DataFrame:
    """Related tests by target, n and arm: accuracy before and after, and the change; see `with_related`."""
    lines = pick(last_lines(results), role="related")
    table = []
    for line in lines_of(lines):
        for test in sorted(set(lines["test"])):
            here = pick(lines, **line, test=test)
            table.append(
                {
                    "target": line["target"],
                    "n": line["n_target"],
                    "arm": line["arm"],
                    "depth": GAP if pd.isna(line["depth"]) else line["depth"],
                    "related test": test,
                    "before": fraction(here["accuracy_before"].mean()),
                    "after": interval(accuracy(here)),
                    "change": change(related_change(here)),
                    "seeds": here["seed"].nunique(),
                }
            )
    return pd.DataFrame(table)


def by_epoch(results: Results) -> pd.DataFrame:
    """Change on target and source after every epoch, by target, n, arm and depth: mean over seeds."""
    rows = _tuned_with_probes(results)
    lines = results.probes[results.probes["cell"].isin(rows["cell"]) & (results.probes["role"] != "related")]
    lines = lines.assign(change=lines["accuracy"] - lines["accuracy_before"])
    keys = ["target", "n_target", "arm", "depth", "role", "epoch"]
    return lines.groupby(keys, dropna=False)["change"].mean().reset_index()


def plane(results: Results) -> pd.DataFrame:
    """Target gain and source change of every arm, as intervals (on seeds that both have), and whether it is in front.

    In front: no arm of its panel is as good in both and better in one. Arms with `fewer` learning rates than another of
    their panel on some seed neither are in front nor keep one from it: with the others' rates they might lie elsewhere.
    """
    tried = by_a_model(at_papers_share(results.from_most_source_rows().rows))
    rows = at_validated_rate(tried)
    zero = rows[rows["arm"] == "zero_shot"]
    points = []
    for setting in rows.loc[rows["arm"] != "zero_shot", KEYS].drop_duplicates().to_dict("records"):
        here, before = pick(rows, **setting), pick(zero, target=setting["target"])
        gain, kept = paired(here, before), paired(here, before, SOURCE)
        if gain is not None:
            points.append({**setting, "gain": gain, "kept": kept, "rates": rates_by_seed(here, tried)})
    table = pd.DataFrame(points, columns=[*KEYS, "gain", "kept", "rates"]).assign(fewer=False, front=False)
    for _, group in table.groupby(["target", "n_target"]):
        table.loc[group.index, "fewer"] = short_of_rates(list(group["rates"]))
        group = group[~table.loc[group.index, "fewer"]]
        gain, kept = (np.array([value.value for value in group[name]]) for name in ("gain", "kept"))
        for number, index in enumerate(group.index):
            better = (gain >= gain[number]) & (kept >= kept[number])
            strictly = (gain > gain[number]) | (kept > kept[number])
            table.loc[index, "front"] = not (better & strictly).any()
    return table


def _strayed_told(results: Results) -> str:
    """For a caption: how many cells' answers are left out; empty where none are."""
    cells = len(results.strayed)
    if not cells:
        return ""
    return (
        f" What script 04 measured of {cells} cells is left out: their models, tuned again, did not answer as the rows "
        "say (another machine, or another theta1)."
    )


def forgetting_tables(results: Results) -> list[Table]:
    """The tables of script 04; where it has not run, of the rows of 01 and of the answers of 06."""
    results = results.from_most_source_rows()
    shown = _own(results, results.rows)
    related = with_related(results)
    tables = []
    if len(shown):
        tables.append(
            Table(
                f"{results.name}_04_forgetting",
                f"What is kept of the source, folder {results.name}",
                f"{about(results, shown)} Changes are paired on test rows, with 95 % intervals. `retention` is "
                "accuracy on the source after tuning divided by before. Against full: the source's accuracy after this "
                "arm minus after tuning all weights, both from the learning rates that both had on a seed (maybe other "
                "ones than in the columns before). p is from a paired permutation test over rows, Holm-corrected over "
                "the table. It concerns these checkpoints only, so it may be small although the interval, which also "
                "covers other seeds, includes 0. `distance "
                f"moved` is that of all weights, relative to their norm.{_strayed_told(results)}",
                forgetting_cells(results),
            )
        )
    if related is not None and len(related.probes):
        asked = related.rows[related.rows["cell"].isin(related.probes["cell"])]
        tables.append(
            Table(
                f"{results.name}_04_related_tasks",
                f"Related tests before and after, folder {results.name}",
                f"{about(related, asked)} `target` is the language tuned on; `before` is theta1. "
                f"Intervals are 95 %, paired on test rows.{_strayed_told(related)}",
                related_cells(related),
            )
        )
    return tables


def forgetting(results: Results) -> str:
    """What script 04 prints at the end."""
    related = related_cells(results)
    return markdown(forgetting_cells(results)) + ("" if related.empty else f"\n\n{markdown(related)}")
