"""What the benchmarks share: models of a given shape with random weights, rows, and a CSV beside its machine."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from ctsft.discovery.mean import label_balanced_mean
from ctsft.discovery.problem import Problem
from ctsft.heads import Head
from ctsft.models.anatomy import Anatomy, anatomy
from ctsft.models.load import Loaded, unembed_as_a_matrix
from ctsft.provenance import git_commit, now, versions
from ctsft.storage import write_atomic, write_json
from ctsft.tasks.prompts import Encoded, Layout

RESULTS = Path(__file__).parent / "results"
LABELS = [11, 12, 13]
SHAPES = {
    "smollm2-135m": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
    ),
    "qwen2.5-0.5b": Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
    ),
}


def random_model(shape: str, device: str) -> Loaded:
    """A model of this shape; for speed, random weights do."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SHAPES[shape]).to(device).eval().requires_grad_(False)
    unembed_as_a_matrix(model.get_output_embeddings())
    return Loaded(model, None, anatomy(model), Layout(0), "random", None)


def random_rows(rows: int, tokens: int) -> Encoded:
    """Prompts of equal length with labels in turn."""
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(10, 40000, (rows, tokens), generator=generator).tolist()
    return Encoded(tuple(map(tuple, prompts)), tuple(i % 3 for i in range(rows)), tuple(map(str, range(rows))))


def problem_of(loaded: Loaded, rows: int, tokens: int) -> Problem:
    """Random rows to score, and the mean of others."""
    mean = label_balanced_mean(loaded, random_rows(12, tokens), 3, 6)
    return Problem(loaded, random_rows(rows, tokens), LABELS, mean)


def seconds(run: Callable[[], object], device: str) -> float:
    """Wall-clock seconds of one call, with the device's queue empty before and after."""
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def random_heads(parts: Anatomy, share: float) -> list[Head]:
    """The same random heads in every process."""
    order = np.random.default_rng(0).permutation(parts.n_heads)[: int(share * parts.n_heads)]
    return [Head(int(i) // parts.heads, int(i) % parts.heads) for i in order]


def alternating(script: str, variants: Iterable[str], repeats: int) -> dict[str, dict[str, float]]:
    """Medians of what `script --worker VARIANT` prints as JSON, each time in a process of its own, in turn."""
    measured: dict[str, list[dict]] = {variant: [] for variant in variants}
    for _ in range(repeats):
        for variant, runs in measured.items():
            command = [sys.executable, script, *sys.argv[1:], "--worker", variant]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(variant, runs[-1], flush=True)
    return {
        variant: {key: float(np.median([run[key] for run in runs])) for key in runs[0]}
        for variant, runs in measured.items()
    }


def write(name: str, rows: list[dict]) -> pd.DataFrame:
    """Write the table and, beside it, the command and the machine that it was measured on; print it."""
    frame = pd.DataFrame(rows)
    write_atomic(RESULTS / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    machine = {
        "command": " ".join(["python", *(Path(part).name if Path(part).exists() else part for part in sys.argv)]),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": git_commit(),
        "created": now(),
        **versions(),
    }
    write_json(RESULTS / f"{name}.machine.json", machine)
    print(frame.to_string(index=False))
    return frame


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []
