"""Figure of every learning rate: what an arm learns against what it keeps, from its lowest rate to its highest."""

from __future__ import annotations

import matplotlib.pyplot as plt

from ctsft.report.by_rate import over_all, rate_points
from ctsft.report.figures.style import COLOURS, MARKERS, WIDTH, arm_label, arms_of_error, style, widen
from ctsft.report.rows import Results
from ctsft.report.stats import mean_interval
from ctsft.report.transfer import EXPERIMENT, arms_in_order, pick

# Fewer points are no path.
LEAST_RATES = 3
# A rate is written beside its point where no other stands so near.
APART = 0.03


def by_rate_figure(results: Results) -> plt.Figure | None:
    """Of script 01, a panel for every n: accuracy on the target over that on the source afterwards, a path an arm.

    Over all targets, from the lowest rate (the largest marker) to the highest. An arm of several depths is at its
    deepest. None where no arm was tried at LEAST_RATES; beside one that was, others of the same n are shown too.
    """
    points = over_all(rate_points(results.on_the_grid_of(EXPERIMENT)))
    if len(points):
        points = points[points["n_source"] == points["n_source"].max()]
        tried = points.groupby(["n_target", "arm", "depth"], dropna=False)["lr"].transform("nunique")
        points = points[tried.groupby(points["n_target"]).transform("max") >= LEAST_RATES]
    if points.empty:
        return None
    sizes = sorted(set(points["n_target"]))
    with style():
        figure, axes = plt.subplots(
            1, len(sizes), figsize=(WIDTH, 3.8), squeeze=False, sharex=True, sharey=True, layout="constrained"
        )
        for axis, n_target in zip(axes[0], sizes, strict=True):
            here = pick(points, n_target=n_target)
            written: list[tuple[float, float]] = []
            deepest = dict(arms_in_order(here))  # depths come in rising order
            for arm, depth in deepest.items():
                mine = pick(here, arm=arm, depth=depth).sort_values("lr")
                both = [(mean_interval(p["source_right"]), mean_interval(p["right"])) for p in mine.to_dict("records")]
                x, y = ([side[i].value for side in both] for i in (0, 1))
                axis.plot(x, y, color=COLOURS[arm], linewidth=1, label=arm_label(arm, depth), marker=MARKERS[arm])
                if len(mine) > 1:
                    axis.plot(x[0], y[0], MARKERS[arm], color=COLOURS[arm], markersize=10)
                for (kept, learnt), rate in zip(both, mine["lr"], strict=True):
                    bars = dict(xerr=arms_of_error(kept), yerr=arms_of_error(learnt))
                    axis.errorbar(kept.value, learnt.value, **bars, color=COLOURS[arm], elinewidth=0.4, alpha=0.5)
                    place = (kept.value, learnt.value)
                    if all(abs(place[0] - x) > APART or abs(place[1] - y) > APART / 2 for x, y in written):
                        written.append(place)
                        axis.annotate(
                            f"{rate:g}", place, (4, 4), textcoords="offset points", fontsize=7, color=COLOURS[arm]
                        )
            axis.axvline(here["before"].mean(), color="black", linewidth=0.8, linestyle=":")
            axis.set_xlabel("on the source afterwards (dotted: before)")
            axis.set_title(f"{here['target'].iloc[0]}, n = {n_target}", loc="left", fontweight="bold")
        axes[0][0].set_ylabel("accuracy on the target")
        widen(axes[0][0], "x")
        widen(axes[0][0], "y")
        handles = {label: h for a in axes[0] for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False)
    return figure
