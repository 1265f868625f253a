"""Query engines over one set of weights. Sources and paths are tested, not what the bundled model says."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import (
    Settings,
    VectorStoreIndex,
)
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, QueryBundle
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index_parts import (
    DOCUMENTS,
    ONE_RETRIEVAL,
    QUESTIONS,
    Heard,
    chroma_index,
    nearest,
    oracle_of,
    sources,
)
from pydantic import Field

from onegen_integrations import (
    InvalidInputError,
    MemoryPassages,
    OneGen,
    Passage,
    PassageSourceError,
)
from onegen_integrations.chroma import ChromaPassages
from onegen_integrations.llama_index import (
    OneGenLLM,
    OneGenQueryEngine,
    PassageRetriever,
    open_vector_store,
)
from onegen_integrations.llama_index.retrieval import RetrievedNodes

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
    chroma = ChromaPassages(mini, path=tmp_path)
    chroma.add(Passage(d.doc_id, d.get_content(metadata_mode=MetadataMode.EMBED), {"a": 1}) for d in DOCUMENTS)
    engines = [
        OneGenQueryEngine.from_vector_store(open_vector_store(llm, path=database), **ONE_RETRIEVAL),
        OneGenQueryEngine.from_passages(oracle, **ONE_RETRIEVAL),
        OneGenQueryEngine.from_passages(chroma, llm, **ONE_RETRIEVAL),
        OneGenQueryEngine(index.as_retriever(similarity_top_k=1), **ONE_RETRIEVAL),
        OneGenQueryEngine.from_index(VectorStoreIndex.from_documents(DOCUMENTS), **ONE_RETRIEVAL),
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
    search = RetrievedNodes.search_for

    def watched(self: RetrievedNodes, *args: Any) -> Any:
        threads.add(threading.get_ident())
        return search(self, *args)

    monkeypatch.setattr(RetrievedNodes, "search_for", watched)

    async def ask() -> None:
        await engine.aquery(QUESTIONS[0])
        assert threads
        assert threading.get_ident() not in threads

    asyncio.run(ask())


# --- retrieval ------------------------------------------------------------------------------------


def test_filters_top_k_and_modes_are_the_retrievers(index, oracle, mini):
    filters = MetadataFilters(filters=[MetadataFilter(key="part", value=3)])
    response = OneGenQueryEngine.from_index(index, filters=filters, similarity_top_k=3, **ONE_RETRIEVAL).query(
        QUESTIONS[0]
    )
    ranked = nearest(oracle, mini, QUESTIONS[0], len(DOCUMENTS))
    part = {document.doc_id: document.metadata["part"] for document in DOCUMENTS}
    assert sources(response) == [(ref, score) for ref, score in ranked if part[ref] == 3][:3]
    assert len(response.metadata["retrievals"][0]["passages"]) == 3
    diverse = OneGenQueryEngine.from_index(
        index,
        vector_store_query_mode="mmr",
        vector_store_kwargs={"mmr_threshold": 0.1},
        similarity_top_k=3,
        **ONE_RETRIEVAL,
    ).query(QUESTIONS[0])
    assert len(diverse.source_nodes) == 3
    assert sources(diverse)[0] == ranked[0]


def test_postprocessors_decide_what_the_model_reads(index, oracle, mini):
    nothing = [SimilarityPostprocessor(similarity_cutoff=1.1)]
    response = OneGenQueryEngine.from_index(index, node_postprocessors=nothing, **ONE_RETRIEVAL).query(QUESTIONS[0])
    assert response.source_nodes == []
    assert response.metadata["retrievals"][0]["passages"] == []
    all_of_them = [SimilarityPostprocessor(similarity_cutoff=-1)]
    response = OneGenQueryEngine.from_index(index, node_postprocessors=all_of_them, **ONE_RETRIEVAL).query(QUESTIONS[0])
    assert sources(response) == nearest(oracle, mini, QUESTIONS[0])


def test_each_retrieval_is_known_by_the_text_that_led_to_it(mini, llm):
    class Reader(BaseNodePostprocessor):
        queries: list[str] = Field(default_factory=list)

        def _postprocess_nodes(self, nodes: Any, query_bundle: Any = None) -> Any:
            self.queries.append(query_bundle.query_str)
            return nodes

    source = MemoryPassages(mini)
    source.add(
        [Passage("a", "The capital of Norvia is Tolmar."), Passage("b", "The mayor of Tolmar is Velkorin Tarm.")]
    )
    reader = Reader()
    engine = OneGenQueryEngine.from_passages(source, llm, node_postprocessors=[reader])
    response = engine.query("Who is the mayor of the capital of Norvia?")
    assert [found["query"] for found in response.metadata["retrievals"]] == reader.queries
    assert len(set(reader.queries)) == 2


def test_the_start_of_an_answer_can_be_written_as_json(engine, heard):
    engine.query(QUESTIONS[0])
    [start] = [event for event in heard.events if type(event).__name__ == "LLMChatStartEvent"]
    assert QUESTIONS[0] in start.model_dump_json()


def test_the_model_reads_the_text_that_was_embedded(index, mini):
    source = RetrievedNodes(index.as_retriever(similarity_top_k=1))
    [[passage]] = source.search(mini.embed_queries([QUESTIONS[0]]), 1)
    [found] = source.nodes
    assert passage.text == found.node.get_content(metadata_mode=MetadataMode.EMBED)
    assert passage.text.startswith("title: ")
    assert "part" not in passage.text
    assert passage.title == ""


def test_a_passage_keeps_its_title(mini):
    source = MemoryPassages(mini)
    source.add([Passage("a", "Some text.", {"title": "A title", "page": 3})])
    retrieved = RetrievedNodes(PassageRetriever(source, OneGenLLM(mini)))
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


def test_unknown_options_are_refused(index):
    with pytest.raises(InvalidInputError, match="top_k"):
        OneGenQueryEngine.from_index(index, top_k=3)


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
