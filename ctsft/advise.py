"""Which arm should I use? A cheap probe of your setting, and what our own rows show of the settings most like it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ctsft import library
from ctsft.discovery.circuits import heads_per_depth
from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError
from ctsft.models.load import Loaded
from ctsft.report.rows import Results, at_papers_share, at_validated_rate
from ctsft.report.stats import Interval
from ctsft.tasks.task import Task

# One step of distance: a tenth of transfer, or a doubling of the target rows.
TRANSFER_STEP = 0.1
NEAREST = 4
FEW_ROWS = 5
NOISE = 0.025  # one standard error of an accuracy on 400 rows: smaller differences decide nothing
SETTING = ["preset", "task", "n_source", "target", "n_target"]


@dataclass(frozen=True)
class Probe:
    """What is known before any target row is trained on; accuracies are those of validation splits."""

    source: Interval
    zero_shot: Interval
    majority: float
    rows: int
    rarest: tuple[str, int]
    concentration: float | None = None

    @property
    def transfer(self) -> float:
        """The share of the source's accuracy that the target has without training."""
        return self.zero_shot.value / self.source.value if self.source.value else 0.0


def concentration(relevance: Relevance, share: float = 0.02) -> float:
    """The share of all positive relevance that the best `share` of the heads hold."""
    positive = np.sort(relevance.logits.clip(min=0).ravel())[::-1]
    total = positive.sum()
    return float(positive[: heads_per_depth(positive.size, share)].sum() / total) if total > 0 else 0.0


def probe(
    loaded: Loaded, task: Task, source: str, target: str, relevance: Relevance | None = None, rows: int | None = None
) -> Probe:
    """Two evaluations and some counting; the test split is not touched."""
    examples = library.training_rows(task, target, "target")
    counts = Counter(example.label for example in examples)
    label = min(range(len(task.labels)), key=lambda number: counts[number])
    found = library.evaluate(loaded, task, target, split="valid")
    return Probe(
        library.evaluate(loaded, task, source, split="valid").accuracy,
        found.accuracy,
        found.majority,
        len(examples) if rows is None else rows,
        (task.labels[label], counts[label]),
        None if relevance is None else concentration(relevance),
    )


def evidence(folders: Sequence[Path]) -> pd.DataFrame:
    """One line per setting, arm and depth of the committed rows, means over seeds, every arm at its validated rate.

    `transfer` is zero-shot accuracy by the source's; `gain` is what the arm adds to zero-shot on the target, and `cost`
    what it takes from the source.
    """
    parts = []
    for folder in folders:
        rows = at_papers_share(at_validated_rate(Results.read(folder).rows))
        start = rows[rows["arm"] == "zero_shot"].groupby(["task", "n_source", "target", "seed"])["accuracy"].mean()
        rows = rows[~rows["arm"].isin(["zero_shot", "direct"])].merge(
            start.rename("zero_shot"), on=["task", "n_source", "target", "seed"]
        )
        rows["transfer"] = rows["zero_shot"] / rows["source_accuracy_before"]
        rows["gain"] = rows["accuracy"] - rows["zero_shot"]
        rows["cost"] = rows["source_accuracy_before"] - rows["source_accuracy"]
        parts.append(rows)
    if not parts:
        raise UserError("advice needs result rows: give --results, such as results/demo results/small.")
    keys = [*SETTING, "arm", "depth"]
    columns = {name: (name, "mean") for name in ("transfer", "gain", "cost")} | {"seeds": ("seed", "nunique")}
    columns["lr"] = ("lr", lambda rates: rates.mode().iloc[0])
    return pd.concat(parts).groupby(keys, dropna=False, as_index=False).agg(**columns)


def nearest(table: pd.DataFrame, transfer: float, rows: int) -> pd.DataFrame:
    """The lines of the NEAREST settings, by transfer and number of rows; the column `distance` is in steps."""
    apart = (table["transfer"] - transfer).abs() / TRANSFER_STEP + np.log2(table["n_target"] / rows).abs()
    table = table.assign(distance=apart)
    order = table.groupby(SETTING)["distance"].mean().nsmallest(NEAREST)
    return table.drop(columns="distance").merge(order.reset_index(), on=SETTING)


