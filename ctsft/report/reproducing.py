"""REPRODUCING.md's tables: where each table and figure comes from, its numbers and verdicts, what its rows cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ctsft.report.compare import SOURCE, TARGET, accuracy
from ctsft.report.paper import BESIDE, BEST, matching, of_the_paper, published
from ctsft.report.render import GAP
from ctsft.report.rows import Results
from ctsft.report.select import ENTAILMENT, EXPERIMENT
from ctsft.report.stored import stored
from ctsft.report.verdicts import judged_together
from ctsft.study.planning import duration

SOURCES = ("the paper's", "question", "script", "CSV", "tables", "drawn by", "notebook")
NUMBERS = ("question", "paper / ours, at 5e-5", "verdict")
COSTS = ("script", "folder: rows, time")
CALLED = {BEST: "CT-SFT", "circuit": "CT-SFT", "full": "all weights"}


@dataclass(frozen=True)
class Entry:
    """One line: `numbers` are published tables (name, column) whose lines we ran too; `tables` show all lines."""

    paper: str
    question: str
    script: str
    csv: tuple[str, ...]
    drawn_by: tuple[str, ...]
    tables: tuple[str, ...]
    claims: tuple[str, ...]
    notebook: str
    numbers: tuple[tuple[str, str], ...] = ()


ENTRIES = (
    Entry(
        "tables 1, 2, 4, 5",
        "does tuning the circuit reach the target?",
        EXPERIMENT,
        ("01_nusax_transfer.csv",),
        ("paper", "transfer"),
        ("table1", "table2", "table4", "table5"),
        ("C1", "C3a", "C3b"),
        "01_nusax_transfer",
        (("table4_nusax_anchors", "accuracy"),),
    ),
    Entry(
        "tables 6, 7",
        "does it carry over to entailment?",
        ENTAILMENT,
        ("02_xnli_generalization.csv",),
        ("paper",),
        ("table6", "table7"),
        ("C4", "C5"),
        "02_xnli_generalization",
        (("table7_xnli_source_retention", "source_accuracy"),),
    ),
    Entry(
        "table 8",
        "which head scores highest?",
        EXPERIMENT,
        ("01_nusax_transfer.csv",),
        ("paper",),
        ("table8",),
        (),
        "circuits",
    ),
    Entry(
        "the trade-off",
        "do hard transfers want the circuit?",
        "03_editing_preserving_tradeoff",
        ("03_editing_preserving_tradeoff.csv",),
        ("tradeoff",),
        ("small_03_editing_preserving_tradeoff",),
        ("C2",),
        "03_editing_preserving_tradeoff",
    ),
    Entry(
        "retention",
        "what is forgotten?",
        "04_forgetting",
        ("04_forgetting.csv", "04_forgetting.probes.csv"),
        ("forgetting",),
        ("small_04_forgetting",),
        ("C3a", "C3b", "C7"),
        "04_forgetting",
    ),
    Entry(
        "a figure, without its values",
        "is the circuit faithful?",
        "05_faithfulness",
        ("05_faithfulness.sets.csv", "05_faithfulness.known.csv"),
        ("faithfulness",),
        ("demo_05_scorers", "demo_05_known"),
        ("C6", "C8"),
        "05_faithfulness",
    ),
    Entry(
        GAP,
        "which arm for which situation?",
        "06_adaptation_odyssey",
        ("06_adaptation_odyssey.csv",),
        ("odyssey", "situations", "answers"),
        ("odyssey",),
        ("B1", "B2", "B3", "B4", "B5", *(f"B{number}" for number in range(9, 21))),
        "06_adaptation_odyssey",
    ),
    Entry(
        GAP,
        "what does each arm or number format cost?",
        "07_cost_and_energy",
        ("costs/07_cost_and_energy.csv", "costs/07_cost_and_energy.arithmetic.csv"),
        ("costs",),
        ("demo_07_cost_and_energy", "demo_07_arithmetic"),
        ("B7", "B8"),
        "07_cost_and_energy",
    ),
    Entry(
        GAP,
        "when does self-training collapse?",
        "08_self_training",
        ("self_training/08_self_training.csv",),
        ("self_training",),
        ("demo_08_self_training",),
        ("B6",),
        "08_self_training",
    ),
)


def tables(folders: Sequence[Results]) -> str:
    """The lines of ENTRIES as Markdown, in three tables: SOURCES, NUMBERS, COSTS."""
    sources = [
        (
            entry.paper,
            entry.question,
            _code(f"experiments/{entry.script}.py"),
            ", ".join(map(_code, entry.csv)),
            "<br>".join(_code(f"paper_tables/{name}.md") for name in entry.tables),
            "<br>".join(_code(f"ctsft/report/{name}.py") for name in entry.drawn_by),
            _code(f"notebooks/{entry.notebook}.ipynb"),
        )
        for entry in ENTRIES
    ]
    costs = {
        entry.script: "<br>".join(filter(None, (cost(results, entry) for results in folders))) or "not run"
        for entry in ENTRIES
    }
    parts = ((SOURCES, sources), (NUMBERS, _numbers(folders)), (COSTS, list(costs.items())))
    return "\n".join(_markdown(header, lines) for header, lines in parts)


def _numbers(folders: Sequence[Results]) -> list[tuple[str, ...]]:
    """Entries with numbers beside the paper's, or with claims."""
    verdicts = {results.name: {j.claim: j.verdict for j in judged} for results, judged in judged_together(folders)}
    lines = []
    for entry in ENTRIES:
        told = [
            f"{c}: {', '.join(f'{v[c]} ({folder})' for folder, v in verdicts.items() if c in v)}" for c in entry.claims
        ]
        numbers = [line for name, column in entry.numbers for line in beside_the_papers(name, column, folders)]
        if told or numbers:
            lines.append((entry.question, "<br>".join(numbers) or GAP, "<br>".join(told) or GAP))
    return lines


