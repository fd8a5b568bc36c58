"""Indirect object identification in GPT-2 small, whose circuit is published. Needs GPT-2's weights from the hub.

"When Mary and John went to the store, John gave a drink to" -> " Mary". Wang et al. (2022) find the heads that move the
name, 9.9, 9.6 and 10.0, and two that work against them, 10.7 and 11.10 (the negative name movers).
"""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np

from ctsft.errors import UserError
from ctsft.heads import Head
from ctsft.models.load import load_model
from ctsft.tasks.known import KnownCircuit
from ctsft.tasks.prompts import Encoded

NAMES = (" Mary", " John")
MOVERS = (Head(9, 9), Head(9, 6), Head(10, 0))
AGAINST = (Head(10, 7), Head(11, 10))
PLACES = ("store", "park", "school", "station", "office", "garden", "library", "market")
THINGS = ("drink", "book", "letter", "ring", "basket", "ticket")
MODEL = "gpt2"
REVISION = "607a30d783dfa663caf39e06633721c8d4cfcd7e"


def sentences() -> list[tuple[str, int]]:
    """Every prompt with its label, the number of the name that is given to; both orders of the names, balanced."""
    out = []
    for (place, thing), first, giver in product(product(PLACES, THINGS), (0, 1), (0, 1)):
        names = NAMES[first], NAMES[1 - first]
        text = f"When{names[0]} and{names[1]} went to the {place},{NAMES[giver]} gave a {thing} to"
        out.append((text, 1 - giver))
    return out


def ioi(seed: int) -> KnownCircuit:
    """GPT-2 small at a pinned revision; `seed` plays no part, because nothing is trained."""
    loaded = load_model(MODEL, REVISION)
    tokens = [loaded.tokenizer(name)["input_ids"] for name in NAMES]
    if any(len(one) != 1 for one in tokens):
        raise UserError(f"the names {NAMES} must be one token each; the tokenizer of '{MODEL}' splits them: {tokens}.")
    return KnownCircuit(loaded, partial(rows, loaded.tokenizer), tuple(one[0] for one in tokens), MOVERS, AGAINST)


def rows(tokenizer, n: int, seed: int) -> Encoded:
    """n sentences drawn by `seed`, labels in turn."""
    every = sentences()
    order = np.random.default_rng(seed).permutation(len(every))
    queues = [iter([i for i in order if every[i][1] == label]) for label in (0, 1)]
    chosen = [next(queues[row % 2]) for row in range(n)]
    prompts = tuple(tuple(tokenizer(every[i][0])["input_ids"]) for i in chosen)
    return Encoded(prompts, tuple(every[i][1] for i in chosen), tuple(f"r{i}" for i in chosen))
