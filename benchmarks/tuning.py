"""One optimizer step and its peak memory, by what moves: against the Hugging Face Trainer, LoRA, and the floor.

    python benchmarks/tuning.py

Every variant runs in processes of its own (peak memory is the process's), in alternating repeats. `floor` is a forward
pass and the backward pass to the inputs, which any tuning of the lowest layer needs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time

import numpy as np
import torch
from common import LABELS, RESULTS, alternating, random_heads, random_model, random_rows, write

from ctsft.memory import peak_memory_mb
from ctsft.tasks.prompts import Layout, pad_left
from ctsft.tuning.arms import get_arm, trainable
from ctsft.tuning.loop import Gradients, Recipe, train

SHARES = {"circuit 2 %": 0.02, "circuit 6 %": 0.06, "circuit 20 %": 0.20}
VARIANTS = ["Trainer, all weights", "full", "LoRA r = 8", *reversed(SHARES), "norm_only", "floor", "forward"]


def trainer_steps(loaded, rows, options) -> list[float]:
    """Seconds of every step of transformers.Trainer, with its loss over all positions."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            times.append(-time.perf_counter())

        def on_step_end(self, *args, **kwargs):
            times[-1] += time.perf_counter()

    data = [{"input_ids": p, "attention_mask": [1] * len(p), "labels": p} for p in rows.prompts] * options.steps
    data = [{key: torch.tensor(value) for key, value in row.items()} for row in data]
    loaded.model.requires_grad_(True)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=options.steps,
            per_device_train_batch_size=len(rows),
            learning_rate=5e-5,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=options.device == "cpu",
            bf16=options.device != "cpu",
            dataloader_pin_memory=options.device != "cpu",
        )
        Trainer(loaded.model, arguments, train_dataset=data, callbacks=[Clock()]).train()
    return times


def loop_steps(model, parameters, rows, options, after_step) -> list[float]:
    """Seconds of every step of the project's own loop."""
    times = [time.perf_counter()]

    def clock() -> None:
        after_step()
        if options.device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    recipe = Recipe(epochs=options.steps, batch_size=len(rows), micro_batch=len(rows))
    autocast = torch.autocast(options.device, torch.bfloat16, enabled=options.device != "cpu")
    gradients = Gradients(model, parameters, rows, LABELS, Layout(0), autocast, len(rows))
    train(gradients, recipe, 0, clock)
    return np.diff(times).tolist()


def bare_steps(model, rows, options, backward: bool) -> list[float]:
    """Seconds of a forward pass, with or without the backward pass to the inputs."""
    times = []
    batch = pad_left(rows.prompts, Layout(0), options.device)
    embed = model.get_input_embeddings()
    ids = batch.pop("input_ids")
    for _ in range(options.steps):
        started = time.perf_counter()
        inputs = embed(ids).requires_grad_(backward)
        with torch.autocast(options.device, torch.bfloat16, enabled=options.device != "cpu"):
            logits = model(inputs_embeds=inputs, **batch, logits_to_keep=1, use_cache=False).logits
        if backward:
            logits[:, -1].float().logsumexp(-1).sum().backward()
        if options.device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return times


def worker(variant: str, options) -> dict:
    loaded, rows = random_model(options.shape, options.device), random_rows(options.rows, options.tokens)
    model, parts = loaded.model, loaded.anatomy
    if variant == "Trainer, all weights":
        times = trainer_steps(loaded, rows, options)
    elif variant == "LoRA r = 8":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
        parameters = [p for p in model.parameters() if p.requires_grad]
        times = loop_steps(model, parameters, rows, options, lambda: None)
    elif variant in ("floor", "forward"):
        with torch.set_grad_enabled(variant == "floor"):
            times = bare_steps(model, rows, options, variant == "floor")
    else:
        arm = get_arm("circuit" if variant in SHARES else variant)
        heads = random_heads(parts, SHARES.get(variant, 0))
        with trainable(model, parts, arm, heads, "shared") as (parameters, compact):
            times = loop_steps(model, parameters, rows, options, compact.write_back)
    return {"seconds": float(np.median(times[1:])), "peak_mb": peak_memory_mb(torch.device(options.device))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="smollm2-135m", help="smollm2-135m or qwen2.5-0.5b")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (bfloat16)")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="steps in a process, of which the first warms up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.worker, options)))
        return
    medians = alternating(__file__, VARIANTS, options.repeats)
    trainer, floor = medians["Trainer, all weights"], medians["floor"]
    rows = [
        {
            "variant": variant,
            "shape": options.shape,
            "device": options.device,
            "batch": f"{options.rows} x {options.tokens}",
            "repeats": options.repeats,
            "seconds": m["seconds"],
            "peak_mb": m["peak_mb"],
            "times_faster_than_trainer": trainer["seconds"] / m["seconds"],
            "time_over_floor": m["seconds"] / floor["seconds"],
            "memory_over_trainer": m["peak_mb"] / trainer["peak_mb"],
        }
        for variant, m in medians.items()
    ]
    name = f"tuning-{options.shape}-{options.device}"
    frame = write(name, rows)
    # Only here: the workers' peak memory is measured, and they draw nothing.
    import matplotlib.pyplot as plt

    from ctsft.report.figures.style import save

    figure, axes = plt.subplots(1, 2, figsize=(7, 3), sharey=True)
    for axis, column, label in zip(axes, ("seconds", "peak_mb"), ("seconds a step", "peak memory, MB"), strict=True):
        axis.barh(frame["variant"], frame[column], color="#0173b2")
        axis.set_xlabel(label)
    axes[0].invert_yaxis()
    figure.tight_layout()
    save(figure, RESULTS / name)


if __name__ == "__main__":
    main()
