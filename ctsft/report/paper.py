"""The paper's tables, its numbers beside ours. A cell that was not run stays a gap, never the paper's number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files

import numpy as np
import pandas as pd

from ctsft.discovery.circuits import PAPERS_DEPTH, PAPERS_SHARE, stored_circuit
from ctsft.discovery.relevance import Relevance
from ctsft.report.choosing import PAPERS_RATE, at_papers_share, circuits_by, is_at_papers_rate, told_by
from ctsft.report.compare import SOURCE, TARGET, accuracy
from ctsft.report.faithfulness import Faithfulness
from ctsft.report.render import GAP, Table, fraction, interval, listed, rate_text
from ctsft.report.rows import Results
from ctsft.report.select import ENTAILMENT, EXPERIMENT, pick
from ctsft.tuning.arms import ARMS

LANGUAGES = {
    "ace": "acehnese",
    "bug": "buginese",
    "jav": "javanese",
    "min": "minangkabau",
    "ind": "indonesian",
    "en": "english",
    "th": "thai",
    "vi": "vietnamese",
    "es": "spanish",
    "zh": "chinese",
}
BEST = "ct_sft_best_of_circuit_and_near_zero"
# The results folders that stand beside the paper's numbers, in this order. `cpu` has other starts than `small`, made on
# other machines, and other arms.
BESIDE = {
    "paper": "ours, Qwen2.5-0.5B",
    "small": "ours, SmolLM2-135M",
    "cpu": "ours, SmolLM2-135M on CPUs",
}
PRESETS = ("paper", "small")  # shown even where nothing was run
# The tables of accuracies by task: languages of the same names in another task are another transfer.
TABLES = {"nusax": ("table2_nusax_by_depth", "table4_nusax_anchors"), "xnli": ("table6_xnli_weak_source",)}
TOLD = ("source rows", "precision", "heads")
WEAK = 50  # source rows of the paper's start that fails
SOURCE_ROWS = {"nusax": 50, "xnli": 250}  # of the paper's competent starts


def published(name: str) -> pd.DataFrame:
    """A table of arXiv 2601.08146 v1 with languages spelled out; `depth` is a nullable integer."""
    values = pd.read_csv(files("ctsft.report").joinpath("paper_reference", f"{name}.csv"))
    for column in {"source", "target"} & set(values):
        values[column] = values[column].map(LANGUAGES)
    return values.assign(depth=values["depth"].astype("Int64")) if "depth" in values else values


def of_the_paper(results: Results) -> pd.DataFrame:
    """The rows of the paper's setting: its tasks, its share of heads and its one learning rate.

    A line of a table has one precision, and one rule for keys and values: that of the most rows of its target and n.
    How its heads were chosen is told beside it: at this rate that may be another way than at others.
    """
    setting = results.only(results.rows["task"].isin(TABLES) & is_at_papers_rate(results.rows))
    studies = [study.rows for name in (EXPERIMENT, ENTAILMENT) for study in setting.studies(name)]
    if not studies:
        return results.rows.iloc[:0]
    rows = at_papers_share(pd.concat(studies).drop_duplicates("cell"))  # arms without heads are in every study
    for name in ("dtype", "kv_policy"):
        line = rows.groupby(["task", "target", "n_target"])[name]
        usual = line.transform(lambda found: next(reversed(found.mode().tolist()), None))
        rows = rows[rows[name].isna() | (rows[name] == usual)]
    return rows


def matching(rows: pd.DataFrame, line: pd.Series) -> pd.DataFrame:
    """Our rows of one line of a published table; for its CT-SFT column the arm that is better on test, as there.

    Where a table names no depth, its circuit is that of depth 2; `competence` is the start itself. The paper's weak
    start on entailment stands for the same number of source rows here. Its competent one (250) stands for the most that
    ours has: a small model takes more rows to be competent.
    """
    keys = {name: line[name] for name in ("source", "target", "n_target") if name in line and pd.notna(line[name])}
    here = pick(rows, **keys)
    n_source = WEAK if line.get("n_source") == WEAK else here["n_source"].max()
    here = here[here["n_source"].isin([0, n_source])]
    if line["arm"] == BEST:
        pair = pick(here, depth=PAPERS_DEPTH)
        means = pair.groupby("arm")["accuracy"].mean().reindex(["circuit", "near_zero"]).dropna()
        return pick(pair, arm=means.idxmax()) if len(means) == 2 else pair.iloc[:0]
    if line["arm"] == "competence":  # the same answers on the source stand in the rows of every target
        return pick(here, arm="zero_shot").drop_duplicates("seed")
    arm = line["arm"]
    usual = PAPERS_DEPTH if ARMS[arm].needs_heads else None
    return pick(here, arm=arm, depth=line.get("depth", usual))


def beside(name: str, results: Mapping[str, Results], columns: tuple[str, str], value: str) -> pd.DataFrame:
    """A published table with our accuracy, interval, number of seeds and precision in every line.

    A folder that is no preset of ours has columns where it has rows.
    """
    table = published(name).rename(columns={value: "paper"})
    for preset, title in BESIDE.items():
        rows = of_the_paper(results[preset]) if preset in results else None
        matched = [None if rows is None else matching(rows, line) for _, line in table.iterrows()]
        if preset not in PRESETS and not any(here is not None and len(here) for here in matched):
            continue
        table[title] = ["not run" if here is None else interval(accuracy(here, columns)) for here in matched]
        table[f"seeds, {preset}"] = [0 if here is None else here["seed"].nunique() for here in matched]
        if rows is not None:
            table[f"source rows, {preset}"] = [listed(set(here["n_source"]) - {0}) or GAP for here in matched]
            table[f"precision, {preset}"] = [", ".join(sorted(set(here["dtype"]))) or GAP for here in matched]
            if any(here["scorer"].notna().any() for here in matched):
                told = [sorted(set(circuits_by(here).dropna())) for here in matched]
                table[f"heads, {preset}"] = [", ".join(names) or GAP for names in told]
    if "depth" in table:
        table["depth"] = [GAP if pd.isna(depth) else str(depth) for depth in table["depth"]]
    if "target" in table:
        table["target"] = table["target"].fillna(GAP)
    return table.assign(paper=table["paper"].map(fraction))


def said_once(cells: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The table without those columns about our rows that say the same on every line, and a sentence that says it."""
    found = {name: set(cells[name]) - {GAP} for name in cells if name.partition(",")[0] in TOLD}
    once = {name: values.pop() for name, values in found.items() if len(values) == 1}
    sentence = f" The same on every line: {'; '.join(f'{name}: {value}' for name, value in once.items())}."
    return cells.drop(columns=[name for name, values in found.items() if not values]), sentence if once else ""


