"""Indexes, Chroma, query and chat engines over one set of weights. Sources and paths are tested, not answers."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from llama_index.core import (
    Document,
    MockEmbedding,
    Settings,
    StorageContext,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.chat_engine import CondenseQuestionChatEngine
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.schema import MetadataMode, QueryBundle, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, SimpleVectorStore, VectorStoreQueryResult
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from llama_index.vector_stores.chroma import ChromaVectorStore
from pydantic import Field

from onegen_integrations import (
    FingerprintMismatchError,
    InvalidInputError,
    MemoryPassages,
    OneGen,
    Passage,
    PassageSourceError,
)
from onegen_integrations.chroma import ChromaPassages
from onegen_integrations.evaluation.mini import demo_questions
from onegen_integrations.llama_index import (
    OneGenChatEngine,
    OneGenEmbedding,
    OneGenLLM,
    OneGenQueryEngine,
    PassageRetriever,
    open_vector_store,
)
from onegen_integrations.llama_index.retrieval import RetrievedNodes

DEMO = demo_questions().passages[:40]
DOCUMENTS = [
    Document(id_=p.id, text=p.text, metadata={"title": p.title, "part": n % 4}, excluded_embed_metadata_keys=["part"])
    for n, p in enumerate(DEMO)
]
QUESTIONS = [q.text for q in demo_questions().questions if set(q.gold) <= {p.id for p in DEMO}][:4]
CHAT_MODES = ["condense_question", "context", "condense_plus_context"]


class Heard(BaseEventHandler):
    """All events."""

    events: list[Any] = Field(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "Heard"

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.events.append(event)

    def counted(self) -> Counter[str]:
        return Counter(type(event).__name__ for event in self.events)


@pytest.fixture
def heard() -> Iterator[Heard]:
    root = get_dispatcher()
    handler = Heard()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


@pytest.fixture(scope="module", autouse=True)
def llm(mini: OneGen) -> Iterator[OneGenLLM]:
    """The model, and LlamaIndex's settings with it."""
    llm = OneGenLLM(mini, max_tokens=32)
    Settings.llm, Settings.embed_model, Settings.tokenizer = llm, llm.as_embed_model(), llm.tokenize
    yield llm
    Settings._llm = Settings._embed_model = Settings._tokenizer = None


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chroma")


@pytest.fixture(scope="module")
def index(llm: OneGenLLM, database: Path) -> VectorStoreIndex:
    storage = StorageContext.from_defaults(vector_store=open_vector_store(llm, path=database))
    return VectorStoreIndex.from_documents(DOCUMENTS, storage_context=storage)


@pytest.fixture(scope="module")
def engine(index: VectorStoreIndex) -> OneGenQueryEngine:
    """One retrieval in every answer."""
    return OneGenQueryEngine.from_index(index, retrieval="always", max_retrievals=1)


@pytest.fixture(scope="module")
def oracle(mini: OneGen) -> MemoryPassages:
    """What the index holds, without LlamaIndex and Chroma."""
    source = MemoryPassages(mini)
    source.add(Passage(d.doc_id, d.get_content(metadata_mode=MetadataMode.EMBED)) for d in DOCUMENTS)
    return source


def nearest(oracle: MemoryPassages, mini: OneGen, question: str, k: int = 1) -> list[tuple[str, float]]:
    [found] = oracle.search(mini.embed_queries([question]), k)
    return [(passage.id, pytest.approx(passage.score, abs=1e-5)) for passage in found]


def sources(response: Any) -> list[tuple[str | None, float | None]]:
    return [(found.node.ref_doc_id, found.score) for found in response.source_nodes]


