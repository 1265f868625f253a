"""Passages on a Chroma server: a real one on loopback, which is killed and started again in the middle of work."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import chromadb
import httpx
import numpy as np
import pytest
from chromadb.api import ClientAPI
from chromadb.config import Settings
from tiny import SENTENCES

from onegen_integrations import (
    FingerprintMismatchError,
    InvalidInputError,
    Passage,
    PassageSourceError,
    PassageStoreError,
)
from onegen_integrations.chroma import ChromaPassages
from onegen_integrations.chroma.passages import STEP


class Server:
    """`chroma run` on a free port of its own; started again it has the same port and the same database."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        place = ["--path", str(self._path), "--host", "127.0.0.1", "--port", str(self._port)]
        command = [sys.executable, "-c", "from chromadb.cli.cli import app; app()", "run", *place]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while not self.answers():
            assert self._process.poll() is None, "the server ended"
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.1)

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def client(self) -> ClientAPI:
        return chromadb.HttpClient("127.0.0.1", self._port, settings=Settings(anonymized_telemetry=False))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def server(shared_server) -> Server:
    """A running server without collections."""
    if not shared_server.answers():
        shared_server.start()
    client = shared_server.client()
    for collection in client.list_collections():
        client.delete_collection(collection.name)
    return shared_server


@pytest.fixture
def source(server, tiny, passages) -> ChromaPassages:
    source = ChromaPassages(tiny(), client=server.client())
    source.add(passages)
    return source


def many(count: int) -> list[Passage]:
    return [Passage(id=f"n{number}", text=f"Boat {number}.") for number in range(count)]


def rows_of(server: Server) -> dict[str, np.ndarray]:
    rows = server.client().get_collection("onegen", embedding_function=None).get(include=["embeddings"])
    return dict(zip(rows["ids"], rows["embeddings"], strict=True))


def test_a_server_finds_what_memory_finds(source, source_of, tiny, passages):
    queries = tiny().embed_queries(SENTENCES)
    for ours, theirs in zip(source.search(queries, k=8), source_of(tiny()).search(queries, k=8), strict=True):
        assert [hit.id for hit in ours] == [hit.id for hit in theirs]
        assert [hit.score for hit in ours] == pytest.approx([hit.score for hit in theirs], abs=1e-5)
    source.delete(["0"])
    assert source.count() == len(passages) - 1


def test_metadata_come_back_from_a_server_as_they_were(source, tiny):
    metadata = {"int": -(2**63) - 1, "float": 1.0, "nan": math.nan, "none": None, "list": [1, "a"], "text": "\ud800"}
    source.add([Passage("new", SENTENCES[8], metadata)])
    source.add([Passage("0", SENTENCES[0], metadata)])
    for text in (SENTENCES[0], SENTENCES[8]):
        hit = source.search(tiny().embed_documents([text]), k=1)[0][0]
        assert repr(sorted(hit.metadata.items())) == repr(sorted(metadata.items()))


@pytest.mark.parametrize("where", [{"a": 1, "b": 2}, {"$not": 1}, {"a": 2**70}, {"a": "\ud800"}])
def test_a_filter_that_a_server_refuses_is_invalid_input(source, tiny, where):
    with pytest.raises(InvalidInputError, match="Chroma refuses where="):
        source.search(tiny().embed_queries(["Where?"]), k=1, where=where)


def test_another_model_cannot_open_a_collection_of_a_server(source, tiny, server):
    with pytest.raises(FingerprintMismatchError):
        ChromaPassages(tiny("qwen2"), client=server.client())


def test_fragments_are_folded_on_a_server(server, tiny):
    source = ChromaPassages(tiny(), client=server.client(), fragments=lambda text: [text[:20], text[20:40], text[40:]])
    source.add(Passage(str(number), text) for number, text in enumerate(SENTENCES))
    assert source.count() == len(SENTENCES)
    assert len(rows_of(server)) == 3 * len(SENTENCES)
    hits = source.search(tiny().embed_queries(SENTENCES[:2]), k=len(SENTENCES))
    assert [sorted(hit.id for hit in row) for row in hits] == [[str(n) for n in range(len(SENTENCES))]] * 2


def test_indexing_goes_on_where_a_lost_server_stopped_it(server, tiny, monkeypatch):
    passages = many(4 * STEP)
    ChromaPassages(tiny(), client=server.client()).add(passages)
    uninterrupted = rows_of(server)
    server.client().delete_collection("onegen")

    model = tiny()
    source = ChromaPassages(model, client=server.client())
    embed, embedded = model.embed_fragments, []

    def embed_and_lose_the_server(documents, **options):
        embedded.extend(documents)
        if documents and len(embedded) == 3 * STEP:
            server.kill()
        return embed(documents, **options)

    monkeypatch.setattr(model, "embed_fragments", embed_and_lose_the_server)
    with pytest.raises(PassageStoreError, match="Chroma failed to write passages") as caught:
        source.add(passages)
    assert isinstance(caught.value.__cause__, httpx.HTTPError)
    with pytest.raises(PassageStoreError):
        source.count()

    server.start()
    assert source.count() == 2 * STEP
    source.add(passages)
    assert len(embedded) == (1 + 4) * STEP  # only the step that was lost is embedded twice
    rows = rows_of(server)
    assert sorted(rows) == sorted(uninterrupted)
    for row, vector in rows.items():
        np.testing.assert_allclose(vector, uninterrupted[row], atol=1e-5)


def test_a_lost_server_is_a_store_error_whatever_is_asked_and_all_works_again_once_it_is_back(
    source, tiny, server, passages
):
    model = tiny()
    queries = model.embed_queries(SENTENCES[:1])
    before = source.search(queries, k=3)
    client = server.client()
    server.kill()
    for work in (
        source.count,
        lambda: source.search(queries, k=1),
        lambda: source.search(queries, k=1, where={"year": 1}),
        lambda: source.add(passages),
        lambda: source.delete(["0"]),
        lambda: ChromaPassages(model, client=client),
    ):
        with pytest.raises(PassageStoreError, match=r"Error: .*\. The server cannot be reached; once it can"):
            work()
    server.start()
    assert source.search(queries, k=3) == before
    source.add(passages)
    assert ChromaPassages(model, client=client).count() == len(passages)


def test_an_answer_that_loses_its_server_keeps_what_was_generated(source, tiny, server, play):
    play({6: "[RQ]"})
    model = tiny()
    server.kill()
    with pytest.raises(PassageSourceError) as caught:
        model.generate(SENTENCES[0], passages=source, max_new_tokens=12)
    assert isinstance(caught.value.__cause__, PassageStoreError)
    assert caught.value.partial is not None
    assert caught.value.partial.text
    server.start()
    assert model.generate(SENTENCES[0], passages=source, max_new_tokens=12).retrievals[0].passages