def source_sanity(results: Mapping[str, Results]) -> pd.DataFrame:
    """Table 1: accuracy on the source after competence. Tuning on yet more source rows is not an arm of ours."""
    table = published("table1_source_sanity").rename(columns={"accuracy": "paper"})
    for preset, title in BESIDE.items():
        zero = None
        if preset in results:
            rows = of_the_paper(results[preset])
            rows = rows[(rows["source"] == "indonesian") & (rows["arm"] == "zero_shot")]
            zero = rows[rows["n_source"] == rows["n_source"].max()].drop_duplicates("seed")
        told = "not run" if zero is None else interval(accuracy(zero, SOURCE))
        table[title] = [told if arm == "competence" else GAP for arm in table["arm"]]
        table[f"seeds, {preset}"] = [
            len(zero) if zero is not None and arm == "competence" else 0 for arm in table["arm"]
        ]
    return table.assign(paper=table["paper"].map(fraction))


Maps = dict[tuple[int, str], Relevance]


def maps_of(results: Mapping[str, Results], preset: str) -> Maps:
    """The stored scores of scripts 01 and 05 by seed and pool, the paper's scorer first."""
    if preset not in results:
        return {}
    own, found = results[preset].of(EXPERIMENT), Faithfulness.read(results[preset].folder)
    maps = [*(own.maps if own else []), *(found.maps if found else [])]
    chosen: Maps = {}
    for scorer in ("cdt", "cdt_linear"):
        for m in maps:
            if m.about["scorer"] == scorer:
                chosen.setdefault((m.about["seed"], m.about.get("pool", "disjoint")), m)
    return chosen


