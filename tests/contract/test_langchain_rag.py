"""`OneGenRAG`, `OneGenChroma` and LangChain's vector stores: one pass, traced, and other models refused."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromadb import EphemeralClient
from langchain_chroma import Chroma
from langchain_classic.chains import create_history_aware_retriever, create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.retrievers import EnsembleRetriever, MultiQueryRetriever
from langchain_community.vectorstores import FAISS
from langchain_community.vectorstores.utils import DistanceStrategy
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.tracers import BaseTracer
from langchain_core.tracers.schemas import Run
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langgraph.graph import END, START, StateGraph
from langgraph.store.memory import InMemoryStore
from pydantic import ValidationError
from typing_extensions import TypedDict

from onegen_integrations import (
    FingerprintMismatchError,
    InvalidInputError,
    MemoryPassages,
    OneGen,
    Passage,
    PassageSourceError,
)
from onegen_integrations.chroma import ChromaPassages, open_database
from onegen_integrations.evaluation.mini import demo_questions
from onegen_integrations.langchain import OneGenChroma, OneGenEmbeddings, OneGenLLM, OneGenRAG, VectorStorePassages
from onegen_integrations.passages import ScoredPassage

PASSAGES = demo_questions().passages[:60]
QUESTION = "What is the largest glacier in Iceland?"


@pytest.fixture(scope="module")
def llm(mini: OneGen) -> OneGenLLM:
    return OneGenLLM(model=mini, max_tokens=32)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return [Document(id=p.id, page_content=p.text, metadata=dict(p.metadata)) for p in PASSAGES]


@pytest.fixture(scope="module")
def store(llm: OneGenLLM, documents: list[Document], tmp_path_factory: Any) -> OneGenChroma:
    folder = str(tmp_path_factory.mktemp("chroma"))
    return OneGenChroma.from_documents(documents, llm, persist_directory=folder)


@pytest.fixture(scope="module")
def rag(llm: OneGenLLM, store: OneGenChroma) -> OneGenRAG:
    return OneGenRAG(llm=llm, vectorstore=store, retrieval="always")


class Tracer(BaseTracer):
    """Keeps the finished trees of runs."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)


# --- in place of create_retrieval_chain -----------------------------------------------------------


def test_it_takes_and_gives_what_a_retrieval_chain_does(llm: OneGenLLM, store: OneGenChroma, rag: OneGenRAG) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Use the context:\n{context}"), ("human", "{input}")])
    chain = create_retrieval_chain(
        store.as_retriever(search_kwargs={"k": 1}), create_stuff_documents_chain(llm, prompt)
    )
    given = {"input": QUESTION, "chat_history": []}
    old, new = chain.invoke(given), rag.invoke(given)
    assert set(old) == {"input", "chat_history", "context", "answer"}
    assert set(new) == set(old) | {"usage_metadata"}
    assert [d.id for d in new["context"]] == [d.id for d in old["context"]]
    assert new["context"][0].page_content == old["context"][0].page_content
    assert isinstance(new["answer"], str)
    assert new["context"][0].metadata["relevance_score"] == pytest.approx(
        store.similarity_search_with_relevance_scores(QUESTION, k=1)[0][1], abs=1e-4
    )


async def test_every_way_to_run_it_gives_the_same(rag: OneGenRAG) -> None:
    expected = rag.invoke(QUESTION)
    del expected["usage_metadata"]
    for result in (
        rag.invoke({"input": QUESTION}),
        await rag.ainvoke(QUESTION),
        rag.batch([QUESTION])[0],
        (await rag.abatch([QUESTION]))[0],
        _joined(list(rag.stream(QUESTION))),
        _joined([chunk async for chunk in rag.astream(QUESTION)]),
        (RunnablePassthrough() | rag).invoke(QUESTION),
    ):
        usage = result.pop("usage_metadata")
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert result == expected


def _joined(chunks: list[Any]) -> Any:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return dict(whole)


def test_the_context_is_streamed_before_the_answer(rag: OneGenRAG) -> None:
    keys = [next(iter(chunk)) for chunk in rag.stream(QUESTION)]
    assert keys[:2] == ["input", "context"]
    assert set(keys[2:-1]) == {"answer"}
    assert keys[-1] == "usage_metadata"


