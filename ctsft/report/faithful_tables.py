"""The tables of script 05: scorers, circuits against chance, stability, and circuits that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ctsft.report.faithfulness import Faithfulness, area, beaten, controls, faithfulness_of
from ctsft.report.paying import paying_text
from ctsft.report.render import GAP, Table, change, fraction, interval, listed, markdown
from ctsft.report.rows import Results
from ctsft.report.select import pick
from ctsft.report.signs import UNSIGNED, YARDSTICK, like_unsigned, negative, opponents
from ctsft.report.stability import settled_text, stability_cells
from ctsft.study.record import KNOWN, KNOWN_COLUMNS, read_rows

MINUS = "−"
AGAINST = (
    " A rank with a minus sign is that of a head known to work against the answer, counted from the lowest score: −1 "
    "is the lowest of all."
)


def scorer_cells(found: Faithfulness) -> pd.DataFrame:
    """One line per scorer: the area under its curve, against the main scorer's, how signed it is, and what it costs."""
    table = []
    for scorer in found.scorers:
        lines = pick(found.sets, scorer=scorer, selection="top", direction="keep", language=found.source)
        failed = sorted(set(lines["error"]) - {""})
        seconds = [m.about["seconds"] for m in found.maps_of(scorer).values()]
        below, told, alike = negative(found, scorer), opponents(found, scorer), like_unsigned(found, scorer)
        table.append(
            {
                "scorer": scorer,
                "area under faithfulness": interval(area(found, scorer)),
                f"minus {found.main}": GAP if scorer == found.main else change(area(found, scorer, found.main)),
                "accuracy, all sizes": fraction(lines["accuracy"].mean()),
                "below zero": GAP if below is None else f"{below:.0%}",
                "opponents found": GAP if told is None else f"{told[0]}/{told[1]}",
                f"correlation with {UNSIGNED}": GAP if alike is None else f"{alike:+.2f}".replace("-", MINUS),
                "scored rows": ", ".join(sorted(set(lines["score_rows"]))),
                "seconds of scoring": f"{np.median(seconds):.0f}" if seconds else GAP,
                "seeds": lines["seed"].nunique(),
                "failed": failed[0].split(".")[0] if failed else "",
            }
        )
    return pd.DataFrame(table)


def chance_cells(found: Faithfulness) -> pd.DataFrame:
    """The main scorer's sets against random ones of the same size and layers, near-zero and bottom heads.

    Columns of controls that were knocked out are there where some were: older rows have none.
    """
    here = pick(found.sets, language=found.source)
    here = here[here["seed"].isin(found.seeds)]
    table = []
    circuits = pick(here, selection="circuit", direction="keep")
    sizes = sorted(set(pick(here, selection="top", scorer=found.main)["size"]))
    wanted = [("circuit", size) for size in sorted(set(circuits["size"]))] + [("top", size) for size in sizes]
    for selection, size in wanted:
        same = pick(here, size=size, scorer=found.main)
        mine = pick(same, selection=selection)
        kept, without = pick(mine, direction="keep"), pick(mine, direction="knock_out")
        random, random_out = (
            pick(same, selection=f"random:{selection}", direction=way) for way in ("keep", "knock_out")
        )
        others = {name: pick(same, selection=name, direction="keep") for name in controls(found)}
        out = {
            "random, knocked out": interval(faithfulness_of(found, random_out)),
            "random beaten, knocked out": _beaten(without, random_out, knocked_out=True),
            **{
                f"{name}, knocked out": interval(
                    faithfulness_of(found, pick(same, selection=name, direction="knock_out"))
                )
                for name in controls(found)
            },
        }
        table.append(
            {
                "heads": f"{selection}, {size}",
                "share": f"{size / here['heads'].iloc[0]:.0%}",
                "kept": interval(faithfulness_of(found, kept)),
                "accuracy kept": fraction(kept["accuracy"].mean()),
                "knocked out": interval(faithfulness_of(found, without)),
                "random, same layers": interval(faithfulness_of(found, random)),
                "random beaten": _beaten(kept, random),
                **{name: interval(faithfulness_of(found, lines)) for name, lines in others.items()},
                **(out if controls_out(found) else {}),
                "seeds": kept["seed"].nunique(),
            }
        )
    return pd.DataFrame(table)


