"""`OneGenChatEngine`: a conversation whose answers retrieve while they are written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing
from typing import TYPE_CHECKING

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.callbacks import trace_method
from llama_index.core.chat_engine.types import AgentChatResponse, BaseChatEngine, StreamingAgentChatResponse
from llama_index.core.memory import BaseMemory, ChatMemoryBuffer

if TYPE_CHECKING:
    from onegen_integrations.llama_index.query_engine import OneGenQueryEngine
    from onegen_integrations.llama_index.retrieval import RetrievedNodes


class OneGenChatEngine(BaseChatEngine):
    """A conversation with a `OneGenQueryEngine`: the model reads all of it, and decides itself what to search for.

    No question is condensed and no context put into a prompt. The history holds what the user and the model wrote,
    without passages. Closing a stream stops the work, and leaves the unfinished answer out of the history.

    Args:
        query_engine: model, retriever and options.
        chat_history: what was said before.
        memory: default: a `ChatMemoryBuffer` of half the context window, which leaves the other half to passages and
            the answer.
    """

    def __init__(
        self,
        query_engine: OneGenQueryEngine,
        *,
        chat_history: Sequence[ChatMessage] = (),
        memory: BaseMemory | None = None,
    ) -> None:
        llm = query_engine.llm
        self.callback_manager = query_engine.callback_manager
        self._engine = query_engine
        self._memory = memory or ChatMemoryBuffer.from_defaults(
            token_limit=llm.metadata.context_window // 2, tokenizer_fn=llm.tokenize
        )
        if chat_history:
            self._memory.set(list(chat_history))

    @trace_method("chat")
    def chat(self, message: str, chat_history: list[ChatMessage] | None = None) -> AgentChatResponse:
        """Answer a message; `chat_history` takes the place of what was said before.

        Raises:
            FingerprintMismatchError: another model has filled the index.
            OneGenError: as `OneGen.generate`.
        """
        sources, call = self._engine.request(self._history(message, chat_history))
        reply = self._engine.llm.chat(**call)
        self._memory.put(reply.message)
        return _response(reply, sources)

    @trace_method("chat")
    def stream_chat(self, message: str, chat_history: list[ChatMessage] | None = None) -> StreamingAgentChatResponse:
        """As `chat`; `source_nodes` fill while the response is read."""
        sources, call = self._engine.request(self._history(message, chat_history))
        stream = self._engine.llm.stream_chat(**call)
        return StreamingAgentChatResponse(
            chat_stream=self._remembered(stream), source_nodes=sources.nodes, is_writing_to_memory=False
        )

    @trace_method("chat")
    async def achat(self, message: str, chat_history: list[ChatMessage] | None = None) -> AgentChatResponse:
        """As `chat`."""
        sources, call = await asyncio.to_thread(self._engine.request, await self._ahistory(message, chat_history))
        reply = await self._engine.llm.achat(**call)
        await self._memory.aput(reply.message)
        return _response(reply, sources)

    @trace_method("chat")
    async def astream_chat(
        self, message: str, chat_history: list[ChatMessage] | None = None
    ) -> StreamingAgentChatResponse:
        """As `stream_chat`."""
        sources, call = await asyncio.to_thread(self._engine.request, await self._ahistory(message, chat_history))
        stream = await self._engine.llm.astream_chat(**call)
        return StreamingAgentChatResponse(
            achat_stream=self._aremembered(stream), source_nodes=sources.nodes, is_writing_to_memory=False
        )

    def reset(self) -> None:
        """Forget what was said."""
        self._memory.reset()

    @property
    def chat_history(self) -> list[ChatMessage]:
        """What was said so far."""
        return self._memory.get_all()

    def _history(self, message: str, chat_history: list[ChatMessage] | None) -> list[ChatMessage]:
        if chat_history is not None:
            self._memory.set(list(chat_history))  # a copy: the memory goes on writing in the list it is given
        self._memory.put(ChatMessage(role=MessageRole.USER, content=message))
        return self._memory.get()

    async def _ahistory(self, message: str, chat_history: list[ChatMessage] | None) -> list[ChatMessage]:
        if chat_history is not None:
            await self._memory.aset(list(chat_history))
        await self._memory.aput(ChatMessage(role=MessageRole.USER, content=message))
        return await self._memory.aget()

    def _remembered(self, stream: Generator[ChatResponse, None, None]) -> Generator[ChatResponse, None, None]:
        with closing(stream):
            for reply in stream:
                yield reply
        self._memory.put(reply.message)

    async def _aremembered(self, stream: AsyncGenerator[ChatResponse, None]) -> AsyncGenerator[ChatResponse, None]:
        async with aclosing(stream):
            async for reply in stream:
                yield reply
        await self._memory.aput(reply.message)


def _response(reply: ChatResponse, sources: RetrievedNodes) -> AgentChatResponse:
    return AgentChatResponse(response=reply.message.content or "", source_nodes=sources.nodes, metadata=reply.raw)
