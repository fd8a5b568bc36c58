"""Masked language models from their tokenizer to a result row: the label word is read and trained at the mask token."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import BERT, ENCODERS, LABEL_TOKENS, random_rows, tiny
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizer,
    RobertaTokenizer,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaTokenizer,
)

from ctsft.errors import UserError
from ctsft.evaluation import predict
from ctsft.models.load import load_model
from ctsft.study.record import read_rows
from ctsft.study.run import run_study
from ctsft.tasks.demo.languages import LABELS, vocabulary
from ctsft.tasks.demo.task import DEMO
from ctsft.tasks.prompts import Layout, encode, fill, label_tokens, pad_left
from ctsft.tasks.task import Example
from ctsft.tasks.xnli import XNLI
from ctsft.tuning.arms import get_arm, trainable
from ctsft.tuning.loop import Gradients, Recipe, train

NO_AUTOCAST = torch.autocast("cpu", torch.bfloat16, enabled=False)
WORDS = ["|", ".", *LABELS, *vocabulary()]
PRESETS = runpy.run_path(str(Path(__file__).parents[1] / "experiments" / "01_nusax_transfer.py"))["PRESETS"]


def wordpiece() -> BertTokenizer:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return BertTokenizer(vocab={word: i for i, word in enumerate([*special, "sentiment", ":", *WORDS])})


def sentencepiece() -> XLMRobertaTokenizer:
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [(f"▁{word}", -1.0) for word in ["sentiment:", *WORDS]]
    return XLMRobertaTokenizer(vocab=[*special, *pieces, ("<mask>", 0.0)])


def byte_level() -> RobertaTokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    symbols = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words, merges = [], []
    for label in LABELS:
        word = "Ġ"
        for letter in label:
            merges.append((word, letter))
            word += letter
            words.append(word)
    return RobertaTokenizer(
        vocab={token: i for i, token in enumerate(dict.fromkeys([*symbols, *words]))}, merges=merges
    )


TOKENIZERS = {"bert": wordpiece, "roberta": byte_level, "xlm-roberta": sentencepiece}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def save_bert(folder: Path, tokenizer=None) -> Path:
    tokenizer = tokenizer or wordpiece()
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**{**BERT, "vocab_size": len(tokenizer), "num_hidden_layers": 2})).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return folder


def save_xlm_roberta(folder: Path) -> Path:
    tokenizer = sentencepiece()
    torch.manual_seed(0)
    sizes = {**BERT, "vocab_size": len(tokenizer), "num_hidden_layers": 2, "pad_token_id": 1, "type_vocab_size": 1}
    XLMRobertaForMaskedLM(XLMRobertaConfig(**sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# ---- prompts ----------------------------------------------------------------------------------------------------


def test_the_mask_stands_where_the_label_word_would(tokenizer):
    layout = Layout.of(tokenizer, masked=True)
    [prompt] = encode(tokenizer, DEMO, [Example("1", "good", 0)], 60, layout).prompts
    assert prompt[-1 - layout.behind] == tokenizer.mask_token_id
    for word, token in zip(DEMO.label_words, label_tokens(tokenizer, DEMO, layout), strict=True):
        answered = tokenizer(fill(DEMO.template, {"text": "good"})[0] + word)["input_ids"]
        assert answered == [*prompt[: -1 - layout.behind], token, *prompt[len(prompt) - layout.behind :]]


def test_the_text_is_cut_and_never_the_label_field(tokenizer):
    layout = Layout.of(tokenizer, masked=True)
    ask = lambda text, room: encode(tokenizer, DEMO, [Example("1", text, 0)], room, layout).prompts[0]  # noqa: E731
    short, long = ask("a", 60), ask(" ".join(WORDS[5:55]), 40)
    field = len(short) - 2  # all but the token in front and that of the text
    assert len(long) <= 40
    assert long[-field:] == short[-field:]
    assert long[0] == short[0]
    with pytest.raises(UserError, match=r"no room for the text of row '1' beside the prompt .*(\[MASK\]|<mask>)"):
        ask(" ".join(WORDS[5:55]), 3)


def test_a_mask_token_in_a_text_does_not_move_the_label_position(tokenizer):
    layout = Layout.of(tokenizer, masked=True)
    text = f"one {tokenizer.mask_token} two"
    [prompt] = encode(tokenizer, DEMO, [Example("1", text, 0)], 60, layout).prompts
    batch = pad_left([prompt], layout, "cpu")
    assert batch["input_ids"][0, -1] == tokenizer.mask_token_id
    assert batch["position_ids"][0, -1] == len(prompt) - 1 - layout.behind


def test_two_texts_end_with_the_mask_too():
    tokenizer = load_model("demo").tokenizer  # it knows none of these words, but counts them
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    layout = Layout.of(tokenizer, masked=True)
    row = Example("1", "a " * 50, 0, "b " * 50)
    [prompt] = encode(tokenizer, XNLI, [row], 30, layout).prompts
    field = tokenizer(f"Label:{layout.mask}")["input_ids"]
    assert len(prompt) == 30
    assert list(prompt[-len(field) :]) == field


def test_a_label_word_that_the_mask_cannot_hold_is_refused(tokenizer):
    layout = Layout.of(tokenizer, masked=True)
    with pytest.raises(UserError, match=r"' positive negative' is not a single token"):
        label_tokens(tokenizer, replace(DEMO, label_words=(" positive negative", " neutral", " positive")), layout)


def test_the_label_position_stands_last_and_every_token_keeps_its_place():
    batch = pad_left([[2, 5, 6, 4, 3], [2, 4, 3]], Layout(0, " [MASK]", 1, first_position=2), "cpu")
    assert batch["input_ids"].tolist() == [[2, 5, 6, 3, 4], [0, 0, 2, 3, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert batch["position_ids"].tolist() == [[2, 3, 4, 6, 5], [2, 2, 2, 4, 3]]


# ---- models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODERS)
def test_logits_are_those_of_the_prompt_in_reading_order(name):
    """Padded on the left with the mask last, against the library's way: one row, its own positions and types."""
    loaded = tiny(name)
    rows = random_rows(6)
    logits = loaded.model(**pad_left(rows.prompts, loaded.layout, "cpu")).logits[:, -1]
    for prompt, row in zip(rows.prompts, logits, strict=True):
        plain = loaded.model(input_ids=torch.tensor([prompt])).logits[0, -2]
        torch.testing.assert_close(row, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ENCODERS)
