"""Retrievers as passage sources, passage sources as retrievers, and whether an index belongs to a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.bridge.pydantic import BaseModel, Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.indices.vector_store import VectorStoreIndex
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.simple import SimpleVectorStore
from llama_index.vector_stores.chroma import ChromaVectorStore

from onegen_integrations.chroma import check_owner, check_sample
from onegen_integrations.chroma.collection import FINGERPRINT
from onegen_integrations.errors import FingerprintMismatchError
from onegen_integrations.llama_index.weights import OneGenComponent
from onegen_integrations.passages import PassageSource, ScoredPassage, Vectors, search_one

if TYPE_CHECKING:
    from onegen_integrations.model import OneGen


class RetrievedNodes(BaseModel):
    """A retriever as the passage source of one answer; `nodes` fills with what is spliced into it, each node once.

    The retriever is given the vector that the model has made in the middle of the answer, so it embeds nothing, and
    the text that led to it. Its events and spans, its filters and mode are those it always has, and it decides how many
    nodes there are.

    A passage's text is the node's content in `MetadataMode.EMBED`, metadata in front: that is what was embedded. So the
    model reads what its vector stood for, and where passages are isolated, what was computed when it was embedded can
    serve again. To keep metadata from the model, use `excluded_embed_metadata_keys`.

    It is a pydantic model so that events, which have it among the arguments of a call, can be written as JSON.

    Args:
        retriever: any one that searches by `QueryBundle.embedding`.
        postprocessors: filter or reorder the nodes.
    """

    nodes: list[NodeWithScore] = Field(default_factory=list)

    _retriever: BaseRetriever = PrivateAttr()
    _postprocessors: Sequence[BaseNodePostprocessor] = PrivateAttr()

    def __init__(self, retriever: BaseRetriever, postprocessors: Sequence[BaseNodePostprocessor] = ()) -> None:
        super().__init__()
        self._retriever = retriever
        self._postprocessors = postprocessors

    def search(self, vectors: Vectors, k: int) -> list[list[ScoredPassage]]:
        """What the retriever finds for each query vector [n, dim]."""
        return [self.search_for("", vector, k) for vector in vectors]

    def search_for(self, query: str, vector: Vectors, k: int) -> list[ScoredPassage]:  # noqa: ARG002 (the retriever has its own k)
        """What the retriever finds for a query vector [dim]."""
        bundle = QueryBundle(query_str=query, embedding=vector.tolist())
        nodes = self._retriever.retrieve(bundle)
        for postprocessor in self._postprocessors:
            nodes = postprocessor.postprocess_nodes(nodes, query_bundle=bundle)
        known = {node.node_id for node in self.nodes}
        self.nodes += [node for node in nodes if node.node_id not in known]
        return [self._passage(node) for node in nodes]

    def _passage(self, found: NodeWithScore) -> ScoredPassage:
        # The title of an index's node, if it has one, stands in its text; that of a passage was embedded as a title.
        metadata = found.metadata if isinstance(self._retriever, PassageRetriever) else {}
        text = found.node.get_content(metadata_mode=MetadataMode.EMBED)
        return ScoredPassage(found.node_id, text, metadata, found.score or 0.0)


class PassageRetriever(BaseRetriever):
    """A passage source as LlamaIndex retriever: `ChromaPassages`, `MemoryPassages`, or your own.

    Args:
        source: finds passages by vector.
        model: embeds queries that come without a vector.
        similarity_top_k: how many passages a query finds.
        callback_manager: hears of retrievals.
    """

    def __init__(
        self,
        source: PassageSource,
        model: OneGenComponent,
        *,
        similarity_top_k: int = 1,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager=callback_manager)
        self._source = source
        self._model = model
        self._similarity_top_k = similarity_top_k

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if query_bundle.embedding is None:
            vector = self._model.onegen.embed_queries([query_bundle.query_str])[0]
        else:
            vector = np.asarray(query_bundle.embedding, dtype=np.float32)
        found = search_one(self._source, query_bundle.query_str, vector, self._similarity_top_k)
        return [_node(passage) for passage in found]


def check_index(index: VectorStoreIndex, model: OneGen) -> None:
    """Make sure that an index was filled by `model`, before any vector is compared.

    A collection of this package has a fingerprint. Of other Chroma collections and of LlamaIndex's own store one text
    is embedded again, and has to give the vector that is stored. For all other stores the index's embedding model
    counts.

    Raises:
        FingerprintMismatchError: another model has filled it.
    """
    store = index.vector_store
    where = f"The {type(store).__name__} of the index"
    if isinstance(store, ChromaVectorStore):
        if FINGERPRINT in (store.client.metadata or {}):
            check_owner(store.client, model)
            return
        row = store.client.get(limit=1, include=["embeddings"])
        for node, vector in zip(store.get_nodes(row["ids"]) if row["ids"] else [], row["embeddings"], strict=True):
            check_sample(where, model, node.get_content(metadata_mode=MetadataMode.EMBED), vector)
    elif isinstance(store, SimpleVectorStore):
        vectors = store.data.embedding_dict
        for node in index.docstore.get_nodes(list(vectors)[:1]):
            check_sample(where, model, node.get_content(metadata_mode=MetadataMode.EMBED), vectors[node.node_id])
    else:
        embed_model = index._embed_model  # noqa: SLF001 (LlamaIndex has no public name for it)
        owner = embed_model.onegen.fingerprint if isinstance(embed_model, OneGenComponent) else None
        if owner != model.fingerprint:
            msg = (
                f"{where} is filled by {embed_model.model_name!r}, whose vectors mean nothing to {model.name!r}; build"
                " the index with embed_model=llm.as_embed_model()."
            )
            raise FingerprintMismatchError(msg)


def _node(passage: ScoredPassage) -> NodeWithScore:
    node = TextNode(
        id_=passage.id,
        text=passage.text,
        metadata=dict(passage.metadata),
        excluded_embed_metadata_keys=list(passage.metadata),  # its vector was made of the text alone
    )
    return NodeWithScore(node=node, score=passage.score)