def _markdown(header: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, ("---",) * len(header), *lines))


def beside_the_papers(name: str, column: str, folders: Sequence[Results]) -> list[str]:
    """Paper / ours: the mean over those lines of a published table that a real model's rows answer, for each arm.

    Means of unlike lines can agree by chance, so the least and the greatest difference of a line stand beside them.
    """
    found = []
    columns = TARGET if column == "accuracy" else SOURCE
    for results in folders:
        if results.name not in BESIDE:
            continue
        rows, lines = of_the_paper(results), published(name)
        for arm, words in CALLED.items():
            asked = lines[lines["arm"] == arm]
            pairs = [
                (line[column], value.value)
                for _, line in asked.iterrows()
                if (value := accuracy(matching(rows, line), columns)) is not None
            ]
            if pairs:
                paper, ours = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
                where = "target" if columns == TARGET else "source"
                apart = [ours - paper for paper, ours in pairs]
                told = f"{min(apart):+.2f} to {max(apart):+.2f}".replace("-", "−")
                found.append(
                    f"{words}, {where}: {paper:.3f} / {ours:.3f} ({results.name}; {len(pairs)} of {len(asked)} "
                    f"lines; ours − paper by line: {told})"
                )
    return found


def cost(results: Results, entry: Entry) -> str:
    """Time that the script's rows took, and those of the theta1 and scores that all scripts of the task share.

    Empty where it was not run. Not all rows hold their seconds.
    """
    tables = [pd.read_csv(path) for name in entry.csv if (path := results.folder / name).is_file()]
    if not tables:
        return ""
    timed = [part for part in tables if {"train_seconds", "seconds"} & set(part) and "dtype" in part]
    if not timed:
        return f"{results.name}: {sum(map(len, tables))} rows, time not recorded"
    seconds = sum(part.reindex(columns=["train_seconds", "eval_seconds", "seconds"]).sum().sum() for part in timed)
    kinds = sorted({f"{dtype} on {device}" for part in timed for dtype, device in part[["dtype", "device"]].to_numpy()})
    told = f"{results.name}: {sum(map(len, timed))} rows, {duration(seconds)} ({', '.join(kinds)})"
    if entry.script not in (EXPERIMENT, ENTAILMENT):
        return told
    tasks = {task for part in timed for task in part["task"]}
    return f"{told}, theta1 {_stage(results, 'theta1', tasks)}, scores {_stage(results, 'relevance', tasks)}"


def _stage(results: Results, folder: str, tasks: set[str]) -> str:
    """Time of the files of a stage that belong to these tasks."""
    about = [stored(path) for path in (results.folder / folder).glob("*.json")]
    mine = [entry for entry in about if entry["task"] in tasks]
    return duration(sum(entry.get("train_seconds", entry.get("seconds", 0.0)) for entry in mine))


def _code(text: str) -> str:
    return f"`{text}`"
