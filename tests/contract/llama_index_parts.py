"""What the tests of the LlamaIndex adapter share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, Settings, StorageContext, VectorStoreIndex, set_global_tokenizer
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.schema import MetadataMode
from pydantic import Field

from onegen_integrations import MemoryPassages, OneGen, Passage
from onegen_integrations.evaluation.mini import demo_questions
from onegen_integrations.llama_index import OneGenLLM, open_vector_store

_DEMO = demo_questions()
_PASSAGES = _DEMO.passages[:40]
DOCUMENTS = [
    Document(id_=p.id, text=p.text, metadata={"title": p.title, "part": n % 4}, excluded_embed_metadata_keys=["part"])
    for n, p in enumerate(_PASSAGES)
]
QUESTIONS = [q.text for q in _DEMO.questions if set(q.gold) <= {p.id for p in _PASSAGES}][:4]
ONE_RETRIEVAL: dict[str, Any] = {"retrieval": "always", "max_retrievals": 1}


class Heard(BaseEventHandler):
    """All events."""

    events: list[Any] = Field(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "Heard"

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.events.append(event)

    def counted(self, prefix: str = "") -> Counter[str]:
        """How many there were of each kind whose name begins so."""
        names = (type(event).__name__ for event in self.events)
        return Counter(name for name in names if name.startswith(prefix))


@contextmanager
def listening() -> Iterator[Heard]:
    root = get_dispatcher()
    handler = Heard()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


def user(text: str) -> list[ChatMessage]:
    return [ChatMessage(role=MessageRole.USER, content=text)]


async def collect(stream: Awaitable[Any]) -> list[Any]:
    return [item async for item in await stream]


@contextmanager
def settings_of(llm: OneGenLLM) -> Iterator[OneGenLLM]:
    """LlamaIndex's settings with that model alone."""
    Settings.llm, Settings.embed_model, Settings.tokenizer = llm, llm.as_embed_model(), llm.tokenize
    yield llm
    Settings._llm = Settings._embed_model = None
    set_global_tokenizer(None)


def chroma_index(llm: OneGenLLM, path: Path) -> VectorStoreIndex:
    storage = StorageContext.from_defaults(vector_store=open_vector_store(llm, path=path))
    return VectorStoreIndex.from_documents(DOCUMENTS, storage_context=storage)


def oracle_of(model: OneGen) -> MemoryPassages:
    """What the index holds, without LlamaIndex and Chroma."""
    source = MemoryPassages(model)
    source.add(Passage(d.doc_id, d.get_content(metadata_mode=MetadataMode.EMBED)) for d in DOCUMENTS)
    return source


def nearest(oracle: MemoryPassages, model: OneGen, question: str, k: int = 1) -> list[tuple[str, float]]:
    """Ids and scores of the k nearest documents."""
    [found] = oracle.search(model.embed_queries([question]), k)
    return [(passage.id, pytest.approx(passage.score, abs=1e-5)) for passage in found]


def sources(response: Any) -> list[tuple[str | None, float | None]]:
    """Ids and scores of the documents in a response."""
    return [(found.node.ref_doc_id, found.score) for found in response.source_nodes]


def same_sources(one: Any, other: Any) -> bool:
    """Whether two responses have the same documents, with scores that differ by no more than rounding does."""
    ids, scores = zip(*sources(one), strict=True)
    other_ids, other_scores = zip(*sources(other), strict=True)
    return ids == other_ids and scores == pytest.approx(other_scores, abs=1e-5)
