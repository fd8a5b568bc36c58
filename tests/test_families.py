"""A family is one entry: a new one passes every check of the others, and what cannot be decomposed is refused."""

from __future__ import annotations

from pathlib import Path

import conftest
import pytest
import test_decompose
import test_discovery
import test_tuning
from transformers import AutoConfig

from ctsft.discovery.scorers import SCORERS
from ctsft.errors import UserError
from ctsft.models import families
from ctsft.models.families import FAMILIES, Family, family_of

STARCODER2 = Family(
    "StarCoder2",
    ("starcoder2",),
    gate=None,
    up="mlp.c_fc",
    down="mlp.c_proj",
    activation="mlp.act",
    window=lambda config, attention: config.sliding_window,
)


@pytest.fixture
def starcoder2(monkeypatch) -> str:
    """Ten lines above and a configuration here: this is how a family is added."""
    monkeypatch.setattr(families, "FAMILIES", (*FAMILIES, STARCODER2))
    sizes = {**conftest.ROPE, "num_key_value_heads": 2, "sliding_window": 7, **conftest.SPECIAL}
    sizes |= {"residual_dropout": 0.0, "embedding_dropout": 0.0}
    monkeypatch.setitem(conftest.CONFIGS, "starcoder2", ("starcoder2", sizes))
    return "starcoder2"


def test_a_new_family_passes_the_checks_of_the_others(starcoder2):
    def fresh():
        return conftest.tiny(starcoder2)

    for rules in test_decompose.RULES.values():
        test_decompose.test_the_references_two_streams_add_up_to_the_models_logits(fresh(), rules)
        test_decompose.test_scores_equal_the_reference(fresh(), rules)
    test_decompose.test_chunks_and_batches_do_not_change_a_score(fresh())
    test_decompose.test_one_backward_pass_equals_head_by_head_propagation(fresh())
    test_decompose.test_without_a_source_nothing_is_relevant(fresh())
    for arm in ("circuit", "norm_only"):
        test_tuning.test_nothing_outside_the_mask_moves_by_a_bit(fresh(), arm, test_tuning.NO_AUTOCAST)
    for scorer in SCORERS:
        test_discovery.test_every_scorer_ranks_the_planted_head_first(starcoder2, scorer)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("mixtral", "mixture of experts"),
        ("qwen3_moe", "mixture of experts"),
        ("deepseek_v3", "latent attention"),
        ("mamba", "state-space"),
        ("falcon", "not supported"),
    ],
)
def test_what_cannot_be_decomposed_is_refused_by_name(model_type, reason):
    with pytest.raises(UserError, match=rf"'{model_type}'.*{reason}.*Supported: Llama"):
        family_of(AutoConfig.for_model(model_type))


def test_variants_of_a_family_that_cannot_be_decomposed_are_refused():
    with pytest.raises(UserError, match="OPT-350m"):
        family_of(AutoConfig.for_model("opt", do_layer_norm_before=False))
    with pytest.raises(UserError, match="projected embeddings"):
        family_of(AutoConfig.for_model("opt", word_embed_proj_dim=8))
    with pytest.raises(UserError, match="BERT with a decoder's causal mask"):
        family_of(AutoConfig.for_model("bert", is_decoder=True))
    with pytest.raises(UserError, match="XLM-RoBERTa with positions of type 'relative_key'"):
        family_of(AutoConfig.for_model("xlm-roberta", position_embedding_type="relative_key"))
    with pytest.raises(UserError, match="cross-attention"):
        family_of(AutoConfig.for_model("gpt2", add_cross_attention=True))


@pytest.mark.parametrize("both_ways", [{"use_bidirectional_attention": True}, {"is_causal": False}])
def test_a_decoder_that_reads_in_both_directions_is_refused(both_ways):
    """It would be decomposed as if no token saw a later one."""
    with pytest.raises(UserError, match="with attention in both directions is not supported"):
        family_of(AutoConfig.for_model("llama", **both_ways))


def test_every_family_is_tested_and_on_its_page():
    tested = {model_type for model_type, _ in conftest.CONFIGS.values()}
    assert tested == {model_type for family in FAMILIES for model_type in family.model_types}
    page = (Path(__file__).parents[1] / "docs" / "families.md").read_text()
    for family in FAMILIES:
        assert f"| {family.name} |" in page, family.name
