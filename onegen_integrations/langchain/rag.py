"""`OneGenRAG`: a chain that retrieves while it answers, in place of `create_retrieval_chain`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any, Literal

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForChainRun,
    CallbackManager,
    CallbackManagerForChainRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.documents import Document
from langchain_core.messages import convert_to_messages
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from langchain_core.runnables.utils import AddableDict
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict, Field, PrivateAttr, model_validator
from typing_extensions import Self, TypedDict

from onegen_integrations.errors import InvalidInputError
from onegen_integrations.generation import Finish, Retrieval, TextDelta
from onegen_integrations.langchain.llm import OneGenLLM
from onegen_integrations.langchain.messages import core_messages, usage_metadata
from onegen_integrations.langchain.sources import VectorStorePassages, document_of
from onegen_integrations.passages import PassageSource, ScoredPassage, Vectors
from onegen_integrations.serving import iterate_in_thread
from onegen_integrations.text import check_text

RETRIEVAL_EVENT = "onegen_retrieval"

Chunk = dict[str, Any]
Search = Callable[[str, Callable[[], Sequence[Sequence[ScoredPassage]]]], Sequence[Sequence[ScoredPassage]]]


class RAGInput(TypedDict):
    """input: the question. What was said before may stand beside it as `chat_history`."""

    input: str


class OneGenRAG(RunnableSerializable[Any, dict[str, Any]]):
    """One-pass RAG as a Runnable: takes what `create_retrieval_chain` takes and gives what it gives.

    Input: `{"input": question, "chat_history": [...]}`, or the question alone. Output: the input with `context` (the
    documents found, in order, with `relevance_score` and `retrieval_query` in their metadata), `answer`, and
    `usage_metadata`. A stream yields `context` as soon as it is found and `answer` in pieces. Each retrieval is a
    retriever run within the chain's run, and a custom event "onegen_retrieval".

    ```python
    rag = OneGenRAG(llm=llm, vectorstore=store)
    rag.invoke({"input": "Who signs for orders above 500 euros?"})
    ```

    Attributes:
        llm: its settings (`max_tokens`, `stop`, ...) hold for the answers.
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
    _source: PassageSource | None = PrivateAttr(default=None)

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
        given = _whole(list(inputs))
        search = _traced(run_manager.get_child(), self._retriever_name)
        with closing(self._chunks(given, search)) as chunks:
            for chunk, retrieval in chunks:
                if retrieval is not None:
                    dispatch_custom_event(RETRIEVAL_EVENT, retrieval, config=config)
                yield chunk

    async def _aanswer(
        self, inputs: AsyncIterator[Any], run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
    ) -> AsyncIterator[Chunk]:
        given = _whole([part async for part in inputs])
        search = _traced_from_thread(run_manager.get_child(), self._retriever_name, asyncio.get_running_loop())
        async with aclosing(iterate_in_thread(self._chunks(given, search))) as chunks:
            async for chunk, retrieval in chunks:
                if retrieval is not None:
                    await adispatch_custom_event(RETRIEVAL_EVENT, retrieval, config=config)
                yield chunk

    def _chunks(self, given: dict[str, Any], search: Search) -> Generator[tuple[Chunk, Chunk | None], None, None]:
        """Pieces of the output; with a piece that holds documents, what is told of that retrieval."""
        history = convert_to_messages(given.get("chat_history") or [])
        messages = [*core_messages(history), {"role": "user", "content": given["input"]}]
        source = _Watched(self._passages(), given["input"], search)
        options = self.llm.options(None, {}) | {
            "passages": source,
            "retrieval": self.retrieval,
            "top_k": self.k,
            "max_retrievals": self.max_retrievals,
            "score_threshold": self.score_threshold,
        }
        yield AddableDict(given), None
        found = False
        with closing(self.llm.onegen.stream(messages, **options)) as events:
            for event in events:
                if isinstance(event, TextDelta):
                    source.text += event.text
                    yield AddableDict(answer=event.text), None
                elif isinstance(event, Retrieval):
                    found = True
                    source.text = ""
                    documents = [document_of(passage, event.query) for passage in event.passages]
                    told = {"query": event.query, "position": event.position, "documents": documents}
                    yield AddableDict(context=documents), told
                elif isinstance(event, Finish):
                    if not found:
                        yield AddableDict(context=[]), None
                    if not event.generation.text:
                        yield AddableDict(answer=""), None
                    yield AddableDict(usage_metadata=usage_metadata(event.generation.usage)), None

    def _passages(self) -> PassageSource:
        if self.passages is not None:
            return self.passages
        if self._source is None:
            self._source = VectorStorePassages(self.vectorstore, self.llm.onegen, **self.search_kwargs)
        return self._source

    @property
    def _retriever_name(self) -> str:
        return type(self.passages if self.vectorstore is None else self.vectorstore).__name__


class _Watched:
    """A passage source whose searches are seen by LangChain's tracers.

    Args:
        source: does the search.
        question: what the first search is about.
        search: runs it within a retriever run.
    """

    def __init__(self, source: PassageSource, question: str, search: Search) -> None:
        self._source = source
        self._question = question
        self._run = search
        self.text = ""  # written since the last retrieval

    def search(self, vectors: Vectors, k: int) -> Sequence[Sequence[ScoredPassage]]:
        query = self.text.strip() or self._question
        return self._run(query, lambda: self._source.search(vectors, k))


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


def _documents(found: Sequence[Sequence[ScoredPassage]], query: str) -> list[Document]:
    return [document_of(passage, query) for passages in found for passage in passages]


def _whole(parts: Sequence[Any]) -> dict[str, Any]:
    """The input, which an upstream Runnable may have streamed in parts.

    Raises:
        InvalidInputError: it holds no question.
    """
    whole = parts[0] if len(parts) == 1 else _joined(parts)
    given = {"input": whole} if isinstance(whole, str) else whole
    if not isinstance(given, dict) or not isinstance(given.get("input"), str):
        msg = f"OneGenRAG takes a question or {{'input': question, 'chat_history': [...]}}, not {whole!r:.200}."
        raise InvalidInputError(msg)
    check_text(given["input"], "The question")
    return given


def _joined(parts: Any) -> Any:
    whole: Any = None
    for part in parts:
        whole = part if whole is None else whole + part
    return dict(whole) if isinstance(whole, AddableDict) else whole
