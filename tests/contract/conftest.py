"""Fixtures of the tests of the LlamaIndex adapter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from llama_index_parts import Heard, listening, settings_of

from onegen_integrations import OneGen
from onegen_integrations.llama_index import OneGenLLM


@pytest.fixture
def heard() -> Iterator[Heard]:
    """LlamaIndex's events during the test."""
    with listening() as handler:
        yield handler


@pytest.fixture(scope="module")
def llm(mini: OneGen) -> Iterator[OneGenLLM]:
    """The model, and LlamaIndex's settings with it."""
    with settings_of(OneGenLLM(mini, max_tokens=32)) as llm:
        yield llm
