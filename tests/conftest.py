"""Small models of every family, built here: no test needs a download."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from killing import shorter
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from ctsft.heads import Slice
from ctsft.models.anatomy import anatomy
from ctsft.models.families import family_of
from ctsft.models.load import Loaded, load_model, weight_hash
from ctsft.study.run import run_study
from ctsft.tasks.prompts import Encoded, Layout

# Here and in the processes that tests start: tests run beside each other.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# The files that take longest, first, so that no process sits over one of them at the end while the others are done.
LONGEST = (
    "report committed_tables crashes study team documents odyssey executors faults mixed self_training real_models "
    "paper_model"
).split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"test_{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


SIZES = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 3, "max_position_embeddings": 64}
ROPE = {**SIZES, "intermediate_size": 48, "num_attention_heads": 4, "tie_word_embeddings": False}
NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2}
GEMMA = {**ROPE, "head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8}
LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
NEOX = {**SIZES, "intermediate_size": 48, "num_attention_heads": 4, "rotary_pct": 0.5, "tie_word_embeddings": False}
OPT = {**SIZES, "ffn_dim": 48, "num_attention_heads": 4, "word_embed_proj_dim": 32, "dropout": 0.0}
BERT = {**SIZES, "intermediate_size": 48, "num_attention_heads": 4}
BERT |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIGS = {
    "llama-1kv": ("llama", {**ROPE, "num_key_value_heads": 1}),
    "llama-2kv": ("llama", {**ROPE, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama-4kv": ("llama", {**ROPE, "num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True}),
    "qwen2-1kv": ("qwen2", {**ROPE, "num_key_value_heads": 1}),
    "qwen2-2kv": ("qwen2", {**ROPE, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2-4kv": ("qwen2", {**ROPE, "num_key_value_heads": 4}),
    "mistral-1kv": ("mistral", {**ROPE, "num_key_value_heads": 1}),
    "mistral-2kv": ("mistral", {**ROPE, "num_key_value_heads": 2, "sliding_window": 5}),
    "mistral-4kv": ("mistral", {**ROPE, "num_key_value_heads": 4, "sliding_window": 5}),
    "qwen3-1kv": ("qwen3", {**ROPE, "num_key_value_heads": 1, "head_dim": 8}),
    "qwen3-2kv": ("qwen3", {**ROPE, "num_key_value_heads": 2, "head_dim": 8}),
    "qwen3-4kv": ("qwen3", {**ROPE, "num_key_value_heads": 4, "head_dim": 12, "attention_bias": True}),
    "gemma2-1kv": ("gemma2", {**GEMMA, "num_key_value_heads": 1}),
    "gemma2-2kv": ("gemma2", {**GEMMA, "num_key_value_heads": 2, "attn_logit_softcapping": 3.0}),
    "gemma2-4kv": ("gemma2", {**GEMMA, "num_key_value_heads": 4}),
    # The library names a soft cap of its attention there, and applies none.
    "gemma3-1kv": (
        "gemma3_text",
        {**GEMMA, "num_key_value_heads": 1, "layer_types": LAYER_TYPES, "attn_logit_softcapping": 3.0},
    ),
    "gemma3-2kv": ("gemma3_text", {**GEMMA, "num_key_value_heads": 2, "layer_types": LAYER_TYPES}),
    "gemma3-4kv": ("gemma3_text", {**GEMMA, "num_key_value_heads": 4, "layer_types": LAYER_TYPES}),
    "phi3-1kv": ("phi3", {**ROPE, "num_key_value_heads": 1, **SPECIAL}),
    "phi3-2kv": ("phi3", {**ROPE, "num_key_value_heads": 2, **SPECIAL}),
    "phi3-4kv": ("phi3", {**ROPE, "num_key_value_heads": 4, "sliding_window": 6, **SPECIAL}),
    "gpt-neox": ("gpt_neox", {**NEOX, "use_parallel_residual": True}),
    "gpt-neox-serial": ("gpt_neox", {**NEOX, "use_parallel_residual": False}),
    "opt": ("opt", OPT),
    "bert": ("bert", BERT),
    "roberta": ("roberta", {**BERT, "pad_token_id": 1}),
    "xlm-roberta": ("xlm-roberta", {**BERT, "pad_token_id": 1, "type_vocab_size": 1}),
    "gpt2": ("gpt2", {"vocab_size": 61, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, **NO_DROPOUT}),
}
ENCODERS = ("bert", "roberta", "xlm-roberta")
LABEL_TOKENS = [5, 6, 7]
STORIES = "stories260k-llama"  # a trained model so small that it is as quick as a random one


def tiny(name: str, seed: int = 0, **changes) -> Loaded:
    """A random model of a family; biases and norms are random too, so that no term is silently zero."""
    model_type, options = CONFIGS[name]
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **{**options, **changes})
    family = family_of(config)
    model = (AutoModelForMaskedLM if family.masked else AutoModelForCausalLM).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.mul_(6)  # the library's initialisation is so small that every head is nearly silent
    model.requires_grad_(False)
    # A masked language model's prompts end with the mask token and one token more.
    layout = Layout(0, " [MASK]", 1, family.first_position(config)) if family.masked else Layout(0)
    return Loaded(model, None, anatomy(model), layout, weight_hash(model), None)


def random_rows(n: int = 12, seed: int = 0, longest: int = 14) -> Encoded:
    """Prompts of different lengths, labels in turn."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, longest, (n,), generator=generator).tolist()
    prompts = tuple(tuple(torch.randint(8, 61, (length,), generator=generator).tolist()) for length in lengths)
    return Encoded(prompts, tuple(i % 3 for i in range(n)), tuple(f"r{i}" for i in range(n)))


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every weight."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def mask_of(model: torch.nn.Module, slices: Iterable[Slice]) -> dict[str, torch.Tensor]:
    """For every parameter where `slices` lie in it."""
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    for piece in slices:
        masks[piece.parameter].narrow(piece.dim, piece.start, piece.stop - piece.start).fill_(True)
    return masks


@pytest.fixture(scope="session")
def tokenizer():
    return load_model("demo").tokenizer


@pytest.fixture(scope="module")
def one_cell(tmp_path_factory) -> Path:
    """The results of a study of one cell; tests work on copies of it."""
    folder = tmp_path_factory.mktemp("one")
    assert run_study(shorter(folder)) == 0
    return folder


@pytest.fixture(params=list(CONFIGS))
def loaded(request) -> Loaded:
    return tiny(request.param)


@pytest.fixture
def fresh(request) -> Callable[[str], Loaded]:
    """Makes a model by its name: a random one, or STORIES, where it is there."""

    def make(name: str) -> Loaded:
        if name != STORIES:
            return tiny(name)
        return load_model(str(there(request.getfixturevalue("model_dir"), STORIES) / STORIES))

    return make


@pytest.fixture(params=[*CONFIGS, STORIES])
def random_or_trained(request, fresh) -> Loaded:
    return fresh(request.param)


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = os.environ.get("CTSFT_DATA_DIR")
    if not folder or not Path(folder, "nusax_senti").is_dir():
        pytest.skip("needs real NusaX files: set CTSFT_DATA_DIR to a folder that holds nusax_senti/")
    return Path(folder)


@pytest.fixture(scope="session")
def model_dir() -> Path:
    folder = os.environ.get("CTSFT_MODEL_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real models: set CTSFT_MODEL_DIR to a folder that holds them")
    return Path(folder)


def there(folder: Path, *names: str) -> Path:
    """`folder`; the test is skipped where it lacks one of the files or folders `names` (see docs/data.md)."""
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        pytest.skip(f"needs {folder / missing[0]}")
    return folder
