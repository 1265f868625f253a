"""LangChain's vector stores as passage sources of one-pass generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from onegen_integrations.chroma import check_owner, check_sample
from onegen_integrations.chroma.collection import has_titles, space_of
from onegen_integrations.errors import FingerprintMismatchError, InvalidInputError
from onegen_integrations.passages import ScoredPassage, Vectors

if TYPE_CHECKING:
    from onegen_integrations.model import OneGen

Scored = Sequence[tuple[Document, float]]

_FAISS_L2 = 1  # faiss.METRIC_L2, whatever LangChain's `distance_strategy` says


class VectorStorePassages:
    """A `PassageSource` over any LangChain vector store that can be searched by vector.

    A document's text is what is spliced into an answer, with its title where a Chroma collection has vectors of both
    (see `OneGenChroma`). Where it has no id, its metadata `id` or its text is it.

    Args:
        vectorstore: `Chroma` (also `OneGenChroma`), `InMemoryVectorStore`, FAISS, or another one with
            `similarity_search_with_score_by_vector` or `similarity_search_by_vector`. Scores are cosine similarities in
            the first three, what the store makes of them elsewhere, and NaN where it has none.
        model: has filled the store.
        **search_kwargs: passed on to each search: `filter`, ...

    Attributes:
        vectorstore: as it was given.
        gives_cosines: whether its scores are known to be cosine similarities.

    Raises:
        FingerprintMismatchError: another model has filled the store.
        InvalidInputError: the store cannot be searched by vector.
    """

    def __init__(self, vectorstore: VectorStore, model: OneGen, **search_kwargs: Any) -> None:
        self.vectorstore = vectorstore
        self._search, self.gives_cosines = _search_of(vectorstore)
        self._search_kwargs = search_kwargs
        _check_owner(vectorstore, model)
        titled = isinstance(vectorstore, Chroma) and has_titles(vectorstore._collection)  # noqa: SLF001 (no public name)
        self._kind = ScoredPassage if titled else _Untitled

    def search(self, vectors: Vectors, k: int) -> list[list[ScoredPassage]]:
        """The k best documents for each query vector [n, dim], best first; fewer where the store has fewer."""
        return [
            [self._passage(doc, score) for doc, score in self._search(vector.tolist(), k, **self._search_kwargs)]
            for vector in vectors
        ]

    def with_settings(self, **search_kwargs: Any) -> VectorStorePassages:
        """The same store with these settings of a search, without checking it again."""
        other = copy(self)
        other._search_kwargs = search_kwargs  # noqa: SLF001 (its own class)
        return other

    def _passage(self, document: Document, score: float) -> ScoredPassage:
        own_id = document.id or document.metadata.get("id") or document.page_content
        return self._kind(str(own_id), document.page_content, document.metadata, score)


class _Untitled(ScoredPassage):
    """What is spliced in is the text alone, because its vector was made of the text alone."""

    @property
    def title(self) -> str:
        return ""


def document_of(passage: ScoredPassage, query: str) -> Document:
    """A passage as LangChain's document; its metadata hold the score and the query that found it, too."""
    metadata = {**passage.metadata, "relevance_score": passage.score, "retrieval_query": query}
    return Document(id=passage.id, page_content=passage.text, metadata=metadata)


def _search_of(vectorstore: VectorStore) -> tuple[Callable[..., Scored], bool]:
    """A search by vector, and whether its scores are known to be cosine similarities."""
    if isinstance(vectorstore, Chroma):
        half = 2.0 if space_of(vectorstore._collection) == "l2" else 1.0  # noqa: SLF001 (it has no public name)
        return _from_distances(vectorstore.similarity_search_by_vector_with_relevance_scores, half), True
    scored = getattr(vectorstore, "similarity_search_with_score_by_vector", None)
    if scored is not None and _is_faiss(vectorstore) and vectorstore.index.metric_type == _FAISS_L2:  # type: ignore[attr-defined]
        return _from_distances(scored, 2.0), True
    if scored is not None:
        known = isinstance(vectorstore, InMemoryVectorStore) or _is_faiss(vectorstore)
        return lambda vector, k, **kwargs: [(doc, float(s)) for doc, s in scored(vector, k, **kwargs)], known
    if type(vectorstore).similarity_search_by_vector is VectorStore.similarity_search_by_vector:
        msg = f"{type(vectorstore).__name__} cannot be searched by vector, which one-pass generation needs."
        raise InvalidInputError(msg)
    plain = vectorstore.similarity_search_by_vector
    return lambda vector, k, **kwargs: [(document, float("nan")) for document in plain(vector, k, **kwargs)], False


def _from_distances(search: Callable[..., Scored], half: float) -> Callable[..., Scored]:
    """Cosines by distances of unit vectors: 1 - cos (`half` is 1), or |q - d|^2 = 2 - 2 cos (`half` is 2)."""
    return lambda vector, k, **kwargs: [(doc, 1 - float(d) / half) for doc, d in search(vector, k, **kwargs)]


def _is_faiss(vectorstore: VectorStore) -> bool:
    return type(vectorstore).__name__ == "FAISS"  # from an optional package


def _check_owner(vectorstore: VectorStore, model: OneGen) -> None:
    """Refuse a store that another model has filled, by its fingerprint, by a sample of it, or by its embedding."""
    where = f"The {type(vectorstore).__name__} vector store"
    if isinstance(vectorstore, Chroma):
        check_owner(vectorstore._collection, model)  # noqa: SLF001 (langchain-chroma has no public name for it)
    elif isinstance(vectorstore, InMemoryVectorStore):
        for row in list(vectorstore.store.values())[:1]:
            check_sample(where, model, row["text"], row["vector"])
    elif _is_faiss(vectorstore):
        index, ids = vectorstore.index, vectorstore.index_to_docstore_id  # type: ignore[attr-defined]
        if index.ntotal:
            text = vectorstore.docstore.search(ids[0]).page_content  # type: ignore[attr-defined]
            check_sample(where, model, text, index.reconstruct(0))
    else:
        owner = getattr(vectorstore.embeddings, "onegen", None)
        if getattr(owner, "fingerprint", None) != model.fingerprint:
            msg = (
                f"{where} embeds with {type(vectorstore.embeddings).__name__}, not with {model.name!r}; fill one with a"
                " OneGenLLM or OneGenEmbeddings of this model."
            )
            raise FingerprintMismatchError(msg)
