"""Which batches of a competence stage are padded to 64, 192, ... tokens, where cuDNN's attention may give NaN?

    CTSFT_DATA_DIR=DATA python benchmarks/widths.py MODEL.gguf

The stage is script 02's of preset `small`, in the loop that trains it, with nothing to train: no answer is computed.
`width_64`: the steps with such a batch. The cell that a GPU ends names the step after it.
"""

from __future__ import annotations

import argparse
import runpy
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from common import write
from torch import nn

from ctsft.models.precision import autocast
from ctsft.study.answering import Answering
from ctsft.tuning.loop import Gradients, Recipe, train

SCRIPT = Path(__file__).parents[1] / "experiments" / "02_xnli_generalization.py"


def widths_of(bench: Answering, seed: int, micro_batch: int) -> dict[int, list[int]]:
    """Tokens that every micro-batch is padded to, by step from 1 on."""
    config, found = bench.config, defaultdict(list)
    rows = bench.encode(bench.source_rows.by_id(bench.competence_ids(seed)))
    nothing, steps = nn.Linear(1, 1), [1]

    def record(model, some, *_):
        found[steps[0]].append(max(map(len, some.prompts)))
        return 0 * sum(parameter.sum() for parameter in model.parameters())

    def after_step() -> None:
        steps[0] += 1

    parameters, exact = list(nothing.parameters()), autocast("float32", bench.device)
    gradients = Gradients(nothing, parameters, rows, (), bench.loaded.layout, exact, micro_batch, record)
    recipe = Recipe(epochs=config.source_epochs, batch_size=config.source_batch_size, micro_batch=micro_batch)
    train(gradients, recipe, seed, after_step)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the .gguf file of the `small` rows")
    parser.add_argument("--micro-batch", type=int, default=16, help="that of the rows of the GPU")
    options = parser.parse_args()
    preset = runpy.run_path(str(SCRIPT))["PRESETS"]["small"]
    bench = Answering(replace(preset, model=options.model, device="cpu"))
    rows = []
    for seed in preset.seeds:
        found = widths_of(bench, seed, options.micro_batch)
        steps = [str(step) for step, widths in found.items() if any(width % 128 == 64 for width in widths)]
        rows.append({"seed": seed, "steps": len(found), "width_64": " ".join(steps)})
    write("widths", rows)


if __name__ == "__main__":
    main()