def test_what_an_input_has_under_the_names_of_the_output_does_not_count(rag: OneGenRAG) -> None:
    first = rag.invoke(QUESTION)
    again = rag.invoke({**first, "answer": "42", "other": 1})
    for result in (first, again):
        del result["usage_metadata"]
    assert again == {**first, "other": 1}


def test_settings_of_the_search_count_from_the_next_call_on(llm: OneGenLLM, store: OneGenChroma) -> None:
    rag = OneGenRAG(llm=llm, vectorstore=store, retrieval="always", max_retrievals=1)
    assert len(rag.invoke(QUESTION)["context"]) == 1
    rag.search_kwargs["filter"] = {"title": "none"}
    assert rag.invoke(QUESTION)["context"] == []
    other = rag.model_copy(update={"search_kwargs": {"filter": {"title": PASSAGES[9].title}}})
    assert [document.id for document in other.invoke(QUESTION)["context"]] == [PASSAGES[9].id]
    with pytest.raises(ValidationError, match=r"write k= beside it"):
        OneGenRAG(llm=llm, vectorstore=store, search_kwargs={"k": 2})


def test_a_threshold_needs_scores_that_are_cosines(llm: OneGenLLM) -> None:
    class Scoreless(VectorStore):
        embeddings = llm
        from_texts = similarity_search = None

        def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **_: Any) -> list[Document]:
            return [Document("A fact.", id="a")]

    rag = OneGenRAG(llm=llm, vectorstore=Scoreless(), retrieval="always", score_threshold=0.5)
    with pytest.raises(InvalidInputError, match="not known to be cosine"):
        rag.invoke(QUESTION)
    assert rag.model_copy(update={"score_threshold": None}).invoke(QUESTION)["context"]


def test_without_a_retrieval_there_is_an_empty_context(llm: OneGenLLM, store: OneGenChroma) -> None:
    result = OneGenRAG(llm=llm, vectorstore=store, retrieval="never").invoke("Hello!")
    assert result["context"] == []
    assert result["answer"] == llm.invoke("Hello!").text


def test_history_filters_k_and_threshold(llm: OneGenLLM, store: OneGenChroma, rag: OneGenRAG) -> None:
    history = [HumanMessage("What is the capital of Iceland?"), AIMessage("Reykjavik")]
    result = rag.invoke({"input": "What does its name mean?", "chat_history": history})
    assert result["chat_history"] == history
    assert len(OneGenRAG(llm=llm, vectorstore=store, retrieval="always", k=3).invoke(QUESTION)["context"]) >= 3
    high = OneGenRAG(llm=llm, vectorstore=store, retrieval="always", max_retrievals=1, score_threshold=1.1)
    assert high.invoke(QUESTION)["context"] == []
    one = OneGenRAG(
        llm=llm,
        vectorstore=store,
        retrieval="always",
        max_retrievals=1,
        k=2,
        search_kwargs={"filter": {"topic": "none"}},
    )
    assert one.invoke(QUESTION)["context"] == []


def test_bad_input_is_refused(llm: OneGenLLM, store: OneGenChroma, rag: OneGenRAG) -> None:
    with pytest.raises(InvalidInputError, match="input"):
        rag.invoke({"question": "?"})
    with pytest.raises(InvalidInputError, match="empty"):
        rag.invoke(" ")
    with pytest.raises(InvalidInputError, match="chat_history must be a list"):
        rag.invoke({"input": "Who?", "chat_history": "Human: Hello"})
    with pytest.raises(ValidationError, match="and not both"):
        OneGenRAG(llm=llm)
    with pytest.raises(ValidationError, match="VectorStore"):
        OneGenRAG(llm=llm, vectorstore=store.as_retriever())


# --- vector stores --------------------------------------------------------------------------------


