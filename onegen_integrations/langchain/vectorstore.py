"""`OneGenChroma`: LangChain's Chroma vector store, in collections that belong to one model."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from langchain_chroma import Chroma
from langchain_core.embeddings import Embeddings

from onegen_integrations.chroma import open_collection, rows_per_call
from onegen_integrations.chroma.rows import replacing
from onegen_integrations.errors import InvalidInputError
from onegen_integrations.langchain.embeddings import OneGenEmbeddings
from onegen_integrations.langchain.llm import OneGenLLM

if TYPE_CHECKING:
    import chromadb


class OneGenChroma(Chroma):
    """`langchain_chroma.Chroma` whose collection remembers the model that filled it, and refuses any other.

    Use it as `Chroma` is used: `from_texts`, `from_documents`, `as_retriever`, `add_documents` and all the rest. It
    compares by cosine similarity, and takes any number of documents in one call. The collection is opened, and the
    model loaded, at first use.

    Args:
        collection_name: of the collection.
        embedding_function: a `OneGenLLM` or `OneGenEmbeddings`.
        collection_metadata: further entries for the metadata of a collection that is created.
        **settings: as `Chroma` takes them: `persist_directory`, `client`, `host` and so on.

    Raises:
        InvalidInputError: the embedding is another one, or another distance than cosine is asked for.
    """

    def __init__(
        self,
        collection_name: str = "langchain",
        embedding_function: Embeddings | None = None,
        *,
        collection_metadata: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(embedding_function, (OneGenLLM, OneGenEmbeddings)):
            msg = (
                "OneGenChroma needs a OneGenLLM or OneGenEmbeddings as its embedding, not"
                f" {type(embedding_function).__name__}; for other embeddings use langchain_chroma.Chroma."
            )
            raise InvalidInputError(msg)
        if settings.get("collection_configuration") is not None:
            msg = "OneGenChroma always compares by cosine similarity; leave collection_configuration out."
            raise InvalidInputError(msg)
        self._model = embedding_function
        super().__init__(collection_name, embedding_function, collection_metadata=collection_metadata, **settings)

    def _Chroma__ensure_collection(self) -> None:
        self._chroma_collection = None

    @property
    def _collection(self) -> chromadb.Collection:
        """The collection; whatever reads or writes goes through here."""
        if self._chroma_collection is None:
            self._chroma_collection = open_collection(
                self._client, self._collection_name, self._model.onegen, metadata=self._collection_metadata
            )
        return self._chroma_collection

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Embed texts and write them, in as many calls as it takes; returns their ids.

        A text whose id is there already takes the place of the stored one, with its metadata.

        Raises:
            FingerprintMismatchError: the collection belongs to another model.
        """
        given = list(texts)
        size = rows_per_call(self._client, self._model.onegen)
        _ = self._collection  # a collection of another model is refused before anything is embedded
        written: list[str] = []
        for start in range(0, len(given), size):
            part = slice(start, start + size)
            own = metadatas[part] if metadatas else None
            if ids:
                own = self._in_place(ids[part], own)
            written += super().add_texts(given[part], own, ids[part] if ids else None, **kwargs)
        return written

    def _in_place(self, ids: list[str], metadatas: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        """Metadata that leave nothing of what is stored under these ids."""
        known = [key for key in ids if key]
        if not known:
            return metadatas
        stored = self._collection.get(ids=known, include=["metadatas"])
        before = dict(zip(stored["ids"], stored["metadatas"] or [], strict=True))
        if not any(before.values()):
            return metadatas
        return [replacing(before.get(key), own or {}) for key, own in zip_longest(ids, metadatas or [])]
