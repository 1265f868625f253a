"""LlamaIndex's Chroma vector store, over a collection that belongs to one model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryResult
from llama_index.core.vector_stores.utils import node_to_metadata_dict
from llama_index.vector_stores.chroma import ChromaVectorStore

from onegen_integrations.chroma import client_of, open_collection, rows_per_call
from onegen_integrations.chroma.rows import replacing
from onegen_integrations.llama_index.weights import OneGenComponent

if TYPE_CHECKING:
    import chromadb
    from chromadb.api import ClientAPI

    from onegen_integrations.model import OneGen


class OneGenChromaVectorStore(ChromaVectorStore):
    """`ChromaVectorStore` that takes any number of nodes in one call, and whose scores are cosine similarities.

    A node whose id is there already takes the place of the stored one. `open_vector_store` makes it.
    """

    _rows_per_call: int = PrivateAttr()

    def __init__(self, collection: chromadb.Collection, rows_per_call: int) -> None:
        super().__init__(chroma_collection=collection)
        self._rows_per_call = rows_per_call

    @classmethod
    def class_name(cls) -> str:
        return "OneGenChromaVectorStore"

    def add(self, nodes: Sequence[BaseNode], **add_kwargs: Any) -> list[str]:  # noqa: ARG002 (LlamaIndex's signature)
        """Write nodes with their vectors, in as many calls as it takes; returns their ids.

        Raises:
            ValueError: a node has no vector, or metadata that are not flat.
        """
        given = list({node.node_id: node for node in nodes}.values())
        for start in range(0, len(given), self._rows_per_call):
            self._write(given[start : start + self._rows_per_call])
        return [node.node_id for node in nodes]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nodes nearest to a vector, with their cosine similarities."""
        result = super().query(query, **kwargs)
        if result.similarities is not None:  # the base class makes exp(-distance) of cosine distances
            result.similarities = [1 + math.log(similarity) for similarity in result.similarities]
        return result

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """As `add`; the event loop goes on meanwhile."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """As `query`; the event loop goes on meanwhile."""
        return await asyncio.to_thread(self.query, query, **kwargs)

    def _write(self, nodes: Sequence[BaseNode]) -> None:
        ids = [node.node_id for node in nodes]
        stored = self._collection.get(ids=ids, include=["metadatas"])
        before = dict(zip(stored["ids"], stored["metadatas"] or [], strict=True))
        self._collection.upsert(
            ids=ids,
            embeddings=np.asarray([node.get_embedding() for node in nodes], dtype=np.float32),
            documents=[node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes],
            metadatas=[replacing(before.get(node.node_id), self._metadata(node)) for node in nodes],
        )

    def _metadata(self, node: BaseNode) -> dict[str, Any]:
        metadata = node_to_metadata_dict(node, remove_text=True, flat_metadata=self.flat_metadata)
        return {key: "" if value is None else value for key, value in metadata.items()}


def open_vector_store(
    model: OneGenComponent | OneGen,
    *,
    path: str | Path | None = None,
    client: ClientAPI | None = None,
    collection: str = "onegen",
) -> OneGenChromaVectorStore:
    """Open or create a Chroma collection, for a `StorageContext`, an `IngestionPipeline` or a `VectorStoreIndex`.

        store = open_vector_store(llm, path="db")
        index = VectorStoreIndex.from_documents(
            documents,
            storage_context=StorageContext.from_defaults(vector_store=store),
            embed_model=llm.as_embed_model(),
        )
        ...
        store = open_vector_store(llm, path="db")
        index = VectorStoreIndex.from_vector_store(
            store, embed_model=llm.as_embed_model()
        )

    The collection compares by cosine similarity and remembers the fingerprint of the model, whose weights are loaded
    for that.

    Args:
        model: makes all vectors of the collection: a `OneGenLLM`, a `OneGenEmbedding` or a `OneGen`.
        path: folder of the database; default `db`.
        client: of a Chroma server, instead of a path.
        collection: its name.

    Raises:
        FingerprintMismatchError: the collection holds vectors of another model, or of an unknown one.
        PassageStoreError: it compares in another way than by cosine similarity, or Chroma failed.
        InvalidInputError: `path` and `client` are both given, or the name is not allowed.
    """
    onegen = model.onegen if isinstance(model, OneGenComponent) else model
    opened = client_of(path, client)
    return OneGenChromaVectorStore(open_collection(opened, collection, onegen), rows_per_call(opened, onegen))
