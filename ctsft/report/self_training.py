"""When does training on a model's own labels collapse, and does the circuit slow it down (script 08)?

A chain has decayed where its last generation's accuracy on the target is below generation 0's with its whole paired
95 % interval, and collapsed where, besides, the entropy of that generation's answers has fallen below half of what the
chain itself had in generation 0, on some seed; else it has held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ctsft.report.judging import by_interval
from ctsft.report.mixed import refuse_mixed
from ctsft.report.render import GAP, Table, change, described, interval, listed, markdown, rates_text
from ctsft.report.rows import labels_by_test
from ctsft.report.select import pick
from ctsft.stats import Difference, mean_interval, paired_difference
from ctsft.study.record import LATE
from ctsft.study.spread import entropy
from ctsft.tasks.task import from_digits

EXPERIMENT = "08_self_training"
# What chains must have in common to be compared, and what tells one of them from another.
GROUND = ["dtype", "target", "n_target", "unlabelled", "rows", "rates"]
KEYS = [*GROUND, "arm", "depth", "human"]
ONE_STEP = (
    "So what a chain lost or gained is one step, from human labels to its own labels of the unlabelled rows: it is no "
    "decay over generations"
)


def read_self_training(folder: Path) -> pd.DataFrame:
    """One line per chain and generation, with `right` and `source_right` [N]; empty where script 08 has not run.

    `unlabelled`: how many rows each model of a chain labels; `rows`: whether these are the `same` for all of them, or
    `fresh` ones for each (rows from before that choice are `same`). Of chains that differ in their length alone, the
    longest.
    """
    path = folder / "self_training" / f"{EXPERIMENT}.csv"
    if not path.is_file():
        return pd.DataFrame()
    # Rows that were moved to another folder still say the preset that they were run by.
    rows = pd.read_csv(path, dtype={"rates": str}).assign(preset=folder.resolve().name)
    rows["rows"] = rows["rows"] if "rows" in rows else LATE["rows"]
    rows["unlabelled"] = rows["n_rows"].where(rows["generation"] > 0).groupby(rows["chain"]).transform("max")
    rows["unlabelled"] = (rows["unlabelled"] - rows["n_target"].where(rows["human"], 0)).astype(int)
    length = rows.groupby("chain")["generation"].transform("max")
    rows = rows[length == length.groupby([rows[key] for key in (*KEYS, "seed")], dropna=False).transform("max")]
    refuse_mixed(rows, [*KEYS, "seed", "generation"])
    gold = labels_by_test(folder)
    for column, of in (("predictions", "target"), ("source_predictions", "source")):
        tests = rows["task"] + "/" + rows[of]
        right = [from_digits(text) == gold[test] for text, test in zip(rows[column], tests, strict=True)]
        rows[column.replace("predictions", "right")] = right
    rows["gold"] = [gold[test] for test in rows["task"] + "/" + rows["target"]]
    rows["gold_entropy"] = [float(entropy(np.bincount(labels) / len(labels))) for labels in rows["gold"]]
    return rows


def by_ground(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The chains that may be compared with one another, whatever the order of the rows.

    Those on fresh rows come first: others soon repeat one another. Then those of the most rows.
    """
    grounds = [here for _, here in rows.groupby(GROUND, dropna=False)]
    return sorted(grounds, key=lambda here: (here["rows"].iloc[0] != "fresh", -len(here)))


def labelled_text(setting: Mapping[str, object]) -> str:
    """How many rows each model of a chain labels, and whether they are fresh ones."""
    return f"{setting['unlabelled']}{' fresh' if setting['rows'] == 'fresh' else ''}"


def stacked(rows: pd.DataFrame, column: str = "right") -> np.ndarray:
    """[seeds, N]"""
    return np.stack(list(rows.sort_values("seed")[column])).astype(float)


def against_first(chain: pd.DataFrame, generation: int) -> Difference:
    """Accuracy in `generation` minus that in generation 0, on the seeds that have come so far."""
    here, first = pick(chain, generation=generation), pick(chain, generation=0)
    return paired_difference(stacked(here), stacked(first[first["seed"].isin(here["seed"])]))


def fate(chain: pd.DataFrame) -> str:
    """What became of a chain (all seeds of one setting) by its last generation: collapsed, decayed, or held.

    A dip on the way that later generations make good is no end.
    """
    numbers = range(1, int(chain["generation"].max()) + 1)
    changes = {n: against_first(chain, n) for n in numbers}
    gone = [n for n, value in changes.items() if by_interval(value, 0, 0) == "contradicted"]
    if not gone or gone[-1] != numbers[-1]:
        return "held"
    since = next(n for n in reversed(numbers) if n - 1 not in gone)
    last = pick(chain, generation=numbers[-1]).set_index("seed")["label_entropy"]
    first = pick(chain, generation=0).set_index("seed")["label_entropy"].reindex(last.index)
    narrow = int((last < first / 2).sum())
    return (
        f"collapsed from generation {since} ({narrow} of {len(last)} seeds)"
        if narrow
        else f"decayed from generation {since}"
    )


