"""`odyssey.md`: which arm for which situation, in sentences made from the rows of scripts 06, 07 and 08.

Where accuracy decides, an arm is chosen by the target's validation split and then told with its test numbers. What
has been measured on test rows alone (calibration, names, text, what is kept) can only be chosen there, and the page
says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ctsft.report.answers import ON_TEST, Answer, Teller, answers, named
from ctsft.report.choosing import ODYSSEY
from ctsft.report.costs import read_costs
from ctsft.report.judging import MARGIN
from ctsft.report.measured import odyssey_results, odyssey_rows
from ctsft.report.outcomes import outcomes
from ctsft.report.render import GAP, change, fraction, markdown
from ctsft.report.rows import Results
from ctsft.report.self_training import KEYS, against_first, fate, read_self_training
from ctsft.report.transfer import about, pick


@dataclass(frozen=True)
class Setting:
    """One target with n rows. `fewer`: arms that are not picked from, because they have fewer seeds as yet."""

    target: str
    n_target: int
    zero_shot: float
    fewer: list[str]
    answers: list[Answer]


def settings_of(results: Results, costs: pd.DataFrame) -> list[Setting]:
    """Every target and n of script 06's rows `results` (`odyssey_results`), with its answers."""
    rows, found = odyssey_rows(results), outcomes(results)
    tuned = [one for one in found if one.target_change is not None]
    settings = []
    for target, n_target in dict.fromkeys((one.target, one.n_target) for one in tuned):
        zero = next(one for one in found if one.target == target and one.arm == "zero_shot")
        every = [one for one in tuned if (one.target, one.n_target) == (target, n_target)]
        here = [one for one in every if one.seeds == max(one.seeds for one in every)]
        own = pick(rows, target=target, n_target=n_target)
        fewer = [one.arm for one in every if one not in here]
        spent = costs[costs["n_target"] == n_target] if len(costs) else costs
        told = answers(here, zero, Teller(own, results.rows), spent)
        settings.append(Setting(target, n_target, zero.accuracy, fewer, told))
    return settings


def in_short(settings: dict[str, Setting]) -> str:
    """What is taken: a line per situation, a column per setting, each under its name."""
    taken = {
        name: {a.situation + (r"\*" if ON_TEST in a.by else ""): a.taken for a in one.answers if a.taken}
        for name, one in settings.items()
    }
    situations = dict.fromkeys(situation for column in taken.values() for situation in column)
    lines = [{"situation": one} | {name: column.get(one, GAP) for name, column in taken.items()} for one in situations]
    return markdown(pd.DataFrame(lines))


def own_labels(folder: Path) -> list[str]:
    """A line per setting of script 08: what became of generations that learn from their own labels."""
    rows = read_self_training(folder)
    if rows.empty:
        return ["- Not run (script 08)."]
    lines = []
    for setting in rows[KEYS].drop_duplicates().to_dict("records"):
        chain = pick(rows, **setting)
        last = chain["generation"].max()
        kept = "the former kept in the mix" if setting["human"] else "the former only at first"
        lines.append(
            f"- {named(setting['arm'], setting['depth'])}, {setting['target']}, {setting['n_target']} human rows and "
            f"{setting['unlabelled']} without labels, {kept} ({setting['dtype']}): "
            f"{fate(chain)}; generation {last} against 0: {change(against_first(chain, last))}."
        )
    return lines


def odyssey_page(folders: Sequence[Results]) -> str:
    """The page, with every results folder: what it lacks is said to be not run."""
    out = [
        "# Which arm for which situation?\n",
        "Made by `python -m ctsft.report` from the rows of scripts 06, 07 and 08. Where accuracy decides, an arm is "
        "picked by the target's validation split and then told with its test numbers: after minus before (theta1), "
        "paired on test rows, with 95 % intervals. What a line picks *on test rows* is a little flattered, because it "
        "is told by the numbers that it was picked by. Intervals that overlap decide nothing: all arms answer the same "
        "test rows, so look at a paired difference (claims.md). An arm with more tries than others (column `tries`) "
        "has the better chances. All numbers are in "
        f"`*_{ODYSSEY}.md`; what the flags mean stands above them.\n",
    ]
    travelled = [(folder, odyssey_results(folder.folder)) for folder in folders]
    found = {
        folder.preset: settings_of(results, read_costs(folder.folder))
        for folder, results in travelled
        if results is not None and len(odyssey_rows(results))
    }
    columns = {f"{one.target}, {one.n_target} rows (`{name}`)": one for name, each in found.items() for one in each}
    if columns:
        out += [
            "## In short\n",
            "The arm that each setting picks of those that the folder has run; where that is no language model, the "
            "best tuned model behind it. Numbers: change on the target / on the source, or what the line is about. In "
            f"brackets: how many other models are within {MARGIN} of it on validation, which has too few rows to tell "
            "them apart. \\*: picked on test rows, at least in part. Below are the intervals.\n",
            in_short(columns),
            "",
        ]
    for folder, results in travelled:
        out.append(f"## Preset {folder.preset}, {folder.model}\n")
        ran = folder.preset in found
        out.append(f"{about(results, odyssey_rows(results))}\n" if ran else "Not run (script 06).\n")
        for one in found.get(folder.preset, []):
            out.append(f"### {one.target}, {one.n_target} rows (zero-shot {fraction(one.zero_shot)})\n")
            if one.fewer:
                names = ", ".join(f"`{arm}`" for arm in one.fewer)
                out.append(f"Not picked from, because they have fewer seeds as yet: {names}.\n")
            out += [*(answer.line for answer in one.answers), ""]
        out += ["### Labels that the model gives itself\n", *own_labels(folder.folder), ""]
    return "\n".join(out).rstrip() + "\n"
