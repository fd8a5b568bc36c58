"""Load a language model from a hub id, a local folder or a .gguf file, and name its weights by their hash."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils.hub import cached_file, extract_commit_hash

from ctsft.errors import UserError, first_line
from ctsft.hub import hub_answers
from ctsft.memory import is_out_of_memory
from ctsft.models.anatomy import Anatomy, anatomy
from ctsft.models.families import family_of
from ctsft.models.precision import leave_out_cudnn_attention
from ctsft.models.weight_files import refuse_foreign_files
from ctsft.tasks.prompts import Layout

DEMO_MODEL = Path(__file__).parents[1] / "tasks" / "demo" / "model"


@dataclass(frozen=True)
class Loaded:
    """A model in float32 with its tokenizer, anatomy and layout of prompts, and where its weights came from.

    `name` is the hub id with the commit it resolved to, or the last name of a local folder or file.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    anatomy: Anatomy
    layout: Layout
    weights: str
    commit: str | None
    name: str = ""

    def refuse_prompts_of(self, tokens: int, flag: str) -> None:
        """UserError where the model's positions end before a prompt of so many tokens, which `flag` has asked for."""
        if (positions := getattr(self.model.config, "max_position_embeddings", None)) is not None:
            longest = positions - self.layout.first_position
            if tokens > longest:
                raise UserError(f"{flag} is {tokens}, but this model's positions end at {longest}.")


def weight_hash(model: nn.Module) -> str:
    """sha256 over the names, types and bytes of all parameters: the identity of a checkpoint (first 16 digits)."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}:{tuple(parameter.shape)}:{parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def leave_out_dropout(config: PretrainedConfig) -> None:
    """The protocol has none; and with it, gradients would depend on how a batch is cut into micro-batches."""
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)


def _load_tokenizer(source: str, options: dict) -> PreTrainedTokenizerBase:
    """The tokenizer as its files describe it; where they name no pad token, its end token stands for one.

    Where the files name no model's own class, AutoTokenizer puts the architecture's class in its place, and with it
    other rules of splitting (a word-level tokenizer of a Qwen2 model comes out as byte-level BPE).
    """
    declared = {} if "gguf_file" in options else get_tokenizer_config(source, **options)
    generic = declared.get("tokenizer_class") in ("PreTrainedTokenizerFast", "TokenizersBackend")
    loader = PreTrainedTokenizerFast if generic else AutoTokenizer
    tokenizer = loader.from_pretrained(source, trust_remote_code=False, **options)
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _hub_commit(source: str, revision: str | None) -> str | None:
    """The commit that a hub id resolved to, read off the cache that it was loaded from; None for local files."""
    if Path(source).is_dir():
        return None
    return extract_commit_hash(cached_file(source, "config.json", revision=revision, local_files_only=True), None)


def device_of(name: str) -> torch.device:
    """cpu, cuda, cuda:<number>, or auto: the first GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device '{name}'. Valid: auto, cpu, cuda, cuda:<number>.") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"the device '{name}' is not supported. Valid: auto, cpu, cuda, cuda:<number>.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda was asked for, but torch sees no GPU here. Use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name} was asked for, but torch sees {torch.cuda.device_count()} GPU(s) here.")
    return device


def unembed_as_a_matrix(unembedding: nn.Module) -> None:
    """Let the label position's states [B, 1, hidden] meet the unembedding as [B, hidden].

    On a CPU the three-dimensional product reads the whole vocabulary's weights once per row, the matrix product once.
    """
    unembedding.register_forward_pre_hook(lambda module, args: (args[0].squeeze(1),) if args[0].shape[1] == 1 else None)
    unembedding.register_forward_hook(lambda module, args, out: out.unsqueeze(1) if out.ndim == 2 else None)


def answer_at_the_label(head: nn.Module) -> None:
    """Let the head of a masked language model see the label position alone, as [B, 1, hidden].

    These models know no `logits_to_keep`: without this they would meet the whole vocabulary at every position.
    """
    head.register_forward_pre_hook(lambda module, args: (args[0][:, -1:],))


