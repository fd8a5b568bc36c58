"""What all figures share: colours that colour-blind readers tell apart, markers that survive a grey print, files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from ctsft.stats import Interval
from ctsft.tuning.arms import ARMS

# A marker of its own for every arm, because ten colours do not tell two dozen apart and a grey print has none; colours
# come round again, so that an arm shares one only with arms whose marker looks quite different.
SHAPES = [*"osDPXv^*<>pdh8H1234+x|", "$n$"]
# A variant looks like the arm that it is a variant of.
OWN = [name for name, arm in ARMS.items() if arm.variant_of is None]
LIKE = {name: arm.variant_of or name for name, arm in ARMS.items()}
MARKERS = {name: SHAPES[OWN.index(like) % len(SHAPES)] for name, like in LIKE.items()}
# Of the palette's ten colours those that also stand out from white paper.
PALETTE = [sns.color_palette("colorblind", 10)[i] for i in (0, 1, 2, 3, 4, 5, 9, 7)]
COLOURS = {name: PALETTE[OWN.index(like) % len(PALETTE)] for name, like in LIKE.items()}
COLOURS |= {name: "0.25" for name, arm in ARMS.items() if arm.start == "none"}  # no language model
SHORT = "*"  # after the name of an arm that had fewer learning rates to choose from than another
WIDTH = 7.0  # inches: two columns of a page, at which the fonts below keep their size
# A narrower axis would blow up differences that 400 test rows cannot tell from chance.
MIN_SPAN = 0.2


@contextmanager
def style() -> Iterator[None]:
    """White grid, nine points, and fonts that stay text in a PDF."""
    settings = {
        "font.size": 9,
        "axes.titlesize": 9,
        "legend.fontsize": 8,
        "legend.columnspacing": 1.2,
        "legend.handletextpad": 0.5,
        "legend.handlelength": 1.4,
        "pdf.fonttype": 42,
    }
    with sns.axes_style("whitegrid"), plt.rc_context(settings):
        yield


def arm_label(arm: str, depth: object = None) -> str:
    """An arm in words, with its depth where it has one."""
    return ARMS[arm].words if pd.isna(depth) else f"{ARMS[arm].words}, depth {depth:.0f}"


def look_of(arm: str, markersize: float = 5) -> dict:
    """How an arm is drawn."""
    return dict(color=COLOURS[arm], marker=MARKERS[arm], markersize=markersize, linewidth=1)


def legend_below(figure: plt.Figure, axes: Iterable[plt.Axes], columns: int = 3) -> None:
    """One legend for all `axes`, every label once."""
    handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)


def widen(axis: plt.Axes, which: str) -> None:
    """No narrower than MIN_SPAN."""
    low, high = getattr(axis, f"get_{which}lim")()
    spare = max(0.0, MIN_SPAN - (high - low)) / 2
    getattr(axis, f"set_{which}lim")(low - spare, high + spare)


def arms_of_error(value: Interval) -> list[list[float]]:
    """The two arms of an error bar, as matplotlib takes them."""
    return [[value.value - value.low], [value.high - value.value]]


def save(figure: plt.Figure, path: Path) -> list[Path]:
    """Write `path`.png (200 dpi) and `path`.pdf, without a date inside, so that equal rows give equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    out = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "pdf")]
    figure.savefig(out[0], dpi=200, metadata={"Software": None})
    figure.savefig(out[1], metadata={"CreationDate": None})
    plt.close(figure)
    return out
