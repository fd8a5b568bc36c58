"""The model card of a head delta: what it is, what it was made on, how good it is, and how to use it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctsft.tuning.delta import HeadDelta

USE = """```python
import ctsft

model = ctsft.load_model("CHECKPOINT")
ctsft.HeadDelta.load("DELTA").apply(model.model)
```

or, for a CSV file with a column `text`:

```bash
ctsft predict --model CHECKPOINT --delta DELTA --input in.csv --output out.csv
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
    if isinstance(model := about.get("model"), str) and "/" in model:
        lines += [f"base_model: {model.partition('@')[0]}"]
    language = about.get("language")
    lines += ["---", "", f"# Head delta{f': {language}' if language else ''}", ""]
    lines += [
        f"New values of {delta.size:,} weights, for the checkpoint whose weight hash is `{delta.base}`. On any other "
        "weights it is refused.",
        "",
    ]
    facts = {
        "model": model,
        "task": task.get("name") if task else about.get("task"),
        "language": language,
        "labels": _listed(task.get("labels")),
        "prompt": f"`{task['template']}`".replace("|", "\\|") if "template" in task else None,
        "label words": _listed(task.get("label_words"), "`{}`"),
        "arm": about.get("arm"),
        "heads (layer.index)": _listed(about.get("heads")),
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
    if isinstance(about.get("parts"), Collection):
        lines += ["", f"The sum of {len(about['parts'])} deltas; together they were not evaluated."]
    return "\n".join(lines) + "\n\n" + USE


def _parts(about: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return about[name] if isinstance(about.get(name), Mapping) else {}


def _listed(value: object, form: str = "{}") -> object:
    """Elements of a list with commas between them; anything else as it stands."""
    return ", ".join(form.format(part) for part in value) if isinstance(value, list | tuple) else value


def _short(value: object) -> object:
    return f"{value:g}" if isinstance(value, int | float) else value
