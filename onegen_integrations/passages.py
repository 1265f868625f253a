"""Passages, and the sources that find them by vector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from onegen_integrations.errors import InvalidInputError, PassageStoreError

if TYPE_CHECKING:
    from onegen_integrations.model import OneGen

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Passage:
    """A piece of text that can be retrieved.

    Attributes:
        id: by which it is known; adding another passage with the same id replaces it.
        text: what is embedded, and spliced into an answer.
        metadata: whatever else belongs to it. A title, where a template asks for one, is `metadata["title"]`.
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The title in the metadata, or an empty string."""
        return title_of(self.metadata)


def title_of(metadata: Mapping[str, Any] | None) -> str:
    """The title in the metadata of a document, or an empty string."""
    return str((metadata or {}).get("title") or "")


@dataclass(frozen=True)
class ScoredPassage(Passage):
    """A passage that was found.

    Attributes:
        score: its cosine similarity to the query vector.
    """

    score: float = 0.0


@runtime_checkable
class PassageSource(Protocol):
    """Anything that finds passages by vector."""

    def search(self, vectors: Vectors, k: int) -> Sequence[Sequence[ScoredPassage]]:
        """The k best passages for each of the query vectors [n, dim], best first."""
        ...


@runtime_checkable
class QueryPassageSource(PassageSource, Protocol):
    """A passage source that wants to know, beside the vector that the model has made, the text that led to it."""

    def search_for(self, query: str, vector: Vectors, k: int) -> Sequence[ScoredPassage]:
        """The k best passages for a query vector [dim], best first; generation calls it in place of `search`."""
        ...


class MemoryPassages:
    """Passages and their vectors in memory, searched exhaustively.

    Args:
        model: embeds the passages; its vectors are the only ones that this source can be searched with.
    """

    def __init__(self, model: OneGen) -> None:
        self._model = model
        self._passages: dict[str, Passage] = {}
        self._vectors: dict[str, Vectors] = {}
        self._matrix: Vectors | None = None  # the vectors in one piece, made when they are searched

    def add(self, passages: Iterable[Passage], *, show_progress: bool = False) -> None:
        """Embed passages and add them; one with an id that is there already takes its place."""
        batch = {passage.id: passage for passage in passages}
        vectors = self._model.embed_documents(
            [p.text for p in batch.values()], titles=[p.title for p in batch.values()], show_progress=show_progress
        )
        self._passages |= batch
        self._vectors |= dict(zip(batch, vectors, strict=True))
        self._matrix = None

    def delete(self, ids: Iterable[str]) -> None:
        """Remove passages; ids that are not there are ignored."""
        for passage_id in ids:
            self._passages.pop(passage_id, None)
            self._vectors.pop(passage_id, None)
        self._matrix = None

    def count(self) -> int:
        """How many passages there are."""
        return len(self._passages)

    def search(self, vectors: Vectors, k: int) -> list[list[ScoredPassage]]:
        """The k best passages for each query vector [n, dim], by cosine similarity, best first.

        Raises:
            PassageStoreError: there are no passages.
            InvalidInputError: k is below 1 or above the number of passages.
        """
        check_top_k(k, self.count(), "this source")
        passages = list(self._passages.values())
        if self._matrix is None:
            self._matrix = np.stack(list(self._vectors.values()))
        scores = np.asarray(vectors, dtype=np.float32) @ self._matrix.T  # [n, passages]
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return [[scored(passages[i], float(row[i])) for i in best] for row, best in zip(scores, order, strict=True)]


class GivenPassages:
    """Passages that somebody has retrieved already, as the passage source of an answer about them.

    They are compared by vector, like those of any other source, and embedded when there is first a choice to make.

    Args:
        model: embeds the passages; its vectors are the only ones that this source can be searched with.
        passages: in any order.
    """

    def __init__(self, model: OneGen, passages: Sequence[Passage]) -> None:
        self._model = model
        self._passages = passages
        self._compared: MemoryPassages | None = None

    def search(self, vectors: Vectors, k: int) -> list[list[ScoredPassage]]:
        """At most k passages for each query vector [n, dim], best first.

        Where that is all of them they come as they stand, with scores of 0.0.
        """
        if len(self._passages) <= k:
            return [[scored(passage, 0.0) for passage in self._passages] for _ in vectors]
        if self._compared is None:
            self._compared = MemoryPassages(self._model)
            self._compared.add(self._passages)
        return self._compared.search(vectors, k)


def search_one(source: PassageSource, query: str, vector: Vectors, k: int) -> Sequence[ScoredPassage]:
    """The k best passages of any source for one query vector [dim], best first.

    Args:
        source: is told `query` where it wants to know it.
        query: the text that led to the vector.
        vector: float32.
        k: how many passages.

    Raises:
        ValueError: the source gave something else than one list for one vector.
    """
    if isinstance(source, QueryPassageSource):
        return source.search_for(query, vector, k)
    results = source.search(vector[None], k)
    if len(results) != 1:
        msg = f"search() gave {len(results)} lists of passages for one vector; it must give one list for each."
        raise ValueError(msg)
    return results[0]


def scored(passage: Passage, score: float) -> ScoredPassage:
    return ScoredPassage(passage.id, passage.text, passage.metadata, score)


def check_top_k(k: int, stored: int, where: str) -> None:
    """Raises:
    PassageStoreError: nothing is stored. InvalidInputError: k is below 1 or above what is stored.
    """
    if k < 1:
        msg = f"k is {k}; ask for at least one passage."
        raise InvalidInputError(msg)
    if stored == 0:
        msg = f"There are no passages in {where}; add some before you search."
        raise PassageStoreError(msg)
    if k > stored:
        msg = f"k is {k}, but there are only {stored} passages in {where}; ask for at most {stored}."
        raise InvalidInputError(msg)
