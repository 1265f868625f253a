"""Fixtures: tiny random models, passages in memory, and scripts that make a model write what a test needs."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ARCHITECTURES, SENTENCES, tiny_model, tiny_tokenizer
from torch import Tensor

from onegen_integrations import MemoryPassages, OneGen, OneGenConfig, Passage
from onegen_integrations.engine.forward import Forward
from onegen_integrations.engine.sampling import Sampler

torch.set_num_threads(1)  # the models are small: threads only wait for each other
# Where the suite runs in the background of a script, ctrl-C is ignored, here and in every process started from here.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=list(ARCHITECTURES))
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
    """`play({3: "[RQ]"})`: the model's choice 3, counted from 0 in each request, is [RQ].

    Elsewhere it chooses by itself, but neither retrieves nor ends the answer.
    """
    tokenizer = tiny_tokenizer()
    choose = Sampler.choose

    def install(script: Mapping[int, str]) -> None:
        ids = {step: tokenizer.convert_tokens_to_ids(token) for step, token in script.items()}
        kept_for_scripts = set(tokenizer.convert_tokens_to_ids(["[RQ]", "</s>"]))

        def scripted(self: Sampler, logits: Tensor, written: list[int], banned: Collection[int], allowed=None) -> int:
            step = self.__dict__.setdefault("step", 0)
            self.__dict__["step"] = step + 1
            if step in ids and ids[step] not in banned:
                return ids[step]
            return choose(self, logits, written, {*banned, *kept_for_scripts})

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


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each forward pass."""
    passes: list[int] = []
    forward = Forward.__call__

    def counted(self: Forward, *args: Any, **kwargs: Any) -> Any:
        passes.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Forward, "__call__", counted)
    return passes
