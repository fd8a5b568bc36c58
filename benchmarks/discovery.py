"""What it costs to score every head: seconds, forward passes, and the difference to a plain two-stream reference.

    python benchmarks/discovery.py

The reference carries rel and irrel through the whole model, one source at a time (the oracle of the tests); it is timed
on every `--reference-step`-th head and scaled to all. `forwards` is in forward passes of the same rows; differences are
to the reference in double precision, relative to the largest score.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from common import RESULTS, problem_of, random_model, seconds, write

from ctsft.discovery.decompose import LINEAR, Rules
from ctsft.discovery.mean import LabelBalancedMean
from ctsft.discovery.problem import Batch, Problem
from ctsft.discovery.scorers import SCORERS, get_scorer, propagate
from ctsft.models.load import load_model
from ctsft.report.figures.style import save
from ctsft.tasks.prompts import pad_left

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import oracle


@torch.no_grad()
def reference(problem: Problem, rules: Rules, heads: list[tuple[int, int]]) -> dict[tuple[int, int], float]:
    """R to the logits of some heads, by the two-stream oracle."""
    batch = Batch(replace(problem, rules=rules), range(len(problem.rows)))
    size = batch.anatomy.head_dim
    out = {}
    for layer, head in heads:
        kept = batch.totals.layers[layer]
        source = torch.zeros_like(kept.z)
        part = slice(head * size, (head + 1) * size)
        source[..., part] = batch.beta[layer][..., part]
        embedded = batch.totals.layers[0].x
        rel, _, _ = oracle.two_streams(
            problem.loaded, batch.tokens, embedded, layer, source, rules, [kept.rotary for kept in batch.totals.layers]
        )
        out[layer, head] = float(batch.margin(rel).mean())
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder, .gguf or hub id; without it, random weights of --shape")
    parser.add_argument("--shape", default="smollm2-135m", help="smollm2-135m or qwen2.5-0.5b")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--scorers", nargs="+", default=list(SCORERS), help="which to time; ablation takes longest")
    parser.add_argument("--reference-step", type=int, default=15)
    options = parser.parse_args()
    loaded = (
        load_model(options.model, device=options.device)
        if options.model
        else random_model(options.shape, options.device)
    )
    anatomy = loaded.anatomy

    problem = problem_of(loaded, options.rows, options.tokens)
    batch = pad_left(problem.rows.prompts, problem.loaded.layout, options.device)
    everything = [(layer, head) for layer in range(len(anatomy.layers)) for head in range(anatomy.heads)]
    some = everything[:: options.reference_step]
    scores: dict[str, object] = {}

    @torch.no_grad()
    def forward() -> None:
        loaded.model(**batch, logits_to_keep=1, use_cache=False)

    def keep(name: str, run: Callable[[], object]) -> Callable[[], None]:
        def kept() -> None:
            scores[name] = run()

        return kept

    runs = {name: keep(name, lambda name=name: get_scorer(name)(problem, None, [])) for name in options.scorers}
    runs["reference"] = keep("reference", lambda: reference(problem, Rules(), some))
    forward()
    times: dict[str, list[float]] = {name: [] for name in (*runs, "forward")}
    for _ in range(options.repeats):
        for name, run in runs.items():
            times["forward"].append(seconds(forward, options.device))
            times[name].append(seconds(run, options.device))
            print(name, round(times[name][-1], 2), flush=True)
    unit = float(np.median(times["forward"]))
    scale = dict.fromkeys(runs, 1.0) | {"reference": len(everything) / len(some)}

    def difference(name: str) -> float | None:
        if name not in exact:
            return None
        expected = np.array(list(exact[name].values()))
        found = scores[name] if name == "reference" else scores[name].logits
        actual = np.array([found[head] for head in exact[name]])
        # Relative to the largest score of all heads.
        largest = np.abs(scores["cdt_linear" if name == "cdt_linear" else "cdt"].logits).max()
        return float(np.abs(actual - expected).max() / largest)

    def against_propagation() -> float:
        """cdt_linear and head-by-head propagation under the same rules, relative to the largest score."""
        whole = Batch(replace(problem, rules=LINEAR), range(options.rows))
        apart = []
        for layer, head in some:
            with torch.no_grad():
                alone = propagate(whole, layer, range(head, head + 1))[0][0] / options.rows
            apart.append(abs(alone - scores["cdt_linear"].logits[layer, head]))
        return float(max(apart) / np.abs(scores["cdt_linear"].logits).max())

    linear_difference = against_propagation()
    # Rounding adds up over the layers of the reference's two streams, so the yardstick is double precision.
    loaded.model.double()
    mean = LabelBalancedMean(problem.mean.aligned.double(), problem.mean.pooled.double())
    exact = {
        name: reference(replace(problem, mean=mean), rules, some)
        for name, rules in (("cdt", Rules()), ("cdt_linear", LINEAR), ("reference", Rules()))
    }
    slow = float(np.median(times["reference"])) * scale["reference"]
    rows = [
        {
            "scorer": name,
            "heads": len(everything),
            "rows": options.rows,
            "tokens": options.tokens,
            "device": options.device,
            "repeats": options.repeats,
            "seconds": float(np.median(times[name])) * scale[name],
            "forwards": float(np.median(times[name])) * scale[name] / unit,
            "times_faster_than_reference": slow / (float(np.median(times[name])) * scale[name]),
            "largest_difference_to_reference": difference(name),
            "largest_difference_to_propagation": linear_difference if name == "cdt_linear" else None,
        }
        for name in runs
    ]
    name = f"discovery-{Path(options.model).stem if options.model else options.shape}-{options.device}"
    frame = write(name, rows)

    figure, axis = plt.subplots(figsize=(5, 2.6))
    axis.barh(frame["scorer"], frame["forwards"], color="#0173b2")
    axis.set_xscale("log")
    axis.set_xlabel(f"forward passes for {len(everything)} heads (log scale)")
    axis.invert_yaxis()
    for number, value in enumerate(frame["forwards"]):
        axis.text(value, number, f" {value:.1f}", va="center", fontsize=8)
    axis.margins(x=0.2)
    figure.tight_layout()
    save(figure, RESULTS / name)


if __name__ == "__main__":
    main()
