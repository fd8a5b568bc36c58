"""Head deltas: what a tuned circuit changed, in a small file of its own, for use on the weights it was made on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ctsft.errors import UserError
from ctsft.heads import Slice
from ctsft.models.load import Loaded, weight_hash
from ctsft.storage import write_atomic
from ctsft.tuning.card import model_card
from ctsft.tuning.slices import read_slices, write_slices
from ctsft.tuning.sound import checksum, header_checksum, refuse_damaged, refuse_misfit

FORMAT = "ctsft-head-delta-1"
FILE = "delta.safetensors"


@dataclass(frozen=True)
class HeadDelta:
    """New values of some slices of the weights whose hash is `base`.

    `values`: the tuned weights themselves, not differences, so that applying them is exact. `about`: what a user wants
    to know of it (task, prompt, languages, heads, settings, metrics), readable as JSON.
    """

    base: str
    values: dict[Slice, Tensor]
    about: dict = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, slices: Iterable[Slice], base: str, about: Mapping | None = None) -> HeadDelta:
        """Read the tuned values out of `model`; `base` is the weight hash of the model before tuning."""
        return cls(base, read_slices(model, slices), dict(about or {}))

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(value.numel() for value in self.values.values())

    def save(self, folder: Path) -> None:
        """Write FOLDER/delta.safetensors, whose metadata holds the base's hash and `about`, and a model card."""
        tensors = {json.dumps(list(piece)): value.contiguous() for piece, value in self.values.items()}
        said = {"base": self.base, "format": FORMAT, "about": json.dumps(self.about, default=str)}
        sums = {"sha256": checksum(self.values), "header_sha256": header_checksum(said)}
        card = model_card(self)
        write_atomic(Path(folder) / FILE, save(tensors, said | sums))
        write_atomic(Path(folder) / "README.md", card)

    @classmethod
    def load(cls, path: Path) -> HeadDelta:
        """Read what `save` wrote: the folder, or the file in it."""
        path = Path(path)
        if path.is_dir():
            if not (path / FILE).is_file() and (path / "config.json").is_file():
                raise UserError(f"{path} is a whole checkpoint, not a head delta: load it as the model (--model).")
            path = path / FILE
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise UserError(f"{path} is not a head delta of this version.")
                values = {Slice(*json.loads(name)): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            base, about = metadata["base"], json.loads(metadata.get("about", "{}"))
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f"cannot read the head delta {path}: {error}") from error
        refuse_damaged(path, metadata, values)
        return cls(base, values, about)

    def apply(self, model: nn.Module | Loaded, *, other_weights: bool = False) -> HeadDelta:
        """Write the values into `model` (or what `load_model` gave), in place; returns what stood there.

        Applying that reverts it.

        Raises UserError where the model's weights are not those that the delta was made on, unless `other_weights`
        allows it: for a theta1 that was made again on another machine and differs in its last bits. What the delta
        says of its accuracy and temperature then need not hold.
        """
        model = model.model if isinstance(model, Loaded) else model
        actual = weight_hash(model)
        if actual != self.base and not other_weights:
            raise UserError(_other_weights("the delta", self.base, actual))
        before = self.stood(model)
        write_slices(model, self.values)
        return HeadDelta(weight_hash(model), before)

    def stood(self, model: nn.Module) -> dict[Slice, Tensor]:
        """What `model` has in the delta's places; UserError where it has no such places."""
        refuse_misfit(model, self.values)
        return read_slices(model, self.values)

    @contextmanager
    def on(self, model: nn.Module | Loaded, *, other_weights: bool = False) -> Iterator[None]:
        """`model` is tuned inside the block, see `apply`, and as it was afterwards, bit for bit."""
        model = model.model if isinstance(model, Loaded) else model
        undo = self.apply(model, other_weights=other_weights)
        try:
            yield
        finally:
            write_slices(model, undo.values)


def _other_weights(what: str, base: str, actual: str) -> str:
    return (
        f"{what} was made on weights {base}, but this model's are {actual}. Load the checkpoint that it was made on, "
        "or revert another delta first."
    )


class Switch:
    """Several deltas on one base model: the base is checked once, and switching only copies the slices.

    Use: `switch = Switch(model, {"javanese": delta, ...}); switch.to("javanese"); switch.to(None)` (the base again).
    """

    def __init__(self, model: nn.Module, deltas: Mapping[str, HeadDelta]):
        actual = weight_hash(model)
        for name, delta in deltas.items():
            if delta.base != actual:
                raise UserError(_other_weights(f"the delta '{name}'", delta.base, actual))
        self.model, self.deltas = model, dict(deltas)
        self.current: str | None = None
        device = next(model.parameters()).device
        self._values = {
            name: {piece: value.to(device) for piece, value in delta.values.items()} for name, delta in deltas.items()
        }
        self._base = {name: delta.stood(model) for name, delta in deltas.items()}

    @torch.no_grad()
    def to(self, name: str | None) -> None:
        """Make `name` the current delta; None is the base model."""
        if name is not None and name not in self.deltas:
            raise UserError(f"no delta '{name}'. Loaded: {', '.join(self.deltas)}.")
        if self.current is not None:
            write_slices(self.model, self._base[self.current])
        if name is not None:
            write_slices(self.model, self._values[name])
        self.current = name
