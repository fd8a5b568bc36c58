"""How faithful circuits are, by scorer and size; against chance; how stable; and whether it pays (script 05).

Faithfulness of a set C of heads is (m(C) - m(none)) / (m(all) - m(none)): m is the mean margin on validation rows with
the heads of C as they are and all others at their mean.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from ctsft.discovery.circuits import heads_per_depth, known_frontiers
from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError
from ctsft.report.render import GAP, Table, change, fraction, interval, markdown
from ctsft.report.rows import PAPERS_SHARE, Results, at_validated_rate, counted, labels_by_test
from ctsft.report.stats import Interval, combined, spearman
from ctsft.report.transfer import pick
from ctsft.study.record import KNOWN, KNOWN_COLUMNS, SET_COLUMNS, SETS, read_rows

DEPTH = 2
TUNED = ["arm", "depth", "draw", "share", "scorer", "seed"]


@dataclass(frozen=True)
class Faithfulness:
    """The sets of a results folder, one line each with `values` [N], the margins; and the maps they come from."""

    sets: pd.DataFrame
    maps: list[Relevance]

    @classmethod
    def read(cls, folder: Path) -> Faithfulness | None:
        """None where script 05 has not run."""
        lines = [line for path in sorted(folder.glob(f"*{SETS}")) for line in read_rows(path, SET_COLUMNS)]
        if not lines:
            return None
        gold = labels_by_test(folder)
        sets = pd.DataFrame(lines).drop_duplicates("set")
        for name in ("seed", "size", "heads", "draw"):
            sets[name] = sets[name].astype(int)
        tests = sets["task"] + "/" + sets["language"] + ":valid"
        missing = sorted(set(tests) - gold.keys())
        if missing:
            raise UserError(f"{folder / 'gold.json'} lacks the labels of {missing[0]}. Run script 05 again.")
        asked = sets["error"] == ""
        sets["values"] = [np.array(text.split(), float) if text else None for text in sets["margins"]]
        sets["accuracy"] = [
            (counted(text, gold[test], folder) == gold[test]).mean() if good else np.nan
            for text, test, good in zip(sets["answers"], tests, asked, strict=True)
        ]
        maps = [Relevance.load(path.with_suffix("")) for path in sorted((folder / "relevance").glob("*.json"))]
        tasks = set(sets["task"])
        return cls(sets, [relevance for relevance in maps if relevance.about["task"] in tasks])

    @property
    def source(self) -> str:
        return str(self.sets["source"].iloc[0])

    @property
    def main(self) -> str:
        """The scorer that was compared with controls."""
        return str(pick(self.sets, selection="circuit")["scorer"].iloc[0])

    @property
    def scorers(self) -> list[str]:
        return list(dict.fromkeys(pick(self.sets, selection="top")["scorer"]))


def by_seed(lines: pd.DataFrame) -> dict[int, np.ndarray]:
    """Per seed the margins [N], averaged over draws; failed sets are left out."""
    known = lines[lines["values"].notna()]
    return {int(seed): np.mean(list(group["values"]), axis=0) for seed, group in known.groupby("seed")}


def ends(found: Faithfulness, language: str) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Margins by seed with no head and with all heads."""
    here = pick(found.sets, language=language)
    return by_seed(pick(here, selection="none")), by_seed(pick(here, selection="all"))


def faithfulness_of(found: Faithfulness, lines: pd.DataFrame) -> Interval | None:
    """(m(C) - m(none)) / (m(all) - m(none)) with its interval over rows and seeds."""
    none, whole = ends(found, lines["language"].iloc[0]) if len(lines) else ({}, {})
    mine = by_seed(lines)
    seeds = sorted(mine.keys() & none.keys() & whole.keys())
    if not seeds:
        return None
    return combined(
        lambda c, n, w: (c - n) / (w - n), *([side[seed] for seed in seeds] for side in (mine, none, whole))
    )