def make_store(kind: str, documents: list[Document], embedding: Any, folder: Path) -> VectorStore:
    if kind == "onegen_chroma":
        return OneGenChroma.from_documents(documents, embedding, persist_directory=str(folder))
    if kind == "chroma":
        return Chroma.from_documents(documents, embedding, persist_directory=str(folder))
    if kind == "chroma_cosine":
        settings = {"hnsw": {"space": "cosine"}}
        return Chroma.from_documents(
            documents, embedding, persist_directory=str(folder), collection_configuration=settings
        )
    if kind == "faiss_cosine":
        return FAISS.from_documents(documents, embedding, distance_strategy=DistanceStrategy.COSINE)
    if kind == "faiss_inner_product":
        return FAISS.from_documents(documents, embedding, distance_strategy=DistanceStrategy.MAX_INNER_PRODUCT)
    return (InMemoryVectorStore if kind == "memory" else FAISS).from_documents(documents, embedding)


@pytest.mark.parametrize(
    "kind", ["onegen_chroma", "chroma", "chroma_cosine", "memory", "faiss", "faiss_cosine", "faiss_inner_product"]
)
def test_every_store_finds_the_same_with_cosine_scores(
    llm: OneGenLLM, documents: list[Document], tmp_path: Path, kind: str
) -> None:
    store = make_store(kind, documents, OneGenEmbeddings(llm=llm), tmp_path)
    found = OneGenRAG(llm=llm, vectorstore=store, retrieval="always", k=3, max_retrievals=1).invoke(QUESTION)["context"]
    vectors = llm.onegen.embed_documents([d.page_content for d in documents])
    scores = vectors @ llm.onegen.embed_queries([QUESTION])[0]
    best = np.argsort(-scores)[:3]
    assert [d.id for d in found] == [documents[i].id for i in best]
    assert [d.metadata["relevance_score"] for d in found] == pytest.approx([scores[i] for i in best], abs=1e-4)


@pytest.mark.parametrize("kind", ["chroma", "memory", "faiss"])
def test_a_store_of_another_model_is_refused(
    llm: OneGenLLM, documents: list[Document], tmp_path: Path, kind: str
) -> None:
    other = DeterministicFakeEmbedding(size=llm.onegen.dim)
    rag = OneGenRAG(llm=llm, vectorstore=make_store(kind, documents[:5], other, tmp_path), retrieval="always")
    with pytest.raises(FingerprintMismatchError, match="has not made"):
        rag.invoke(QUESTION)


def test_a_collection_refuses_another_model_in_every_way(
    llm: OneGenLLM, tiny_folder: Path, documents: list[Document], tmp_path: Path
) -> None:
    OneGenChroma.from_documents(documents[:5], llm, persist_directory=str(tmp_path))
    other = OneGenChroma(embedding_function=OneGenLLM(model=str(tiny_folder)), persist_directory=str(tmp_path))
    for call in (
        lambda: other.add_texts(["new"]),
        lambda: other.similarity_search("x"),
        lambda: other.similarity_search_by_vector([0.1] * 8),
        lambda: other.as_retriever().invoke("x"),
        lambda: other.max_marginal_relevance_search("x"),
        lambda: OneGenRAG(llm=OneGenLLM(model=str(tiny_folder)), vectorstore=other).invoke("x"),
    ):
        with pytest.raises(FingerprintMismatchError, match="onegen-mini"):
            call()
    with pytest.raises(InvalidInputError, match="OneGenLLM"):
        OneGenChroma(embedding_function=DeterministicFakeEmbedding(size=4))


def test_a_document_that_is_added_again_keeps_nothing_of_its_old_metadata(llm: OneGenLLM, tmp_path: Path) -> None:
    store = OneGenChroma(embedding_function=llm, persist_directory=str(tmp_path))
    store.add_documents([Document("One.", id="a", metadata={"secret": True, "v": 1}), Document("Two.", id="b")])
    store.add_documents([Document("One.", id="a", metadata={"v": 2}), Document("Two.", id="b", metadata={"v": 3})])
    assert store.get(["a", "b"])["metadatas"] == [{"v": 2}, {"v": 3}]
    store.add_texts(["One."], ids=["a"])
    assert store.get(["a"])["metadatas"] == [None]
    assert store.get(where={"v": 2})["ids"] == []
    assert len(store.add_texts(["Three.", "Four."], ids=[None, None])) == 2
    store.add_texts(["Two.", "Five."], metadatas=[{"v": 5}], ids=["b", "c"])
    assert store.get(["b", "c"])["metadatas"] == [{"v": 5}, None]


