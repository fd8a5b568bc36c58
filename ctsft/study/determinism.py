"""The same bits from the same seed on the same machine.

On a CPU, with a fixed number of threads, that holds anyway. On a GPU some of the faster algorithms add in whatever
order their threads finish, and the last bits differ from run to run; --deterministic leaves these out.

It is no part of a cell's key. A key names what is asked: model, data, arm, rate, seed. The algorithms answer it up to
rounding, as do the sizes of micro-batches and of batches in evaluation, checkpointing and the machine, which are in no
key either; with it in the key, rows of one question would not pair, and a table begun without it would be run again. It
stands in the settings beside the rows.
"""

from __future__ import annotations

import os

import torch

# A workspace of fixed size: with its default one, cuBLAS may split a sum differently from run to run.
CUBLAS_WORKSPACE = ":4096:8"


def set_determinism(deterministic: bool) -> None:
    """Choose for this process, before its first product on a GPU: cuBLAS reads the variable when it starts."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    torch.use_deterministic_algorithms(deterministic)