def _check_whole(name: str, missing: list[str], masked: bool, tokenizer: PreTrainedTokenizerBase) -> None:
    """UserError for a checkpoint without all weights, or a tokenizer without the tokens that prompts need."""
    if missing:
        raise UserError(
            f"the model '{name}' has no weights for {min(missing)}: it is no whole language model, "
            "and cannot answer with label words."
        )
    if not tokenizer.get_vocab().keys() - {*tokenizer.all_special_tokens}:
        raise UserError(f"the tokenizer of '{name}' knows no tokens: its files (such as tokenizer.json) are not there.")
    if masked and tokenizer.mask_token is None:
        raise UserError(
            f"the tokenizer of '{name}' has no mask token, which a masked language model needs in the label's place."
        )
    if tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer of '{name}' has neither a pad nor an end token, so rows cannot be batched.")


def _refusal(name: str, error: Exception) -> UserError:
    """What a user can do where transformers could not load `name`."""
    if "trust_remote_code" in str(error):
        return UserError(
            f"the model '{name}' asks to run code of its own, which is never run here: it could do anything on "
            "this machine. Choose a model whose architecture and tokenizer transformers has itself."
        )
    if "backend tokenizer" in str(error):
        return UserError(f"cannot load the tokenizer of '{name}': its files (such as tokenizer.json) are not there.")
    folder = Path(name).expanduser()
    if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        return UserError(
            f"the weights of '{name}' are a pickle (.bin), which can run code when read. Save them as safetensors, "
            "where you trust them."
        )
    nowhere = "" if folder.exists() else "there is no such file or folder here; "
    return UserError(
        f"cannot load the model '{name}': {nowhere}{first_line(error)} Without a connection to the hub, give a local "
        "folder or .gguf file with --model (and the data with --data-dir)."
    )


def load_model(name: str | Path, revision: str | None = None, device: str = "cpu") -> Loaded:
    """Load `name` (hub id, folder, .gguf file, or `demo` for the embedded model) in float32 onto `device`.

    Remote code is never run. On a GPU, cuDNN's attention is switched off for this process, because it can give NaN.

    Lower precision is a matter of the computation (autocast), not of the weights: AdamW's steps at the learning
    rates of the protocol are smaller than one bfloat16 step and would be lost.

    Raises UserError for an unknown device or family, pickled or incomplete weights, remote code, a tokenizer that
    prompts cannot be made with, and whatever cannot be found or read.
    """
    on = device_of(device)  # an unknown one shows before the weights are read
    name = str(name)
    path = DEMO_MODEL if name == "demo" else Path(name).expanduser()
    source, options = name, dict[str, Any](revision=revision)
    if name.endswith(".gguf"):
        if not path.is_file():
            raise UserError(f"no model file {path}. Give an existing .gguf file, a folder or a hub id with --model.")
        source, options = str(path.parent), {"gguf_file": path.name}
    elif path.is_dir():
        source, options = str(path), {}
    else:
        options["local_files_only"] = not hub_answers()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = AutoConfig.from_pretrained(source, trust_remote_code=False, **options)
            refuse_foreign_files(source, config, options)
            family = family_of(config)
            leave_out_dropout(config)
            tokenizer = _load_tokenizer(source, options)
            # use_safetensors refuses pickled checkpoints; a .gguf file is no pickle and has its own reader.
            safe = {} if "gguf_file" in options else {"use_safetensors": True}
            loader = AutoModelForMaskedLM if family.masked else AutoModelForCausalLM
            loaded: Any = loader.from_pretrained(
                source,
                config=config,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
                **safe,
                **options,
            )
            model, found = loaded  # because of output_loading_info
    except Exception as error:  # transformers, tokenizers and the hub raise many kinds, some of them no more than this
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        raise _refusal(name, error) from error
    _check_whole(name, found["missing_keys"], family.masked, tokenizer)
    leave_out_cudnn_attention(on)
    model.to(on).eval().requires_grad_(False)
    unembed_as_a_matrix(model.get_output_embeddings())
    if family.mask_head is not None:
        answer_at_the_label(model.get_submodule(family.mask_head.path))
    layout = Layout.of(tokenizer, family.masked, family.first_position(config))
    commit = _hub_commit(source, revision)
    called = f"{name}@{commit[:12]}" if commit else Path(name).name or path.resolve().name
    return Loaded(model, tokenizer, anatomy(model), layout, weight_hash(model), commit, called)
