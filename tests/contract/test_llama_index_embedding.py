"""`OneGenEmbedding` keeps the contracts of LlamaIndex's embedding models, in indexing and in ingestion."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import pickle
import shutil
import threading
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import MetadataMode, TransformComponent
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index_parts import Heard
from pydantic import ValidationError

from onegen_integrations import FingerprintMismatchError, InvalidInputError, OneGen, OneGenConfig
from onegen_integrations.llama_index import OneGenEmbedding, OneGenLLM

TEXTS = [f"House {number} stands in {place} Street." for number in range(5) for place in ("Mill", "Church", "Harbour")]
DOCUMENTS = [Document(id_=str(n), text=text, metadata={"part": n % 2}) for n, text in enumerate(TEXTS)]


def batches(heard: Heard) -> list[int]:
    """The sizes of all batches that were embedded."""
    return [len(event.chunks) for event in heard.events if type(event).__name__ == "EmbeddingEndEvent"]


@pytest.fixture(scope="module")
def embed_model(mini: OneGen) -> OneGenEmbedding:
    return OneGenEmbedding(mini)


def vectors_of(nodes: Any) -> dict[str, list[float]]:
    return {node.get_content(metadata_mode=MetadataMode.EMBED): node.embedding for node in nodes}


def test_it_is_an_embedding_model_by_its_own_name():
    assert issubclass(OneGenEmbedding, (BaseEmbedding, TransformComponent))
    assert OneGenEmbedding.class_name() == "OneGenEmbedding"
    assert OneGenEmbedding().model_name == "onegen-mini"


# --- vectors --------------------------------------------------------------------------------------


def test_queries_and_texts_have_vectors_of_their_own(embed_model: OneGenEmbedding, mini: OneGen):
    query, text = embed_model.get_query_embedding(TEXTS[0]), embed_model.get_text_embedding(TEXTS[0])
    assert {type(number) for number in query + text} == {float}
    assert np.allclose(query, mini.embed_queries([TEXTS[0]])[0], atol=1e-6)
    assert np.allclose(text, mini.embed_documents([TEXTS[0]])[0], atol=1e-6)
    assert abs(embed_model.similarity(query, query) - 1) < 1e-5
    assert embed_model.similarity(query, text) < 0.999


def test_batches_keep_order_and_size_and_give_the_same_vectors(embed_model: OneGenEmbedding, heard: Heard):
    small = OneGenEmbedding(embed_model, embed_batch_size=4)
    batch = small.get_text_embedding_batch(TEXTS)
    assert batches(heard) == [4, 4, 4, 3]
    assert np.allclose(batch, [small.get_text_embedding(text) for text in TEXTS], atol=1e-5)
    assert small.get_text_embedding_batch([]) == []


def test_async_is_the_same_and_leaves_the_event_loop_free(embed_model: OneGenEmbedding, monkeypatch):
    threads: set[int] = set()
    embed = OneGen._embed_batch

    def watched(self: OneGen, documents: Any) -> Any:
        threads.add(threading.get_ident())
        return embed(self, documents)

    monkeypatch.setattr(OneGen, "_embed_batch", watched)

    async def vectors() -> Any:
        threads.clear()
        small = OneGenEmbedding(embed_model, embed_batch_size=4)
        found = (
            await small.aget_query_embedding(TEXTS[0]),
            await small.aget_text_embedding(TEXTS[0]),
            await small.aget_text_embedding_batch(TEXTS),
        )
        assert threading.get_ident() not in threads
        return found

    query, text, batch = asyncio.run(vectors())
    assert np.allclose(query, embed_model.get_query_embedding(TEXTS[0]), atol=1e-6)
    assert np.allclose(text, embed_model.get_text_embedding(TEXTS[0]), atol=1e-6)
    assert np.allclose(batch, embed_model.get_text_embedding_batch(TEXTS), atol=1e-5)


def test_each_call_fires_its_events_once(embed_model: OneGenEmbedding, heard: Heard):
    debug = LlamaDebugHandler(print_trace_on_end=False)
    watched = OneGenEmbedding(embed_model, callback_manager=CallbackManager([debug]))
    watched.get_query_embedding("a")
    watched.get_text_embedding("b")
    watched.get_text_embedding_batch(["c", "d"])
    assert batches(heard) == [1, 1, 2]
    assert len(debug.get_event_pairs(CBEventType.EMBEDDING)) == 3


def test_an_empty_text_is_refused(embed_model: OneGenEmbedding):
    with pytest.raises(InvalidInputError, match="empty"):
        embed_model.get_text_embedding("")
    with pytest.raises(InvalidInputError, match="empty"):
        embed_model.get_query_embedding("")


# --- settings -------------------------------------------------------------------------------------


def test_all_that_decides_a_vector_is_a_public_field(mini: OneGen):
    given = OneGenEmbedding(device="cpu", dtype="float32", config=OneGenConfig.preset("mini"))
    data = json.loads(json.dumps(given.to_dict()))
    assert data["class_name"] == "OneGenEmbedding"
    assert {"model", "config", "dtype", "revision", "adapter", "fingerprint"} <= set(data)
    assert given.onegen  # once they are loaded, the weights are called as before
    again = OneGenEmbedding.from_dict(data)
    assert again.to_dict() == given.to_dict() == data
    assert again.onegen is given.onegen
    assert OneGenEmbedding(mini).to_dict()["fingerprint"] == mini.fingerprint


def test_weights_are_told_apart_without_loading_them(tiny_folder: Path, tmp_path: Path, monkeypatch: Any):
    def load(*_: Any, **__: Any) -> OneGen:
        raise AssertionError

    monkeypatch.setattr(OneGen, "from_pretrained", load)
    copied = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    told = [OneGenEmbedding(model=str(folder)).to_dict()["weights"] for folder in (tiny_folder, copied)]
    assert told[0] == told[1]
    weights = copied / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert OneGenEmbedding(model=str(copied)).to_dict()["weights"] != told[0]


def test_weights_that_have_changed_are_not_taken_for_those_that_were_meant(tiny_folder: Path):
    data = OneGenEmbedding().to_dict() | {"model": str(tiny_folder)}
    with pytest.raises(FingerprintMismatchError, match=data["weights"]):
        OneGenEmbedding.from_dict(data)


def test_a_model_that_stands_in_no_folder_is_not_taken_for_the_bundled_one(tiny):
    data = OneGenEmbedding(tiny()).to_dict()
    with pytest.raises(FingerprintMismatchError, match="save_pretrained"):
        OneGenEmbedding.from_dict(data).get_text_embedding("a")


def test_an_embeddings_cache_is_refused(embed_model: OneGenEmbedding):
    with pytest.raises(ValidationError, match="embeddings_cache keeps the vectors of queries and of texts"):
        OneGenEmbedding(embeddings_cache=SimpleKVStore())
    with pytest.raises(ValidationError, match="embeddings_cache"):
        deepcopy(embed_model).embeddings_cache = SimpleKVStore()


def test_pickling_takes_settings_not_weights(embed_model: OneGenEmbedding, mini: OneGen):
    handler = LlamaDebugHandler(print_trace_on_end=False)
    handler.lock = threading.Lock()  # cannot be pickled
    for given in (
        embed_model,
        OneGenEmbedding(embed_batch_size=7, callback_manager=CallbackManager([handler])),
        OneGenLLM(max_tokens=7, callback_manager=CallbackManager([handler])),
    ):
        assert given.onegen
        pickled = pickle.dumps(given)
        assert len(pickled) < 5_000
        again = pickle.loads(pickled)
        assert again.to_dict() == given.to_dict()
        assert again.onegen.fingerprint == mini.fingerprint
        assert given.callback_manager is not None


# --- ingestion ------------------------------------------------------------------------------------


def test_the_ingestion_cache_saves_the_work_and_tells_models_apart(heard: Heard, tiny_folder: Path):
    cache = IngestionCache(cache=SimpleKVStore())

    def run(embed_model: OneGenEmbedding) -> dict[str, list[float]]:
        splitter = SentenceSplitter(chunk_size=64, chunk_overlap=0, tokenizer=str.split)
        return vectors_of(
            IngestionPipeline(transformations=[splitter, embed_model], cache=cache).run(documents=DOCUMENTS)
        )

    first = run(OneGenEmbedding())
    assert sum(batches(heard)) == len(TEXTS)
    assert run(OneGenEmbedding()) == first
    assert sum(batches(heard)) == len(TEXTS)
    other = run(OneGenEmbedding(tiny_folder))
    assert sum(batches(heard)) == 2 * len(TEXTS)
    assert {len(vector) for vector in other.values()} != {len(vector) for vector in first.values()}


def test_async_ingestion_gives_the_same(embed_model: OneGenEmbedding):
    pipeline = IngestionPipeline(transformations=[embed_model], disable_cache=True)
    once = vectors_of(pipeline.run(documents=deepcopy(DOCUMENTS)))
    again = vectors_of(asyncio.run(pipeline.arun(documents=deepcopy(DOCUMENTS))))
    assert once.keys() == again.keys()
    assert np.allclose([once[text] for text in once], [again[text] for text in once], atol=1e-6)


@pytest.mark.slow
def test_worker_processes_give_the_same_and_fill_the_same_cache(heard: Heard):
    cache = IngestionCache(cache=SimpleKVStore())
    pipeline = IngestionPipeline(transformations=[OneGenEmbedding()], cache=cache)
    once = vectors_of(pipeline.run(documents=DOCUMENTS, num_workers=2))
    assert batches(heard) == []  # not in this process
    assert np.allclose([once[text] for text in once], OneGenEmbedding().get_text_embedding_batch(list(once)), atol=1e-5)
    heard.events.clear()
    half = len(DOCUMENTS) // 2
    assert vectors_of(pipeline.run(documents=DOCUMENTS[:half])).items() <= once.items()
    assert batches(heard) == []


def loaded_before(embed_model: OneGenEmbedding) -> tuple[int, int]:
    """How many models this process holds before and after the first use of one."""
    from onegen_integrations.model import _loaded

    before = len(_loaded)
    embed_model.get_text_embedding("a")
    return before, len(_loaded)


@pytest.mark.slow
def test_a_worker_process_loads_the_weights_once():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert [pool.apply(loaded_before, (OneGenEmbedding(),)) for _ in range(2)] == [(0, 1), (1, 1)]
