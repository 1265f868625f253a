"""Vector stores of indexes: Chroma opened rightly, indexes opened again, and those of another model refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from llama_index.core import (
    MockEmbedding,
    StorageContext,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import MetadataMode, QueryBundle, TextNode
from llama_index.core.vector_stores import SimpleVectorStore, VectorStoreQueryResult
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from llama_index.vector_stores.chroma import ChromaVectorStore
from llama_index_parts import (
    DOCUMENTS,
    ONE_RETRIEVAL,
    QUESTIONS,
    chroma_index,
    nearest,
    oracle_of,
    sources,
)
from pydantic import Field

from onegen_integrations import (
    FingerprintMismatchError,
    InvalidInputError,
    MemoryPassages,
    OneGen,
)
from onegen_integrations.llama_index import (
    OneGenEmbedding,
    OneGenLLM,
    OneGenQueryEngine,
    open_vector_store,
)

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


def no_vector_is_compared(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        pytest.fail("vectors of two models were compared")

    monkeypatch.setattr(kind, "query", refuse)


# --- Chroma ---------------------------------------------------------------------------------------


def test_an_index_can_be_opened_again(index, engine, llm, database: Path, tmp_path: Path):
    index.storage_context.persist(tmp_path)
    opened = open_vector_store(OneGenEmbedding(llm), path=database)
    storage = StorageContext.from_defaults(vector_store=opened, persist_dir=str(tmp_path))
    again = load_index_from_storage(storage)
    for question in QUESTIONS:
        response = OneGenQueryEngine.from_index(again, **ONE_RETRIEVAL).query(question)
        assert response.response == engine.query(question).response
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


def test_async_indexing_and_search_give_the_same(llm, tmp_path: Path):
    store = open_vector_store(llm, path=tmp_path)

    async def ask() -> list[Any]:
        index = VectorStoreIndex([], storage_context=StorageContext.from_defaults(vector_store=store))
        await index.ainsert_nodes([TextNode(id_=str(n), text=d.text) for n, d in enumerate(DOCUMENTS[:5])])
        return await index.as_retriever(similarity_top_k=3).aretrieve(QUESTIONS[0])

    found = asyncio.run(ask())
    again = VectorStoreIndex.from_vector_store(store).as_retriever(similarity_top_k=3).retrieve(QUESTIONS[0])
    assert [(node.node_id, node.score) for node in found] == [(node.node_id, node.score) for node in again]


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
    response = OneGenQueryEngine.from_index(index, **ONE_RETRIEVAL).query(QUESTIONS[0])
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
    response = OneGenQueryEngine.from_index(index, **ONE_RETRIEVAL).query(QUESTIONS[0])
    assert sources(response) == nearest(oracle, mini, QUESTIONS[0])
    assert response.response == engine.query(QUESTIONS[0]).response
    strange = VectorStoreIndex.from_vector_store(index.vector_store, embed_model=stranger)
    no_vector_is_compared(monkeypatch, Elsewhere)
    with pytest.raises(FingerprintMismatchError, match="Elsewhere"):
        OneGenQueryEngine.from_index(strange).query(QUESTIONS[0])
