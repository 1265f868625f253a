"""Training data in the published JSONL formats of OneGen: `train.jsonl` and `db.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from torch.utils.data import Dataset

from onegen_integrations.errors import DataFormatError
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
        context: longer rows and documents are left out; `skipped` counts them.
        seed: of the order and of the documents taken.

    Raises:
        DataFormatError: a file is missing or a line is not in the format; the message names the line.
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
        self._documents = {str(row["uid"]): row for row in _read(Path(db), ("uid", "messages"))}
        self._rows = list(_read(Path(train), ("messages",)))
        self._per_step = rows
        self._positives = positives
        self._negatives = negatives
        self._context = context
        self._seed = seed
        self._steps_per_epoch = -(-len(self._rows) // rows)
        self._steps = epochs * self._steps_per_epoch
        self.skipped = 0

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
            if len(sequence) <= self._context:
                sequences.append(sequence)
                wanted |= uids
            else:
                self.skipped += 1
        for uid in sorted(wanted):
            document = self._document(uid)
            if len(document) <= self._context:
                sequences.append(document)
            else:
                self.skipped += 1
        return pack(sequences, self._context, self._codec.tokenizer.pad_token_id or 0)

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
            keys = [] if entry is None else [str(key) for key in (entry if isinstance(entry, list) else [entry])]
            taken = rng.sample(keys, k=min(len(keys), self._positives))
            avoided = rng.sample([str(key) for key in others], k=min(len(others), self._negatives))
            uids |= {self._uid(key) for key in taken + avoided}
            sequence.queries.append(Query(number, offset, frozenset(self._key(key) for key in keys)))
        sequence.source = "rows"
        return sequence, uids

    def _document(self, uid: str) -> TrainingSequence:
        prompt, reply, _ = self._encode(self._documents[uid]["messages"])
        sequence = TrainingSequence([Segment(prompt + reply, 0)])
        tokens = [i for i, token in enumerate(prompt + reply) if token == self._codec.document_id and i >= len(prompt)]
        sequence.documents = [(0, at, f"{uid}-{number}", uid) for number, at in enumerate(tokens)]
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


def _read(path: Path, fields: Sequence[str]) -> Iterator[Row]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}."
        raise DataFormatError(msg) from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            msg = f"{path}, line {number}: not JSON ({error})."
            raise DataFormatError(msg) from error
        missing = [field for field in fields if not isinstance(row, dict) or field not in row]
        if missing:
            msg = f"{path}, line {number}: the fields {missing} are missing."
            raise DataFormatError(msg)
        yield row