def stored_vectors(store: OneGenChroma, ids: list[str]) -> np.ndarray:
    rows = store.get(ids, include=["embeddings"])
    return np.array([rows["embeddings"][rows["ids"].index(key)] for key in ids])


def test_titles_are_embedded_and_read_where_the_collection_was_created_so(llm: OneGenLLM, tmp_path: Path) -> None:
    """What has a title is embedded with it, however it is written, and whoever opens the collection again."""
    folder = str(tmp_path)
    given = [
        Document("It is 212 km long.", id="river", metadata={"title": "River Esk"}),
        Document("It opens at 11:30.", id="canteen", metadata={"title": "Canteen", "floor": 2}),
        Document("Visitors register at the desk.", id="bare"),
    ]
    OneGenChroma.from_documents(given[:2], llm, persist_directory=folder, titles=True)
    store = OneGenChroma(embedding_function=OneGenEmbeddings(llm=llm), persist_directory=folder)
    store.add_documents(given[2:])
    store.update_document("canteen", Document("It opens at 12:00.", metadata={"floor": 3}))
    ids, titles = ["river", "canteen", "bare"], ["River Esk", "Canteen", ""]
    texts = ["It is 212 km long.", "It opens at 12:00.", "Visitors register at the desk."]
    assert stored_vectors(store, ids) == pytest.approx(llm.onegen.embed_documents(texts, titles=titles), abs=1e-5)
    assert store.get("canteen")["metadatas"] == [{"title": "Canteen", "floor": 3}]
    plain = Chroma(embedding_function=llm, persist_directory=folder)
    for opened in (store, plain):
        [found] = VectorStorePassages(opened, llm.onegen).search(llm.onegen.embed_queries(["How long is the Esk?"]), 3)
        assert {passage.id: passage.title for passage in found} == dict(zip(ids, titles, strict=True))
    rag = OneGenRAG(llm=llm, vectorstore=store, retrieval="always", max_retrievals=1)
    passages = MemoryPassages(llm.onegen)
    passages.add([Passage(d.id, d.page_content, d.metadata) for d in given])
    same = OneGenRAG(llm=llm, passages=passages, retrieval="always", max_retrievals=1)
    question = "How long is the River Esk?"
    read, wanted = (chain.invoke(question)["usage_metadata"]["input_tokens"] for chain in (rag, same))
    assert read == wanted


def test_titles_count_in_a_collection_of_passages(llm: OneGenLLM, tmp_path: Path) -> None:
    client = open_database(tmp_path)
    passages = ChromaPassages(llm.onegen, client=client, collection="esk")
    passages.add([Passage("river", "It is 212 km long.", {"title": "River Esk"})])
    store = OneGenChroma("esk", llm, client=client)
    store.add_documents([Document("It is 212 km long.", id="same", metadata={"title": "River Esk"})])
    first, second = stored_vectors(store, ["river", "same"])
    assert first == pytest.approx(second, abs=1e-5)


@pytest.mark.parametrize("titles", [True, False])
def test_a_collection_keeps_to_its_way_with_titles(llm: OneGenLLM, tmp_path: Path, titles: bool) -> None:
    OneGenChroma.from_texts(["One."], llm, persist_directory=str(tmp_path), titles=titles)
    with pytest.raises(InvalidInputError, match=f"created with titles={titles}"):
        OneGenChroma.from_texts(["Two."], llm, persist_directory=str(tmp_path), titles=not titles)
    assert OneGenChroma.from_texts(["Two."], llm, persist_directory=str(tmp_path)).similarity_search("Two", k=2)


def test_more_documents_than_one_call_of_chroma_takes(tiny_folder: Path, tmp_path: Path) -> None:
    llm = OneGenLLM(model=str(tiny_folder))
    store = OneGenChroma(embedding_function=llm, persist_directory=str(tmp_path))
    texts = [f"Number {number}." for number in range(6_000)]
    assert len(store.add_texts(texts)) == 6_000
    assert len(store.get(include=[])["ids"]) == 6_000


# --- one pass, and what is seen of it -------------------------------------------------------------


