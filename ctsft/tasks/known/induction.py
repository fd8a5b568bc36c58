"""Induction: a two-layer GPT-2, trained here in about a minute to look up what followed a token before.

A prompt is a list of pairs, key and value, and ends with a key that was there: the answer is the value that followed
it, every time. The known solution (Olsson et al., 2022) takes two heads: one in the first layer that looks at the
previous token, so that a value knows its key, and one in the second that looks from a key to the value whose key it is.
A price on every head's output keeps the other heads from learning the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from ctsft.heads import Head
from ctsft.models.anatomy import anatomy
from ctsft.models.load import Loaded, weight_hash
from ctsft.tasks.known import KnownCircuit
from ctsft.tasks.prompts import Encoded, Layout

KEYS, LABEL_TOKENS, PAIRS = 6, (1, 2, 3), 10
FIRST_KEY, HEADS = 4, 4
STEPS, BATCH, LR, PRICE = 2000, 64, 3e-3, 1e-2
# A head has a part in the circuit when more than this share of its attention does what the part asks, on so many rows.
PART, LOOKED_AT = 0.4, 256
# Heads that the price has silenced write next to nothing, wherever they look.
ALIVE = 0.01


def draw(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts [n, 2 PAIRS + 1], key and value in turn and the key of an earlier pair at the end; and the labels of all
    their keys [n, PAIRS + 1], the last one the answer."""
    keys = generator.integers(KEYS, size=(n, PAIRS + 1))
    keys[:, -1] = keys[np.arange(n), generator.integers(PAIRS, size=n)]
    labels = np.take_along_axis(generator.integers(len(LABEL_TOKENS), size=(n, KEYS)), keys, axis=1)
    prompts = np.empty((n, 2 * PAIRS + 1), dtype=int)
    prompts[:, ::2], prompts[:, 1::2] = keys + FIRST_KEY, np.array(LABEL_TOKENS)[labels[:, :-1]]
    return prompts, labels


def make(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=FIRST_KEY + KEYS,
        n_positions=32,
        n_embd=64,
        n_layer=2,
        n_head=HEADS,
        n_inner=64,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    return GPT2LMHeadModel(config)


def trained(seed: int = 0, steps: int = STEPS) -> GPT2LMHeadModel:
    """Cross-entropy on the value behind every key plus the price of heads; AdamW, linear warm-up and decay."""
    model, generator = make(seed).train(), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1, (s + 1) / 100) * (1 - s / steps))
    for step in range(steps):
        prompts, labels = draw(generator, BATCH)
        logits = model(torch.from_numpy(prompts)).logits[:, ::2, list(LABEL_TOKENS)]
        wrong = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(labels).flatten())
        # First the solution, then the price: the other way round every head would die. The root makes one strong head
        # cheaper than two that share its work.
        price = PRICE * (step > steps / 2)
        (wrong + price * sum(size.sqrt().sum() for size in written(model))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval().requires_grad_(False)


def parts(model: GPT2LMHeadModel) -> tuple[Head, ...]:
    """The heads with a part, read off attention patterns and the size of what they write: no score has a say in it.

    Those of the first layer look at the previous token, those of the second at what followed the key before.
    """
    prompts, _ = draw(np.random.default_rng(1), LOOKED_AT)
    first, second = model(torch.from_numpy(prompts), output_attentions=True).attentions
    values = torch.arange(1, 2 * PAIRS, 2)
    same_key = torch.from_numpy(prompts[:, :-1:2] == prompts[:, -1:])
    looks = {
        0: first[:, :, values, values - 1].mean((0, 2)),
        1: (second[:, :, -1, values] * same_key[:, None]).sum(-1).mean(0),
    }
    return tuple(
        Head(layer, i)
        for layer, size in enumerate(written(model))
        for i in torch.nonzero((looks[layer] > PART) & (size > ALIVE * size.max())).flatten().tolist()
    )


def written(model: GPT2LMHeadModel) -> list[Tensor]:
    """Frobenius norm of W_O of every head [HEADS], for every layer."""
    return [block.attn.c_proj.weight.unflatten(0, (HEADS, -1)).norm(dim=(1, 2)) for block in model.transformer.h]


def induction(seed: int = 0, steps: int = STEPS) -> KnownCircuit:
    """Train the model by `seed`, and read its circuit off its attention."""
    model = trained(seed, steps)
    loaded = Loaded(model, None, anatomy(model), Layout(0), weight_hash(model), None)
    return KnownCircuit(loaded, rows, LABEL_TOKENS, parts(model))


def rows(n: int, seed: int) -> Encoded:
    """Prompts of equal length, labels in turn."""
    prompts, labels = draw(np.random.default_rng(seed), 8 * n)
    labels = labels[:, -1]
    queues = [iter(np.flatnonzero(labels == label)) for label in range(len(LABEL_TOKENS))]
    chosen = [next(queues[row % len(LABEL_TOKENS)]) for row in range(n)]
    return Encoded(
        tuple(tuple(prompts[i].tolist()) for i in chosen),
        tuple(int(labels[i]) for i in chosen),
        tuple(f"r{i}" for i in chosen),
    )
