"""The model card of a head delta: what it is, what it was made on, how good it is, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctsft.tuning.delta import HeadDelta

USE = """```python
import ctsft

model = ctsft.load_model("{checkpoint}")
ctsft.HeadDelta.load("DELTA").apply(model.model)
```

or, for a CSV file with a column `text`:

```bash
ctsft predict --model {checkpoint} --delta DELTA --input in.csv --output out.csv
```
"""


def model_card(delta: HeadDelta) -> str:
    """Markdown with the hub's YAML header; only what the delta itself knows is said.

    `about` is free: what `ctsft.tune` writes as mappings is told in parts, and anything else as it stands.
    """
    about = delta.about
    task, recipe, metrics = (_parts(about, name) for name in ("task", "recipe", "metrics"))
    evaluated = {"split", "rows"} <= metrics.keys()
    lines = ["---", "library_name: ctsft", "tags:", "- head-delta", "- circuit-targeted-fine-tuning"]
    if "/" in about.get("model", ""):
        lines += [f"base_model: {about['model'].partition('@')[0]}"]
    lines += ["---", "", f"# Head delta{': ' + about['language'] if 'language' in about else ''}", ""]
    lines += [
        f"New values of {delta.size:,} weights, for the checkpoint whose weight hash is `{delta.base}`. On any other "
        "weights it is refused.",
        "",
    ]
    facts = {
        "model": about.get("model"),
        "task": task.get("name") if task else about.get("task"),
        "language": about.get("language"),
        "labels": ", ".join(task.get("labels", [])),
        "prompt": f"`{task['template']}`".replace("|", "\\|") if "template" in task else None,
        "label words": ", ".join(f"`{word}`" for word in task.get("label_words", [])),
        "arm": about.get("arm"),
        "heads (layer.index)": ", ".join(about.get("heads", [])),
        "keys and values": about.get("kv_policy"),
        "training rows": about.get("rows"),
        "recipe": ", ".join(f"{name} {_short(value)}" for name, value in recipe.items()) or about.get("recipe"),
        "metrics": None if evaluated else about.get("metrics"),
        "seed": about.get("seed"),
        "made": about.get("created"),
    }
    lines += ["| | |", "|---|---|", *(f"| {name} | {fact} |" for name, fact in facts.items() if fact not in (None, ""))]
    if evaluated:
        lines += ["", f"On the {metrics['split']} split ({metrics['rows']} rows), which was not trained on:", ""]
        lines += [f"- {name}: {value:.3f}" for name, value in metrics.items() if isinstance(value, float)]
    if "parts" in about:
        lines += ["", f"The sum of {len(about['parts'])} deltas; together they were not evaluated."]
    return "\n".join(lines) + "\n\n" + USE.format(checkpoint="CHECKPOINT")


def _parts(about: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return about[name] if isinstance(about.get(name), Mapping) else {}


def _short(value: object) -> object:
    return f"{value:g}" if isinstance(value, int | float) else value
