"""Which arm should I use? What our rows show of the settings most like yours, and how good such advice was."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from ctsft.advice.evidence import OFFERED, SETTING
from ctsft.advice.probe import Probe
from ctsft.discovery.circuits import PAPERS_DEPTH
from ctsft.report.judging import MARGIN
from ctsft.report.render import rate_text
from ctsft.report.select import pick

# One step of distance: a tenth of transfer, or a doubling of the target rows.
TRANSFER_STEP = 0.1
NEAREST = 4
FAR = 2
FEW_ROWS = 5
DEMO = "demo"  # the preset of the embedded micro model
LANGUAGE = ["preset", "target"]  # whatever the task: the demo has the same languages in two


def nearest(table: pd.DataFrame, transfer: float, rows: int) -> pd.DataFrame:
    """The lines of the NEAREST settings, by transfer and number of rows; the column `distance` is in steps."""
    apart = (table["transfer"] - transfer).abs() / TRANSFER_STEP + np.log2(table["n_target"] / rows).abs()
    table = table.assign(distance=apart)
    order = table.groupby(SETTING)["distance"].mean().nsmallest(NEAREST)
    return table.drop(columns="distance").merge(order.reset_index(), on=SETTING)


def compared(near: pd.DataFrame) -> pd.DataFrame:
    """Mean `gain` and `cost` of every arm that was run in all of these settings, best first; `cells` is their rows."""
    arms = near.groupby(["arm", "depth"], dropna=False)
    mean = arms.agg(gain=("gain", "mean"), cost=("cost", "mean"), cells=("cells", "sum"), settings=("gain", "size"))
    mean = mean.reset_index()
    mean["offered"] = mean["arm"].isin(OFFERED)
    settings = len(near[SETTING].drop_duplicates())
    return mean[mean["settings"] == settings].sort_values("gain", ascending=False, kind="stable")


def allowed(mean: pd.DataFrame, may_lose: float) -> pd.DataFrame:
    """The arms that may be recommended: offered, and within the loss on the source."""
    return mean[mean["offered"] & (mean["cost"] <= may_lose)]


class Trial(NamedTuple):
    """One way to choose an arm, tried on `settings` of ours.

    `kept`: in how many of them the arm kept the source within the loss; `gain`: its mean accuracy on the target, less
    that of the best arm that did.
    """

    settings: int
    kept: int
    gain: float


def trial(table: pd.DataFrame, may_lose: float) -> tuple[Trial, Trial] | None:
    """Advice, each target language left out of the evidence in turn, and always taking the circuit of depth 2.

    None where nothing could be compared.
    """
    advised: list[tuple[bool, float]] = []
    always: list[tuple[bool, float]] = []
    offered = table[table["arm"].isin(OFFERED)]
    for _, own in offered.groupby(SETTING, sort=False):
        others = offered[(offered[LANGUAGE] != own[LANGUAGE].iloc[0]).any(axis=1)]
        candidates = allowed(compared(nearest(others, own["transfer"].mean(), own["n_target"].iloc[0])), may_lose)
        mine = own.iloc[:0] if candidates.empty else _of(own, candidates.iloc[0])
        circuit = pick(own, arm="circuit", depth=PAPERS_DEPTH)
        best = own.loc[own["cost"] <= may_lose, "gain"].max()
        if mine.empty or circuit.empty or pd.isna(best):
            continue
        for outcomes, taken in ((advised, mine.iloc[0]), (always, circuit.iloc[0])):
            outcomes.append((taken["cost"] <= may_lose, taken["gain"] - best))
    return (_tried(advised), _tried(always)) if advised else None


def _tried(outcomes: list[tuple[bool, float]]) -> Trial:
    kept, gains = zip(*outcomes, strict=True)
    return Trial(len(outcomes), int(sum(kept)), float(np.mean(gains)))


def _of(table: pd.DataFrame, arm: pd.Series) -> pd.DataFrame:
    return pick(table, arm=arm["arm"], depth=arm["depth"])


def advise(found: Probe, table: pd.DataFrame, may_lose: float) -> str:
    """A recommendation in words: arm, depth, learning rate, why, and how sure."""
    source, target = found.source, found.zero_shot
    lines = [
        f"source (validation): {source.value:.3f} [{source.low:.3f}, {source.high:.3f}]; majority class "
        f"{found.source_majority:.3f}",
        f"target without training: {target.value:.3f} [{target.low:.3f}, {target.high:.3f}], "
        f"{found.transfer:.0%} of the source's accuracy; majority class {found.majority:.3f}",
        f"target rows: {found.rows}, scarcest label '{found.rarest[0]}' with {found.rarest[1]}",
    ]
    if found.ngrams is not None:
        known = found.ngrams
        lines.append(
            f"character n-grams of these rows, without a model: {known.value:.3f} [{known.low:.3f}, {known.high:.3f}]"
            + ("; what is tuned should beat that, or it is not worth its model" if known.value > target.value else "")
        )
    if found.concentration is not None:
        lines.append(
            f"the best 2 % of the heads hold {found.concentration:.0%} of the positive relevance (our rows do not show "
            "that this decides between arms)"
        )
    if source.low <= found.source_majority:
        lines.append(
            "First make the model competent on the source: its accuracy is not told apart from the majority class. "
            "Tune it with --role source --arm full on more rows; no advice on arms holds from such a start."
        )
        return "\n".join(lines)
    if found.rarest[1] < FEW_ROWS:
        lines.append(f"Collect more rows of '{found.rarest[0]}' first, if you can.")
    near = nearest(table, found.transfer, found.rows)
    return "\n".join([*lines, "", *_recommendation(near, table, may_lose), *_worth(trial(table, may_lose), may_lose)])


def _recommendation(near: pd.DataFrame, table: pd.DataFrame, may_lose: float) -> list[str]:
    settings = near[[*SETTING, "transfer", "distance"]].groupby(SETTING, as_index=False).mean()
    mean = compared(near)
    candidates = allowed(mean, may_lose)
    if mean.empty:
        return ["No arm was run in all of the settings most like yours, so these rows advise on none."]
    if candidates.empty:
        return [
            f"No arm kept the source within {may_lose:.3f} in the settings most like yours; allow more (--may-lose).",
            *_lines(mean, may_lose),
        ]
    best = candidates.iloc[0]
    names = (
        f"{s.preset} {s.task.removeprefix(f'{s.preset}_')} {s.target} n={s.n_target} ({s.transfer:.0%} of the source)"
        for s in settings.itertuples()
    )
    by_index = sorted(set(near.loc[near["ties"] == "index", "preset"]))
    return [
        f"Recommended: {_name(best)}. In the {len(settings)} of our settings most like yours:",
        *_lines(mean, may_lose),
        _rates(_of(table, best)),
        f"Settings: {'; '.join(names)}.",
        *(
            f"Heads of {preset} were chosen by an earlier rule there, which fills most of a circuit with the model's "
            "first heads: see docs/scores.md." for preset in by_index
        ),
        _how_sure(near, mean, candidates, settings),
    ]  # fmt: skip


def _lines(mean: pd.DataFrame, may_lose: float) -> list[str]:
    return [
        f"  {_name(line):20} target {line.gain:+.3f}, source {-line.cost:+.3f}, {line.cells} cells"
        f"{_remark(line, may_lose)}"
        for _, line in mean.iterrows()
    ]


def _rates(lines: pd.DataFrame) -> str:
    """Those that validation chose for an arm: of all settings, for they depend on the model and not on the language."""
    micro = lines["preset"] == DEMO
    chosen = (
        (sorted(set(lines.loc[rows, "lr"].dropna())), where)
        for rows, where in ((~micro, "on a real model"), (micro, "on the demo's micro model, which alone learns so"))
    )
    told = [f"{', '.join(map(rate_text, rates))} {where}" for rates, where in chosen if rates]
    return (
        f"Learning rate: {'; '.join(told) or 'none is known'}. Let validation choose; where one "
        "is told, try a factor of three around it."
    )


def _remark(line: pd.Series, may_lose: float) -> str:
    if not line.offered:
        return "   (for comparison)"
    return "" if line.cost <= may_lose else f"   (loses more than {may_lose:.3f})"


def _how_sure(near: pd.DataFrame, mean: pd.DataFrame, candidates: pd.DataFrame, settings: pd.DataFrame) -> str:
    """By how much and how often the best arm beats the next one, and how far away the settings are."""
    far = settings["distance"].mean()
    distant = f" The settings are far from yours ({far:.1f} steps), so take it as a guess." if far > FAR else ""
    demo = " They are of the constructed demo alone." if set(settings["preset"]) == {"demo"} else ""
    if len(candidates) < 2:
        lost = "every other arm lost more of the source" if mean["offered"].sum() > 1 else "no other arm was compared"
        return f"How sure: {lost}.{distant}{demo}"
    first, second = (_of(near, candidates.iloc[i]).sort_values(SETTING)["gain"].to_numpy() for i in (0, 1))
    apart = first - second
    wins, lead = int((apart > 0).sum()), float(apart.mean())
    word = "fairly sure" if lead > MARGIN and wins == len(first) and far <= FAR else "not sure"
    return (
        f"How sure: {word}. It beats {_name(candidates.iloc[1])} in {wins} of {len(first)} settings, by {lead:+.3f} on "
        f"average ({apart.min():+.3f} to {apart.max():+.3f}; below {MARGIN} is noise).{distant}{demo}"
    )


def _worth(found: tuple[Trial, Trial] | None, may_lose: float) -> list[str]:
    if found is None:
        return []
    advised, always = found
    return [
        f"How good such advice is, tried on {advised.settings} of our settings, each language left out in turn: the "
        f"recommended arm kept the source within {may_lose:.3f} in {advised.kept}; on the target it differed from the "
        f"best arm that did by {advised.gain:+.3f} on average. Always taking the circuit of depth 2: {always.kept}, "
        f"and {always.gain:+.3f}."
    ]


def _name(arm: pd.Series) -> str:
    return f"{arm.arm}" if pd.isna(arm.depth) else f"{arm.arm}, depth {arm.depth}"