def curve(found: Faithfulness, **wanted: object) -> tuple[list[float], list[np.ndarray]] | None:
    """Shares of heads, ends included, and margins [seeds, N] at each, on the seeds that every point has.

    None where a point is missing altogether, as where a scorer failed.
    """
    lines = pick(found.sets, **wanted)
    none, whole = ends(found, str(wanted["language"]))
    total = int(found.sets["heads"].iloc[0])
    points = {0: none, **{int(size): by_seed(group) for size, group in lines.groupby("size")}, total: whole}
    if wanted.get("direction") == "knock_out":
        points |= {0: whole, total: none}
    seeds = sorted(set.intersection(*(set(point) for point in points.values())))
    if len(points) == 2 or not seeds:
        return None
    return [size / total for size in points], [np.array([point[seed] for seed in seeds]) for point in points.values()]


def faithfulness_curve(found: Faithfulness, **wanted: object) -> tuple[list[float], list[Interval]] | None:
    """Shares of heads and faithfulness at each, ends included."""
    points = curve(found, **wanted)
    if points is None:
        return None
    shares, values = points
    none, whole = (values[-1], values[0]) if wanted.get("direction") == "knock_out" else (values[0], values[-1])
    return shares, [combined(lambda m, n, w: (m - n) / (w - n), value, none, whole) for value in values]


def area(found: Faithfulness, scorer: str, minus: str | None = None) -> Interval | None:
    """Area under the curve of faithfulness against the share of heads kept; or its difference to another scorer's."""
    base = dict(language=found.source, selection="top", direction="keep")
    curves = [curve(found, scorer=name, **base) for name in (scorer, minus) if name]
    if None in curves or len({len(points[0]) for _, points in curves}) > 1:
        return None

    def areas(*means: np.ndarray) -> np.ndarray:
        out, start = [], 0
        for shares, points in curves:
            mine = means[start : start + len(points)]
            start += len(points)
            out.append(np.trapezoid([(m - mine[0]) / (mine[-1] - mine[0]) for m in mine], shares, axis=0))
        return out[0] - out[1] if minus else out[0]

    return combined(areas, *(point for _, points in curves for point in points))


def scorer_cells(found: Faithfulness) -> pd.DataFrame:
    """One line per scorer: the area under its curve, against the main scorer's, and what scoring costs."""
    table = []
    for scorer in found.scorers:
        lines = pick(found.sets, scorer=scorer, selection="top", direction="keep", language=found.source)
        failed = sorted(set(lines["error"]) - {""})
        seconds = [m.about["seconds"] for m in found.maps if m.about["scorer"] == scorer and _plain(m, lines)]
        table.append(
            {
                "scorer": scorer,
                "area under faithfulness": interval(area(found, scorer)),
                f"minus {found.main}": GAP if scorer == found.main else change(area(found, scorer, found.main)),
                "accuracy, all sizes": fraction(lines["accuracy"].mean()),
                "scored rows": ", ".join(sorted(set(lines["score_rows"]))),
                "seconds of scoring": f"{np.median(seconds):.0f}" if seconds else GAP,
                "seeds": lines["seed"].nunique(),
                "failed": failed[0].split(".")[0] if failed else "",
            }
        )
    return pd.DataFrame(table)


def _plain(relevance: Relevance, lines: pd.DataFrame) -> bool:
    """Whether a map is the one that a curve was drawn from, not one of the stability study."""
    about = relevance.about
    return str(about["score_rows"]) in set(lines["score_rows"]) and about.get("pool", "disjoint") == "disjoint"


