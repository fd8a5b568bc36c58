"""What was tried to make a tuning step faster: each variant beside the one that is kept, in alternating repeats.

    python benchmarks/tried.py

Kept: the fused AdamW, and the unembedding as one matrix product. Not kept: torch.compile, whose seconds of compilation
per shape a short run does not win back. bfloat16 depends on the CPU: there `--dtype bfloat16` is a choice, no default.
It then trains with attention as plain products, since torch's fused attention is slow backwards in that precision.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial

import numpy as np
import torch
from common import alternating, random_heads, random_model, random_rows, write
from tuning import loop_steps

from ctsft.models.precision import products
from ctsft.tuning import loop
from ctsft.tuning.arms import get_arm, trainable

VARIANTS = {
    "circuit 6 %": "circuit 6 %",
    "circuit 6 %, torch.compile": "circuit 6 %",
    "circuit 6 %, bfloat16": "circuit 6 %",
    "circuit 6 %, bfloat16, fused attention": "circuit 6 %, bfloat16",
    "circuit 6 %, unembedding row by row": "circuit 6 %",
    "all weights": "all weights",
    "all weights, foreach AdamW": "all weights",
}


def worker(variant: str, options) -> dict:
    loaded, rows = random_model("smollm2-135m", options.device), random_rows(options.rows, options.tokens)
    model, parts = loaded.model, loaded.anatomy
    if variant.endswith("row by row"):
        unembedding = model.get_output_embeddings()
        unembedding._forward_pre_hooks.clear()
        unembedding._forward_hooks.clear()
    if variant.endswith("foreach AdamW"):
        kept = torch.optim.AdamW
        torch.optim.AdamW = lambda parameters, fused, **kwargs: kept(parameters, foreach=True, **kwargs)
    if "bfloat16" in variant:
        torch.autocast = partial(_autocast, torch.autocast)
    if variant.endswith("fused attention"):
        loop.with_gradients = products
    arm = get_arm("full" if variant.startswith("all") else "circuit")
    heads = random_heads(parts, 0.06)
    with trainable(model, parts, arm, heads, "shared") as (parameters, compact):
        if variant.endswith("torch.compile"):
            model.forward = torch.compile(model.forward)
        started = time.perf_counter()
        times = loop_steps(model, parameters, rows, options, compact.write_back)
        whole = time.perf_counter() - started
    steady = float(np.median(times[options.warm :]))
    return {"seconds": steady, "warm_up_seconds": whole - steady * len(times)}


def _autocast(kept, device, dtype, enabled):
    return kept(device, torch.bfloat16, enabled=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="steps in a process")
    parser.add_argument("--warm", type=int, default=2, help="of which the first ones warm up")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.worker, options)))
        return
    medians = alternating(__file__, VARIANTS, options.repeats)
    rows = [
        {
            "variant": variant,
            "device": options.device,
            "batch": f"{options.rows} x {options.tokens}",
            "repeats": options.repeats,
            **medians[variant],
            "times_slower_than_kept": medians[variant]["seconds"] / medians[kept]["seconds"],
        }
        for variant, kept in VARIANTS.items()
    ]
    write(f"tried-{options.device}", rows)


if __name__ == "__main__":
    main()
