"""How faithful a set of heads is: the sets that script 05 asked, their curves and the areas under them.

Faithfulness of a set C of heads is (m(C) - m(none)) / (m(all) - m(none)): m is the mean margin on validation rows with
the heads of C as they are and all others at their mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError
from ctsft.report.choosing import told_by
from ctsft.report.mixed import refuse_mixed
from ctsft.report.rows import counted, labels_by_test
from ctsft.report.select import pick
from ctsft.report.stored import stored_maps
from ctsft.stats import Interval, combined, kept_share
from ctsft.study.record import SET_COLUMNS, SETS, read_rows

# What a scorer's curve is made of.
BEST_KEPT = {"selection": "top", "direction": "keep"}
# What names a set of heads in a table.
UNIT = "theta1 task language seed scorer score_rows selection direction size draw circuit".split()


@dataclass(frozen=True)
class Faithfulness:
    """The sets of a results folder, one line each with `values` [N], the margins; and the scores of heads.

    `tuned` are the circuits that some cell tuned, and the ends they are measured by; `sets` are all others. `maps` are
    those of the theta1 that `sets` were asked of; `elsewhere` those of the same model, task and precision from other
    starts.
    """

    sets: pd.DataFrame
    tuned: pd.DataFrame
    maps: list[Relevance]
    elsewhere: list[Relevance]

    @classmethod
    def read(cls, folder: Path) -> Faithfulness | None:
        """None where script 05 has not run, or not far enough to have asked of a circuit."""
        lines = [line for path in sorted(folder.glob(f"*{SETS}")) for line in read_rows(path, SET_COLUMNS)]
        if not any(line["selection"] == "circuit" and not line["circuit"] for line in lines):
            return None
        gold = labels_by_test(folder)
        sets = pd.DataFrame(lines).drop_duplicates("set")
        for name in ("seed", "size", "heads", "draw"):
            sets[name] = sets[name].astype(int)
        tests = sets["task"] + "/" + sets["language"] + ":valid"
        missing = sorted(set(tests) - gold.keys())
        if missing:
            raise UserError(f"{folder / 'gold.json'} lacks the labels of {missing[0]}. Run script 05 again.")
        # A seed's curves are one theta1's, that with the most sets; those of tuned circuits name their own.
        free = sets["circuit"] == ""
        usual = sets[free].groupby("seed")["theta1"].agg(lambda names: names.mode().iloc[0])
        sets = sets[~free | (sets["theta1"] == sets["seed"].map(usual))]
        tests = tests[sets.index]
        refuse_mixed(sets, UNIT)
        asked = sets["error"] == ""
        sets["values"] = [np.array(text.split(), float) if text else None for text in sets["margins"]]
        sets["accuracy"] = [
            (counted(text, gold[test], folder) == gold[test]).mean() if good else np.nan
            for text, test, good in zip(sets["answers"], tests, asked, strict=True)
        ]
        maps = stored_maps(folder)
        of_tuned = sets["circuit"] != ""
        sets, tuned = sets[~of_tuned], sets[of_tuned]
        asked, alike = set(sets["theta1"]), set(zip(sets["model_hash"], sets["task"], sets["dtype"], strict=True))
        others = [m for m in maps if m.about["theta1_hash"] not in asked]
        return cls(
            sets,
            tuned,
            [m for m in maps if m.about["theta1_hash"] in asked],
            [m for m in others if (m.about["model_hash"], m.about["task"], m.about["dtype"]) in alike],
        )

    @property
    def source(self) -> str:
        return str(self.sets["source"].iloc[0])

    @property
    def main(self) -> str:
        """The scorer compared with controls; of several, the first whose circuits were not filled by ties by index."""
        compared = list(dict.fromkeys(self.circuit_sets["scorer"]))
        return next((scorer for scorer in compared if not self.filled_by_index(scorer)), compared[0])

    @property
    def circuit_sets(self) -> pd.DataFrame:
        """The circuits that were asked."""
        return pick(self.sets, selection="circuit")

    def filled_by_index(self, scorer: str) -> bool:
        """Whether ties by index filled circuits of `scorer` that were compared with controls."""
        maps = self.maps_of(scorer)
        return any(maps[seed].ties == "index" for seed in self.seeds_of(scorer) if seed in maps)

    def seeds_of(self, scorer: str) -> list[int]:
        """Those on which circuits by `scorer` were compared with controls."""
        return sorted(set(pick(self.circuit_sets, scorer=scorer)["seed"]))

    @property
    def by_index(self) -> bool:
        """Whether ties by index filled circuits that were compared with controls."""
        return self.filled_by_index(self.main)

    @property
    def seeds(self) -> list[int]:
        """Those of the main scorer."""
        return self.seeds_of(self.main)

    def told(self, scorer: str) -> str:
        """How the circuits of `scorer` were chosen, in words."""
        return told_by(scorer, "index" if self.filled_by_index(scorer) else "logits")

    @property
    def found_again(self) -> str:
        """The scorer whose circuits were found again from other rows: that of the most maps, of equals the main one."""
        number = Counter(m.about["scorer"] for m in self.maps)
        return max((self.main, *number), key=lambda scorer: number[scorer])

    def maps_of(self, scorer: str) -> dict[int, Relevance]:
        """By seed, the scores that the curve of `scorer` was drawn from, not those of the stability study."""
        lines = pick(self.sets, scorer=scorer, selection="top", direction="keep")
        rows = set(lines["score_rows"])
        return {m.about["seed"]: m for m in self.maps if m.about["scorer"] == scorer and usual(m, rows)}

    def no_negative(self, scorer: str) -> bool:
        """Whether it gives no head a negative score: the heads nearest to zero are the lowest then."""
        return all((m.logits >= 0).all() for m in self.maps_of(scorer).values())

    @property
    def scorers(self) -> list[str]:
        return list(dict.fromkeys(pick(self.sets, selection="top")["scorer"]))


def controls(found: Faithfulness) -> tuple[str, ...]:
    """The selections that a circuit is compared with, but for random ones; one where two are the same heads."""
    return ("near_zero",) if found.no_negative(found.main) else ("near_zero", "bottom")


def usual(relevance: Relevance, score_rows: set[str]) -> bool:
    """Whether scores were made on so many rows, and on others than those of the mean."""
    about = relevance.about
    return str(about["score_rows"]) in score_rows and about.get("pool", "disjoint") == "disjoint"


def by_seed(lines: pd.DataFrame) -> dict[int, np.ndarray]:
    """Per seed the margins [N], averaged over draws; failed sets are left out."""
    known = lines[lines["values"].notna()]
    return {int(seed): np.mean(list(group["values"]), axis=0) for seed, group in known.groupby("seed")}


def ends(found: Faithfulness, language: str) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Margins by seed with no head and with all heads."""
    here = pick(found.sets, language=language)
    return by_seed(pick(here, selection="none")), by_seed(pick(here, selection="all"))


