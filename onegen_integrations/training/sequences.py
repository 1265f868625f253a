"""Training sequences as trees of segments, and their packing into batches.

A segment is a run of tokens that attends to itself (causally) and to the segments that it names. That one rule gives
every layout: a plain causal text is one segment; an isolated passage is a segment that names no other; several
questions about one passage are branches that share it, so that the passage goes through the model once; and the
document token is a segment of its own that sees its passage and is seen by nobody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

IGNORE = -100


@dataclass
class Segment:
    """ids: the tokens. start: rotary position of the first. sees: other segments that it attends to.

    targets: for each token the id that should follow it, `IGNORE` where nothing is to be learned. weight: of those
    targets in the loss. graded: whether it is an answer that the metrics count.
    """

    ids: list[int]
    start: int
    sees: tuple[int, ...] = ()
    targets: list[int] | None = None
    weight: float = 1.0
    graded: bool = False

    @property
    def end(self) -> int:
        return self.start + len(self.ids)


@dataclass(frozen=True)
class Query:
    """Where a query token stands, and the keys of the documents that are right and, of their groups, wrong."""

    segment: int
    offset: int
    right: frozenset[str]
    wrong: frozenset[str] = frozenset()


@dataclass
class TrainingSequence:
    """A tree of segments with the places of its retrieval tokens.

    documents: (segment, offset, key, group): for a query, documents of a group with a right one are neither right nor
    wrong, unless the query names them. pointers: (segment, offset) that writes a token, and (segment, offset) where
    that token is read. source: what kind of data it is, for the metrics.
    """

    segments: list[Segment] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    documents: list[tuple[int, int, str, str]] = field(default_factory=list)
    pointers: list[tuple[int, int, int, int]] = field(default_factory=list)
    source: str = ""

    def add(self, segment: Segment) -> int:
        """Append a segment and return its index."""
        self.segments.append(segment)
        return len(self.segments) - 1

    def __len__(self) -> int:
        return sum(len(segment.ids) for segment in self.segments)


@dataclass(frozen=True)
class Batch:
    """Model inputs of one training step. B rows of T tokens; Q queries and D documents in all rows.

    input_ids, positions, targets: [B, T]; weights: float [B, T]; visible: bool [B, T, T].
    query_at, document_at: (row, column) of the retrieval tokens, [Q, 2] and [D, 2].
    positive: bool [Q, D]; candidate: bool [Q, D], which documents take part in a query's loss.
    pointer_at: [P, 3]: row, column that writes a token, and column where it is read.
    segment: [B, T], number of the graded segment that a target belongs to, -1 where there is none.
    segment_sources, query_sources: the kind of data of each graded segment and of each query.
    """

    input_ids: Tensor
    positions: Tensor
    targets: Tensor
    weights: Tensor
    visible: Tensor
    query_at: Tensor
    document_at: Tensor
    positive: Tensor
    candidate: Tensor
    pointer_at: Tensor
    segment: Tensor
    segment_sources: tuple[str, ...]
    query_sources: tuple[str, ...]


def pack(sequences: Sequence[TrainingSequence], capacity: int, pad_id: int) -> Batch:
    """Put sequences side by side into rows of at most `capacity` tokens (or of the longest sequence).

    First-fit decreasing; sequences of one row do not see each other. The length of the rows is a multiple of eight, as
    the fused attention of GPUs wants it.
    """
    capacity = max([capacity, *map(len, sequences)])
    rows: list[list[TrainingSequence]] = []
    free: list[int] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        size = len(sequence)
        row = next((i for i, space in enumerate(free) if space >= size), None)
        if row is None:
            rows.append([])
            free.append(capacity)
            row = len(rows) - 1
        rows[row].append(sequence)
        free[row] -= size
    length = capacity - min(free)
    return _collate(rows, length + -length % 8, pad_id)


def _collate(rows: list[list[TrainingSequence]], length: int, pad_id: int) -> Batch:
    shape = (len(rows), length)
    input_ids = np.full(shape, pad_id)
    positions = np.zeros(shape, dtype=np.int64)
    targets = np.full(shape, IGNORE)
    weights = np.zeros(shape, dtype=np.float32)
    visible = np.zeros((*shape, length), dtype=bool)
    written = np.full(shape, -1)
    segment_sources: list[str] = []
    query_sources: list[str] = []
    query_at, document_at, pointer_at = [], [], []
    queries: list[Query] = []
    keys: list[str] = []
    groups: list[str] = []
    for row, sequences in enumerate(rows):
        column = 0
        for sequence in sequences:
            first = column
            starts = []
            owner = np.repeat(np.arange(len(sequence.segments)), [len(s.ids) for s in sequence.segments])
            sees = np.eye(len(sequence.segments), dtype=bool)
            for index, segment in enumerate(sequence.segments):
                end = column + len(segment.ids)
                starts.append(column)
                input_ids[row, column:end] = segment.ids
                positions[row, column:end] = np.arange(segment.start, segment.end)
                if segment.targets is not None:
                    targets[row, column:end] = segment.targets
                    weights[row, column:end] = segment.weight
                if segment.graded:
                    written[row, column:end] = len(segment_sources)
                    segment_sources.append(sequence.source)
                sees[index, list(segment.sees)] = True
                column = end
            span = slice(first, column)
            at = positions[row, span]
            visible[row, span, span] = sees[owner[:, None], owner[None, :]] & (at[None, :] <= at[:, None])
            pointer_at += [(row, starts[s] + i, starts[t] + j) for s, i, t, j in sequence.pointers]
            query_at += [(row, starts[query.segment] + query.offset) for query in sequence.queries]
            queries += sequence.queries
            query_sources += [sequence.source] * len(sequence.queries)
            document_at += [(row, starts[s] + offset) for s, offset, _, _ in sequence.documents]
            keys += [key for _, _, key, _ in sequence.documents]
            groups += [group for _, _, _, group in sequence.documents]
        np.fill_diagonal(visible[row, column:, column:], val=True)  # padding sees itself: no row without a key
    positive = _named([query.right for query in queries], keys)
    wrong = _named([query.wrong for query in queries], keys)
    right_groups = [{groups[number] for number in np.flatnonzero(row)} for row in positive]
    candidate = positive | wrong | ~_named(right_groups, groups)
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        positions=torch.from_numpy(positions),
        targets=torch.from_numpy(targets),
        weights=torch.from_numpy(weights),
        visible=torch.from_numpy(visible),
        query_at=torch.tensor(query_at, dtype=torch.long).reshape(-1, 2),
        document_at=torch.tensor(document_at, dtype=torch.long).reshape(-1, 2),
        positive=torch.from_numpy(positive),
        candidate=torch.from_numpy(candidate),
        pointer_at=torch.tensor(pointer_at, dtype=torch.long).reshape(-1, 3),
        segment=torch.from_numpy(np.where(targets == IGNORE, -1, written)),
        segment_sources=tuple(segment_sources),
        query_sources=tuple(query_sources),
    )


def _named(wanted: Sequence[Collection[str]], names: Sequence[str]) -> np.ndarray:
    """Which of the names each of the sets holds: bool [len(wanted), len(names)]."""
    columns = defaultdict(list)
    for column, name in enumerate(names):
        columns[name].append(column)
    named = np.zeros((len(wanted), len(names)), dtype=bool)
    for row, each in enumerate(wanted):
        for name in each:
            named[row, columns.get(name, [])] = True
    return named
