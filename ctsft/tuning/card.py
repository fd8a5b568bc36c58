"""The model card of a head delta: what it is, what it was made on, how good it is, and how to use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    """Markdown with the hub's YAML header; only what the delta itself knows is said."""
    about = delta.about
    task, metrics = about.get("task", {}), about.get("metrics", {})
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
        "task": task.get("name"),
        "language": about.get("language"),
        "labels": ", ".join(task.get("labels", [])),
        "prompt": f"`{task['template']}`".replace("|", "\\|") if "template" in task else None,
        "label words": ", ".join(f"`{word}`" for word in task.get("label_words", [])),
        "arm": about.get("arm"),
        "heads (layer.index)": ", ".join(about.get("heads", [])),
        "keys and values": about.get("kv_policy"),
        "training rows": about.get("rows"),
        "recipe": ", ".join(f"{name} {value:g}" for name, value in about.get("recipe", {}).items()),
        "seed": about.get("seed"),
        "made": about.get("created"),
    }
    lines += ["| | |", "|---|---|", *(f"| {name} | {fact} |" for name, fact in facts.items() if fact not in (None, ""))]
    if metrics:
        lines += ["", f"On the {metrics['split']} split ({metrics['rows']} rows), which was not trained on:", ""]
        lines += [f"- {name}: {value:.3f}" for name, value in metrics.items() if isinstance(value, float)]
    if "parts" in about:
        lines += ["", f"The sum of {len(about['parts'])} deltas; together they were not evaluated."]
    return "\n".join(lines) + "\n\n" + USE.format(checkpoint="CHECKPOINT")
