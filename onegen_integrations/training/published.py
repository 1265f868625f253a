"""Training data in the published JSONL formats of OneGen: `train.jsonl` and `db.jsonl`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from torch.utils.data import Dataset

from onegen_integrations.errors import DataFormatError
from onegen_integrations.jsonl import read_objects
from onegen_integrations.text import Control, TextCodec
from onegen_integrations.training.sequences import IGNORE, Batch, Query, Segment, TrainingSequence, pack

Row = Mapping[str, Any]


class PublishedData(Dataset[Batch]):
    """Rows of `train.jsonl` with the documents of `db.jsonl` that they name; an item is one training step.

    A row is `{"messages": [user, assistant]}`; the assistant has one entry in `positive` for each retrieval token of
    its content (an id, a list of ids, or null) and one list of ids in `negative`. An id is `uid` of a document or
    `uid-index` of one of its retrieval tokens. Passages in the content are context: nothing in them is predicted.

    Args:
        codec: of the model to train.
        train: path of the rows.
        db: path of the documents.
        rows: rows of one step.
        positives: right documents taken for each retrieval token, at most.
        negatives: wrong documents taken for each retrieval token, at most.
        epochs: how often each row is seen.
        context: longer rows and documents are left out, with a warning; `skipped` counts them.
        seed: of the order and of the documents taken.

    Raises:
        DataFormatError: a file is missing, a line is not in the format (the message names it), or no row fits.
    """

    def __init__(
        self,
        codec: TextCodec,
        train: str | Path,
        db: str | Path,
        *,
        rows: int = 4,
        positives: int = 1,
        negatives: int = 2,
        epochs: int = 1,
        context: int,
        seed: int = 0,
    ) -> None:
        self._codec = codec
        self._documents = {str(row["uid"]): row for _, _, row in read_objects(Path(db), "uid", "messages")}
        self._rows = [row for _, _, row in read_objects(Path(train), "messages")]
        self._per_step = rows
        self._positives = positives
        self._negatives = negatives
        self._context = context
        self._seed = seed
        self.skipped = 0
        self._leave_out_what_is_too_long(train)
        self._steps_per_epoch = -(-len(self._rows) // rows)
        self._steps = epochs * self._steps_per_epoch

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < self._steps:
            raise IndexError(step)
        epoch, index = divmod(step, self._steps_per_epoch)
        order = list(range(len(self._rows)))
        Random(f"{self._seed}-{epoch}").shuffle(order)
        rng = Random(f"{self._seed}-{step}")
        sequences: list[TrainingSequence] = []
        wanted: set[str] = set()
        for number in order[index * self._per_step : (index + 1) * self._per_step]:
            sequence, uids = self._row(self._rows[number], rng)
            sequences.append(sequence)
            wanted |= uids
        sequences += [self._document(uid) for uid in sorted(wanted - self._too_long)]
        return pack(sequences, self._context, self._codec.tokenizer.pad_token_id or 0)

    def _leave_out_what_is_too_long(self, train: str | Path) -> None:
        """Rows, and of the documents that the others name those, that the context does not hold."""
        fitting = [row for row in self._rows if self._length(row) <= self._context]
        if not fitting:
            msg = f"None of the {len(self._rows)} rows of {train} fits into {self._context} tokens."
            raise DataFormatError(msg)
        named = {uid for row in fitting for uid in self._named(row)}
        self._too_long = {uid for uid in named if self._length(self._documents[uid]) > self._context}
        left_out = len(self._rows) - len(fitting)
        self.skipped = left_out + len(self._too_long)
        if self.skipped:
            msg = (
                f"{left_out} of {len(self._rows)} rows and {len(self._too_long)} of {len(named)} documents are longer"
                f" than {self._context} tokens; they are left out."
            )
            warnings.warn(msg, stacklevel=3)
        self._rows = fitting

    def _length(self, row: Row) -> int:
        prompt, reply, _ = self._encode(row["messages"])
        return len(prompt) + len(reply)

    def _named(self, row: Row) -> set[str]:
        """The documents that a row names as right or wrong."""
        *_, message = self._encode(row["messages"])
        entries = [*(message.get("positive") or []), *(message.get("negative") or [])]
        return {self._uid(key) for entry in entries for key in _keys(entry)}

    def _row(self, row: Row, rng: Random) -> tuple[TrainingSequence, set[str]]:
        """The row as a sequence, and the documents that it needs."""
        prompt, reply, message = self._encode(row["messages"])
        sequence = _with_passages(self._codec, prompt, reply)
        places = [
            (number, offset)
            for number, segment in enumerate(sequence.segments)
            for offset, token in enumerate(segment.ids)
            if token == self._codec.query_id and (number > 0 or offset >= len(prompt))
        ]
        right = list(message.get("positive") or [])
        wrong = list(message.get("negative") or [])
        if len(right) != len(places):
            msg = f"A row has {len(places)} retrieval tokens but {len(right)} entries in 'positive': {str(row)[:200]}"
            raise DataFormatError(msg)
        uids: set[str] = set()
        for (number, offset), entry, others in zip(places, right, wrong + [[]] * len(right), strict=False):
            keys, wrong_keys = _keys(entry), _keys(others)
            taken = rng.sample(keys, k=min(len(keys), self._positives))
            avoided = rng.sample(wrong_keys, k=min(len(wrong_keys), self._negatives))
            uids |= {self._uid(key) for key in taken + avoided}
            named = (frozenset(map(self._key, each)) for each in (keys, wrong_keys))
            sequence.queries.append(Query(number, offset, *named))
        sequence.source = "rows"
        return sequence, uids

    def _document(self, uid: str) -> TrainingSequence:
        """A document as it is embedded: where passages are isolated, its text does not see its document tokens."""
        prompt, reply, _ = self._encode(self._documents[uid]["messages"])
        ids = prompt + reply
        tokens = [i for i, token in enumerate(ids) if token == self._codec.document_id and i >= len(prompt)]
        if self._codec.config.passage_attention == "causal":
            documents = [(0, at, f"{uid}-{number}", uid) for number, at in enumerate(tokens)]
            return TrainingSequence([Segment(ids, 0)], documents=documents)
        sequence = TrainingSequence()
        read: tuple[int, ...] = ()
        position = 0
        for number, (start, end) in enumerate(pairwise([-1, *tokens])):
            piece = ids[start + 1 : end]
            if piece:
                read = (*read, sequence.add(Segment(piece, position, read)))
                position += len(piece)
            observer = sequence.add(Segment([self._codec.document_id], position, read))
            sequence.documents.append((observer, 0, f"{uid}-{number}", uid))
        return sequence

    def _encode(self, messages: Sequence[Row]) -> tuple[list[int], list[int], Row]:
        """Ids of the user's part and of the assistant's, and the assistant's message."""
        user = [part for m in messages if m["role"] == "user" for part in self._codec.trusted(m["content"])]
        message = next((m for m in messages if m["role"] == "assistant"), None)
        if message is None:
            msg = f"A row needs a user and an assistant message: {str(messages)[:200]}"
            raise DataFormatError(msg)
        both = [*user, *self._codec.trusted(message["content"])]
        prompt = self._codec.encode(user)
        whole = self._codec.encode(both)
        return whole[: len(prompt)], whole[len(prompt) :], message

    def _uid(self, key: str) -> str:
        if key in self._documents:
            return key
        uid = key.rsplit("-", 1)[0]
        if uid not in self._documents:
            msg = f"The id {key!r} names no document of the db file; an id is 'uid' or 'uid-index'."
            raise DataFormatError(msg)
        return uid

    def _key(self, key: str) -> str:
        return f"{key}-0" if key in self._documents else key


