"""What a language costs on disk, and how long changing to it takes: a head delta, a LoRA adapter, a full checkpoint.

    python benchmarks/deltas.py

Random values in a model of the given shape; size and time do not depend on them. Every way holds two languages, and the
time is that of changing from one to the other, the median of repeats. A head delta and an adapter are in
memory already, as a service would hold them; `from disk` reads the file first, which is a checkpoint's only way here.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import random_heads, random_model, seconds, write
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from ctsft.models.load import weight_hash
from ctsft.tuning.arms import get_arm, moving_slices
from ctsft.tuning.delta import HeadDelta, Switch
from ctsft.tuning.slices import write_slices

SHARES = (0.02, 0.06, 0.20)


def random_delta(loaded, share: float, seed: int) -> HeadDelta:
    """The slices of a circuit with this share of the heads, and the norms, with other values."""
    slices = moving_slices(
        loaded.model, loaded.anatomy, get_arm("circuit"), random_heads(loaded.anatomy, share), "shared"
    )
    delta = HeadDelta.of(loaded.model, slices, weight_hash(loaded.model))
    generator = torch.Generator().manual_seed(seed)
    return HeadDelta(
        delta.base, {piece: torch.randn(v.shape, generator=generator) for piece, v in delta.values.items()}
    )


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def head_deltas(options, share: float, folder: Path) -> tuple[int, dict]:
    loaded = random_model(options.shape, "cpu")
    deltas = {name: random_delta(loaded, share, seed) for seed, name in enumerate("ab")}
    deltas["a"].save(folder)
    switch = Switch(loaded.model, deltas)
    switch.to("a")
    turn = iter("ba" * options.repeats)
    memory = [seconds(lambda: switch.to(next(turn)), "cpu") for _ in range(options.repeats)]
    disk = [seconds(lambda: write_slices(loaded.model, HeadDelta.load(folder).values), "cpu") for _ in memory]
    return size_of(folder), {"switch_ms": memory, "from_disk_ms": disk}


def adapters(options, folder: Path) -> tuple[int, dict]:
    config = LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    model = get_peft_model(random_model(options.shape, "cpu").model, config, adapter_name="first")
    model.add_adapter("second", config)
    model.save_pretrained(folder, selected_adapters=["first"])
    turn = iter(["second", "first"] * options.repeats)
    memory = [seconds(lambda: model.set_adapter(next(turn)), "cpu") for _ in range(options.repeats)]
    names = iter(f"again{i}" for i in range(options.repeats))
    disk = [seconds(lambda: model.load_adapter(folder / "first", next(names)), "cpu") for _ in memory]
    return size_of(folder), {"switch_ms": memory, "from_disk_ms": disk}


def checkpoints(options, folder: Path) -> tuple[int, dict]:
    model = random_model(options.shape, "cpu").model
    parameters = dict(model.named_parameters())
    save_file({name: parameter.detach() for name, parameter in parameters.items()}, folder / "model.safetensors")

    @torch.no_grad()
    def read() -> None:
        for name, value in load_file(folder / "model.safetensors").items():
            parameters[name].copy_(value)

    return size_of(folder), {"from_disk_ms": [seconds(read, "cpu") for _ in range(options.repeats)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="smollm2-135m", help="smollm2-135m or qwen2.5-0.5b")
    parser.add_argument("--repeats", type=int, default=11)
    options = parser.parse_args()
    ways = {f"head delta, {share:.0%} of the heads": lambda f, s=share: head_deltas(options, s, f) for share in SHARES}
    ways |= {"LoRA r = 8": lambda f: adapters(options, f), "full checkpoint": lambda f: checkpoints(options, f)}
    rows = []
    for name, measure in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            size, times = measure(Path(folder))
        medians = {column: 1000 * float(np.median(values)) for column, values in times.items()}
        rows.append(
            {"way": name, "shape": options.shape, "repeats": options.repeats, "megabytes": size / 1e6, **medians}
        )
    write(f"deltas-{options.shape}-cpu", rows)


if __name__ == "__main__":
    main()
