"""`OneGenRAG`: a chain that retrieves while it answers, in place of `create_retrieval_chain`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any, Literal

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForChainRun,
    BaseRunManager,
    CallbackManager,
    CallbackManagerForChainRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, convert_to_messages
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from langchain_core.runnables.utils import AddableDict
from langchain_core.utils.utils import LC_ID_PREFIX
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict, Field, PrivateAttr, model_validator
from typing_extensions import Self, TypedDict

from onegen_integrations.errors import InvalidInputError
from onegen_integrations.generation import Event, Finish, Retrieval, TextDelta
from onegen_integrations.langchain.llm import OneGenLLM
from onegen_integrations.langchain.messages import core_messages, usage_metadata
from onegen_integrations.langchain.sources import VectorStorePassages, document_of
from onegen_integrations.passages import PassageSource, ScoredPassage, Vectors, search_one
from onegen_integrations.serving import iterate_in_thread
from onegen_integrations.text import check_text

RETRIEVAL_EVENT = "onegen_retrieval"

Chunk = dict[str, Any]
Search = Callable[[str, Callable[[], Sequence[ScoredPassage]]], Sequence[ScoredPassage]]

_OUTPUT = ("context", "answer", "usage_metadata")


class RAGInput(TypedDict):
    """input: the question. What was said before may stand beside it as `chat_history`."""

    input: str


class OneGenRAG(RunnableSerializable[Any, dict[str, Any]]):
    """One-pass RAG as a Runnable: takes what `create_retrieval_chain` takes and gives what it gives.

    Input: `{"input": question, "chat_history": [...]}`, or the question alone. Output: the input with `context` (the
    documents found, in order, with `relevance_score` and `retrieval_query` in their metadata), `answer`, and
    `usage_metadata`; what the input has under these names does not count. A stream yields `context` as soon as it is
    found and `answer` in pieces. Within the chain's run the answer is a chat model's run, with tokens and usage, and
    each retrieval a retriever's run and a custom event "onegen_retrieval".

    ```python
    rag = OneGenRAG(llm=llm, vectorstore=store)
    rag.invoke({"input": "Who signs for orders above 500 euros?"})
    ```

    Attributes:
        llm: its settings (`max_tokens`, `stop`, ...), callbacks and rate limiter hold for the answers; its cache does
            not, for the passages may have changed.
        vectorstore: where it searches; or
        passages: a `PassageSource` instead, such as `ChromaPassages`.
        k: passages of one retrieval.
        retrieval: "auto": the model decides; "always": it retrieves at once; "never".
        max_retrievals: for one answer, at most; default: the checkpoint's.
        score_threshold: cosine similarity that a passage has to reach.
        search_kwargs: passed on to the vector store, such as `{"filter": {"topic": "geography"}}`.
    """

    llm: OneGenLLM
    vectorstore: Any = None
    passages: Any = None
    k: int = 1
    retrieval: Literal["auto", "always", "never"] = "auto"
    max_retrievals: int | None = None
    score_threshold: float | None = None
    search_kwargs: dict[str, Any] = Field(default_factory=dict)

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    _source: VectorStorePassages | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.vectorstore is None) == (self.passages is None):
            msg = "OneGenRAG needs vectorstore= or passages=, and not both."
            raise ValueError(msg)
        if self.vectorstore is not None and not isinstance(self.vectorstore, VectorStore):
            msg = f"vectorstore= must be a LangChain VectorStore, not {type(self.vectorstore).__name__}."
            raise ValueError(msg)
        if self.passages is not None and not isinstance(self.passages, PassageSource):
            msg = f"passages= must be a PassageSource, with search(vectors, k), not {type(self.passages).__name__}."
            raise ValueError(msg)
        if self.passages is not None and self.search_kwargs:
            msg = "search_kwargs= is for a vectorstore=; a passage source has its own settings."
            raise ValueError(msg)
        own = sorted({"k", "score_threshold"} & self.search_kwargs.keys())
        if own:
            msg = f"search_kwargs= holds {own}, which OneGenRAG takes itself: write {own[0]}= beside it."
            raise ValueError(msg)
        return self

    @property
    def InputType(self) -> Any:
        return RAGInput

    @property
    def OutputType(self) -> Any:
        return dict[str, Any]

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:  # noqa: A002
        return _joined(self.stream(input, config, **kwargs))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:  # noqa: A002
        return _joined([chunk async for chunk in self.astream(input, config, **kwargs)])

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Chunk]:  # noqa: A002
        yield from self.transform(iter([input]), config, **kwargs)

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Chunk]:  # noqa: A002
        async def once() -> AsyncIterator[Any]:
            yield input

        async for chunk in self.atransform(once(), config, **kwargs):
            yield chunk

    def transform(self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Chunk]:  # noqa: A002
        yield from self._transform_stream_with_config(input, self._answer, config, **kwargs)

    async def atransform(
        self,
        input: AsyncIterator[Any],  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Chunk]:
        async for chunk in self._atransform_stream_with_config(input, self._aanswer, config, **kwargs):
            yield chunk

    # --- the run ----------------------------------------------------------------------------------

    def _answer(
        self, inputs: Iterator[Any], run_manager: CallbackManagerForChainRun, config: RunnableConfig
    ) -> Iterator[Chunk]:
        given, messages = _whole(list(inputs))
        if self.llm.rate_limiter is not None:
            self.llm.rate_limiter.acquire()
        [writing] = self.llm.start_run(CallbackManager, run_manager.get_child(), messages)
        search = _traced(run_manager.get_child(), self._retriever_name)
        finished = False
        try:
            with closing(self._chunks(given, messages, search)) as chunks:
                for chunk, event in chunks:
                    if isinstance(event, Retrieval):
                        dispatch_custom_event(RETRIEVAL_EVENT, _told(event, chunk), config=config)
                    elif isinstance(event, TextDelta):
                        writing.on_llm_new_token(event.text, chunk=_token(event, writing))
                    elif isinstance(event, Finish):
                        finished = True
                        writing.on_llm_end(self._result(event, writing))
                    yield chunk
        except BaseException as error:
            if not finished:
                writing.on_llm_error(error)
            raise

    async def _aanswer(
        self, inputs: AsyncIterator[Any], run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
    ) -> AsyncIterator[Chunk]:
        given, messages = _whole([part async for part in inputs])
        if self.llm.rate_limiter is not None:
            await self.llm.rate_limiter.aacquire()
        [writing] = await self.llm.start_run(AsyncCallbackManager, run_manager.get_child(), messages)
        search = _traced_from_thread(run_manager.get_child(), self._retriever_name, asyncio.get_running_loop())
        finished = False
        try:
            async with aclosing(iterate_in_thread(self._chunks(given, messages, search))) as chunks:
                async for chunk, event in chunks:
                    if isinstance(event, Retrieval):
                        await adispatch_custom_event(RETRIEVAL_EVENT, _told(event, chunk), config=config)
                    elif isinstance(event, TextDelta):
                        await writing.on_llm_new_token(event.text, chunk=_token(event, writing))
                    elif isinstance(event, Finish):
                        finished = True
                        await writing.on_llm_end(self._result(event, writing))
                    yield chunk
        except BaseException as error:
            if not finished:
                await writing.on_llm_error(error)
            raise

    def _result(self, event: Finish, run: BaseRunManager) -> LLMResult:
        fields = self.llm.message_fields(event.generation)
        message = AIMessage(content=event.generation.text, id=_message_id(run), **fields)
        return LLMResult(generations=[[ChatGeneration(message=message)]])

    def _chunks(
        self, given: dict[str, Any], messages: Sequence[BaseMessage], search: Search
    ) -> Generator[tuple[Chunk, Event | None], None, None]:
        """Pieces of the output, each with the event that it comes from."""
        options = self.llm.options(None, {}) | {
            "passages": _Watched(self._passage_source(), search),
            "retrieval": self.retrieval,
            "top_k": self.k,
            "max_retrievals": self.max_retrievals,
            "score_threshold": self.score_threshold,
        }
        yield AddableDict({key: value for key, value in given.items() if key not in _OUTPUT}), None
        found = False
        with closing(self.llm.onegen.stream(core_messages(messages), **options)) as events:
            for event in events:
                if isinstance(event, TextDelta):
                    yield AddableDict(answer=event.text), event
                elif isinstance(event, Retrieval):
                    found = True
                    yield AddableDict(context=[document_of(passage, event.query) for passage in event.passages]), event
                elif isinstance(event, Finish):
                    if not found:
                        yield AddableDict(context=[]), None
                    if not event.generation.text:
                        yield AddableDict(answer=""), None
                    yield AddableDict(usage_metadata=usage_metadata(event.generation.usage)), event

    def _passage_source(self) -> PassageSource:
        """Where to search, once it is sure that the store can be searched in this way, by this model."""
        if self.passages is not None:
            return self.passages
        if self._source is None or self._source.vectorstore is not self.vectorstore:
            self._source = VectorStorePassages(self.vectorstore, self.llm.onegen)
        if self.score_threshold is not None and not self._source.gives_cosines:
            msg = (
                f"The scores of {type(self.vectorstore).__name__} are not known to be cosine similarities, so"
                " score_threshold= cannot be held against them; leave it out."
            )
            raise InvalidInputError(msg)
        return self._source.with_settings(**self.search_kwargs)

    @property
    def _retriever_name(self) -> str:
        return type(self.passages if self.vectorstore is None else self.vectorstore).__name__


class _Watched:
    """A passage source whose searches are seen by LangChain's tracers.

    Args:
        source: does the search.
        run: runs it within a retriever run.
    """

    def __init__(self, source: PassageSource, run: Search) -> None:
        self.search = source.search
        self._source = source
        self._run = run

    def search_for(self, query: str, vector: Vectors, k: int) -> Sequence[ScoredPassage]:
        return self._run(query, lambda: search_one(self._source, query, vector, k))


def _traced(manager: CallbackManager, name: str) -> Search:
    def run(query: str, search: Callable[[], Any]) -> Any:
        retriever = manager.on_retriever_start({"name": name}, query, name=name)
        try:
            found = search()
        except BaseException as error:
            retriever.on_retriever_error(error)
            raise
        retriever.on_retriever_end(_documents(found, query))
        return found

    return run


def _traced_from_thread(manager: AsyncCallbackManager, name: str, loop: asyncio.AbstractEventLoop) -> Search:
    """As `_traced`, for a search in a worker thread: the callbacks run in their event loop."""

    def run(query: str, search: Callable[[], Any]) -> Any:
        start = manager.on_retriever_start({"name": name}, query, name=name)
        retriever = asyncio.run_coroutine_threadsafe(start, loop).result()
        try:
            found = search()
        except BaseException as error:
            asyncio.run_coroutine_threadsafe(retriever.on_retriever_error(error), loop).result()
            raise
        end = retriever.on_retriever_end(_documents(found, query))
        asyncio.run_coroutine_threadsafe(end, loop).result()
        return found

    return run


def _documents(found: Sequence[ScoredPassage], query: str) -> list[Document]:
    return [document_of(passage, query) for passage in found]


def _told(event: Retrieval, chunk: Chunk) -> dict[str, Any]:
    """What listeners are told of a retrieval."""
    return {"query": event.query, "position": event.position, "documents": chunk["context"]}


def _token(event: TextDelta, run: BaseRunManager) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=event.text, id=_message_id(run)))


def _message_id(run: BaseRunManager) -> str:
    """As LangChain's chat models call the message of a run: by it, listeners join the pieces."""
    return f"{LC_ID_PREFIX}-{run.run_id}"


def _whole(parts: Sequence[Any]) -> tuple[dict[str, Any], list[BaseMessage]]:
    """The input, which an upstream Runnable may have streamed in parts, and the conversation that it stands for.

    Raises:
        InvalidInputError: it holds no question, or a history that is no list of messages.
    """
    whole = parts[0] if len(parts) == 1 else _joined(parts)
    given = {"input": whole} if isinstance(whole, str) else whole
    if not isinstance(given, dict) or not isinstance(given.get("input"), str):
        msg = f"OneGenRAG takes a question or {{'input': question, 'chat_history': [...]}}, not {whole!r:.200}."
        raise InvalidInputError(msg)
    check_text(given["input"], "The question")
    history = given.get("chat_history") or []
    if not isinstance(history, Sequence) or isinstance(history, str):
        msg = f"chat_history must be a list of messages, not {history!r:.200}."
        raise InvalidInputError(msg)
    return given, [*convert_to_messages(history), HumanMessage(given["input"])]


def _joined(parts: Any) -> Any:
    whole: Any = None
    for part in parts:
        whole = part if whole is None else whole + part
    return dict(whole) if isinstance(whole, AddableDict) else whole