def test_what_training_teaches_is_what_prediction_reads(name):
    loaded, rows = tiny(name), random_rows(12)
    recipe = Recipe(lr=3e-3, epochs=30, batch_size=12)
    with trainable(loaded.model, loaded.anatomy, get_arm("full"), [], "shared") as (parameters, compact):
        gradients = Gradients(loaded.model, parameters, rows, LABEL_TOKENS, loaded.layout, NO_AUTOCAST, 4)
        train(gradients, recipe, 0, compact.write_back)
    answers = predict(loaded.model, rows, LABEL_TOKENS, loaded.layout, 5, NO_AUTOCAST)
    assert answers.labels.tolist() == list(rows.labels)
    assert answers.vocabulary.tolist() == [LABEL_TOKENS[label] for label in rows.labels]


@pytest.mark.parametrize("name", ENCODERS)
def test_every_norm_is_named_once_with_those_of_embeddings_and_head(name):
    loaded = tiny(name)
    modules = [n for n, m in loaded.model.named_modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(modules) == 2 * 3 + 2
    assert set(loaded.anatomy.norm_parameters) == {f"{n}.{leaf}" for n in modules for leaf in ("weight", "bias")}
    assert len(set(loaded.anatomy.norm_parameters)) == len(loaded.anatomy.norm_parameters)


@pytest.mark.parametrize("save", [save_bert, save_xlm_roberta])
def test_a_loaded_encoder_answers_at_the_mask_alone(save, tmp_path):
    loaded = load_model(str(save(tmp_path)))
    prompts = encode(loaded.tokenizer, DEMO, DEMO.load("d00", "valid").examples[:5], 40, loaded.layout).prompts
    logits = loaded.model(**pad_left(prompts, loaded.layout, "cpu")).logits
    assert logits.shape == (5, 1, len(loaded.tokenizer))
    whole = type(loaded.model).from_pretrained(tmp_path).eval()
    for prompt, row in zip(prompts, logits, strict=True):
        plain = whole(input_ids=torch.tensor([prompt])).logits[0, prompt.index(loaded.tokenizer.mask_token_id)]
        torch.testing.assert_close(row[0], plain, rtol=1e-4, atol=1e-5)


def test_an_encoder_without_a_mask_token_is_refused(tmp_path):
    save_bert(tmp_path)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = tmp_path / name
        if path.is_file():
            settings = json.loads(path.read_text())
            path.write_text(json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast", "mask_token": None}))
    with pytest.raises(UserError, match="has no mask token, which a masked language model needs"):
        load_model(str(tmp_path))


def test_an_encoder_without_its_language_model_head_is_refused(tmp_path):
    """A checkpoint for other purposes would get a random head, and answer at random."""
    save_bert(tmp_path)
    torch.manual_seed(0)
    BertModel(BertConfig(**{**BERT, "vocab_size": len(wordpiece())})).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no weights for cls\.predictions\..*no whole language model"):
        load_model(str(tmp_path))


def test_a_checkpoint_with_the_names_of_older_days_gives_the_same_model(tmp_path):
    """The first BERT files call a norm's weights gamma and beta, and hold what they were also trained for."""
    weights = load_model(str(save_bert(tmp_path))).weights
    path, names = (
        tmp_path / "model.safetensors",
        {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"},
    )
    older = {"cls.seq_relationship.weight": torch.zeros(2, 32), "bert.pooler.dense.weight": torch.zeros(32, 32)}
    for name, value in load_file(path).items():
        for new, old in names.items():
            name = name.replace(new, old)
        older[name] = value
    assert any(name.endswith("gamma") for name in older)
    save_file(older, path, {"format": "pt"})
    assert load_model(str(tmp_path)).weights == weights


# ---- the study --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("save", "scorer", "longest"), [(save_bert, "cdt", 64), (save_xlm_roberta, "cdt_linear", 62)], ids=["bert", "xlm-r"]
)
def test_the_study_runs_from_end_to_end(save, scorer, longest, tmp_path):
    """01's smallest cells on a random encoder: rows with every prediction, and the same rows a second time."""

    def run(output: Path, **changes) -> list[dict]:
        config = replace(
            PRESETS["demo"],
            model=str(save(tmp_path / "model")),
            targets=("d30",),
            n_targets=(20,),
            n_source=60,
            epochs=1,
            seeds=(31,),
            lrs=(1e-3,),
            depths=(1,),
            arms=("zero_shot", "full", "circuit", "norm_only"),
            scorer=scorer,
            max_tokens=40,
            mean_rows=24,
            score_rows=12,
            probes=("demo/d50",),
            output=output,
            **changes,
        )
        assert run_study(config) == 0
        return read_rows(output / "demo" / "01_nusax_transfer.csv")

    rows = run(tmp_path / "a")
    assert [row["arm"] for row in rows] == ["zero_shot", "full", "circuit", "norm_only"]
    assert all(len(row["predictions"]) == 401 for row in rows)
    again = run(tmp_path / "b", eval_batch=3)
    assert [row["predictions"] for row in again] == [row["predictions"] for row in rows]
    with pytest.raises(UserError, match=f"positions end at {longest}"):
        run_study(replace(PRESETS["demo"], model=str(tmp_path / "model"), max_tokens=longest + 1, output=tmp_path))