def layers_by_depth(results: Mapping[str, Results]) -> pd.DataFrame:
    """Table 5: first and last layer of the heads at each depth."""
    table = published("table5_layer_range_by_depth")
    out = table[["seed", "depth"]].astype(str)
    out["paper"] = [f"{first} to {last}" for first, last in zip(table["first_layer"], table["last_layer"], strict=True)]
    lines = zip(table["seed"], table["depth"], strict=True)
    return out.assign(
        **_of_maps(results, [((seed, "disjoint"), partial(_range, depth=int(depth))) for seed, depth in lines])
    )


def _range(relevance: Relevance, depth: int) -> str:
    frontiers = stored_circuit(relevance, depth, PAPERS_SHARE)
    layers = [head.layer for head in frontiers[-1]]
    scorer = told_by(relevance.about["scorer"], relevance.ties if depth else "logits")  # at depth 0 ties hardly happen
    return f"{min(layers)} to {max(layers)}, {scorer}" if len(frontiers) > depth else GAP


def top_heads(results: Mapping[str, Results]) -> pd.DataFrame:
    """Table 8: the head of the highest score to the logits."""
    table = published("table8_top_head_depth0")
    out = table[["pool", "seed"]].astype(str)
    out["paper"] = [f"{line.layer}.{line.head} ({line.score:.3f})" for line in table.itertuples()]
    return out.assign(**_of_maps(results, [(key, _top) for key in zip(table["seed"], table["pool"], strict=True)]))


def _of_maps(
    results: Mapping[str, Results], asked: Sequence[tuple[tuple[int, str], Callable[[Relevance], str]]]
) -> dict[str, list[str] | str]:
    """A column a folder: for each (seed, pool), what is to be told of its map."""
    columns: dict[str, list[str] | str] = {}
    for preset, title in BESIDE.items():
        maps = maps_of(results, preset)
        cells = [told(maps[key]) if key in maps else GAP for key, told in asked]
        columns[title] = cells if preset in results else "not run"
    return columns


def _top(relevance: Relevance) -> str:
    layer, head = np.unravel_index(relevance.logits.argmax(), relevance.logits.shape)
    return f"{layer}.{head} ({relevance.logits[layer, head]:.3f}), {relevance.about['scorer']}"


def paper_tables(results: Mapping[str, Results]) -> list[Table]:
    """Tables 1, 2, 4 to 8 of the paper; `results` by preset. Table 3's numbers were not available to us."""
    models = "; ".join(f"{title.removeprefix('ours, ')}: folder `{preset}`" for preset, title in BESIDE.items())
    common = (
        "Paper: arXiv 2601.08146 v1, Qwen2.5-0.5B, mean of seeds 31, 777, 2025 and 12345; no spread reported. Ours "
        f"({models}), at the paper's one learning rate, {rate_text(PAPERS_RATE)}: accuracy with its 95 % interval over "
        "rows and seeds, the number of seeds, and the number of source rows that made the model competent (more than "
        f"the paper's if a small model needs more). `not run` and {GAP} mark gaps."
    )
    by_depth, once_by_depth = said_once(beside("table2_nusax_by_depth", results, TARGET, "accuracy"))
    anchors, once_anchors = said_once(beside("table4_nusax_anchors", results, TARGET, "accuracy"))
    weak, once_weak = said_once(beside("table6_xnli_weak_source", results, TARGET, "accuracy"))
    kept, once_kept = said_once(beside("table7_xnli_source_retention", results, SOURCE, "source_accuracy"))
    return [
        Table("table1", "Table 1: accuracy on the source", common, source_sanity(results)),
        Table("table2", "Table 2: NusaX by depth", f"{common}{once_by_depth}", by_depth),
        Table(
            "table4",
            "Table 4: NusaX anchors",
            f"{common} `{BEST}` takes the better of the two means on test, at depth 2, as the paper does. A fair "
            f"choice is `ct_sft` in our own tables.{once_anchors}",
            anchors,
        ),
        Table(
            "table5",
            "Table 5: first and last layer by depth",
            f"{common} Our cells also name the scorer: the paper's `cdt` where script 05 ran it.",
            layers_by_depth(results),
        ),
        Table("table6", "Table 6: XNLI from a weak start", f"{common}{once_weak}", weak),
        Table("table7", "Table 7: XNLI, accuracy on the source afterwards", f"{common}{once_kept}", kept),
        Table(
            "table8",
            "Table 8: the highest-scored head",
            f"{common} Cells: layer.head (score), ours with the scorer. With a shared pool, the scored rows are among "
            "those of the mean.",
            top_heads(results),
        ),
    ]