def ends_of_theta1(found: Faithfulness, theta1: str) -> tuple[float, float] | None:
    """The mean margins of this theta1 with no head and with all heads, on the source."""
    both = pd.concat([found.sets, found.tuned])
    here = both[(both["theta1"] == theta1) & (both["language"] == found.source) & both["values"].notna()]
    means = [pick(here, selection=name)["values"].map(np.mean).mean() for name in ("none", "all")]
    return None if np.isnan(means).any() else (means[0], means[1])


def faithfulness_of(found: Faithfulness, lines: pd.DataFrame) -> Interval | None:
    """(m(C) - m(none)) / (m(all) - m(none)) with its interval over rows and seeds."""
    none, whole = ends(found, lines["language"].iloc[0]) if len(lines) else ({}, {})
    mine = by_seed(lines)
    seeds = sorted(mine.keys() & none.keys() & whole.keys())
    if not seeds:
        return None
    return kept_share(*([side[seed] for seed in seeds] for side in (mine, none, whole)))


def curve(
    found: Faithfulness, seeds: Collection[int] | None = None, **wanted: object
) -> tuple[list[float], list[np.ndarray]] | None:
    """Shares of heads, ends included, and margins [seeds, N] at each, on the seeds that every point has.

    None where a point is missing altogether, as where a scorer failed. `seeds`: only these.
    """
    lines = pick(found.sets, **wanted)
    lines = lines if seeds is None else lines[lines["seed"].isin(seeds)]
    none, whole = ends(found, str(wanted["language"]))
    total = int(found.sets["heads"].iloc[0])
    points = {0: none, **{int(size): by_seed(group) for size, group in lines.groupby("size")}, total: whole}
    if wanted.get("direction") == "knock_out":
        points |= {0: whole, total: none}
    every = sorted(set.intersection(*(set(point) for point in points.values())))
    if len(points) == 2 or not every:
        return None
    return [size / total for size in points], [np.array([point[seed] for seed in every]) for point in points.values()]


def faithfulness_curve(found: Faithfulness, **wanted: object) -> tuple[list[float], list[Interval]] | None:
    """Shares of heads and faithfulness at each, ends included."""
    points = curve(found, **wanted)
    if points is None:
        return None
    shares, values = points
    none, whole = (values[-1], values[0]) if wanted.get("direction") == "knock_out" else (values[0], values[-1])
    return shares, [kept_share(value, none, whole) for value in values]


def asked_of(found: Faithfulness, *scorers: str) -> set[int]:
    """The seeds on which the best heads by each of these scorers have margins at every size that was asked."""
    here = pick(found.sets, language=found.source, **BEST_KEPT)
    points = (by_seed(group) for scorer in scorers for _, group in pick(here, scorer=scorer).groupby("size"))
    return set(here["seed"]).intersection(*points)


def area(found: Faithfulness, scorer: str, minus: str | None = None) -> Interval | None:
    """Area under the curve of faithfulness against the share of heads kept; or its difference to another scorer's.

    A difference is that on the seeds that both scorers were asked about.
    """
    base = dict(language=found.source, **BEST_KEPT)
    names = [name for name in (scorer, minus) if name]
    curves = [curve(found, asked_of(found, *names), scorer=name, **base) for name in names]
    if None in curves:
        return None

    def areas(*means: np.ndarray) -> np.ndarray:
        out, start = [], 0
        for shares, points in curves:
            mine = means[start : start + len(points)]
            start += len(points)
            out.append(np.trapezoid([(m - mine[0]) / (mine[-1] - mine[0]) for m in mine], shares, axis=0))
        return out[0] - out[1] if minus else out[0]

    return combined(areas, *(point for _, points in curves for point in points))


def beaten(mine: pd.DataFrame, random: pd.DataFrame, knocked_out: bool = False) -> tuple[int, int]:
    """How many random sets have a lower mean margin than ours of the same seed, and how many there are.

    Of sets that are knocked out, those that leave a higher one: less is lost without them than without ours.
    """
    ours = by_seed(mine)
    random = random[random["seed"].isin(ours) & random["values"].notna()]
    drawn = [(values.mean(), ours[seed].mean()) for seed, values in zip(random["seed"], random["values"], strict=True)]
    return sum(theirs > own if knocked_out else theirs < own for theirs, own in drawn), len(drawn)