@pytest.mark.parametrize("mode", ["invoke", "stream", "batch", "ainvoke", "astream", "abatch"])
async def test_a_tracer_sees_retriever_runs_inside_the_run(rag: OneGenRAG, mode: str) -> None:
    tracer = Tracer()
    config = {"callbacks": [tracer]}
    chain = RunnablePassthrough() | rag | RunnableLambda(lambda out: out)
    if mode == "invoke":
        chain.invoke(QUESTION, config)
    elif mode == "stream":
        list(chain.stream(QUESTION, config))
    elif mode == "batch":
        chain.batch([QUESTION], config)
    elif mode == "ainvoke":
        await chain.ainvoke(QUESTION, config)
    elif mode == "abatch":
        await chain.abatch([QUESTION], config)
    else:
        [chunk async for chunk in chain.astream(QUESTION, config)]
    [root] = tracer.roots
    [one_pass] = [run for run in root.child_runs if run.name == "OneGenRAG"]
    model, retriever = one_pass.child_runs[:2]
    assert (model.run_type, model.name) == ("llm", "OneGenLLM")
    message = model.outputs["generations"][0][0]["message"]["kwargs"]
    assert message["usage_metadata"] == one_pass.outputs["usage_metadata"]
    assert message["content"] == one_pass.outputs["answer"]
    assert model.start_time <= retriever.start_time <= retriever.end_time <= model.end_time
    assert any(event["name"] == "new_token" for event in model.events)
    assert (retriever.run_type, retriever.name) == ("retriever", "OneGenChroma")
    assert retriever.inputs == {"query": QUESTION}
    assert retriever.outputs is not None
    assert retriever.outputs["documents"][0].metadata["relevance_score"] > 0
    assert one_pass.outputs is not None
    assert one_pass.outputs["usage_metadata"]["input_tokens"] > 0
    assert one_pass.start_time <= retriever.start_time <= retriever.end_time <= one_pass.end_time


@pytest.mark.parametrize("inside", [False, True])
async def test_events_show_the_retrieval(rag: OneGenRAG, inside: bool) -> None:
    runnable = RunnablePassthrough() | rag if inside else rag
    events = [event async for event in runnable.astream_events(QUESTION)]
    own = [event["event"] for event in events if event["name"] in ("OneGenRAG", "OneGenChroma", "onegen_retrieval")]
    assert own[:2] == ["on_chain_start", "on_chain_stream"]
    assert own[2:6] == ["on_retriever_start", "on_retriever_end", "on_custom_event", "on_chain_stream"]
    assert own[-1] == "on_chain_end"
    [custom, *_] = [event for event in events if event["event"] == "on_custom_event"]
    assert custom["data"]["query"] == QUESTION
    assert custom["data"]["documents"][0].page_content


class BrokenStore(InMemoryVectorStore):
    """A vector store that fails at its second search."""

    searches = 0

    def similarity_search_with_score_by_vector(self, *args: Any, **kwargs: Any) -> Any:
        self.searches += 1
        if self.searches > 1:
            msg = "the disk is gone"
            raise OSError(msg)
        return super().similarity_search_with_score_by_vector(*args, **kwargs)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_error_of_the_store_surfaces_with_what_was_written(llm: OneGenLLM, asynchronous: bool) -> None:
    facts = ["The capital of Norvia is Tolmar.", "The mayor of Tolmar is Velkorin Tarm."]
    store = BrokenStore.from_texts(facts, llm)
    rag = OneGenRAG(llm=llm, vectorstore=store)
    question = "Who is the mayor of the capital of Norvia?"
    tracer = Tracer()
    chain = RunnablePassthrough() | rag

    async def run() -> None:
        config = {"callbacks": [tracer]}
        await chain.ainvoke(question, config) if asynchronous else chain.invoke(question, config)

    with pytest.raises(PassageSourceError, match="the disk is gone") as caught:
        await run()
    assert caught.value.partial is not None
    assert caught.value.partial.finish_reason == "error"
    assert "Tolmar" in caught.value.partial.text
    assert len(caught.value.partial.retrievals) == 1
    one_pass = next(run for run in tracer.roots[0].child_runs if run.name == "OneGenRAG")
    model, first, second = one_pass.child_runs
    assert first.error is None
    assert second.inputs == {"query": caught.value.partial.text.strip()}
    assert "the disk is gone" in second.error
    assert "the disk is gone" in model.error