def _lowest(found: Faithfulness) -> str:
    same = "No score is negative, so the heads nearest to zero (`near_zero`) are also those with the lowest scores. "
    return same if found.no_negative(found.main) else ""


def controls_out(found: Faithfulness) -> bool:
    """Whether random sets were knocked out too."""
    asked = pick(found.sets, direction="knock_out")["selection"]
    return bool(asked.str.startswith("random:").any())


def _out(found: Faithfulness) -> str:
    """What is said of controls that were knocked out."""
    if not controls_out(found):
        return ""
    return (
        "Knocked out: what all other heads keep. `random beaten, knocked out` counts the random sets without which "
        "more is left than without ours. "
    )


def _beaten(mine: pd.DataFrame, random: pd.DataFrame, knocked_out: bool = False) -> str:
    wins, draws = beaten(mine, random, knocked_out)
    return f"{wins}/{draws}" if draws else GAP


def faithfulness_tables(found: Faithfulness, results: Results) -> list[Table]:
    """The tables of script 05, of the folder that `results` were read from."""
    name, known = results.name, known_cells(results.folder)
    sets = found.sets
    about = (
        f"Folder `{name}`, model `{sets['model'].iloc[0]}`, theta1 on {found.source}; "
        f"{len(next(v for v in sets['values'] if v is not None))} validation rows, seeds "
        f"{listed(sets['seed'])}. Faithfulness is (m(C) - m(none)) / (m(all) - m(none)), "
        "where m(C) is the mean margin with all heads outside C set to their label-balanced mean; 95 % intervals over "
        "rows and seeds."
    )
    return [
        Table(
            f"{name}_05_scorers",
            f"Which scores find the mechanism, folder {name}",
            f"{about} The area is that under the curve of faithfulness against the share of heads kept, best heads "
            "first: 1 if the first head does it all, 0.5 if every head counts the same. `below zero`: share of heads "
            f"with a negative score. Opponents are heads that `{YARDSTICK}` scores below zero (without them the answer "
            f"gains); found are those that the scorer does too. Correlation with `{UNSIGNED}`: Spearman's, over all "
            "heads. Options: pattern attention, linear gate, raw (no clean-up), pooled mean.",
            scorer_cells(found),
        ),
        Table(
            f"{name}_05_faithfulness",
            f"Circuits against chance, folder {name}",
            f"{about} Scorer `{found.told(found.main)}`, seeds {listed(found.seeds)}. `circuit` is what CT-SFT tunes "
            "(depths 0 to 2), `top` the best heads by the score to the logits. Random sets have the same number of "
            "heads in every layer; `random beaten` counts those with a lower margin than ours. "
            f"{_out(found)}{_lowest(found)}"
            f"{paying_text(found, results)}",
            chance_cells(found),
        ),
        Table(
            f"{name}_05_stability",
            f"How stable circuits are, folder {name}",
            f"Folder `{name}`, scorer `{found.told(found.found_again)}` unless named. Jaccard overlap of circuits "
            "(depths 0 to 2) and of the top tenth of the heads by score, and Spearman's correlation of all scores; "
            f"means over pairs of score maps. {settled_text(found)} Seeds {listed(found.seeds_of(found.found_again))}.",
            stability_cells(found),
        ),
        *(
            [
                Table(
                    f"{name}_05_known",
                    "Circuits that are known",
                    "ROC AUC for separating the heads of the known circuit from all others (1: ranked first; 0.5: "
                    "chance), mean over seeds, and the ranks of those heads for each seed. `planted`: a hand-made "
                    "model of 32 heads, four of which carry the label; by construction, one loud head carries no "
                    "information and one head works against the others. `induction`: a two-layer GPT-2 of 8 heads, "
                    "trained here; its circuit is read off the attention patterns."
                    f"{AGAINST if MINUS in known.to_string() else ''}",
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
            ranks = [line["ranks"].replace(" ", ", ").replace("-", MINUS) for line in here]
            cells[f"{name}, ranks"] = "; ".join(ranks) or GAP
            cells[f"{name}, seeds"] = len(here)
        table.append(cells)
    return pd.DataFrame(table)


def faithfulness(folder: Path) -> str:
    """What script 05 prints at the end."""
    found = Faithfulness.read(folder)
    asked = [] if found is None else [scorer_cells(found), chance_cells(found), stability_cells(found)]
    tables = [*asked, known_cells(folder)]
    return "\n\n".join(markdown(cells) for cells in tables if len(cells))
