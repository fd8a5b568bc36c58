"""bfloat16 on this CPU: torch's own products, and ours, rounded from float32, beside float32. In alternating repeats.

    python benchmarks/precision.py

Scripts take the first where the CPU has instructions for bfloat16, and the second elsewhere.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from common import LABELS, random_model, random_rows, seconds, write

from ctsft.evaluation import predict
from ctsft.models import precision
from ctsft.tuning.loop import Gradients

# What is computed in, and whether products are rounded from float32.
WAYS = {
    "float32": ("float32", False),
    "bfloat16, torch's products": ("bfloat16", False),
    "bfloat16, rounded products": ("bfloat16", True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    loaded, rows = random_model("smollm2-135m", "cpu"), random_rows(options.rows, options.tokens)
    parameters = list(loaded.model.requires_grad_(True).parameters())
    times: dict[tuple[str, str], list[float]] = {}
    for repeat in range(options.repeats + 1):
        for way, (dtype, rounded) in WAYS.items():
            precision.lacks_bfloat16 = lambda rounded=rounded: rounded
            autocast = precision.autocast(dtype, torch.device("cpu"))
            gradients = Gradients(loaded.model, parameters, rows, LABELS, loaded.layout, autocast, options.rows)
            runs = {
                "answers": lambda autocast=autocast: predict(
                    loaded.model, rows, LABELS, loaded.layout, options.rows, autocast
                ),
                "gradients of all weights": lambda gradients=gradients: gradients.of(range(options.rows)),
            }
            for what, run in runs.items():
                taken = seconds(run, "cpu")
                if repeat:  # the first warms up
                    times.setdefault((what, way), []).append(taken)
    medians = {key: float(np.median(taken)) for key, taken in times.items()}
    write(
        "precision-cpu",
        [
            {
                "what": what,
                "computed_in": way,
                "batch": f"{options.rows} x {options.tokens}",
                "repeats": options.repeats,
                "seconds": medians[what, way],
                "times_float32": medians[what, way] / medians[what, "float32"],
            }
            for what, way in sorted(medians)
        ],
    )


if __name__ == "__main__":
    main()
