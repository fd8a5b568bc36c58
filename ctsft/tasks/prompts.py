"""From rows to token ids: prompts of bounded length whose label field is never cut, and one token per label word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

import torch
from torch import Tensor

from ctsft.errors import UserError
from ctsft.tasks.task import Example, Task

BY_ONE = 128  # tokens too many of two texts that are equally long, which they give one by one
MOST_PIECES = 32  # tokens of one label word, where several are allowed


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


@dataclass(frozen=True)
class Layout:
    """How a model wants its prompts.

    pad: the token that fills a batch. mask: the text that ends the prompt of a masked language model, in the label
    word's place; empty where the label is the next token. behind: how many of the tokenizer's own tokens follow the
    label position. first_position: the position id of a prompt's first token.
    """

    pad: int
    mask: str = ""
    behind: int = 0
    first_position: int = 0

    @classmethod
    def of(cls, tokenizer, masked: bool, first_position: int = 0) -> Layout:
        """Read it off a tokenizer with a pad token, and a mask token for a masked language model."""
        if not masked:
            return cls(tokenizer.pad_token_id, first_position=first_position)
        # Mostly the space before a mask token belongs to it; where it would be a token of its own, it is left out.
        size, texts = len(tokenizer("x")["input_ids"]) + 1, (f" {tokenizer.mask_token}", tokenizer.mask_token)
        mask = next((text for text in texts if len(tokenizer(f"x{text}")["input_ids"]) == size), texts[0])
        behind = tokenizer(f"x{mask}")["input_ids"][::-1].index(tokenizer.mask_token_id)
        return cls(tokenizer.pad_token_id, mask, behind, first_position)


def encode(tokenizer, task: Task, examples: Sequence[Example], max_tokens: int, layout: Layout) -> Encoded:
    """Tokenize prompts of at most `max_tokens` tokens, cutting the end of a text and never the label field."""
    template, end = _around(tokenizer, task, layout)
    room = max_tokens - len(end)
    return Encoded(
        tuple((*_fit(tokenizer, template, example, room), *end) for example in examples),
        tuple(example.label for example in examples),
        tuple(example.id for example in examples),
    )


def cut_rows(tokenizer, task: Task, examples: Sequence[Example], max_tokens: int, layout: Layout) -> list[str]:
    """The ids of the rows whose texts lose their end in `encode`."""
    template, end = _around(tokenizer, task, layout)
    prompts = [fill(template, {"text": example.text, "pair": example.pair})[0] for example in examples]
    room = max_tokens - len(end)
    return [e.id for e, ids in zip(examples, tokenizer(prompts)["input_ids"], strict=True) if len(ids) > room]


def _around(tokenizer, task: Task, layout: Layout) -> tuple[str, list[int]]:
    """The template of a whole prompt, and the tokens of the answer that end every prompt."""
    end = answers(tokenizer, task, layout)[0] if task.several_tokens == "first" else []
    return task.template + layout.mask, end


def fill(template: str, fields: Mapping[str, str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """The prompt, and where in it each field begins and ends."""
    text, spans = "", {}
    for literal, name, _, _ in Formatter().parse(template):
        text += literal
        if name is not None:
            spans[name] = len(text), len(text) + len(fields[name])
            text += fields[name]
    return text, spans


def _fit(tokenizer, template: str, example: Example, max_tokens: int) -> list[int]:
    fields = {"text": example.text, "pair": example.pair}
    while True:
        prompt, spans = fill(template, fields)
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
                f"'{template}'. Allow more tokens."
            )
        # Of two fields the longer one gives first, down to the length of the other.
        other = max([len(inside) for name, inside in starts.items() if name != longest], default=0)
        give = min(excess, max(1, len(starts[longest]) - other)) if other else excess
        if other == len(starts[longest]) and excess > BY_ONE:  # else two long texts would give a token a pass
            give = excess // 2 - BY_ONE // 4
        fields[longest] = fields[longest][: starts[longest][-give] - spans[longest][0]].rstrip()


def _plain(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def label_tokens(tokenizer, task: Task, layout: Layout) -> list[int]:
    """The token that stands for each label at the label position."""
    return answers(tokenizer, task, layout)[1]


def answers(tokenizer, task: Task, layout: Layout) -> tuple[list[int], list[int]]:
    """(the tokens that end every prompt, the token of each label).

    A label word is a single token as it follows the prompt, and nothing is added to the prompt. Words of several tokens
    are refused unless the task declares `several_tokens="first"`: then what all words begin with goes into the prompt,
    and the first token after it must tell every two of them apart. A masked language model has room for one token.
    """
    prompt, _ = fill(task.template, {"text": "x", "pair": "x"})
    asked = tokenizer(prompt + layout.mask)["input_ids"]
    if not layout.mask and asked[-1:] == [tokenizer.eos_token_id] != _plain(tokenizer, prompt)[-1:]:
        raise UserError(
            f"the tokenizer ends every text with {tokenizer.eos_token}, so that no answer can follow a prompt. Set "
            "add_eos_token to false in a copy of its tokenizer_config.json."
        )
    place = len(asked) - 1 - layout.behind if layout.mask else len(asked)
    before, behind = asked[:place], asked[place + 1 :]
    most = 1 if task.several_tokens == "refuse" or layout.mask else MOST_PIECES
    pieces = []
    for word in task.label_words:
        answered = tokenizer(prompt + word)["input_ids"]
        added = answered[place : len(answered) - len(behind)]
        if not 1 <= len(added) <= most or answered != [*before, *added, *behind]:
            raise UserError(
                f"the label word '{word}' is not a single token after the prompt: it splits into "
                f"{tokenizer.convert_ids_to_tokens(added)}. Choose label words that this tokenizer holds whole; in a "
                "task of your own, declare others by a table in label_words, or several_tokens: first (not for masked "
                "language models)."
            )
        pieces.append(added)
    alike = [len(set(column)) == 1 for column in zip(*pieces, strict=False)]
    shared = [*alike, False].index(False) if max(map(len, pieces)) > 1 else 0
    for word, added in zip(task.label_words, pieces, strict=True):
        if len(added) == shared:
            raise UserError(f"all other label words begin with '{word}', so no token tells it apart. Choose others.")
    tokens = [added[shared] for added in pieces]
    for word, token in zip(task.label_words, tokens, strict=True):
        if token == tokenizer.unk_token_id:
            raise UserError(
                f"the label word '{word}' is unknown to this tokenizer. Choose a word that it holds: label_words in "
                "task.json, or --label-words."
            )
    for token in tokens:
        same = [word for word, other in zip(task.label_words, tokens, strict=True) if other == token]
        if len(same) > 1:
            raise UserError(
                f"the label words {same} share one token ({tokenizer.convert_ids_to_tokens([token])[0]!r}) where they "
                "should be told apart; choose distinct words."
            )
    return pieces[0][:shared], tokens


def pad_left(prompts: Sequence[Sequence[int]], layout: Layout, device: torch.device | str) -> dict[str, Tensor]:
    """A batch whose last column is the label position: input_ids, attention_mask and position_ids, each [B, T].

    What follows the label position in the prompt (of a masked language model) stands before it in the batch. Such a
    model reads in both directions and knows a token's place from its position id alone, which every token keeps.
    """
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[layout.pad] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    places = (mask.cumsum(-1) - 1).clamp(min=0) + layout.first_position
    batch = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
    if layout.behind:
        label = width - 1 - layout.behind
        order = [*range(label), *range(label + 1, width), label]
        batch = {name: value[:, order] for name, value in batch.items()}
    return batch


def by_length(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Indices in groups of `size` rows of similar length, longest first, so that little of a batch is padding."""
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    return [order[i : i + size] for i in range(0, len(order), size)]
