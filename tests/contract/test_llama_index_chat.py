"""Chat engines over one set of weights: LlamaIndex's own, and the one that retrieves in the middle of its answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import (
    VectorStoreIndex,
)
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.chat_engine import CondenseQuestionChatEngine
from llama_index_parts import (
    ONE_RETRIEVAL,
    QUESTIONS,
    chroma_index,
    nearest,
    oracle_of,
    same_sources,
    sources,
)

from onegen_integrations import (
    MemoryPassages,
    OneGen,
)
from onegen_integrations.llama_index import (
    OneGenChatEngine,
    OneGenLLM,
    OneGenQueryEngine,
)

CHAT_MODES = ["condense_question", "context", "condense_plus_context"]


pytestmark = pytest.mark.usefixtures("llm")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chroma")


@pytest.fixture(scope="module")
def index(llm: OneGenLLM, database: Path) -> VectorStoreIndex:
    return chroma_index(llm, database)


@pytest.fixture(scope="module")
def engine(index: VectorStoreIndex) -> OneGenQueryEngine:
    return OneGenQueryEngine.from_index(index, **ONE_RETRIEVAL)


@pytest.fixture(scope="module")
def oracle(mini: OneGen) -> MemoryPassages:
    return oracle_of(mini)


@pytest.mark.parametrize("mode", CHAT_MODES)
def test_the_frameworks_chat_engines_run_with_the_right_sources(index, oracle, mini, mode: str):
    def ask(question: str) -> Any:
        return index.as_chat_engine(chat_mode=mode).chat(question)

    async def aask(question: str) -> Any:
        return await index.as_chat_engine(chat_mode=mode).achat(question)

    response = ask(QUESTIONS[0])
    assert sources(response) == nearest(oracle, mini, QUESTIONS[0], 2)
    assert str(asyncio.run(aask(QUESTIONS[0]))) == str(response)
    stream = index.as_chat_engine(chat_mode=mode).stream_chat(QUESTIONS[0])
    assert "".join(stream.response_gen).strip() == str(response).strip()
    conversation = index.as_chat_engine(chat_mode=mode)
    assert [isinstance(conversation.chat(question).response, str) for question in QUESTIONS[:2]] == [True, True]
    assert len(conversation.chat_history) == 4


def history(*texts: str) -> list[ChatMessage]:
    roles = [MessageRole.USER, MessageRole.ASSISTANT] * len(texts)
    return [ChatMessage(role=role, content=text) for role, text in zip(roles, texts, strict=False)]


def test_a_conversation_is_answered_as_the_model_answers_it(engine, oracle, mini):
    chat = engine.as_chat_engine()
    said: list[str] = []
    for question in QUESTIONS[:2]:
        response = chat.chat(question)
        messages = [{"role": m.role.value, "content": m.content} for m in history(*said, question)]
        expected = mini.generate(messages, passages=oracle, **ONE_RETRIEVAL, max_new_tokens=32)
        assert response.response == expected.text
        assert [ref for ref, _ in sources(response)] == [p.id for r in expected.retrievals for p in r.passages]
        assert response.metadata["usage"]["prompt_tokens"] == expected.usage.prompt_tokens
        said += [question, response.response]
    assert [(m.role, m.content) for m in chat.chat_history] == [(m.role, m.content) for m in history(*said)]
    chat.reset()
    assert chat.chat_history == []


def test_chat_streams_and_async_give_the_same(engine):
    before = history(QUESTIONS[0], "An answer.")
    chat = OneGenChatEngine(engine, chat_history=before)
    whole = chat.chat(QUESTIONS[1])
    said = [m.content for m in chat.chat_history]

    stream = chat.stream_chat(QUESTIONS[1], chat_history=before)
    assert "".join(stream.response_gen) == whole.response
    assert same_sources(stream, whole)
    assert [m.content for m in chat.chat_history] == said

    async def both() -> None:
        response = await chat.achat(QUESTIONS[1], chat_history=before)
        assert response.response == whole.response
        assert same_sources(response, whole)
        assert [m.content for m in chat.chat_history] == said
        stream = await chat.astream_chat(QUESTIONS[1], chat_history=before)
        assert "".join([text async for text in stream.async_response_gen()]) == whole.response
        assert same_sources(stream, whole)
        assert [m.content for m in chat.chat_history] == said

    asyncio.run(both())


def test_a_closed_stream_leaves_no_answer_in_the_history(engine):
    chat = engine.as_chat_engine()
    stream = chat.stream_chat(QUESTIONS[0]).response_gen
    next(stream)
    stream.close()
    assert [m.content for m in chat.chat_history] == [QUESTIONS[0]]


def test_the_system_prompt_stands_in_front(index, llm, mini, oracle):
    engine = OneGenQueryEngine.from_index(index, system_prompt="You are terse.", **ONE_RETRIEVAL)
    messages = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": QUESTIONS[0]}]
    expected = mini.generate(messages, passages=oracle, max_new_tokens=32, **ONE_RETRIEVAL).text
    assert engine.query(QUESTIONS[0]).response == engine.as_chat_engine().chat(QUESTIONS[0]).response == expected


def test_the_frameworks_condensing_chat_engine_takes_it(engine, llm):
    chat = CondenseQuestionChatEngine.from_defaults(query_engine=engine, llm=llm)
    assert len(chat.chat(QUESTIONS[0]).source_nodes) == 1
    assert isinstance(chat.chat(QUESTIONS[1]).response, str)