def advise(found: Probe, table: pd.DataFrame, may_lose: float) -> str:
    """A recommendation in words: arm, depth, learning rate, why, and how sure."""
    source, target = found.source, found.zero_shot
    lines = [
        f"source (validation): {source.value:.3f} [{source.low:.3f}, {source.high:.3f}]",
        f"target without training: {target.value:.3f} [{target.low:.3f}, {target.high:.3f}], "
        f"{found.transfer:.0%} of the source's accuracy; majority class {found.majority:.3f}",
        f"target rows: {found.rows}, scarcest label '{found.rarest[0]}' with {found.rarest[1]}",
    ]
    if found.concentration is not None:
        lines.append(
            f"the best 2 % of the heads hold {found.concentration:.0%} of the positive relevance (our rows do not show "
            "that this decides between arms)"
        )
    if found.source.low <= found.majority:
        lines.append(
            "First make the model competent on the source: its accuracy is not told apart from the majority class. "
            "Tune it with --role source --arm full on more rows; no advice on arms holds from such a start."
        )
        return "\n".join(lines)
    if found.rarest[1] < FEW_ROWS:
        lines.append(f"Collect more rows of '{found.rarest[0]}' first, if you can.")
    return "\n".join([*lines, "", *_recommendation(nearest(table, found.transfer, found.rows), may_lose)])


def _recommendation(near: pd.DataFrame, may_lose: float) -> list[str]:
    settings = near[[*SETTING, "transfer", "distance"]].groupby(SETTING, as_index=False).mean()
    # A difference between arms counts only where both were run, so all compared arms stand in all settings.
    arms = near.groupby(["arm", "depth"], dropna=False)
    mean = arms.agg(gain=("gain", "mean"), cost=("cost", "mean"), settings=("gain", "size")).reset_index()
    mean = mean[mean["settings"] == len(settings)].sort_values("gain", ascending=False)
    allowed = mean[mean["cost"] <= may_lose]
    if allowed.empty:
        return [f"No arm kept the source within {may_lose:.3f} in the settings most like yours; allow more."]
    best = allowed.iloc[0]
    out = [f"Recommended: {_name(best)}. In the {len(settings)} of our settings most like yours:"]
    out += [
        f"  {_name(line):24} target {line.gain:+.3f}, source {-line.cost:+.3f}"
        f"{'' if line.cost <= may_lose else f'   (loses more than {may_lose:.3f})'}"
        for line in mean.itertuples()
    ]
    rates = sorted(set(_lines(near, best)["lr"].dropna()))
    out.append(
        f"Learning rate: {', '.join(f'{rate:g}' for rate in rates)} there; it depends on the model, so try a factor of "
        "three around it and let validation choose."
    )
    out += ["Settings: " + "; ".join(
        f"{s.preset} {s.target} n={s.n_target} ({s.transfer:.0%} of the source)" for s in settings.itertuples()
    ) + "."]  # fmt: skip
    return [*out, _how_sure(near, allowed, settings)]


def _how_sure(near: pd.DataFrame, allowed: pd.DataFrame, settings: pd.DataFrame) -> str:
    """By how much and how often the best arm beats the next one, and how far away the settings are."""
    far = settings["distance"].mean()
    distant = f" The settings are far from yours ({far:.1f} steps), so take it as a guess." if far > 2 else ""
    demo = " They are of the constructed demo alone." if set(settings["preset"]) == {"demo"} else ""
    if len(allowed) < 2:
        return f"How sure: no other arm was compared.{distant}{demo}"
    first, second = (_lines(near, allowed.iloc[i]).sort_values(SETTING)["gain"].to_numpy() for i in (0, 1))
    wins, lead = int((first > second).sum()), float((first - second).mean())
    word = "fairly sure" if lead > NOISE and wins == len(first) else "not sure"
    return (
        f"How sure: {word}. It beats {_name(allowed.iloc[1])} in {wins} of {len(first)} settings, by {lead:+.3f} on "
        f"average (below {NOISE} is noise).{distant}{demo}"
    )


def _lines(near: pd.DataFrame, arm: pd.Series) -> pd.DataFrame:
    depth = near["depth"].isna() if pd.isna(arm["depth"]) else near["depth"] == arm["depth"]
    return near[(near["arm"] == arm["arm"]) & depth]


def _name(arm: object) -> str:
    return f"{arm.arm}" if pd.isna(arm.depth) else f"{arm.arm}, depth {arm.depth}"
