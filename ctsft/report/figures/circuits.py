"""Figures of the circuits: where relevance lies, how far circuits agree, and in which layers each depth sits."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from ctsft.discovery.circuits import PAPERS_DEPTH, PAPERS_SHARE, stored_circuit
from ctsft.discovery.relevance import Relevance
from ctsft.report.choosing import told_by
from ctsft.report.figures.style import WIDTH, style
from ctsft.report.rows import Results


def name_of(relevance: Relevance) -> str:
    return f"{_start(relevance)}, seed {relevance.about['seed']}, {told_by(relevance.about['scorer'], relevance.ties)}"


def _start(relevance: Relevance) -> str:
    """The source and the rows of it that theta1 was tuned on, which `ctsft discover` does not know of its model."""
    rows = relevance.about.get("n_source")
    return f"{relevance.about['source']} ({rows})" if rows else relevance.about["source"]


def relevance_figure(results: Results) -> plt.Figure | None:
    """`scores_figure` of the circuits that a folder's rows tuned; None where it has no scores."""
    return scores_figure(results.maps, PAPERS_SHARE, PAPERS_DEPTH) if results.maps else None


def scores_figure(maps: Sequence[Relevance], share: float, depth: int) -> plt.Figure:
    """Score of every head to the logits, layers x heads, one panel a map; the circuit's depths are outlined."""
    outlines = [
        ("black", "tab:orange", "tab:green", "tab:purple", "tab:brown")[number % 5] for number in range(depth + 1)
    ]
    with style():
        layers = len(maps[0].logits)
        columns = min(2, len(maps))
        lines = -(-len(maps) // columns)
        tall = min(6.5, max(2.0, 0.16 * layers))
        figure, axes = plt.subplots(
            lines, columns, figsize=(WIDTH, 0.8 + tall * lines), squeeze=False, layout="constrained"
        )
        for axis, relevance in zip(axes.flat, maps, strict=False):
            # The largest scores dwarf the rest, so the colours end at the 98th percentile.
            end = np.percentile(np.abs(relevance.logits), 98) or 1
            look = dict(
                cmap="RdBu_r", vmin=-end, vmax=end, cbar_kws={"label": "relevance to the logits", "extend": "both"}
            )
            sns.heatmap(relevance.logits, ax=axis, **look)
            for frontier, colour in zip(stored_circuit(relevance, depth, share), outlines, strict=False):
                for head in frontier:
                    box = Rectangle((head.index, head.layer), 1, 1, fill=False, edgecolor=colour, linewidth=1.6)
                    # The highest scores are the darkest squares: a white edge sets the outline off.
                    box.set(clip_on=False, path_effects=[withStroke(linewidth=3.2, foreground="white")])
                    axis.add_patch(box)
            axis.invert_yaxis()
            step = 1 if layers <= 12 else 5
            axis.set_yticks(np.arange(0, layers, step) + 0.5, range(0, layers, step), rotation=0)
            axis.set_title(name_of(relevance).replace(" (ties", "\n(ties"), loc="left")  # a panel is narrow
            axis.set_xlabel("head")
            axis.set_ylabel("layer")
        for axis in axes.flat[len(maps) :]:
            axis.set_visible(False)
        handles = [Rectangle((0, 0), 1, 1, fill=False, edgecolor=colour, linewidth=1.6) for colour in outlines]
        labels = [f"circuit, depth {number}" for number in range(depth + 1)]
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def overlap_figure(results: Results) -> plt.Figure | None:
    """Share of heads that two circuits have in common (Jaccard), by seed and source, for each depth."""
    maps = results.maps
    if len(maps) < 2:
        return None
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 1.8 + 0.35 * len(maps)), layout="constrained")
        for depth, axis in enumerate(axes):
            sets = [{head for frontier in stored_circuit(m, depth, PAPERS_SHARE) for head in frontier} for m in maps]
            grid = np.array([[len(a & b) / len(a | b) for b in sets] for a in sets])
            by = [f", {m.about['scorer']}" if len({n.about["scorer"] for n in maps}) > 1 else "" for m in maps]
            names = [f"{_start(m)}\nseed {m.about['seed']}{scorer}" for m, scorer in zip(maps, by, strict=True)]
            look = dict(vmin=0, vmax=1, annot=True, fmt=".2f", cmap="cividis", cbar=False)
            sns.heatmap(grid, ax=axis, xticklabels=names, yticklabels=names if depth == 0 else False, **look)
            axis.tick_params(axis="x", rotation=90)
            axis.tick_params(axis="y", rotation=0)
            axis.set_title(f"up to depth {depth} ({len(sets[0])} heads)", loc="left")
        figure.suptitle("heads that two circuits share, of those that either has (Jaccard)")
    return figure


def layers_figure(results: Results) -> plt.Figure | None:
    """In which layers the heads of depth 0, 1 and 2 sit, one line a map."""
    maps = results.maps
    if not maps:
        return None
    colours, markers = sns.color_palette("colorblind", 3), "osD"
    with style():
        figure, axis = plt.subplots(figsize=(WIDTH, 1.1 + 0.5 * len(maps)), layout="constrained")
        for line, relevance in enumerate(maps):
            for depth, frontier in enumerate(stored_circuit(relevance, 2, PAPERS_SHARE)):
                layers, sizes = np.unique([head.layer for head in frontier], return_counts=True)
                height = np.full(len(layers), line + (depth - 1) * 0.27)
                axis.scatter(layers, height, s=16 * sizes, color=colours[depth], marker=markers[depth])
        axis.set_yticks(range(len(maps)), [name_of(relevance) for relevance in maps])
        axis.set_ylim(len(maps) - 0.5, -0.5)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlim(-0.7, len(maps[0].logits) - 0.3)
        axis.set_xlabel("layer (the area grows with the number of heads)")
        looks = zip(colours, markers, strict=True)
        handles = [plt.Line2D([], [], color=colour, marker=mark, linestyle="none") for colour, mark in looks]
        labels = [f"depth {depth}" for depth in range(3)]
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure
