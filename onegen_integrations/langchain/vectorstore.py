"""`OneGenChroma`: LangChain's Chroma vector store, in collections that belong to one model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from onegen_integrations.chroma import open_collection, rows_per_call
from onegen_integrations.chroma.collection import has_titles
from onegen_integrations.chroma.rows import replacing
from onegen_integrations.errors import InvalidInputError
from onegen_integrations.langchain.embeddings import OneGenEmbeddings
from onegen_integrations.langchain.llm import OneGenLLM
from onegen_integrations.passages import title_of

if TYPE_CHECKING:
    import chromadb

    from onegen_integrations.model import OneGen


class _Titling(Embeddings):
    """Embeds texts with their titles: one each, in the same order; texts beyond them have none."""

    def __init__(self, model: OneGen, titles: Sequence[str]) -> None:
        self._model = model
        self._titles = titles

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        titles = [*self._titles, *[""] * (len(texts) - len(self._titles))]
        return self._model.embed_documents(texts, titles=titles).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self._model.embed_queries([text])[0].tolist()


class OneGenChroma(Chroma):
    """`langchain_chroma.Chroma` whose collection remembers the model that filled it, and refuses any other.

    Use it as `Chroma` is used: `from_texts`, `from_documents`, `as_retriever`, `add_documents` and all the rest. It
    compares by cosine similarity, and takes any number of documents in one call. The collection is opened, and the
    model loaded, at first use.

    Args:
        collection_name: of the collection.
        embedding_function: a `OneGenLLM` or `OneGenEmbeddings`.
        titles: whether a document's `metadata["title"]` is embedded with its text, and read with it by `OneGenRAG`, if
            the checkpoint has a place for it. A collection keeps to how it was created; default: without titles.
        collection_metadata: further entries for the metadata of a collection that is created.
        **settings: as `Chroma` takes them: `persist_directory`, `client`, `host` and so on.

    Raises:
        InvalidInputError: the embedding is another one, another distance than cosine is asked for, or (at first use)
            the collection was created with another `titles`.
    """

    def __init__(
        self,
        collection_name: str = "langchain",
        embedding_function: Embeddings | None = None,
        *,
        titles: bool | None = None,
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
        self._titles = titles
        super().__init__(collection_name, embedding_function, collection_metadata=collection_metadata, **settings)

    def _Chroma__ensure_collection(self) -> None:
        self._chroma_collection = None

    @property
    def _collection(self) -> chromadb.Collection:
        """The collection; whatever reads or writes goes through here."""
        if self._chroma_collection is None:
            collection = open_collection(
                self._client,
                self._collection_name,
                self._model.onegen,
                titles=bool(self._titles),
                metadata=self._collection_metadata,
            )
            if self._titles not in (None, has_titles(collection)):
                msg = (
                    f"The collection {collection.name!r} was created with titles={not self._titles}, and titles="
                    f"{self._titles} is given; leave it out, or use another collection name."
                )
                raise InvalidInputError(msg)
            self._chroma_collection = collection
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
        written: list[str] = []
        for part in self._parts(len(given)):
            own = metadatas[part] if metadatas else None
            if ids:
                own = self._in_place(ids[part], own)
            store = self._titling(metadatas[part] if metadatas else [])
            written += Chroma.add_texts(store, given[part], own, ids[part] if ids else None, **kwargs)
        return written

    def update_documents(self, ids: list[str], documents: list[Document]) -> None:
        """Embed documents and write them in place of those that are stored under these ids.

        Of their metadata, what the new ones do not have stays.
        """
        for part in self._parts(len(ids)):
            keys, new = ids[part], documents[part]
            stored = self._stored(keys)
            merged = [{**stored.get(key, {}), **document.metadata} for key, document in zip(keys, new, strict=True)]
            Chroma.update_documents(self._titling(merged), keys, new)

    def _parts(self, count: int) -> Iterator[slice]:
        """So many rows in as many calls as it takes; before the first, a collection of another model is refused."""
        size = rows_per_call(self._client, self._model.onegen)
        _ = self._collection
        return (slice(start, start + size) for start in range(0, count, size))

    def _titling(self, metadatas: Sequence[Mapping[str, Any] | None]) -> OneGenChroma:
        """This store, or where its vectors are made of titles, too, a copy that embeds with those in `metadatas`."""
        if not has_titles(self._collection):
            return self
        store = copy(self)
        store._embedding_function = _Titling(self._model.onegen, [title_of(metadata) for metadata in metadatas])  # noqa: SLF001 (its own class)
        return store

    def _in_place(self, ids: list[str], metadatas: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        """Metadata that leave nothing of what is stored under these ids."""
        before = self._stored(ids)
        if not any(before.values()):
            return metadatas
        return [replacing(before.get(key), own or {}) for key, own in zip_longest(ids, metadatas or [])]

    def _stored(self, ids: Iterable[str | None]) -> dict[str, Mapping[str, Any]]:
        """The metadata that are stored under these ids."""
        known = [key for key in ids if key]
        if not known:
            return {}
        stored = self._collection.get(ids=known, include=["metadatas"])
        return {key: metadata or {} for key, metadata in zip(stored["ids"], stored["metadatas"] or [], strict=True)}