def chance_cells(found: Faithfulness) -> pd.DataFrame:
    """The main scorer's sets against random ones of the same size and layers, near-zero and bottom heads."""
    here = pick(found.sets, language=found.source)
    table = []
    circuits = pick(here, selection="circuit", direction="keep")
    sizes = sorted(set(pick(here, selection="top", scorer=found.main)["size"]))
    wanted = [("circuit", size) for size in sorted(set(circuits["size"]))] + [("top", size) for size in sizes]
    for selection, size in wanted:
        same = pick(here, size=size, scorer=found.main)
        mine = pick(same, selection=selection)
        kept, without = pick(mine, direction="keep"), pick(mine, direction="knock_out")
        random = pick(same, selection=f"random:{selection}")
        others = {name: faithfulness_of(found, pick(same, selection=name)) for name in ("near_zero", "bottom")}
        table.append(
            {
                "heads": f"{selection}, {size}",
                "share": f"{size / here['heads'].iloc[0]:.0%}",
                "kept": interval(faithfulness_of(found, kept)),
                "accuracy kept": fraction(kept["accuracy"].mean()),
                "knocked out": interval(faithfulness_of(found, without)),
                "random, same layers": interval(faithfulness_of(found, random)),
                "random beaten": _beaten(kept, random),
                **{name: interval(value) for name, value in others.items()},
                "seeds": kept["seed"].nunique(),
            }
        )
    return pd.DataFrame(table)


def _beaten(mine: pd.DataFrame, random: pd.DataFrame) -> str:
    wins, draws = beaten(mine, random)
    return f"{wins}/{draws}" if draws else GAP


def beaten(mine: pd.DataFrame, random: pd.DataFrame) -> tuple[int, int]:
    """How many random sets have a lower mean margin than ours of the same seed, and how many there are."""
    ours = by_seed(mine)
    random = random[random["seed"].isin(ours)]
    drawn = [(values.mean(), ours[seed].mean()) for seed, values in zip(random["seed"], random["values"], strict=True)]
    return sum(theirs < own for theirs, own in drawn), len(drawn)


def stability_cells(found: Faithfulness) -> pd.DataFrame:
    """Overlap of circuits: with the one from the most rows, between seeds, and with rows shared with the mean."""
    maps = [m for m in found.maps if m.about["scorer"] == found.main and m.about["source"] == found.source]
    disjoint = [m for m in maps if m.about.get("pool", "disjoint") == "disjoint"]
    most = {m.about["seed"]: m for m in sorted(disjoint, key=lambda m: m.about["score_rows"])}
    table = []
    for rows in sorted({m.about["score_rows"] for m in disjoint}):
        here = [m for m in disjoint if m.about["score_rows"] == rows]
        to_most = [overlap(m, most[m.about["seed"]]) for m in here if m is not most[m.about["seed"]]]
        # Balanced over the labels, so mostly fewer than were asked for.
        scored = min(len(m.about["score_row_ids"]) for m in here)
        table.append(_overlaps(f"{scored} rows, against the most", to_most))
        table.append(_overlaps(f"{scored} rows, between seeds", [overlap(a, b) for a, b in combinations(here, 2)]))
    shared = [m for m in maps if m.about.get("pool") == "shared"]
    pairs = [
        overlap(m, other)
        for m in shared
        for other in disjoint
        if (other.about["seed"], other.about["score_rows"]) == (m.about["seed"], m.about["score_rows"])
    ]
    table.append(_overlaps("rows shared with the mean, against disjoint", pairs))
    table += [_overlaps(f"{scorer}, against {found.main}", _against(found, scorer)) for scorer in found.scorers[1:]]
    return pd.DataFrame([line for line in table if line["pairs"]])


def _against(found: Faithfulness, scorer: str) -> list[tuple[float, float, float]]:
    lines = pick(found.sets, selection="top", direction="keep")
    maps = [m for m in found.maps if _plain(m, lines) and m.about["source"] == found.source]
    mine = {m.about["seed"]: m for m in maps if m.about["scorer"] == found.main}
    return [overlap(m, mine[m.about["seed"]]) for m in maps if m.about["scorer"] == scorer and m.about["seed"] in mine]


