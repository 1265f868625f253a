"""`OneGenQueryEngine`: answers that retrieve while they are written, in one pass over one set of weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractContextManager, aclosing, closing
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks.base import EventContext
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.indices.vector_store import VectorStoreIndex
from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.schema import QueryBundle
from llama_index.core.settings import Settings
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from onegen_integrations.errors import InvalidInputError
from onegen_integrations.llama_index.chat_engine import OneGenChatEngine
from onegen_integrations.llama_index.llm import OneGenLLM
from onegen_integrations.llama_index.retrieval import PassageRetriever, RetrievedNodes, check_index

if TYPE_CHECKING:
    from onegen_integrations.passages import PassageSource


class OneGenQueryEngine(BaseQueryEngine):
    """Answers questions with a model that searches by itself in the middle of its answer.

        engine = OneGenQueryEngine.from_index(index)
        response = engine.query("In which year did Iceland become a republic?")
        response.response, response.source_nodes, response.metadata["usage"]

    The question is not embedded beforehand, and passages enter the answer's own cache. Sources are in `source_nodes`,
    each once, in the order of the retrievals; `metadata` has the final answer without what led to it, the usage, the
    finish reason and each retrieval. A streaming response is returned when its first event is there; what the model
    finds later is added to its `source_nodes` while it is read, and `metadata` at its end.

    Args:
        retriever: finds nodes by the vectors of the model: that of an index which this model has filled, or a
            `PassageRetriever`.
        llm: default: `Settings.llm`.
        retrieval: "auto": the model decides; "always": it retrieves at once; "never".
        max_retrievals: of one answer; default: that of the checkpoint.
        streaming: return streaming responses.
        node_postprocessors: applied to what each retrieval finds.
        system_prompt: default: that of `llm`.
        callback_manager: default: `Settings.callback_manager`.

    Raises:
        InvalidInputError: `llm` is not a `OneGenLLM`.
    """

    def __init__(
        self,
        retriever: BaseRetriever,
        llm: OneGenLLM | None = None,
        *,
        retrieval: Literal["auto", "always", "never"] = "auto",
        max_retrievals: int | None = None,
        streaming: bool = False,
        node_postprocessors: Sequence[BaseNodePostprocessor] = (),
        system_prompt: str | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager or Settings.callback_manager)
        self.llm = _onegen_llm(llm)
        self._options: dict[str, Any] = {"retrieval": retrieval, "max_retrievals": max_retrievals}
        system = self.llm.system_prompt if system_prompt is None else system_prompt
        self._prefix_messages = [ChatMessage(role=MessageRole.SYSTEM, content=system)] if system else []
        self._retriever = retriever
        self._streaming = streaming
        self._node_postprocessors = node_postprocessors
        self._checked = False

    @classmethod
    def from_index(
        cls, index: VectorStoreIndex, llm: OneGenLLM | None = None, *, similarity_top_k: int = 1, **options: Any
    ) -> OneGenQueryEngine:
        """Over an index, as `index.as_query_engine`.

        Args:
            index: filled by this model; another one's is refused at the first query.
            llm: default: `Settings.llm`.
            similarity_top_k: nodes of each retrieval; checkpoints are trained with one.
            **options: those of this class, and those of LlamaIndex's `VectorIndexRetriever`: `filters`,
                `vector_store_query_mode`, `vector_store_kwargs`, ...

        Raises:
            InvalidInputError: an option is unknown, or `llm` is not a `OneGenLLM`.
        """
        own = set(signature(cls).parameters) - {"retriever", "llm"}
        others = (set(signature(VectorIndexRetriever).parameters) | {"vector_store_kwargs"}) - {"index", "kwargs"}
        unknown = sorted(set(options) - own - others)
        if unknown:  # the retriever would ignore them
            msg = f"Unknown options {unknown}; allowed are {sorted(own | others)}."
            raise InvalidInputError(msg)
        retriever = index.as_retriever(
            similarity_top_k=similarity_top_k, **{name: options[name] for name in options if name not in own}
        )
        return cls(retriever, llm, **{name: options[name] for name in options if name in own})

    @classmethod
    def from_vector_store(
        cls, vector_store: BasePydanticVectorStore, llm: OneGenLLM | None = None, **options: Any
    ) -> OneGenQueryEngine:
        """Over a vector store that holds texts too, such as Chroma; arguments as in `from_index`."""
        model = _onegen_llm(llm)
        index = VectorStoreIndex.from_vector_store(vector_store, embed_model=model.as_embed_model())
        return cls.from_index(index, model, **options)

    @classmethod
    def from_passages(
        cls, source: PassageSource, llm: OneGenLLM | None = None, *, similarity_top_k: int = 1, **options: Any
    ) -> OneGenQueryEngine:
        """Over a passage source, such as `ChromaPassages`; `options` are those of this class."""
        model = _onegen_llm(llm)
        return cls(PassageRetriever(source, model, similarity_top_k=similarity_top_k), model, **options)

    def as_chat_engine(self, **options: Any) -> OneGenChatEngine:
        """A conversation with this engine; `options` are those of `OneGenChatEngine`."""
        return OneGenChatEngine(self, **options)

    def request(self, conversation: Sequence[ChatMessage]) -> tuple[RetrievedNodes, dict[str, Any]]:
        """The passage source of the answer to a conversation, and what `llm.chat` takes to give that answer.

        Raises:
            FingerprintMismatchError: another model has filled the index.
        """
        if not self._checked and isinstance(self._retriever, VectorIndexRetriever):
            check_index(self._retriever._index, self.llm.onegen)  # noqa: SLF001 (LlamaIndex has no public name for it)
        self._checked = True
        sources = RetrievedNodes(self._retriever, self._node_postprocessors)
        return sources, {"messages": [*self._prefix_messages, *conversation], "passages": sources, **self._options}

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}

    def _query(self, query_bundle: QueryBundle) -> Response | StreamingResponse:
        with self._event(query_bundle) as event:
            sources, call = self.request([_question(query_bundle)])
            response: Response | StreamingResponse
            if self._streaming:
                stream = self.llm.stream_chat(**call)
                metadata: dict[str, Any] = {}
                response = StreamingResponse(_texts(next(stream), stream, metadata), sources.nodes, metadata)
            else:
                reply = self.llm.chat(**call)
                response = Response(reply.message.content, sources.nodes, reply.raw)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> Response | AsyncStreamingResponse:
        with self._event(query_bundle) as event:
            sources, call = await asyncio.to_thread(self.request, [_question(query_bundle)])
            response: Response | AsyncStreamingResponse
            if self._streaming:
                stream = await self.llm.astream_chat(**call)
                metadata: dict[str, Any] = {}
                texts = _atexts(await anext(stream), stream, metadata)
                response = AsyncStreamingResponse(texts, sources.nodes, metadata)
            else:
                reply = await self.llm.achat(**call)
                response = Response(reply.message.content, sources.nodes, reply.raw)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    def _event(self, query_bundle: QueryBundle) -> AbstractContextManager[EventContext]:
        payload: dict[str, Any] = {EventPayload.QUERY_STR: query_bundle.query_str}
        return self.callback_manager.event(CBEventType.QUERY, payload=payload)


def _onegen_llm(llm: object) -> OneGenLLM:
    chosen = Settings.llm if llm is None else llm
    if not isinstance(chosen, OneGenLLM):
        msg = f"One-pass answers need a OneGenLLM, not {type(chosen).__name__}; give llm=, or set Settings.llm to one."
        raise InvalidInputError(msg)
    return chosen


def _question(query_bundle: QueryBundle) -> ChatMessage:
    return ChatMessage(role=MessageRole.USER, content=query_bundle.query_str)


def _texts(
    first: ChatResponse, rest: Generator[ChatResponse, None, None], metadata: dict[str, Any]
) -> Generator[str, None, None]:
    """New pieces of text; `metadata` are filled in at the end."""
    reply = first
    with closing(rest):
        if first.delta:
            yield first.delta
        for reply in rest:
            if reply.delta:
                yield reply.delta
    metadata.update(reply.raw or {})


async def _atexts(
    first: ChatResponse, rest: AsyncGenerator[ChatResponse, None], metadata: dict[str, Any]
) -> AsyncGenerator[str, None]:
    """As `_texts`."""
    reply = first
    async with aclosing(rest):
        if first.delta:
            yield first.delta
        async for reply in rest:
            if reply.delta:
                yield reply.delta
    metadata.update(reply.raw or {})
