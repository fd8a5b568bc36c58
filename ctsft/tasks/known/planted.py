"""A hand-made model: four heads carry the label to the answer, one works against them, one is loud and says nothing.

It is built so that what a score must tell apart is there: heads that write the answer themselves, one that only hands
the label on to a later head, a head of the right size and the wrong sign, and one with a large contribution that has
nothing to do with the label. Every head looks at all positions alike; norms are carried by a constant.
"""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ctsft.heads import Head
from ctsft.models.anatomy import anatomy
from ctsft.models.load import Loaded, weight_hash
from ctsft.tasks.known import KnownCircuit
from ctsft.tasks.prompts import Encoded, Layout

LAYERS, HEADS, SIZE, HIDDEN, VOCABULARY = 4, 8, 8, 32, 40
# The residual stream: the class of the class token, the answer, the class handed on, the norm's constant, noise.
CLASS, ANSWER, HANDED, CONSTANT, NOISE = slice(0, 3), slice(3, 6), slice(6, 9), 9, slice(10, 32)
DIRECT = {Head(1, 2): 1.0, Head(2, 5): 0.6}
SENDER, RECEIVER = Head(1, 6), Head(3, 1)
AGAINST, LOUD = Head(2, 0), Head(3, 4)
LABEL_TOKENS = (1, 2, 3)


def planted(seed: int = 0) -> KnownCircuit:
    """The model with its noise drawn by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=16,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        head_dim=SIZE,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    for name, parameter in model.named_parameters():
        parameter.fill_(1.0 if "norm" in name else 0.0)
    embedding = model.model.embed_tokens.weight
    embedding[:, CONSTANT] = 10.0
    embedding[7:, NOISE] = noise(VOCABULARY - 7, 22)
    for label in range(3):
        embedding[4 + label, label] = 12.0
    for number, layer in enumerate(model.model.layers):
        layer.mlp.gate_proj.weight[:, NOISE] = 0.2 * noise(16, 22)
        layer.mlp.up_proj.weight[:, NOISE] = 0.2 * noise(16, 22)
        layer.mlp.down_proj.weight[NOISE] = 0.2 * noise(22, 16)
        value, out = layer.self_attn.v_proj.weight, layer.self_attn.o_proj.weight
        for index in range(HEADS):
            mine, head = slice(index * SIZE, (index + 1) * SIZE), Head(number, index)
            three = slice(index * SIZE, index * SIZE + 3)
            copies = {
                **{one: (CLASS, ANSWER, strength) for one, strength in DIRECT.items()},
                SENDER: (CLASS, HANDED, 4.0),
                RECEIVER: (HANDED, ANSWER, 1.0),
                AGAINST: (CLASS, ANSWER, -0.5),
            }
            if head in copies:
                read, write, strength = copies[head]
                value[three, read] = torch.eye(3)
                out[write, three] = strength * torch.eye(3)
            else:
                value[mine, NOISE] = 0.3 * noise(SIZE, 22)
                out[NOISE, mine] = 0.3 * noise(22, SIZE)
                if head == LOUD:
                    out[ANSWER, mine] = 0.4 * noise(3, SIZE)
    unembedding = model.lm_head.weight
    for label, token in enumerate(LABEL_TOKENS):
        unembedding[token, 3 + label] = 20.0
    loaded = Loaded(model, None, anatomy(model), Layout(0), weight_hash(model), None)
    return KnownCircuit(loaded, rows, LABEL_TOKENS, (*DIRECT, SENDER, RECEIVER))


def rows(n: int, seed: int) -> Encoded:
    """Prompts of 6 to 11 tokens, one of them, anywhere but last, the class token; labels in turn."""
    generator = torch.Generator().manual_seed(seed)
    prompts = []
    for row in range(n):
        length = int(torch.randint(6, 12, (1,), generator=generator))
        prompt = torch.randint(7, VOCABULARY, (length,), generator=generator)
        prompt[int(torch.randint(length - 1, (1,), generator=generator))] = 4 + row % 3
        prompts.append(tuple(prompt.tolist()))
    return Encoded(tuple(prompts), tuple(row % 3 for row in range(n)), tuple(f"r{row}" for row in range(n)))