def test_a_stream_that_is_closed_stops_computing(rag: OneGenRAG, forwards: list[int]) -> None:
    stream = rag.stream(QUESTION)
    while "answer" not in next(stream):
        pass
    forwards.clear()
    stream.close()
    assert len(forwards) <= 1


async def test_an_async_stream_that_is_closed_stops_computing(rag: OneGenRAG, forwards: list[int]) -> None:
    stream = rag.astream(QUESTION)
    while "answer" not in await anext(stream):
        pass
    forwards.clear()
    await stream.aclose()
    await asyncio.sleep(0.2)
    assert len(forwards) <= 1


class Counter(BaseCallbackHandler):
    """An ordinary handler: without `run_inline`, LangChain runs it in the pool of the event loop."""

    def __init__(self) -> None:
        self.retrievals = 0

    def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
        self.retrievals += 1


async def test_many_tasks_take_few_threads(rag: OneGenRAG) -> None:
    before = threading.active_count()
    tasks = [asyncio.create_task(rag.ainvoke(QUESTION)) for _ in range(100)]
    await asyncio.sleep(0.5)
    assert threading.active_count() - before <= 2 * min(32, (os.cpu_count() or 1) + 4)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(result, asyncio.CancelledError) for result in results)


def test_a_source_of_ones_own_is_told_the_text_and_checked(llm: OneGenLLM, mini: OneGen) -> None:
    class Own:
        def search(self, vectors: Any, k: int) -> Any:
            return []

    with pytest.raises(PassageSourceError, match="gave 0 lists of passages for one vector"):
        OneGenRAG(llm=llm, passages=Own(), retrieval="always").invoke(QUESTION)

    class Told(Own):
        def search_for(self, query: str, vector: Any, k: int) -> Any:
            return [ScoredPassage("told", query, {}, 1.0)]

    [document] = OneGenRAG(llm=llm, passages=Told(), retrieval="always", max_retrievals=1).invoke(QUESTION)["context"]
    assert document.page_content == QUESTION


async def test_tasks_with_callbacks_do_not_wait_for_each_other(rag: OneGenRAG) -> None:
    counter = Counter()
    tasks = (rag.ainvoke(QUESTION, {"callbacks": [counter]}) for _ in range(64))
    answers = await asyncio.wait_for(asyncio.gather(*tasks), timeout=300)
    assert len({answer["answer"] for answer in answers}) == 1
    assert counter.retrievals >= 64


async def test_callbacks_usage_and_rate_limiter_of_the_model_count(mini: OneGen, store: OneGenChroma) -> None:
    class Limiter(InMemoryRateLimiter):
        asked = 0

        def acquire(self, *, blocking: bool = True) -> bool:
            self.asked += 1
            return True

        async def aacquire(self, *, blocking: bool = True) -> bool:
            self.asked += 1
            return True

    class Errors(BaseCallbackHandler):
        def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
            raise AssertionError from error

        raise_error = True

    usage, limiter = UsageMetadataCallbackHandler(), Limiter()
    llm = OneGenLLM(model=mini, max_tokens=16, callbacks=[usage, Errors()], rate_limiter=limiter)
    rag = OneGenRAG(llm=llm, vectorstore=store, retrieval="always")
    spent = rag.invoke(QUESTION)["usage_metadata"]["total_tokens"]
    spent += (await rag.ainvoke(QUESTION))["usage_metadata"]["total_tokens"]
    assert usage.usage_metadata["onegen-mini"]["total_tokens"] == spent
    for chunk in rag.stream(QUESTION):
        if "usage_metadata" in chunk:
            break  # what is there ends as an answer, not as an error
    assert limiter.asked == 3


