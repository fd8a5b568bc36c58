"""Head deltas: the tuned slices and norms of one cell, in a file of their own, for use on a fresh copy of theta1."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ctsft.errors import UserError
from ctsft.heads import Slice
from ctsft.models.load import weight_hash
from ctsft.storage import write_atomic
from ctsft.tuning.slices import read_slices, write_slices
from ctsft.tuning.sound import checksum, refuse_damaged, refuse_misfit


@dataclass(frozen=True)
class HeadDelta:
    """New values of some slices of the weights whose hash is `base`."""

    base: str
    values: dict[Slice, Tensor]

    @classmethod
    def of(cls, model: nn.Module, slices: Iterable[Slice], base: str) -> HeadDelta:
        """Read the tuned values out of `model`; `base` is the weight hash of the model before tuning."""
        return cls(base, read_slices(model, slices))

    def save(self, path: Path) -> None:
        """Write one safetensors file; its metadata holds the base's hash."""
        tensors = {json.dumps(list(piece)): value.contiguous() for piece, value in self.values.items()}
        write_atomic(
            path, save(tensors, {"base": self.base, "format": "ctsft-head-delta-1", "sha256": checksum(self.values)})
        )

    @classmethod
    def load(cls, path: Path) -> HeadDelta:
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != "ctsft-head-delta-1":
                    raise UserError(f"{path} is not a head delta of this version.")
                values = {Slice(*json.loads(name)): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            base = metadata["base"]
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f"cannot read the head delta {path}: {error}") from error
        refuse_damaged(path, metadata, values)
        return cls(base, values)

    def apply(self, model: nn.Module) -> HeadDelta:
        """Write the values into `model`, in place; returns what stood there, so that applying that reverts it."""
        actual = weight_hash(model)
        if actual != self.base:
            raise UserError(f"the delta was made on weights {self.base}, but this model's are {actual}.")
        refuse_misfit(model, self.values)
        before = read_slices(model, self.values)
        write_slices(model, self.values)
        return HeadDelta(weight_hash(model), before)