def no_vector_is_compared(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        pytest.fail("vectors of two models were compared")

    monkeypatch.setattr(kind, "query", refuse)


# --- the framework's own engines ------------------------------------------------------------------


def test_one_set_of_weights_serves_all(index: VectorStoreIndex, mini: OneGen):
    assert Settings.llm.onegen is Settings.embed_model.onegen is index._embed_model.onegen is mini


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_frameworks_query_engine_finds_the_nearest_nodes(index, oracle, mini, question: str):
    response = index.as_query_engine().query(question)
    assert isinstance(response, Response)
    assert sources(response) == nearest(oracle, mini, question, 2)
    streaming = index.as_query_engine(streaming=True).query(question)
    assert "".join(streaming.response_gen) == (response.response or "")
    assert asyncio.run(index.as_query_engine().aquery(question)).response == response.response


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


# --- one-pass query engine ------------------------------------------------------------------------


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("retrieval", ["auto", "always", "never"])
def test_it_gives_the_models_own_one_pass_answer(index, oracle, mini, question: str, retrieval: str):
    response = OneGenQueryEngine.from_index(index, retrieval=retrieval).query(question)
    expected = mini.generate(question, passages=oracle, retrieval=retrieval, max_new_tokens=32)
    assert response.response == expected.text
    metadata = response.metadata
    assert metadata["answer"] == expected.answer
    assert metadata["finish_reason"] == expected.finish_reason
    assert metadata["usage"]["passage_tokens"] == expected.usage.passage_tokens
    assert metadata["usage"]["forwarded_tokens"] + metadata["usage"]["reused_tokens"] == len(expected.token_ids) - 1
    found = [(passage.id, passage.score) for retrieval in expected.retrievals for passage in retrieval.passages]
    assert [ref for ref, _ in sources(response)] == list(dict.fromkeys(ref for ref, _ in found))
    assert [score for _, score in sources(response)] == [
        pytest.approx(dict(reversed(found))[r]) for r, _ in sources(response)
    ]
    assert [r["query"] for r in metadata["retrievals"]] == [r.query for r in expected.retrievals]


def test_every_way_in_gives_the_same(engine, index, llm, mini, oracle, database, tmp_path):
    options = {"retrieval": "always", "max_retrievals": 1}
    chroma = ChromaPassages(mini, path=tmp_path)
    chroma.add(Passage(d.doc_id, d.get_content(metadata_mode=MetadataMode.EMBED), {"a": 1}) for d in DOCUMENTS)
    engines = [
        OneGenQueryEngine.from_vector_store(open_vector_store(llm, path=database), **options),
        OneGenQueryEngine.from_passages(oracle, **options),
        OneGenQueryEngine.from_passages(chroma, llm, **options),
        OneGenQueryEngine(index.as_retriever(similarity_top_k=1), **options),
        OneGenQueryEngine.from_index(VectorStoreIndex.from_documents(DOCUMENTS), **options),
    ]
    expected = engine.query(QUESTIONS[0])
    for other in engines:
        response = other.query(QUESTIONS[0])
        assert response.response == expected.response
        [found] = response.source_nodes
        assert found.score == pytest.approx(expected.source_nodes[0].score, abs=1e-5)
        assert found.node.ref_doc_id or found.node_id == expected.source_nodes[0].node.ref_doc_id


@pytest.mark.parametrize("question", QUESTIONS)
def test_streams_and_async_give_the_same(index, question: str):
    whole = OneGenQueryEngine.from_index(index).query(question)
    streaming = OneGenQueryEngine.from_index(index, streaming=True)

    stream = streaming.query(question)
    assert isinstance(stream, StreamingResponse)
    assert "".join(stream.response_gen) == whole.response
    assert sources(stream) == sources(whole)
    assert stream.metadata["usage"]["total_tokens"] == whole.metadata["usage"]["total_tokens"]
    assert stream.metadata["answer"] == whole.metadata["answer"]

    async def astream() -> AsyncStreamingResponse:
        response = await streaming.aquery(question)
        assert isinstance(response, AsyncStreamingResponse)
        assert "".join([text async for text in response.async_response_gen()]) == whole.response
        return response

    assert sources(asyncio.run(astream())) == sources(whole)
    answer = asyncio.run(OneGenQueryEngine.from_index(index).aquery(question))
    assert (answer.response, sources(answer)) == (whole.response, sources(whole))


def test_a_stream_that_retrieves_at_once_has_its_sources_at_once(index):
    stream = OneGenQueryEngine.from_index(index, retrieval="always", streaming=True).query(QUESTIONS[0])
    assert len(stream.source_nodes) == 1
    assert stream.metadata == {}
    stream.response_gen.close()


def test_many_threads_do_not_mix(engine):
    alone = {question: engine.query(question) for question in QUESTIONS}
    with ThreadPoolExecutor(8) as pool:
        for question, response in zip(QUESTIONS * 4, pool.map(engine.query, QUESTIONS * 4), strict=True):
            assert response.response == alone[question].response
            assert sources(response) == sources(alone[question])


def test_async_generation_and_retrieval_leave_the_event_loop_free(engine, monkeypatch):
    threads = set()
    search = RetrievedNodes.search

    def watched(self: RetrievedNodes, vectors: Any, k: int) -> Any:
        threads.add(threading.get_ident())
        return search(self, vectors, k)

    monkeypatch.setattr(RetrievedNodes, "search", watched)

    async def ask() -> None:
        await engine.aquery(QUESTIONS[0])
        assert threads
        assert threading.get_ident() not in threads

    asyncio.run(ask())


# --- retrieval ------------------------------------------------------------------------------------


def test_filters_top_k_and_modes_are_the_retrievers(index, oracle, mini):
    options = {"retrieval": "always", "max_retrievals": 1}
    filters = MetadataFilters(filters=[MetadataFilter(key="part", value=3)])
    response = OneGenQueryEngine.from_index(index, filters=filters, similarity_top_k=3, **options).query(QUESTIONS[0])
    ranked = nearest(oracle, mini, QUESTIONS[0], len(DEMO))
    part = {document.doc_id: document.metadata["part"] for document in DOCUMENTS}
    assert sources(response) == [(ref, score) for ref, score in ranked if part[ref] == 3][:3]
    assert len(response.metadata["retrievals"][0]["passages"]) == 3
    diverse = OneGenQueryEngine.from_index(
        index,
        vector_store_query_mode="mmr",
        vector_store_kwargs={"mmr_threshold": 0.1},
        similarity_top_k=3,
        **options,
    ).query(QUESTIONS[0])
    assert len(diverse.source_nodes) == 3
    assert sources(diverse)[0] == ranked[0]


def test_postprocessors_decide_what_the_model_reads(index, oracle, mini):
    nothing = [SimilarityPostprocessor(similarity_cutoff=1.1)]
    options = {"retrieval": "always", "max_retrievals": 1}
    response = OneGenQueryEngine.from_index(index, node_postprocessors=nothing, **options).query(QUESTIONS[0])
    assert response.source_nodes == []
    assert response.metadata["retrievals"][0]["passages"] == []
    all_of_them = [SimilarityPostprocessor(similarity_cutoff=-1)]
    response = OneGenQueryEngine.from_index(index, node_postprocessors=all_of_them, **options).query(QUESTIONS[0])
    assert sources(response) == nearest(oracle, mini, QUESTIONS[0])


def test_the_model_reads_the_text_that_was_embedded(index, mini):
    source = RetrievedNodes(index.as_retriever(similarity_top_k=1), QUESTIONS[0])
    [[passage]] = source.search(mini.embed_queries([QUESTIONS[0]]), 1)
    [found] = source.nodes
    assert passage.text == found.node.get_content(metadata_mode=MetadataMode.EMBED)
    assert passage.text.startswith("title: ")
    assert "part" not in passage.text
    assert passage.title == ""


def test_a_passage_keeps_its_title(mini):
    source = MemoryPassages(mini)
    source.add([Passage("a", "Some text.", {"title": "A title", "page": 3})])
    retrieved = RetrievedNodes(PassageRetriever(source, OneGenLLM(mini)), "q")
    [[passage]] = retrieved.search(mini.embed_queries(["q"]), 1)
    assert (passage.id, passage.text, passage.title) == ("a", "Some text.", "A title")
    assert retrieved.nodes[0].node.metadata == {"title": "A title", "page": 3}


def test_a_passage_retriever_embeds_queries_that_have_no_vector(oracle, llm, mini):
    retriever = PassageRetriever(oracle, llm, similarity_top_k=2)
    expected = nearest(oracle, mini, QUESTIONS[0], 2)
    assert [(found.node_id, found.score) for found in retriever.retrieve(QUESTIONS[0])] == expected
    vector = mini.embed_queries([QUESTIONS[1]])[0].tolist()
    found = retriever.retrieve(QueryBundle(QUESTIONS[0], embedding=vector))
    assert [(node.node_id, node.score) for node in found] == nearest(oracle, mini, QUESTIONS[1], 2)


class Broken:
    def search(self, vectors: Any, k: int) -> Any:
        msg = "the disk is gone"
        raise OSError(msg)


def test_an_error_of_the_store_reaches_the_caller_with_what_there_was(llm):
    engine = OneGenQueryEngine.from_passages(Broken(), llm, retrieval="always")
    with pytest.raises(PassageSourceError, match="the disk is gone") as caught:
        engine.query("Hello?")
    assert caught.value.partial is not None
    with pytest.raises(PassageSourceError, match="the disk is gone"):
        asyncio.run(engine.aquery("Hello?"))


def test_another_llm_is_refused(index):
    with pytest.raises(InvalidInputError, match="MockLLM"):
        OneGenQueryEngine.from_index(index, MockLLM())


# --- events ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_query_is_one_query_one_retrieval_and_one_answer_in_the_events(engine, heard: Heard, asynchronous: bool):
    response = asyncio.run(engine.aquery(QUESTIONS[0])) if asynchronous else engine.query(QUESTIONS[0])
    counted = heard.counted()
    for name in ("QueryStartEvent", "QueryEndEvent", "RetrievalStartEvent", "RetrievalEndEvent"):
        assert counted[name] == 1
    assert counted["LLMChatStartEvent"] == counted["LLMChatEndEvent"] == 1
    assert counted["EmbeddingStartEvent"] == 0  # the question goes through the model once, in its answer
    [retrieval] = [event for event in heard.events if type(event).__name__ == "RetrievalEndEvent"]
    assert retrieval.nodes == response.source_nodes
    assert retrieval.str_or_query_bundle.query_str == QUESTIONS[0]


def test_retrieval_stands_inside_the_answer_in_the_trace(engine):
    root = get_dispatcher()
    handler = SimpleSpanHandler()
    root.add_span_handler(handler)
    try:
        engine.query(QUESTIONS[0])
    finally:
        root.span_handlers.remove(handler)
    spans = {span.id_: span for span in handler.completed_spans}
    [span_id] = [span_id for span_id in spans if span_id.startswith("VectorIndexRetriever.retrieve-")]
    above = []
    while span_id is not None:
        above.append(span_id.rsplit("-", 5)[0])
        span_id = spans[span_id].parent_id
    assert above == [
        "VectorIndexRetriever.retrieve",
        "OneGenLLM.chat",
        "OneGenQueryEngine._query",
        "OneGenQueryEngine.query",
    ]


def test_callback_managers_hear_the_same(index, llm):
    debug = LlamaDebugHandler(print_trace_on_end=False)
    manager = CallbackManager([debug])
    heard_index = VectorStoreIndex.from_vector_store(index.vector_store, callback_manager=manager)
    OneGenQueryEngine.from_index(
        heard_index,
        OneGenLLM(llm, max_tokens=16, callback_manager=manager),
        retrieval="always",
        max_retrievals=1,
        callback_manager=manager,
    ).query(QUESTIONS[0])
    for kind in (CBEventType.QUERY, CBEventType.RETRIEVE, CBEventType.LLM):
        assert len(debug.get_event_pairs(kind)) == 1
    assert debug.get_event_pairs(CBEventType.EMBEDDING) == []


# --- chat engine ----------------------------------------------------------------------------------


def history(*texts: str) -> list[ChatMessage]:
    roles = [MessageRole.USER, MessageRole.ASSISTANT] * len(texts)
    return [ChatMessage(role=role, content=text) for role, text in zip(roles, texts, strict=False)]


def test_a_conversation_is_answered_as_the_model_answers_it(engine, oracle, mini):
    chat = engine.as_chat_engine()
    said: list[str] = []
    for question in QUESTIONS[:2]:
        response = chat.chat(question)
        messages = [{"role": m.role.value, "content": m.content} for m in history(*said, question)]
        expected = mini.generate(messages, passages=oracle, retrieval="always", max_retrievals=1, max_new_tokens=32)
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
    assert sources(stream) == sources(whole)
    assert [m.content for m in chat.chat_history] == said

    async def both() -> None:
        response = await chat.achat(QUESTIONS[1], chat_history=before)
        assert (response.response, sources(response)) == (whole.response, sources(whole))
        assert [m.content for m in chat.chat_history] == said
        stream = await chat.astream_chat(QUESTIONS[1], chat_history=before)
        assert "".join([text async for text in stream.async_response_gen()]) == whole.response
        assert sources(stream) == sources(whole)
        assert [m.content for m in chat.chat_history] == said

    asyncio.run(both())


def test_a_closed_stream_leaves_no_answer_in_the_history(engine):
    chat = engine.as_chat_engine()
    stream = chat.stream_chat(QUESTIONS[0]).response_gen
    next(stream)
    stream.close()
    assert [m.content for m in chat.chat_history] == [QUESTIONS[0]]


def test_the_system_prompt_stands_in_front(index, llm, mini, oracle):
    options = {"retrieval": "always", "max_retrievals": 1}
    engine = OneGenQueryEngine.from_index(index, system_prompt="You are terse.", **options)
    messages = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": QUESTIONS[0]}]
    expected = mini.generate(messages, passages=oracle, max_new_tokens=32, **options).text
    assert engine.query(QUESTIONS[0]).response == engine.as_chat_engine().chat(QUESTIONS[0]).response == expected


def test_the_frameworks_condensing_chat_engine_takes_it(engine, llm):
    chat = CondenseQuestionChatEngine.from_defaults(query_engine=engine, llm=llm)
    assert len(chat.chat(QUESTIONS[0]).source_nodes) == 1
    assert isinstance(chat.chat(QUESTIONS[1]).response, str)


# --- Chroma ---------------------------------------------------------------------------------------


def test_an_index_can_be_opened_again(index, engine, llm, database: Path, tmp_path: Path):
    index.storage_context.persist(tmp_path)
    opened = open_vector_store(OneGenEmbedding(llm), path=database)
    storage = StorageContext.from_defaults(vector_store=opened, persist_dir=str(tmp_path))
    again = load_index_from_storage(storage)
    for question in QUESTIONS:
        options = {"retrieval": "always", "max_retrievals": 1}
        assert (
            OneGenQueryEngine.from_index(again, **options).query(question).response == engine.query(question).response
        )
        assert sources(again.as_query_engine().query(question)) == sources(index.as_query_engine().query(question))


def test_scores_are_cosine_similarities(index, mini, oracle):
    retriever = index.as_retriever(similarity_top_k=5)
    assert [(f.node.ref_doc_id, f.score) for f in retriever.retrieve(QUESTIONS[0])] == nearest(
        oracle, mini, QUESTIONS[0], 5
    )


def test_a_node_takes_the_place_of_one_with_its_id(llm, tmp_path: Path):
    store = open_vector_store(llm, path=tmp_path)
    embed_model = llm.as_embed_model()
    for text, metadata in (("The old text.", {"old": 1, "both": 1}), ("The new text.", {"both": 2, "none": None})):
        assert store.add(embed_model([TextNode(id_="a", text=text, metadata=metadata)])) == ["a"]
    [node] = store.get_nodes(["a"])
    assert node.text == "The new text."
    row = store.client.get(ids=["a"], include=["metadatas", "embeddings"])
    assert row["metadatas"][0]["both"] == 2
    assert "old" not in row["metadatas"][0]
    assert np.allclose(
        row["embeddings"][0], embed_model.get_text_embedding(node.get_content(MetadataMode.EMBED)), atol=1e-5
    )


def test_documents_can_be_deleted(llm, tmp_path: Path):
    store = open_vector_store(llm, path=tmp_path, collection="docs")
    index = VectorStoreIndex.from_documents(
        DOCUMENTS[:3], storage_context=StorageContext.from_defaults(vector_store=store)
    )
    index.delete_ref_doc(DOCUMENTS[0].doc_id)
    assert store.client.count() == 2


@pytest.mark.slow
def test_6000_nodes_are_ingested_in_one_call(llm, tmp_path: Path):
    store = open_vector_store(llm, path=tmp_path)
    nodes = [TextNode(id_=str(number), text=f"Item {number}") for number in range(6_000)]
    IngestionPipeline(transformations=[llm.as_embed_model()], vector_store=store, disable_cache=True).run(nodes=nodes)
    assert store.client.count() == 6_000
    index = VectorStoreIndex.from_vector_store(store)
    [found] = index.as_retriever(similarity_top_k=1).retrieve(QueryBundle("Item", embedding=nodes[5_999].embedding))
    assert (found.node_id, found.score) == ("5999", pytest.approx(1, abs=1e-4))


def test_path_and_client_together_are_refused(llm, tmp_path: Path):
    with pytest.raises(InvalidInputError, match="path="):
        open_vector_store(llm, path=tmp_path, client=chromadb.EphemeralClient())


# --- another model --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stranger(mini: OneGen) -> MockEmbedding:
    """Another model, whose vectors have as many dimensions."""
    return MockEmbedding(embed_dim=mini.dim)


def test_a_collection_of_another_model_is_not_opened(index, database: Path, tiny):
    with pytest.raises(FingerprintMismatchError, match="onegen-mini"):
        open_vector_store(tiny(), path=database)


def test_an_index_over_a_collection_of_another_model_is_refused(index, tiny, monkeypatch):
    engine = OneGenQueryEngine.from_vector_store(index.vector_store, OneGenLLM(tiny(), max_tokens=4))
    no_vector_is_compared(monkeypatch, ChromaVectorStore)
    with pytest.raises(FingerprintMismatchError, match="onegen-mini"):
        engine.query(QUESTIONS[0])
    with pytest.raises(FingerprintMismatchError, match="onegen-mini"):
        asyncio.run(engine.aquery(QUESTIONS[0]))
    with pytest.raises(FingerprintMismatchError, match="onegen-mini"):
        engine.as_chat_engine().chat(QUESTIONS[0])


def test_an_index_in_memory_of_another_model_is_refused(stranger, monkeypatch):
    index = VectorStoreIndex.from_documents(DOCUMENTS[:3], embed_model=stranger)
    no_vector_is_compared(monkeypatch, SimpleVectorStore)
    with pytest.raises(FingerprintMismatchError, match="SimpleVectorStore"):
        OneGenQueryEngine.from_index(index).query(QUESTIONS[0])


def test_a_persisted_index_of_another_model_is_refused(stranger, tmp_path: Path, monkeypatch):
    VectorStoreIndex.from_documents(DOCUMENTS[:3], embed_model=stranger).storage_context.persist(tmp_path)
    index = load_index_from_storage(StorageContext.from_defaults(persist_dir=str(tmp_path)))  # with our embedding model
    no_vector_is_compared(monkeypatch, SimpleVectorStore)
    with pytest.raises(FingerprintMismatchError, match="SimpleVectorStore"):
        OneGenQueryEngine.from_index(index).query(QUESTIONS[0])


def plain_index(path: Path, embed_model: Any) -> VectorStoreIndex:
    """An index over a collection made as LlamaIndex's documentation makes it."""
    store = ChromaVectorStore(chroma_collection=chromadb.PersistentClient(str(path)).create_collection("plain"))
    storage = StorageContext.from_defaults(vector_store=store)
    return VectorStoreIndex.from_documents(DOCUMENTS, storage_context=storage, embed_model=embed_model)


def test_a_plain_collection_of_another_model_is_refused(stranger, tmp_path: Path, monkeypatch):
    engine = OneGenQueryEngine.from_index(plain_index(tmp_path, stranger))
    no_vector_is_compared(monkeypatch, ChromaVectorStore)
    with pytest.raises(FingerprintMismatchError, match="ChromaVectorStore"):
        engine.query(QUESTIONS[0])


def test_a_plain_collection_of_this_model_is_taken(engine, llm, tmp_path: Path):
    index = plain_index(tmp_path, llm.as_embed_model())
    response = OneGenQueryEngine.from_index(index, retrieval="always", max_retrievals=1).query(QUESTIONS[0])
    assert response.response == engine.query(QUESTIONS[0]).response


class Elsewhere(BasePydanticVectorStore):
    """A store that this package knows nothing about."""

    stores_text: bool = True
    nodes: dict[str, TextNode] = Field(default_factory=dict)

    @property
    def client(self) -> None:
        return None

    def add(self, nodes: Any, **kwargs: Any) -> list[str]:
        self.nodes |= {node.node_id: node for node in nodes}
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id: str, **kwargs: Any) -> None:
        raise NotImplementedError

    def query(self, query: Any, **kwargs: Any) -> VectorStoreQueryResult:
        scores = {key: float(np.dot(query.query_embedding, node.embedding)) for key, node in self.nodes.items()}
        best = sorted(scores, key=scores.__getitem__, reverse=True)[: query.similarity_top_k]
        return VectorStoreQueryResult([self.nodes[key] for key in best], [scores[key] for key in best], best)


def test_any_other_store_counts_by_the_embedding_model_of_its_index(engine, stranger, mini, oracle, monkeypatch):
    storage = StorageContext.from_defaults(vector_store=Elsewhere())
    index = VectorStoreIndex.from_documents(DOCUMENTS, storage_context=storage)
    response = OneGenQueryEngine.from_index(index, retrieval="always", max_retrievals=1).query(QUESTIONS[0])
    assert sources(response) == nearest(oracle, mini, QUESTIONS[0])
    assert response.response == engine.query(QUESTIONS[0]).response
    strange = VectorStoreIndex.from_vector_store(index.vector_store, embed_model=stranger)
    no_vector_is_compared(monkeypatch, Elsewhere)
    with pytest.raises(FingerprintMismatchError, match="Elsewhere"):
        OneGenQueryEngine.from_index(strange).query(QUESTIONS[0])
