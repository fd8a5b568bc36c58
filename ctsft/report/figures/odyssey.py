"""Figure of script 06: what every arm wins on the target and costs elsewhere, one line an arm."""

from __future__ import annotations

import matplotlib.pyplot as plt

from ctsft.report.figures.style import SHORT, WIDTH, arm_label, arms_of_error, look_of, style
from ctsft.report.outcomes import Outcome, outcomes
from ctsft.report.rows import Results


def odyssey_figure(results: Results) -> plt.Figure | None:
    """Per target three panels that share their lines: change on target and source, and in bits per byte of the source.

    A line is an arm that was run there, with a star where it had fewer learning rates than another. Changes of accuracy
    have their paired 95 % intervals; right of zero is better, and in the last panel worse. Every arm stands at its
    validated learning rate; at the largest n. None where nothing was measured.
    """
    found = [one for one in outcomes(results) if one.target_change is not None]
    found = [one for one in found if one.n_target == max(other.n_target for other in found)]
    if not found:
        return None
    targets: dict[str, list[Outcome]] = {}
    for one in found:
        targets.setdefault(one.target, []).append(one)
    text = f"{results.rows['task'].iloc[0]}/{results.rows['source'].iloc[0]}"
    with style():
        figure, axes = plt.subplots(
            len(targets),
            3,
            figsize=(WIDTH, 0.8 + sum(0.4 + 0.16 * len(here) for here in targets.values())),
            sharex="col",
            squeeze=False,
            layout="constrained",
            height_ratios=[len(here) for here in targets.values()],
        )
        for row, (target, here) in zip(axes, targets.items(), strict=True):
            for number, one in enumerate(here):
                _line(row, number, one, one.bits.get(text))
            for axis in row:
                axis.axvline(0, color="black", linewidth=0.8)
                axis.set_ylim(len(here) - 0.5, -0.5)
                axis.set_yticks(range(len(here)), [""] * len(here))
            most = max(one.seeds for one in here)
            row[0].set_yticklabels([arm_label(one.arm, one.depth) + _less(one, most) for one in here])
            row[0].set_title(target, loc="left", fontweight="bold")
        for axis, label in zip(
            axes[-1], ("accuracy, target", "accuracy, source", "bits per byte, source"), strict=True
        ):
            axis.set_xlabel(f"change in\n{label}")
        words = f"{found[0].n_target} target rows, every arm at its validated rate"
        words += f" ({SHORT} had fewer rates)" if any(one.short_of_rates for one in found) else ""
        figure.suptitle(f"{results.model}, {words}", fontsize=10)
    return figure


def _less(one: Outcome, most: int) -> str:
    """What is said of an arm with fewer seeds than others, or fewer rates to choose from.

    One seed's interval knows nothing of seeds; fewer rates are a worse chance.
    """
    seeds = "" if one.seeds == most else f" ({one.seeds} seed{'s' if one.seeds > 1 else ''})"
    return seeds + (SHORT if one.short_of_rates else "")


def _line(row: list[plt.Axes], number: int, one: Outcome, bits: float | None) -> None:
    look = look_of(one.arm)
    for axis, value in zip(row, (one.target_change, one.source_change), strict=False):
        if value is not None:
            axis.errorbar(value.value, number, xerr=arms_of_error(value), **look)
    if bits is not None:
        row[2].plot(bits, number, linestyle="none", **look)