def overlap(first: Relevance, second: Relevance) -> tuple[float, float, float]:
    """Jaccard overlap of the heads of depths 0 to 2 and of the top tenth, and rank correlation of all scores."""
    k = heads_per_depth(first.logits.size, PAPERS_SHARE)
    sets = [{head for part in known_frontiers(m, DEPTH, k) for head in part} for m in (first, second)]
    tenth = max(1, first.logits.size // 10)
    top = [set(np.argsort(-m.logits.ravel(), kind="stable")[:tenth].tolist()) for m in (first, second)]
    correlation = stats.spearmanr(first.logits.ravel(), second.logits.ravel()).statistic
    jaccard = [len(a & b) / len(a | b) for a, b in (sets, top)]
    # Without columns to inner heads the circuit ends at depth 0, and overlaps of unequal depth mean nothing.
    return (jaccard[0] if len(sets[0]) == len(sets[1]) else np.nan, jaccard[1], float(correlation))


def _overlaps(what: str, values: list[tuple[float, float, float]]) -> dict[str, object]:
    means = [fraction(np.mean(column)) for column in zip(*values, strict=True)] or [GAP] * 3
    return {
        "scores": what,
        **dict(zip(("circuit", "top tenth", "rank correlation"), means, strict=True)),
        "pairs": len(values),
    }


def paying(found: Faithfulness, results: Results) -> pd.DataFrame:
    """Every tuned circuit that was asked: its faithfulness, and what tuning it gave on the target and the source.

    Gains are averaged over the targets and n that all of these circuits were tuned on, every cell at its validated
    learning rate.
    """
    rows = at_validated_rate(results.rows)
    zero = rows[rows["arm"] == "zero_shot"].set_index(["target", "seed"])["accuracy"]
    rows = rows.join(zero.rename("zero"), on=["target", "seed"])
    none, whole = ends(found, found.source)
    cells = {}
    for line in pick(found.sets, selection="tuned").rename(columns={"values": "margin_by_row"}).itertuples():
        about = json.loads((results.folder / "circuits" / f"{line.circuit}.json").read_text())
        same = {name: about[name] for name in TUNED}
        here = pick(rows, **same).set_index(["target", "n_target"])
        if len(here) and line.seed in none:
            low, high = none[line.seed].mean(), whole[line.seed].mean()
            faithful = (line.margin_by_row.mean() - low) / (high - low)
            cells[line.circuit] = (here, {**same, "heads": line.size, "faithfulness": faithful})
    common = set.intersection(*(set(here.index) for here, _ in cells.values())) if cells else set()
    lines = []
    for here, about in cells.values() if common else ():
        same = here.loc[sorted(common)]
        gain, kept = same["accuracy"] - same["zero"], same["source_accuracy"] - same["source_accuracy_before"]
        lines.append({**about, "target gain": gain.mean(), "source change": kept.mean(), "settings": len(common)})
    return pd.DataFrame(lines)


def paying_text(found: Faithfulness, results: Results | None) -> str:
    """Rank correlations between a circuit's faithfulness and what tuning it gives, over all sizes and within a size."""
    lines = pd.DataFrame() if results is None else paying(found, results)
    if lines.empty:
        return "Does faithfulness pay? Undecided: no tuned circuit was asked."
    within = lines["faithfulness"] - lines.groupby(["seed", "heads"])["faithfulness"].transform("mean")
    told = []
    for what in ("target gain", "source change"):
        rest = lines[what] - lines.groupby(["seed", "heads"])[what].transform("mean")
        values = [_correlation(lines, lines["faithfulness"], lines[what]), _correlation(lines, within, rest)]
        told.append(f"with the {what} {change(values[0])}, among circuits of one size {change(values[1])}")
    return (
        f"Does faithfulness pay? Spearman's correlation of a tuned circuit's faithfulness {'; '.join(told)} "
        f"({len(lines)} circuits on {lines['settings'].iloc[0]} targets and n; bootstrap over circuits and seeds)."
    )


def _correlation(lines: pd.DataFrame, x: pd.Series, y: pd.Series) -> Interval | None:
    table = lines[TUNED].assign(x=x, y=y).set_index(TUNED).unstack("seed").dropna()
    return spearman(table["x"].to_numpy(), table["y"].to_numpy()) if len(table) else None


def faithfulness_tables(found: Faithfulness, folder: Path, results: Results | None) -> list[Table]:
    """The tables of script 05; `results` are the rows of the same task, where script 01 has run."""
    preset, known = folder.name, known_cells(folder)
    sets = found.sets
    about = (
        f"Preset `{preset}`, model `{sets['model'].iloc[0]}`, theta1 on {found.source}; "
        f"{len(next(v for v in sets['values'] if v is not None))} validation rows, seeds "
        f"{', '.join(map(str, sorted(set(sets['seed']))))}. Faithfulness is (m(C) - m(none)) / (m(all) - m(none)), m "
        "the mean margin with the heads outside C at their label-balanced mean; 95 % intervals over rows and seeds."
    )
    return [
        Table(
            f"{preset}_05_scorers",
            f"Which scores find the mechanism, preset {preset}",
            f"{about} The area is that under faithfulness against the share of heads kept, best heads first: 1 where "
            "the first head does it all, 0.5 where every head counts the same. Options: pattern attention, linear "
            "gate, raw (no clean-up), pooled mean.",
            scorer_cells(found),
        ),
        Table(
            f"{preset}_05_faithfulness",
            f"Circuits against chance, preset {preset}",
            f"{about} Scorer `{found.main}`. `circuit` is what CT-SFT tunes (depths 0 to 2), `top` the best heads by "
            "the score to the logits. Random sets have as many heads in every layer; `random beaten` counts "
            f"those of a lower margin than ours. {paying_text(found, results)}",
            chance_cells(found),
        ),
        Table(
            f"{preset}_05_stability",
            f"How stable circuits are, preset {preset}",
            f"Preset `{preset}`, scorer `{found.main}` unless named. Jaccard overlap of the circuit (depths 0 to 2) "
            "and of the tenth of the heads with the highest scores, and Spearman's correlation of all scores; means "
            f"over pairs of maps. Seeds {', '.join(map(str, sorted(set(sets['seed']))))}.",
            stability_cells(found),
        ),
        *(
            [
                Table(
                    f"{preset}_05_known",
                    "Circuits that are known",
                    "ROC AUC of telling the heads that must be there from all others (1: ranked first; 0.5: chance), "
                    "mean over seeds, and those heads' ranks, seed by seed. `planted`: a hand-made model of 32 heads, "
                    "four of which carry the label, built so that a loud head says nothing and one works against the "
                    "others. `induction`: a two-layer GPT-2 of 8 heads, trained here; its heads are read off the "
                    "attention patterns.",
                    known,
                )
            ]
            if len(known)
            else []
        ),
    ]


def known_cells(folder: Path) -> pd.DataFrame:
    """ROC AUC of telling the heads of a known circuit from all others, mean over seeds, and the heads' ranks."""
    lines = [line for path in sorted(folder.glob(f"*{KNOWN}")) for line in read_rows(path, KNOWN_COLUMNS)]
    table = []
    for scorer in dict.fromkeys(line["scorer"] for line in lines):
        cells: dict[str, object] = {"scorer": scorer}
        for name in dict.fromkeys(line["circuit"] for line in lines):
            here = [line for line in lines if (line["scorer"], line["circuit"]) == (scorer, name)]
            cells[name] = fraction(np.mean([float(line["roc_auc"]) for line in here]) if here else None)
            cells[f"{name}, ranks"] = "; ".join(line["ranks"].replace(" ", ", ") for line in here) or GAP
            cells[f"{name}, seeds"] = len(here)
        table.append(cells)
    return pd.DataFrame(table)


def faithfulness(folder: Path) -> str:
    """What script 05 prints at the end."""
    found = Faithfulness.read(folder)
    tables = [scorer_cells(found), chance_cells(found), stability_cells(found), known_cells(folder)]
    return "\n\n".join(markdown(cells) for cells in tables if len(cells))
