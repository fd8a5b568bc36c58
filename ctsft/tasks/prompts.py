"""From rows to token ids: prompts of bounded length whose label field is never cut, and one token per label word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

import torch
from torch import Tensor

from ctsft.errors import UserError
from ctsft.tasks.task import Example, Task


@dataclass(frozen=True)
class Encoded:
    """Prompts as token ids, without padding, beside their labels and row ids."""

    prompts: tuple[tuple[int, ...], ...]
    labels: tuple[int, ...]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def subset(self, index: Sequence[int]) -> Encoded:
        return Encoded(*(tuple(field[i] for i in index) for field in (self.prompts, self.labels, self.ids)))


def encode(tokenizer, task: Task, examples: Sequence[Example], max_tokens: int) -> Encoded:
    """Tokenize prompts of at most `max_tokens` tokens, cutting the end of a text and never the label field."""
    end = answers(tokenizer, task)[0] if task.several_tokens == "first" else []
    room = max_tokens - len(end)
    return Encoded(
        tuple((*_fit(tokenizer, task, example, room), *end) for example in examples),
        tuple(example.label for example in examples),
        tuple(example.id for example in examples),
    )


def fill(template: str, fields: Mapping[str, str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """The prompt, and where in it each field begins and ends."""
    text, spans = "", {}
    for literal, name, _, _ in Formatter().parse(template):
        text += literal
        if name is not None:
            spans[name] = len(text), len(text) + len(fields[name])
            text += fields[name]
    return text, spans


def _fit(tokenizer, task: Task, example: Example, max_tokens: int) -> list[int]:
    fields = {"text": example.text, "pair": example.pair}
    while True:
        prompt, spans = fill(task.template, fields)
        encoded = tokenizer(prompt, return_offsets_mapping=True)
        ids, excess = encoded["input_ids"], len(encoded["input_ids"]) - max_tokens
        if excess <= 0:
            return ids
        # Token boundaries move when text is cut, so cut the longest field at the offset that should fit and look again.
        starts = {
            name: [start for start, stop in encoded["offset_mapping"] if begin < start < end]
            for name, (begin, end) in spans.items()
        }
        longest = max(starts, key=lambda name: len(starts[name]))
        rest = sum(len(inside) for name, inside in starts.items() if name != longest)
        if excess > len(starts[longest]) + rest:
            raise UserError(
                f"max_tokens = {max_tokens} leaves no room for the text of row '{example.id}' beside the prompt "
                f"'{task.template}'. Allow more tokens."
            )
        # Of two fields the longer one gives first, down to the length of the other.
        other = max([len(inside) for name, inside in starts.items() if name != longest], default=0)
        give = min(excess, max(1, len(starts[longest]) - other)) if other else excess
        fields[longest] = fields[longest][: starts[longest][-give] - spans[longest][0]].rstrip()


def label_tokens(tokenizer, task: Task) -> list[int]:
    """The token that stands for each label at the label position."""
    return answers(tokenizer, task)[1]


def answers(tokenizer, task: Task) -> tuple[list[int], list[int]]:
    """(the tokens that end every prompt, the token of each label).

    A label word is a single token after the prompt, and nothing is added to the prompt. Words of several tokens are
    refused unless the task declares `several_tokens="first"`: then what all words begin with goes into the prompt, and
    the first token after it must tell every two of them apart.
    """
    prompt, _ = fill(task.template, {"text": "x", "pair": "x"})
    before = tokenizer(prompt)["input_ids"]
    pieces = []
    for word in task.label_words:
        after = tokenizer(prompt + word)["input_ids"]
        added = after[len(before) :]
        alone = after[: len(before)] == before
        if not alone or not added or (len(added) > 1 and task.several_tokens == "refuse"):
            raise UserError(
                f"the label word '{word}' is not a single token after the prompt: it splits into "
                f"{tokenizer.convert_ids_to_tokens(added)}. Choose label words that this tokenizer holds whole; in a "
                "task of your own, declare others by a table in label_words, or several_tokens: first."
            )
        pieces.append(added)
    alike = [len(set(column)) == 1 for column in zip(*pieces, strict=False)]
    shared = [*alike, False].index(False) if max(map(len, pieces)) > 1 else 0
    for word, added in zip(task.label_words, pieces, strict=True):
        if len(added) == shared:
            raise UserError(f"all other label words begin with '{word}', so no token tells it apart. Choose others.")
    tokens = [added[shared] for added in pieces]
    for token in tokens:
        alike = [word for word, other in zip(task.label_words, tokens, strict=True) if other == token]
        if len(alike) > 1:
            raise UserError(
                f"the label words {alike} share one token ({tokenizer.convert_ids_to_tokens([token])[0]!r}) where they "
                "should be told apart; choose distinct words."
            )
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in tokens:
        raise UserError(f"one of the label words {list(task.label_words)} is unknown to this tokenizer.")
    return pieces[0][:shared], tokens


def pad_left(prompts: Sequence[Sequence[int]], pad: int, device: torch.device | str) -> dict[str, Tensor]:
    """A batch whose last column is the label position: input_ids, attention_mask and position_ids, each [B, T]."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


def by_length(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Indices in groups of `size` rows of similar length, longest first, so that little of a batch is padding."""
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    return [order[i : i + size] for i in range(0, len(order), size)]