def _keys(entry: Any) -> list[str]:
    """The ids of an entry: null, an id, or a list of ids."""
    return [] if entry is None else [str(key) for key in (entry if isinstance(entry, list) else [entry])]


def _with_passages(codec: TextCodec, prompt: list[int], reply: list[int]) -> TrainingSequence:
    """A row as segments: one where passages are causal, else each passage is one that sees only itself."""
    causal = codec.config.passage_attention == "causal"
    marks = [codec.token_id(part.token) for part in codec.passage("") if isinstance(part, Control)]
    targets = [IGNORE] * (len(prompt) - 1) + reply + [IGNORE]
    inside = False
    blocks: list[tuple[bool, list[int], list[int]]] = []
    for token, target in zip(prompt + reply, targets, strict=True):
        opens = bool(marks) and token == marks[0]
        if opens or not blocks or (blocks[-1][0] and not inside):
            blocks.append((opens, [], []))
        inside = inside or opens
        learn = not inside and token != codec.query_id and not (marks and target == marks[0])
        closes = bool(marks) and inside and token == marks[-1]
        blocks[-1][1].append(token)
        blocks[-1][2].append(target if learn or (closes and causal) else IGNORE)
        inside = inside and not closes
    sequence = TrainingSequence()
    start = 0
    for isolated, ids, wanted in blocks:
        sees = () if isolated and not causal else tuple(range(len(sequence.segments)))
        sequence.add(Segment(ids, start, sees, wanted, graded=not isolated))
        start += len(ids)
    return sequence