def resting(chains: pd.DataFrame) -> list[int | None]:
    """For every chain and seed, the generation that all later ones equal in every answer; None where the last differs.

    Each generation starts from theta1 again, so one that gives back the labels that it learned from is made again and
    again from there on.
    """
    found = []
    for _, one in chains.groupby([*KEYS, "seed"], dropna=False, sort=False):
        one = one.sort_values("generation")
        answers = list(zip(one["predictions"], one["source_predictions"], strict=True))
        since = next(number for number, own in enumerate(answers) if set(answers[number:]) == {own})
        found.append(int(one["generation"].iloc[since]) if since < len(answers) - 1 else None)
    return found


def resting_told(chains: pd.DataFrame) -> str:
    """In how many of these chains all later generations are copies, and of which generation."""
    found = resting(chains)
    counts = Counter(one for one in found if one is not None)
    if not counts:
        return f"in none of {_chains(len(found))} do generations repeat one another"
    since = ", ".join(f"{number} in {counts[number]}" for number in sorted(counts))
    return (
        f"in {counts.total()} of {_chains(len(found))} all later generations equal an earlier one in every answer "
        f"(generation {since})"
    )


def one_step(chains: pd.DataFrame) -> bool:
    """Whether nothing happened in any of these chains behind generation 1."""
    return set(resting(chains)) <= {0, 1}


def _chains(number: int) -> str:
    return "1 chain" if number == 1 else f"{number} chains"


def self_training_cells(folder: Path) -> pd.DataFrame:
    """One line per setting and generation."""
    rows = read_self_training(folder)
    table = []
    for _, setting in rows[KEYS].drop_duplicates().iterrows() if len(rows) else []:
        chain = pick(rows, **setting.to_dict())
        end = fate(chain)
        for generation, here in chain.groupby("generation"):
            against = against_first(chain, generation) if generation else None
            table.append(
                {
                    "target": setting["target"],
                    "n": setting["n_target"],
                    "arm": setting["arm"],
                    "depth": GAP if pd.isna(setting["depth"]) else int(setting["depth"]),
                    "unlabelled": labelled_text(setting),
                    "human rows": "kept" if setting["human"] else "first only",
                    "generation": generation,
                    "accuracy": interval(mean_interval(stacked(here))),
                    "against generation 0": change(against),
                    "source": interval(mean_interval(stacked(here, "source_right"))),
                    "labels learned from": GAP if generation == 0 else f"{here['pseudo_accuracy'].mean():.3f}",
                    "label entropy": f"{here['label_entropy'].mean():.2f}",
                    "confidence": f"{here['confidence'].mean():.3f}",
                    "diversity": f"{here['diversity'].mean():.3f}",
                    "chain": end,
                    "rates": f"{rates_text(map(float, setting['rates'].split()))} → {rates_text(here['lr'])}",
                    "precision": setting["dtype"],
                    "seeds": here["seed"].nunique(),
                }
            )
    return pd.DataFrame(table)


def _fresh(rows: pd.DataFrame) -> str:
    """What is said of fresh rows, where there are such chains."""
    if "fresh" not in set(rows["rows"]):
        return ""
    return (
        "That is so where all generations label the same rows; where they are *fresh*, each generation labels as many "
        "rows that no earlier one has labelled. "
    )


def _starts(rows: pd.DataFrame) -> str:
    """The seeds whose arms start from different theta1, as where they were run on several machines."""
    several = rows.groupby([*GROUND, "seed"])["theta1"].nunique()
    seeds = set(several.index[several > 1].get_level_values("seed"))
    return f"On seed {listed(seeds)} not all arms start from the same one. " if seeds else ""


def self_training_tables(folder: Path) -> list[Table]:
    rows = read_self_training(folder)
    if rows.empty:
        return []
    one = rows.iloc[0]
    return [
        Table(
            f"{folder.resolve().name}_{EXPERIMENT}",
            f"Generations that learn from the previous one's labels, folder {folder.resolve().name}",
            f"{described(rows, one['source'])}. Every generation starts from theta1. {_starts(rows)}Generation 0 "
            "learns from the human rows. Later ones learn from labels that the previous generation gave to target rows "
            "of pool A (whose translations theta1 has seen with their labels), with or without the human rows. If a "
            "generation gives back exactly the labels that it learned from, all later ones repeat it: "
            f"{resting_told(rows)}. {_fresh(rows)}Labels learned from: share of them that are right. "
            "Entropy and diversity are in bits; the gold labels have "
            f"{one['gold_entropy']:.2f}. A chain *decayed* if its last generation's accuracy is below generation 0's "
            "with its whole paired 95 % interval (dated from the generation since which all were), and *collapsed* if "
            "the label entropy of some seeds has also fallen below half of what they had in generation 0; else it "
            "*held*. Rates: those tried and, after the arrow, those chosen for the chain of each seed by the "
            "validation accuracy of its generation 0.",
            self_training_cells(folder),
        )
    ]


def self_training(folder: Path) -> str:
    """What script 08 prints at the end."""
    return markdown(self_training_cells(folder))
