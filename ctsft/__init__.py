"""Circuit-Targeted Supervised Fine-Tuning (arXiv 2601.08146): find the heads that carry a task, tune only those.

The public names below are loaded when they are first used, so that `import ctsft` and `--help` are quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctsft.answers import Answer, Evaluation, evaluate, predict
    from ctsft.discovery.relevance import Relevance
    from ctsft.errors import CellFailed, UserError
    from ctsft.faithful import Faithful, faithfulness
    from ctsft.heads import Head
    from ctsft.library import check, choose, discover, load_task, tune
    from ctsft.models.load import Loaded, load_model
    from ctsft.tuning.combine import add
    from ctsft.tuning.delta import HeadDelta, Switch
    from ctsft.tuning.loop import Recipe
    from ctsft.tuning.own_loop import HeadTuning
    from ctsft.tuning.share import export, merge, pull, push
    from ctsft.tuning.trainer import HeadTrainerMixin

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "CellFailed",
    "Evaluation",
    "Faithful",
    "Head",
    "HeadDelta",
    "HeadTrainerMixin",
    "HeadTuning",
    "Loaded",
    "Recipe",
    "Relevance",
    "Switch",
    "UserError",
    "add",
    "check",
    "choose",
    "discover",
    "evaluate",
    "export",
    "faithfulness",
    "load_model",
    "load_task",
    "merge",
    "predict",
    "pull",
    "push",
    "tune",
]
_HOMES = {
    "ctsft.answers": ("Answer", "Evaluation", "evaluate", "predict"),
    "ctsft.discovery.relevance": ("Relevance",),
    "ctsft.errors": ("CellFailed", "UserError"),
    "ctsft.faithful": ("Faithful", "faithfulness"),
    "ctsft.heads": ("Head",),
    "ctsft.library": ("check", "choose", "discover", "load_task", "tune"),
    "ctsft.models.load": ("Loaded", "load_model"),
    "ctsft.tuning.combine": ("add",),
    "ctsft.tuning.delta": ("HeadDelta", "Switch"),
    "ctsft.tuning.loop": ("Recipe",),
    "ctsft.tuning.own_loop": ("HeadTuning",),
    "ctsft.tuning.share": ("export", "merge", "pull", "push"),
    "ctsft.tuning.trainer": ("HeadTrainerMixin",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'ctsft' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