def test_many_threads_and_tasks_that_mix_everything(llm: OneGenLLM, rag: OneGenRAG) -> None:
    questions = [q.text for q in demo_questions().questions[:4]]
    answers = {question: rag.invoke(question)["answer"] for question in questions}
    hello = llm.invoke("Hello!").text
    vector = llm.embed_query(QUESTION)

    def work(number: int) -> bool:
        if number % 4 == 0:
            return llm.invoke("Hello!").text == hello
        if number % 4 == 1:
            return llm.embed_query(QUESTION) == pytest.approx(vector, abs=1e-5)
        question = questions[number % len(questions)]
        return rag.invoke(question)["answer"] == answers[question]

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(work, range(64)))

    async def one(number: int) -> bool:
        if number % 4 == 0:
            return (await llm.ainvoke("Hello!")).text == hello
        if number % 4 == 1:
            return await llm.aembed_query(QUESTION) == pytest.approx(vector, abs=1e-5)
        question = questions[number % len(questions)]
        return (await rag.ainvoke(question))["answer"] == answers[question]

    async def all_of_them() -> list[bool]:
        return await asyncio.gather(*map(one, range(64)))

    assert all(asyncio.run(all_of_them()))


# --- existing chains, agents and graphs -----------------------------------------------------------


def test_existing_chains_run_unchanged(llm: OneGenLLM, store: OneGenChroma) -> None:
    retriever = store.as_retriever(search_kwargs={"k": 2})
    prompt = ChatPromptTemplate.from_template("Answer from the context:\n{context}\n\nQuestion: {question}")
    lcel = {"context": retriever, "question": RunnablePassthrough()} | prompt | llm | StrOutputParser()
    assert isinstance(lcel.invoke(QUESTION), str)
    rewrite = ChatPromptTemplate.from_messages(
        [("system", "Rewrite the question."), MessagesPlaceholder("chat_history"), ("human", "{input}")]
    )
    aware = create_history_aware_retriever(llm, retriever, rewrite)
    history = [HumanMessage("What is the capital of Iceland?"), AIMessage("Reykjavik")]
    assert aware.invoke({"input": "What does its name mean?", "chat_history": history})
    assert MultiQueryRetriever.from_llm(retriever, llm).invoke(QUESTION) is not None
    assert EnsembleRetriever(retrievers=[retriever, retriever], weights=[0.5, 0.5]).invoke(QUESTION)


def test_it_is_a_tool_and_a_node_of_a_graph(rag: OneGenRAG) -> None:
    tool = rag.as_tool(name="ask_documents", description="Answers from the documents.")
    assert tool.invoke({"input": QUESTION})["answer"] == rag.invoke(QUESTION)["answer"]

    class State(TypedDict, total=False):
        input: str
        answer: str
        context: list[Document]

    graph = StateGraph(State)
    graph.add_node("rag", rag)
    graph.add_edge(START, "rag")
    graph.add_edge("rag", END)
    compiled = graph.compile()
    answer = rag.invoke(QUESTION)["answer"]
    assert compiled.invoke({"input": QUESTION})["answer"] == answer
    pieces = [message for message, _ in compiled.stream({"input": QUESTION}, stream_mode="messages")]
    assert "".join(message.text for message in pieces) == answer
    assert len({message.id for message in pieces}) == 1


def test_embeddings_are_the_index_of_a_graph_store(llm: OneGenLLM) -> None:
    memory = InMemoryStore(index={"embed": OneGenEmbeddings(llm=llm), "dims": llm.onegen.dim, "fields": ["text"]})
    memory.put(("notes",), "a", {"text": PASSAGES[0].text})
    memory.put(("notes",), "b", {"text": PASSAGES[30].text})
    assert memory.search(("notes",), query=QUESTION, limit=1)[0].key == "a"


def test_an_object_that_becomes_a_field_keeps_its_weights(mini: OneGen, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[object] = []

    def load(*_: Any, **__: Any) -> OneGen:
        loaded.append(mini)
        return mini

    monkeypatch.setattr(OneGen, "from_pretrained", load)
    llm, alone = OneGenLLM(), OneGenEmbeddings()
    for embeddings in (llm, OneGenEmbeddings(llm=llm), alone):
        store = OneGenChroma.from_texts(["The canteen opens at 11:30."], embeddings, client=EphemeralClient())
        OneGenRAG(llm=llm, vectorstore=store).invoke("When does the canteen open?")
    _ = (RunnablePassthrough() | llm, alone.embed_query("Who?"), alone.model_copy().embed_query("Who?"))
    assert len(loaded) == 2
