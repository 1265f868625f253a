"""How passages are kept as rows of a Chroma collection.

Without fragments a passage is one row under its own id. With fragments it has a row for each: `{id}#0` holds text and
vector, `{id}#1` and so on only a vector. All rows carry the metadata, so that a filter finds every one of them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onegen_integrations.errors import InvalidInputError, PassageStoreError
from onegen_integrations.passages import Passage

Splitter = Callable[[str], Sequence[str]]
Metadata = Mapping[str, Any]

PRIVATE = "onegen:"
CONTENT = "onegen:content"  # hash of what the vectors were made of
ROWS = "onegen:rows"  # how many rows the passage has
ROW = "onegen:row"  # which of them this is
JSON = "onegen:json"  # metadata that Chroma cannot hold


@dataclass(frozen=True)
class Record:
    """A passage ready to be written.

    pieces: texts with a vector each, which joined are the passage's text. fragmented: whether it has a row for each.
    metadata: of its rows, as Chroma takes it.
    """

    passage: Passage
    pieces: Sequence[str]
    fragmented: bool
    metadata: Metadata

    @classmethod
    def of(cls, passage: Passage, split: Splitter | None) -> Record:
        """Raises:
        InvalidInputError: it is no passage, or its id, metadata or fragments cannot be stored.
        """
        if not isinstance(passage, Passage):
            msg = f"Passages must be Passage objects, not {type(passage).__name__}; write Passage(id=..., text=...)."
            raise InvalidInputError(msg)
        if not isinstance(passage.id, str) or not passage.id or not _has_utf8(passage.id):
            msg = f"The id of a passage must be a non-empty string of valid characters, not {passage.id!r}."
            raise InvalidInputError(msg)
        if not isinstance(passage.metadata, Mapping):
            msg = f"The metadata of passage {passage.id!r} must be a mapping, not {type(passage.metadata).__name__}."
            raise InvalidInputError(msg)
        pieces = _pieces(passage, split)
        digest = hashlib.sha256(json.dumps([split is not None, passage.title, pieces]).encode())
        metadata = {**_encode(passage), CONTENT: digest.hexdigest()[:32]}
        return cls(passage, pieces, split is not None, metadata | ({ROWS: len(pieces)} if split else {}))

    @property
    def ids(self) -> list[str]:
        """The ids of its rows."""
        return row_ids(self.passage.id, self.metadata)

    @property
    def documents(self) -> list[Any]:
        """The texts of its rows, None for all but the first."""
        return [self.passage.text, *[None] * (len(self.pieces) - 1)]

    def rows(self, before: Metadata) -> list[dict[str, Any]]:
        """The metadata of its rows, to be written where there were those `before`."""
        shared = replacing(before, self.metadata)
        return [{**shared, ROW: row} for row in range(len(self.pieces))] if self.fragmented else [shared]

    def same_content(self, stored: Metadata) -> bool:
        """Whether the vectors of the stored passage are those of this one."""
        return stored.get(CONTENT) == self.metadata[CONTENT]

    def same(self, stored: Metadata) -> bool:
        """Whether content and metadata are the stored ones; 1, 1.0 and True are not the same."""
        return {k: repr(v) for k, v in stored.items() if k != ROW} == {k: repr(v) for k, v in self.metadata.items()}


def replacing(before: Metadata | None, after: Metadata) -> dict[str, Any]:
    """The metadata `after`, with None for keys that only those `before` have: Chroma merges what is written."""
    return {**dict.fromkeys(before or {}), **after}


def first_row_id(passage_id: str, *, fragmented: bool) -> str:
    return f"{passage_id}#0" if fragmented else passage_id


def row_ids(passage_id: str, metadata: Metadata) -> list[str]:
    """The ids of all rows of a passage, by the metadata of one of them."""
    return [f"{passage_id}#{row}" for row in range(metadata[ROWS])] if ROWS in metadata else [passage_id]


def passage_id_of(row_id: str, *, fragmented: bool) -> str:
    return row_id.rpartition("#")[0] if fragmented else row_id


def stored_passage(passage_id: str, text: str | None, metadata: Metadata | None) -> Passage:
    """The passage that a first row holds.

    Raises:
        PassageStoreError: the row holds no text.
    """
    if text is None:
        msg = (
            f"The row of passage {passage_id!r} holds no text; something else wrote it. Delete it and add the passage."
        )
        raise PassageStoreError(msg)
    return Passage(passage_id, text, own_metadata(metadata))


def own_metadata(stored: Metadata | None) -> dict[str, Any]:
    """The metadata of a passage, by those of its rows."""
    given = stored or {}
    own = {key: value for key, value in given.items() if not key.startswith(PRIVATE)}
    return own | json.loads(given.get(JSON, "{}"))


def _pieces(passage: Passage, split: Splitter | None) -> list[str]:
    if not isinstance(passage.text, str):
        msg = f"The text of passage {passage.id!r} must be a string, not {type(passage.text).__name__}."
        raise InvalidInputError(msg)
    if split is None:
        return [passage.text]
    pieces = list(split(passage.text))
    if not pieces or not all(isinstance(piece, str) for piece in pieces) or "".join(pieces) != passage.text:
        msg = f"fragments(text) must give strings that joined are the text; for passage {passage.id!r} they are not."
        raise InvalidInputError(msg)
    return pieces


def _encode(passage: Passage) -> dict[str, Any]:
    """Metadata as Chroma takes them: what it cannot hold, or would change, goes into one JSON string."""
    for key in passage.metadata:
        if isinstance(key, str) and key.startswith(PRIVATE):
            msg = f"The metadata of passage {passage.id!r} have the key {key!r}; keys must not begin with {PRIVATE!r}."
            raise InvalidInputError(msg)
    native = {key: value for key, value in passage.metadata.items() if _is_native_key(key) and _is_native(value)}
    rest = {key: value for key, value in passage.metadata.items() if key not in native}
    if not rest:
        return native
    try:
        encoded = json.dumps(rest)
    except (TypeError, ValueError, RecursionError) as error:
        raise _not_json(passage, rest) from error
    if repr(json.loads(encoded)) != repr(rest):  # equality would take (1, 2) for [1, 2] and refuse NaN
        raise _not_json(passage, rest)
    return {**native, JSON: encoded}


def _not_json(passage: Passage, values: Metadata) -> InvalidInputError:
    msg = (
        f"The metadata {values!r} of passage {passage.id!r} would not come back as they are; use strings, numbers,"
        " booleans, None, and lists and dicts of them with string keys."
    )
    return InvalidInputError(msg)


def _is_native_key(key: object) -> bool:
    """Chroma keeps names in `chroma:` to itself, and takes `#` and `$` for its own fields and operators."""
    return type(key) is str and key != "" and not key.startswith(("chroma:", "#", "$")) and _has_utf8(key)


def _is_native(value: object) -> bool:
    if type(value) is list:
        return len({type(item) for item in value}) == 1 and all(map(_is_native_scalar, value))
    return _is_native_scalar(value)


def _is_native_scalar(value: object) -> bool:
    """Exact types: a value of another kind can leave a Chroma database on disk unreadable."""
    if type(value) is str:
        return _has_utf8(value)
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return type(value) is bool or (type(value) is float and math.isfinite(value))


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
