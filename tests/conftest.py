"""Fixtures: tiny random models of several architectures, and scripts that make them write what a test needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from onegen_integrations import MemoryPassages, OneGen, OneGenConfig, Passage
from onegen_integrations.engine.sampling import Sampler
from onegen_integrations.training.tokenizer import train_tokenizer

WINDOW = 8  # shorter than every prompt
CONTEXT = 512
_SIZE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": CONTEXT,
}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
_ARCHITECTURES: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "llama-eager": lambda **size: LlamaConfig(**size, attn_implementation="eager"),
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "mistral-sliding": lambda **size: MistralConfig(**size, sliding_window=WINDOW),
    "gemma2-sliding": lambda **size: Gemma2Config(**size, sliding_window=WINDOW, layer_types=_MIXED),
    "gemma3-sliding": lambda **size: Gemma3TextConfig(**size, sliding_window=WINDOW, layer_types=_MIXED),
}

SENTENCES = (
    "Lena Marsh wrote the novel The Quiet Harbour in 1974.",
    "The Quiet Harbour is set in Ostrava, a town on the river Elm.",
    "Ostrava lies 212 metres above the sea and has 4,190 inhabitants.",
    "The river Elm rises in the Grey Hills and flows into Lake Tarn.",
    "Lake Tarn freezes from December to March; boats are then moved by sledge.",
    "Oskar Bell composed the opera Winter Ferry for the theatre in Ostrava.",
    "A ferry crosses the lake every hour, and the fare is 3 crowns.",
    "In 1988 the theatre burned down, and it was rebuilt within two years.",
    "Who wrote the novel? Where is it set? What is the height of the town?",
    "Answer: the town is Ostrava. I don't know. Tell me more about it, please.",
)


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """The bundled checkpoint's kind of tokenizer, trained on a few sentences."""
    return train_tokenizer(iter(SENTENCES), 420, OneGenConfig.preset("mini"), CONTEXT)


@cache
def tiny_model(architecture: str, vocabulary: int) -> PreTrainedModel:
    """Random weights, large enough that every token moves the hidden states of all later ones."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_ARCHITECTURES[architecture](**_SIZE, vocab_size=vocabulary))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model.eval()


@pytest.fixture(params=list(_ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["isolated", "causal"])
def passage_attention(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tiny() -> Callable[..., OneGen]:
    """`tiny(architecture="llama", **changes)`: a tiny random OneGen, its caches empty; `changes` to the mini preset."""

    def make(architecture: str = "llama", **changes: Any) -> OneGen:
        if changes.get("passage_attention") == "causal":
            changes = {"after_passages": ""} | changes
        tokenizer = tiny_tokenizer()
        config = dataclasses.replace(OneGenConfig.preset("mini"), **changes)
        return OneGen(tiny_model(architecture, len(tokenizer)), tokenizer, config)

    return make


@pytest.fixture
def passages() -> list[Passage]:
    return [Passage(id=str(number), text=text) for number, text in enumerate(SENTENCES[:8])]


@pytest.fixture
def source_of(passages: list[Passage]) -> Callable[[OneGen], MemoryPassages]:
    """`source_of(model)`: the passages in memory, embedded by that model."""

    def make(model: OneGen) -> MemoryPassages:
        source = MemoryPassages(model)
        source.add(passages)
        return source

    return make


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[int, str]], None]:
    """`play({3: "[RQ]"})`: at its third choice the model writes [RQ]; elsewhere it chooses, but does not end by itself.

    Choices are counted from 0, for each request by itself.
    """
    tokenizer = tiny_tokenizer()
    choose = Sampler.choose

    def install(script: Mapping[int, str]) -> None:
        ids = {step: tokenizer.convert_tokens_to_ids(token) for step, token in script.items()}

        def scripted(self: Sampler, logits: Tensor, written: list[int], banned: Collection[int]) -> int:
            step = self.__dict__.setdefault("step", 0)
            self.__dict__["step"] = step + 1
            if step in ids and ids[step] not in banned:
                return ids[step]
            return choose(self, logits, written, {*banned, tokenizer.eos_token_id})

        monkeypatch.setattr(Sampler, "choose", scripted)

    return install


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder: the tiny Llama with the mini preset."""
    tokenizer = tiny_tokenizer()
    folder = tmp_path_factory.mktemp("tiny")
    OneGen(tiny_model("llama", len(tokenizer)), tokenizer, OneGenConfig.preset("mini")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def mini() -> OneGen:
    """The bundled checkpoint."""
    return OneGen.from_pretrained()
