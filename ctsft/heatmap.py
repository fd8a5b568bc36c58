"""A circuit to look at: every head's score in the terminal, and as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ctsft.discovery.circuits import stored_circuit
from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError
from ctsft.heads import Head

RESET = "\x1b[0m"


def terminal(relevance: Relevance, depth: int, share: float, colour: bool) -> str:
    """Layers from last to first, heads from left to right.

    A cell is the score's sign and its size from 0 to 9 (9: the largest), and for heads of the circuit the depth at
    which they were chosen. With `colour`, red is positive and blue negative.
    """
    frontiers = stored_circuit(relevance, depth, share)
    chosen = {head: number for number, frontier in enumerate(frontiers) for head in frontier}
    layers, heads = relevance.logits.shape
    largest = np.abs(relevance.logits).max() or 1.0
    lines = ["layer " + "".join(f"{f'h{index}':<5}" for index in range(heads))]
    for layer in reversed(range(layers)):
        cells = []
        for index in range(heads):
            size = relevance.logits[layer, index] / largest
            depth_of = chosen.get(Head(layer, index))
            mark = "  " if depth_of is None else f"d{depth_of}"
            text = f"{'-' if size < 0 else '+'}{round(9 * abs(size))}{mark}"
            cells.append(f"{_background(size)}{text}{RESET} " if colour else f"{text} ")
        lines.append(f"{layer:>5} " + "".join(cells))
    named = [f"depth {number}: {' '.join(map(str, frontier))}" for number, frontier in enumerate(frontiers)]
    return "\n".join([*lines, "", f"+9 is {largest:.4g}; heads of the circuit (layer.index):", *named])


def _background(size: float) -> str:
    """From white to red (positive) or blue (negative), with black letters."""
    fade = round(255 * (1 - abs(size)))
    red, green, blue = (255, fade, fade) if size >= 0 else (fade, fade, 255)
    return f"\x1b[48;2;{red};{green};{blue}m\x1b[30m"


def picture(relevance: Relevance, depth: int, share: float, path: Path) -> None:
    """The same as a figure, with the circuit's depths outlined; the ending of `path` chooses the format.

    Raises UserError for an ending that is no picture's.
    """
    from ctsft.report.figures.circuits import scores_figure

    figure = scores_figure([relevance], share, depth)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise UserError(f"'{path.name}' is no picture: its name must end in one of .{', .'.join(sorted(known))}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200)
