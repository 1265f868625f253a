"""The engine on several architectures: sdpa and eager attention, sliding windows, soft-capped logits; and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import assert_one_pass, clean_forward
from tiny import SENTENCES, WINDOW, tiny_model, tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BloomConfig,
    JambaConfig,
    Lfm2Config,
    Llama4TextConfig,
    MambaConfig,
    Qwen3NextConfig,
    RecurrentGemmaConfig,
    RwkvConfig,
)

from onegen_integrations import OneGen, OneGenConfig, UnsupportedModelError

QUESTION = "Where is the novel of Lena Marsh set, and on which river?"


@pytest.fixture
def ids() -> list[int]:
    return tiny_tokenizer()("<s><|user|>" + " ".join(SENTENCES[:4]), add_special_tokens=False).input_ids


def test_the_models_here_see_everything_that_they_should(architecture, ids):
    """Else the comparisons below could not fail: an early token moves later vectors, directly or through the layers."""
    model = tiny_model(architecture, len(tiny_tokenizer()))
    changed = [*ids[:2], ids[2] + 1, *ids[3:]]
    reach = 3 * (WINDOW - 1) if architecture == "mistral-sliding" else len(ids) - 3
    before, after = clean_forward(model, ids), clean_forward(model, changed)
    assert np.abs(before.vector(2 + reach) - after.vector(2 + reach)).max() > 1e-3
    np.testing.assert_array_equal(before.vector(1), after.vector(1))
    if architecture == "mistral-sliding":
        np.testing.assert_allclose(before.vector(3 + reach), after.vector(3 + reach), atol=1e-7)


def test_the_masks_of_the_oracle_are_those_of_transformers(architecture, ids):
    model = tiny_model(architecture, len(tiny_tokenizer()))
    expected, own = clean_forward(model, ids), clean_forward(model, ids, own_mask=True)
    torch.testing.assert_close(own.hidden, expected.hidden, atol=1e-6, rtol=0)
    torch.testing.assert_close(own.logits, expected.logits, atol=1e-6, rtol=0)


def test_an_isolated_block_holds_what_it_holds_alone_at_position_zero(architecture, ids):
    """What lets a passage be computed once, wherever it will stand."""
    model = tiny_model(architecture, len(tiny_tokenizer()))
    block = range(20, 45)
    inside = clean_forward(model, ids, blocks=[block]).hidden[block.start : block.stop]
    alone = clean_forward(model, ids[block.start : block.stop]).hidden
    torch.testing.assert_close(inside, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("hops", "top_k"), [(0, 1), (1, 4), (2, 2), (3, 3), (4, 1)])
def test_one_pass_equals_a_clean_full_forward(tiny, source_of, play, architecture, passage_attention, hops, top_k):
    model = tiny(architecture, passage_attention=passage_attention)
    source = source_of(model)
    play(dict.fromkeys((2, 3, 9, 11)[:hops], "[RQ]"))
    options = {"passages": source, "top_k": top_k, "max_new_tokens": 16}
    first = model.generate(QUESTION, **options)
    assert len(first.retrievals) == hops
    assert_one_pass(model.model, model.tokenizer, model.config, first)

    again = model.generate(QUESTION, **options)
    assert again.usage.reused_tokens > 0
    assert again.token_ids == first.token_ids
    assert_one_pass(model.model, model.tokenizer, model.config, again)

    asked = model.generate(QUESTION + " And why?", retrieval="always", **options)
    assert len(asked.retrievals) == hops + 1
    assert_one_pass(model.model, model.tokenizer, model.config, asked)


_SIZE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2), "linear_attention"),
        (RwkvConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2), "recurrent"),
        (RecurrentGemmaConfig(**_SIZE, lru_width=32), "linear_attention"),
        (
            Qwen3NextConfig(**_SIZE, num_key_value_heads=2, head_dim=8, num_experts=4, moe_intermediate_size=16),
            "linear_attention",
        ),
        (
            JambaConfig(**_SIZE, num_key_value_heads=2, num_experts=2, mamba_d_state=4, mamba_dt_rank=4),
            "linear_attention",
        ),
        (
            Lfm2Config(
                **_SIZE, num_key_value_heads=2, layer_types=["conv", "full_attention", "conv", "full_attention"]
            ),
            "conv",
        ),
        (
            Llama4TextConfig(**_SIZE, num_key_value_heads=2, head_dim=8, intermediate_size_mlp=64, num_local_experts=2),
            "chunked_attention",
        ),
        (BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4), "position_ids"),
        (
            BartConfig(vocab_size=64, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64),
            "position_ids",
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_an_architecture_that_passages_cannot_be_spliced_into_is_refused_with_the_reason(config, reason):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UnsupportedModelError, match=rf"{type(model).__name__}.*{reason}.*Use a"):
        OneGen(model, tiny_tokenizer(), OneGenConfig.preset("mini"))
