"""`ChromaPassages`: passages and their vectors in a Chroma collection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from chromadb.api import ClientAPI
from tqdm.auto import tqdm

from onegen_integrations.chroma.collection import (
    client_of,
    filter_errors,
    open_collection,
    rows_per_call,
    store_errors,
)
from onegen_integrations.chroma.rows import (
    ROW,
    Metadata,
    Record,
    Splitter,
    first_row_id,
    own_metadata,
    passage_id_of,
    row_ids,
    stored_passage,
)
from onegen_integrations.errors import ContextWindowError, InvalidInputError
from onegen_integrations.passages import Passage, ScoredPassage, Vectors, check_top_k, scored

if TYPE_CHECKING:
    from onegen_integrations.model import OneGen

STEP = 128  # passages embedded and written together: what a kill can lose
MOST_ROWS = 2**31 - 1  # that Chroma can be asked for

_Item = TypeVar("_Item")


class ChromaPassages:
    """Passages in a Chroma collection that belongs to one model: a `PassageSource` on disk or on a server.

    Args:
        model: embeds the passages; the collection remembers its fingerprint, and no other model can open it.
        path: folder of an embedded Chroma database; default: `db` in the working directory.
        client: an open Chroma client instead, such as `chromadb.HttpClient(host=..., port=...)`.
        collection: name of the collection; it is created where there is none.
        fragments: cuts a text into pieces, such as sentences, which joined are the text. Each piece gets a vector of
            its own, all from one forward pass, and a passage scores as its best piece.

    Raises:
        FingerprintMismatchError: the collection holds vectors of another model.
        PassageStoreError: `path` is no place for a database, or the collection cannot be opened.
        InvalidInputError: `path` and `client` are both given, the collection's name is not allowed, or it treats
            fragments otherwise.
    """

    def __init__(
        self,
        model: OneGen,
        *,
        path: str | Path | None = None,
        client: ClientAPI | None = None,
        collection: str = "onegen",
        fragments: Splitter | None = None,
    ) -> None:
        opened = client_of(path, client)
        self._model = model
        self._split = fragments
        self._collection = open_collection(opened, collection, model, fragments=fragments is not None, titles=True)
        self._batch_size = rows_per_call(opened, model)

    def add(self, passages: Iterable[Passage], *, show_progress: bool = False) -> None:
        """Embed passages and write them; one with an id that is there already takes its place.

        What is stored already, unchanged, is not embedded again. So after an interruption the same call goes on where
        it stopped. Metadata come back as they are; those that Chroma has no type for (None, dicts, mixed or empty
        lists) cannot be used in `where`.

        Raises:
            InvalidInputError: a passage cannot be embedded or stored, or two different ones share an id.
            ContextWindowError: a passage does not fit.
            PassageStoreError: Chroma failed.
        """
        records = self._records(passages)
        with tqdm(total=len(records), desc="Indexing", unit="passage", disable=not show_progress) as bar:
            for step in _in_steps(records, STEP):
                self._write(step)
                bar.update(len(step))

    def delete(self, ids: Iterable[str]) -> None:
        """Remove passages; ids that are not there are ignored.

        Raises:
            InvalidInputError: `ids` is a single string.
            PassageStoreError: Chroma failed.
        """
        if isinstance(ids, str):
            msg = f"ids must be a list of strings, not one string; write [{ids!r}]."
            raise InvalidInputError(msg)
        with store_errors("delete passages"):
            for step in _in_steps(list(dict.fromkeys(ids)), STEP):
                stored = self._first_rows(step)
                if stored:
                    self._collection.delete(
                        ids=[row for key, (_, metadata) in stored.items() for row in row_ids(key, metadata)]
                    )

    def pending(self, passages: Iterable[Passage]) -> list[Passage]:
        """Those of `passages` that `add` would write: they are not stored, or otherwise than they are here.

        Raises:
            InvalidInputError: a passage cannot be stored, or two different ones share an id.
            PassageStoreError: Chroma failed.
        """
        waiting = []
        for step in _in_steps(self._records(passages), STEP):
            stored = self._first_rows(record.passage.id for record in step)
            for record in step:
                _, metadata = stored.get(record.passage.id, (None, {}))
                if not record.same(metadata):
                    waiting.append(record.passage)
        return waiting

    def ids(self, where: dict[str, Any] | None = None) -> list[str]:
        """The ids of all passages, or of those whose metadata pass Chroma's filter `where`.

        Raises:
            InvalidInputError: Chroma refuses `where`.
            PassageStoreError: Chroma failed.
        """
        fragmented = self._split is not None
        with store_errors("list passages"), filter_errors(where):
            rows = self._collection.get(where=where, include=[])["ids"]
        return list(dict.fromkeys(passage_id_of(row, fragmented=fragmented) for row in rows))

    def metadata(self) -> dict[str, Metadata]:
        """The metadata of all passages, by id.

        Raises:
            PassageStoreError: Chroma failed.
        """
        fragmented = self._split is not None
        with store_errors("list passages"):
            got = self._collection.get(where={ROW: 0} if fragmented else None, include=["metadatas"])
        rows = zip(got["ids"], got["metadatas"] or [], strict=True)
        return {passage_id_of(row, fragmented=fragmented): own_metadata(stored) for row, stored in rows}

    def count(self) -> int:
        """How many passages there are.

        Raises:
            PassageStoreError: Chroma failed.
        """
        with store_errors("count passages"):
            if self._split is None:
                return self._collection.count()
            return len(self._collection.get(where={ROW: 0}, include=[])["ids"])

    def search(self, vectors: Vectors, k: int = 4, where: dict[str, Any] | None = None) -> list[list[ScoredPassage]]:
        """The k best passages for each query vector [n, dim], by cosine similarity, best first.

        Chroma's index is approximate: now and then it misses a passage among many close ones.

        Args:
            vectors: query vectors.
            k: how many passages.
            where: Chroma's filter over metadata, as `{"year": {"$gte": 1990}}`; fewer than k passages may pass it.

        Raises:
            PassageStoreError: there are no passages, or Chroma failed.
            InvalidInputError: k is below 1 or above the number of passages, or Chroma refuses `where`.
        """
        queries = np.asarray(vectors, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self._model.dim or not np.isfinite(queries).all():
            msg = f"vectors must be finite numbers [n, {self._model.dim}], not an array of shape {list(queries.shape)}."
            raise InvalidInputError(msg)
        if k < 1:
            check_top_k(k, self.count(), self._place)
        steps = _in_steps(list(queries), self._batch_size)
        best = [scores for step in steps for scores in self._best(step, k, where)]
        if any(len(scores) < k for scores in best):
            check_top_k(k, self.count(), self._place)
        found = self._first_rows({key for scores in best for key in scores})
        return [
            [scored(stored_passage(key, *found[key]), score) for key, score in scores.items() if key in found]
            for scores in best
        ]

    # --- reading ----------------------------------------------------------------------------------

    @property
    def _place(self) -> str:
        return f"the collection {self._collection.name!r}"

    def _best(self, queries: list[Vectors], k: int, where: dict[str, Any] | None) -> list[dict[str, float]]:
        """Ids and scores of the k best passages for each query, best first.

        Of a passage in fragments several rows may be found, so more and more rows are asked for until there are k
        passages, or no further rows.
        """
        asked = k if self._split is None else 2 * k
        while True:
            asked = min(asked, MOST_ROWS)
            rows, distances = self._query(queries, asked, where)
            best = [self._fold(*found) for found in zip(rows, distances, strict=True)]
            if all(len(scores) >= k or len(found) < asked for scores, found in zip(best, rows, strict=True)):
                return [dict(islice(scores.items(), k)) for scores in best]
            asked *= 2

    def _query(
        self, queries: list[Vectors], rows: int, where: dict[str, Any] | None
    ) -> tuple[list[list[str]], list[list[float]]]:
        """Ids and distances of rows. Nothing else: the database cannot give the texts of many thousand rows at once."""
        with store_errors("search"), filter_errors(where):
            found = self._collection.query(
                query_embeddings=np.stack(queries), n_results=rows, where=where, include=["distances"]
            )
        return found["ids"], found["distances"] or []

    def _fold(self, rows: Sequence[str], distances: Sequence[float]) -> dict[str, float]:
        """Rows, nearest first, to passages with the cosine similarity of their best row."""
        scores: dict[str, float] = {}
        for row, distance in zip(rows, distances, strict=True):
            scores.setdefault(passage_id_of(row, fragmented=self._split is not None), 1 - distance)
        return scores

    def _first_rows(self, passage_ids: Iterable[str]) -> dict[str, tuple[str | None, Metadata]]:
        """Text and metadata of the passages that are stored, by id."""
        fragmented = self._split is not None
        found: dict[str, tuple[str | None, Metadata]] = {}
        with store_errors("read passages"):
            for step in _in_steps([first_row_id(key, fragmented=fragmented) for key in passage_ids], self._batch_size):
                got = self._collection.get(ids=step, include=["documents", "metadatas"])
                texts, metadatas = got["documents"] or [], got["metadatas"] or []
                for row, text, metadata in zip(got["ids"], texts, metadatas, strict=True):
                    found[passage_id_of(row, fragmented=fragmented)] = (text, metadata or {})
        return found

    # --- writing ----------------------------------------------------------------------------------

    def _records(self, passages: Iterable[Passage]) -> list[Record]:
        """Passages ready to be written, each id once."""
        records: dict[str, Record] = {}
        for passage in passages:
            record = Record.of(passage, self._split)
            if not records.setdefault(passage.id, record).same(record.metadata):
                msg = f"Two different passages have the id {passage.id!r}; give each its own."
                raise InvalidInputError(msg)
        return list(records.values())

    def _write(self, records: Sequence[Record]) -> None:
        """Embed and write what is new, and rewrite the metadata of what differs in nothing else."""
        stored: dict[str, Metadata] = {r.passage.id: {} for r in records}
        stored |= {key: metadata for key, (_, metadata) in self._first_rows(stored).items()}
        changed = [r for r in records if not r.same_content(stored[r.passage.id])]
        relabelled = [r for r in records if r.same_content(stored[r.passage.id]) and not r.same(stored[r.passage.id])]
        vectors = {r.passage.id: v for r, v in zip(changed, self._embed(changed), strict=True)}
        with store_errors("write passages"):
            # What had more rows than it will have is removed as a whole first: whenever the work is interrupted,
            # a passage is there with all its rows or with none.
            before = [row_ids(r.passage.id, stored[r.passage.id]) for r in changed]
            shrunk = [row for r, rows in zip(changed, before, strict=True) if len(rows) > len(r.ids) for row in rows]
            if shrunk:
                self._collection.delete(ids=shrunk)
            for group in _in_calls(changed, self._batch_size):
                self._collection.upsert(
                    ids=[row for r in group for row in r.ids],
                    embeddings=np.concatenate([vectors[r.passage.id] for r in group]),
                    documents=[text for r in group for text in r.documents],
                    metadatas=[row for r in group for row in r.rows(stored[r.passage.id])],
                )
            for group in _in_calls(relabelled, self._batch_size):
                self._collection.update(
                    ids=[row for r in group for row in r.ids],
                    metadatas=[row for r in group for row in r.rows(stored[r.passage.id])],
                )

    def _embed(self, records: Sequence[Record]) -> list[Vectors]:
        """Vectors [pieces, dim] of each passage."""
        try:
            return self._model.embed_fragments([r.pieces for r in records], titles=[r.passage.title for r in records])
        except (ContextWindowError, InvalidInputError) as error:
            if len(records) == 1:
                msg = f"Passage {records[0].passage.id!r} cannot be embedded. {error}"
                raise type(error)(msg) from error
            for record in records:  # one of them is at fault: the model counts them, the caller knows their ids
                self._embed([record])
            raise


def _in_steps(items: list[_Item], size: int) -> Iterator[list[_Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _in_calls(records: Iterable[Record], batch_size: int) -> Iterator[list[Record]]:
    """As many records together as Chroma takes rows in one call; no record is divided."""
    group: list[Record] = []
    rows = 0
    for record in records:
        if group and rows + len(record.ids) > batch_size:
            yield group
            group, rows = [], 0
        group.append(record)
        rows += len(record.ids)
    if group:
        yield group
