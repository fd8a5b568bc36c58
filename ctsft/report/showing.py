"""What notebooks show: tables, texts and figures of one results folder, and why there is none of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import Markdown, display

from ctsft.errors import UserError
from ctsft.report.render import markdown


def folders() -> dict[str, Path]:
    """The results folders by name: those in CTSFT_RESULTS, else of the nearest `results` at or above the notebook.

    UserError where there is none.
    """
    here = Path.cwd()
    nearest = next((path / "results" for path in (here, *here.parents) if (path / "results").is_dir()), here)
    root = Path(os.environ.get("CTSFT_RESULTS") or nearest).expanduser().resolve()
    if found := {path.parent.name: path.parent for path in sorted(root.glob("*/gold.json"))}:
        return found
    raise UserError(f"no results folders in {root}. Set CTSFT_RESULTS to what a script was given as --output.")


def show(of: Any, *makers: Callable[[Any], Any]) -> None:
    """Display what every maker makes of `of`: a table, a text or a figure; `of` is None where nothing was run."""
    if of is None:
        display(Markdown("*not run*"))
        return
    for make in makers:
        made = make(of)
        if isinstance(made, plt.Figure):
            plt.show()
        elif made is None or len(made) == 0:
            display(Markdown(f"*{make.__name__}: the rows do not suffice yet*"))
        else:
            display(Markdown(made if isinstance(made, str) else markdown(made)))
