"""Is a saved delta what was written, and does it fit the model? Asked before a single weight is changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ctsft.errors import UserError
from ctsft.heads import Slice

NAMES = {"base", "format", "about", "sha256", "header_sha256"}
"""What the metadata of a delta may hold."""


def checksum(values: Mapping[Slice, Tensor]) -> str:
    """sha256 over the names, types and bytes of all values (first 16 digits)."""
    total = hashlib.sha256()
    for piece, value in sorted(values.items()):
        total.update(f"{list(piece)}:{tuple(value.shape)}:{value.dtype}".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def header_checksum(metadata: Mapping[str, str]) -> str:
    """sha256 over what a delta says of itself besides its values: its base, labels, prompt, temperature, metrics."""
    said = {name: metadata.get(name) for name in ("format", "base", "about")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def refuse_damaged(where: object, metadata: Mapping[str, str], values: Mapping[Slice, Tensor]) -> None:
    """Every name must be a slice of the size of its value, every value finite, the checksums those that were written.

    A file from before there were checksums has none, or none of what it says of itself, and is taken without.
    """
    for piece, value in values.items():
        numbers = (piece.dim, piece.start, piece.stop)
        whole = isinstance(piece.parameter, str) and all(type(number) is int for number in numbers)
        if not whole or not 0 <= piece.dim < value.ndim or piece.start < 0:
            raise UserError(f"{where}: '{list(piece)}' is no slice of a parameter. The file is damaged; copy it again.")
        if value.shape[piece.dim] != piece.stop - piece.start or not value.is_floating_point():
            raise UserError(f"{where}: the values of {piece.parameter} do not have the size of their slice.")
        if not value.isfinite().all():
            raise UserError(f"{where}: a value of {piece.parameter} is no finite number.")
    if metadata.get("sha256", checksum(values)) != checksum(values):
        raise UserError(f"{where} does not have the checksum that it names. The file is damaged; copy it again.")
    if metadata.keys() - NAMES:  # a name that is damaged would take its checksum with it
        raise UserError(
            f"{where} says '{min(metadata.keys() - NAMES)}' of itself, which is damaged or of a later version."
        )
    header = header_checksum(metadata)
    if metadata.get("header_sha256", header) != header:
        raise UserError(
            f"{where}: what it says of itself (labels, prompt, temperature) does not have the checksum that it names. "
            "The file is damaged; copy it again."
        )


def refuse_misfit(model: nn.Module, values: Mapping[Slice, Tensor]) -> None:
    """Every slice must lie inside a parameter of `model` and have its shape and type."""
    parameters = dict(model.named_parameters())
    for piece, value in values.items():
        parameter = parameters.get(piece.parameter)
        if parameter is None:
            raise UserError(f"the delta does not fit: it holds {piece.parameter}, which this model does not have.")
        expected = list(parameter.shape)
        if not 0 <= piece.dim < len(expected) or piece.stop > expected[piece.dim]:
            raise UserError(
                f"the delta does not fit: its slice of {piece.parameter} lies outside the shape {expected}."
            )
        expected[piece.dim] = piece.stop - piece.start
        if list(value.shape) != expected or value.dtype != parameter.dtype:
            raise UserError(
                f"the delta does not fit: it has {list(value.shape)} {value.dtype} for {piece.parameter}; "
                f"this model needs {expected} {parameter.dtype}."
            )
