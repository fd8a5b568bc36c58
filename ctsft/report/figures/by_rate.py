"""Figure of every learning rate: what an arm learns at each, and what it keeps."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator

from ctsft.report.by_rate import over_all, rate_points
from ctsft.report.figures.style import COLOURS, WIDTH, arm_label, arms_of_error, legend_below, look_of, style
from ctsft.report.render import rate_text
from ctsft.report.rows import Results
from ctsft.report.select import EXPERIMENT, arms_in_order, pick
from ctsft.stats import mean_interval

# Fewer rates are no line.
LEAST_RATES = 3
BESIDE = 1.05  # factor on the rate between two arms, or their intervals would hide each other


def by_rate_figure(results: Results) -> plt.Figure | None:
    """Of script 01, two panels for every n: accuracy on the target and on the source afterwards, over the rate.

    Over all targets (else two panels for each), with 95 % intervals; dotted: the source before. An arm of several
    depths is at its deepest. None where no arm was tried at LEAST_RATES; beside one that was, others of the same n are
    shown too.
    """
    points = over_all(rate_points(results.on_the_grid_of(EXPERIMENT)))
    if len(points):
        points = points[points["n_source"] == points["n_source"].max()]
        tried = points.groupby(["n_target", "arm", "depth"], dropna=False)["lr"].transform("nunique")
        points = points[tried.groupby(points["n_target"]).transform("max") >= LEAST_RATES]
    if points.empty:
        return None
    panels = sorted(set(zip(points["n_target"], points["target"], strict=True)))
    with style():
        figure, axes = plt.subplots(
            len(panels),
            2,
            figsize=(WIDTH, 0.8 + 2.8 * len(panels)),
            squeeze=False,
            sharex=True,
            sharey="row",
            layout="constrained",
        )
        for row, (n_target, target) in zip(axes, panels, strict=True):
            here = pick(points, n_target=n_target, target=target)
            deepest = dict(arms_in_order(here))  # depths come in rising order
            for number, (arm, depth) in enumerate(deepest.items()):
                mine = pick(here, arm=arm, depth=depth).sort_values("lr")
                x = mine["lr"] * BESIDE ** (number - (len(deepest) - 1) / 2)
                for axis, column in zip(row, ("right", "source_right"), strict=True):
                    values = [mean_interval(answers) for answers in mine[column]]
                    axis.plot(x, [value.value for value in values], label=arm_label(arm, depth), **look_of(arm))
                    for place, value in zip(x, values, strict=True):
                        bars = dict(color=COLOURS[arm], elinewidth=0.6, alpha=0.6)
                        axis.errorbar(place, value.value, yerr=arms_of_error(value), **bars)
            row[1].axhline(here["before"].mean(), color="black", linewidth=0.8, linestyle=":")
            row[0].set_title(f"{target}, n = {n_target}", loc="left", fontweight="bold")
            row[0].set_ylabel("accuracy")
        rates = sorted(set(points["lr"]))
        for axis, words in zip(axes[-1], ("on the target", "on the source afterwards (dotted: before)"), strict=True):
            axis.set_xscale("log")
            axis.set_xticks(rates, [rate_text(rate) for rate in rates])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xlabel(f"learning rate\n{words}")
        legend_below(figure, axes[0])
    return figure
