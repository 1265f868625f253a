"""From questions and passages to training sequences, in every layout that the model meets when it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from onegen_integrations.text import Control, Messages, Part, TextCodec
from onegen_integrations.training.sequences import IGNORE, Query, Segment, TrainingSequence


class Readable(Protocol):
    """A passage to train on: a key of its own, a title or "", and its text in sentences that joined give the whole."""

    @property
    def key(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def sentences(self) -> Sequence[str]: ...

    @property
    def text(self) -> str: ...


@dataclass(frozen=True)
class Ask:
    """A prompt with its answer. passage: index of the passage that answers; sentence: where in it."""

    prompt: str | Messages
    answer: str | Sequence[Part]
    passage: int = 0
    sentence: int | None = None
    tools: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Hop:
    """One step of a multi-hop answer: the passage read, what is written after it, and what of that is read there."""

    passage: Readable
    text: str
    found: str


class ExampleBuilder:
    """Builds training sequences in the formats of one checkpoint with isolated passages.

    Args:
        codec: renders and encodes.
        rng: draws rotary offsets and document fragments.
        context: no position reaches beyond it.
    """

    def __init__(self, codec: TextCodec, rng: Random, context: int) -> None:
        self._codec = codec
        self._rng = rng
        self._context = context
        self._query = Control(codec.config.query_token)
        self._eos = Control(codec.tokenizer.eos_token)
        self._resume = codec.fill(codec.config.after_passages)
        vocabulary = set(range(len(codec.tokenizer))) - codec.control_ids
        self._ordinary = sorted(vocabulary)

    def one_hop(
        self, passages: Sequence[Readable], asks: Sequence[Ask], *, passage_weight: float = 0.0
    ) -> TrainingSequence:
        """Questions about passages that are spliced in together; the passages are shared by all questions."""
        prompts = [self._prompt_ids([*self._codec.prompt(ask.prompt), self._query]) for ask in asks]
        blocks = [self._codec.passage_pieces(passage.sentences, passage.title) for passage in passages]
        answers = [self._answer_ids(ask.answer, last=True) for ask in asks]
        asked_length = max(map(len, prompts))
        read_length = sum(len(piece) for block in blocks for piece in block)
        start = asked_length + self._offset(asked_length + read_length + max(map(len, answers)))
        sequence = TrainingSequence()
        read: tuple[int, ...] = ()
        at = start
        for passage, block in zip(passages, blocks, strict=True):
            read += self._add_passage(sequence, passage, block, at, passage_weight)
            at = sequence.segments[read[-1]].end
        for ask, prompt, answer in zip(asks, prompts, answers, strict=True):
            asked = self._add_query(sequence, prompt, start - len(prompt), passages[ask.passage].key, ask.sentence)
            written = sequence.add(Segment(answer, at, (asked, *read), _written(answer), graded=True))
            self._point(sequence, written, answer[len(self._codec.encode(self._resume)) : -1], read)
        return sequence

    def multi_hop(self, prompt: str | Messages, hops: Sequence[Hop]) -> TrainingSequence:
        """A question that is answered over several passages, each retrieved by what was written before."""
        ids = self._prompt_ids([*self._codec.prompt(prompt), self._query])
        blocks = [self._codec.passage_pieces(hop.passage.sentences, hop.passage.title) for hop in hops]
        texts = [self._answer_ids(hop.text, last=hop is hops[-1]) for hop in hops]
        at = self._offset(len(ids) + sum(len(p) for block in blocks for p in block) + sum(map(len, texts)))
        sequence = TrainingSequence()
        seen: tuple[int, ...] = (self._add_query(sequence, ids, at, hops[0].passage.key),)
        at += len(ids)
        for number, (hop, block, text) in enumerate(zip(hops, blocks, texts, strict=True)):
            read = self._add_passage(sequence, hop.passage, block, at, 0.0)
            seen += read
            at = sequence.segments[seen[-1]].end
            written = sequence.add(Segment(text, at, seen, _written(text), graded=True))
            self._point(sequence, written, self._codec.encode_text(hop.found), read)
            at += len(text)
            seen += (written,)
            if number + 1 < len(hops):
                # The query token is written by the model, and nothing is to be learned from what follows it.
                sequence.queries.append(_query(written, len(text) - 1, hops[number + 1].passage.key))
        return sequence

    def nothing_found(self, prompt: str | Messages, answer: str) -> TrainingSequence:
        """A question for which the search found nothing: an empty passage stands in its place."""
        asked = self._prompt_ids([*self._codec.prompt(prompt), self._query])
        block = self._codec.encode(self._codec.passage(""), after_control=True)
        said = self._answer_ids(answer, last=True)
        at = self._offset(len(asked) + len(block) + len(said))
        targets = [IGNORE] * (len(asked) - 2) + [self._codec.query_id, IGNORE]
        end = at + len(asked) + len(block)
        return TrainingSequence(
            [
                Segment(asked, at, (), targets),
                Segment(block, at + len(asked)),
                Segment(said, end, (0, 1), _written(said), graded=True),
            ]
        )

    def plain(self, asks: Sequence[Ask]) -> TrainingSequence:
        """Prompts that are answered without retrieval; the beginning that they have in common is shared."""
        prompts = [self._prompt_ids(self._codec.prompt(ask.prompt, tools=ask.tools)) for ask in asks]
        answers = [self._codec.encode([*_parts(ask.answer), self._eos], after_control=True) for ask in asks]
        shared = _common_start(prompts) if len(asks) > 1 else 0
        longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
        sequence = TrainingSequence()
        at = self._offset(longest)
        sees: tuple[int, ...] = ()
        if shared:
            sees = (sequence.add(Segment(prompts[0][:shared], at)),)
        for prompt, answer in zip(prompts, answers, strict=True):
            own = prompt[shared:]
            targets = [IGNORE] * (len(own) - 1) + answer + [IGNORE]
            written = sequence.add(Segment(own + answer, at + shared, sees, targets, graded=True))
            self._point(sequence, written, answer[:-1], (*sees, written))
        return sequence

    def text(self, text: str, weight: float) -> TrainingSequence:
        """Plain text, learned word by word."""
        ids = self._codec.encode_text(text)
        return TrainingSequence([Segment(ids, self._offset(len(ids)), (), _written(ids), weight)])

    def repeat_drill(self, length: int) -> TrainingSequence:
        """Random tokens and the same again: teaches to copy whatever stands in the context."""
        ids = self._rng.choices(self._ordinary, k=length)
        targets = [IGNORE] * (length - 1) + ids + [IGNORE]
        return TrainingSequence([Segment(ids + ids, self._offset(2 * length), (), targets, graded=True)])

    def lookup_drill(self, key: str, records: int) -> TrainingSequence:
        """A passage of random keys and random values, and a question for each key: retrieval and copying bare."""
        rng, codec = self._rng, self._codec
        joints = [codec.encode_text(text) for text in (" is", ":", " has", ",")]
        stop = codec.encode_text(".")[-1:]
        before, after = codec.passage_pieces(["", ""])
        block, pairs = before, []
        for _ in range(records):
            name = rng.choices(self._ordinary, k=rng.randint(1, 4))
            value = rng.choices(self._ordinary, k=rng.randint(1, 6))
            pairs.append((name, value))
            block = [*block, *name, *rng.choice(joints), *value, *stop]
        block += after
        opening, other = ([*codec.encode(codec.prompt(text)), codec.query_id] for text in ("a", "b"))
        head = _common_start([opening, other])
        tail = len(opening) - head - 1
        start = head + tail + 4 + self._offset(len(block) + 32)
        sequence = TrainingSequence()
        read = (sequence.add(Segment(block, start)),)
        end = start + len(block)
        self._add_document(sequence, read, end, key, key)
        for name, value in pairs:
            prompt = [*opening[:head], *name, *opening[-tail:]]
            asked = self._add_query(sequence, prompt, start - len(prompt), key)
            answer = [*codec.encode(self._resume), *value, codec.token_id(self._eos.token)]
            written = sequence.add(Segment(answer, end, (asked, *read), _written(answer), graded=True))
            self._point(sequence, written, value, read)
        return sequence

    # --- parts ------------------------------------------------------------------------------------

    def _prompt_ids(self, parts: Sequence[Part]) -> list[int]:
        return self._codec.encode(parts)

    def _answer_ids(self, answer: str | Sequence[Part], *, last: bool) -> list[int]:
        parts = [*self._resume, *_parts(answer), self._eos if last else self._query]
        return self._codec.encode(parts, after_control=True)

    def _add_passage(
        self, sequence: TrainingSequence, passage: Readable, block: list[list[int]], at: int, weight: float
    ) -> tuple[int, ...]:
        """Add an isolated block, sentence by sentence, and its document tokens; return the segments of the block."""
        fragments = len(block) > 1 and self._rng.random() < 0.4
        pieces = block if fragments else [[token for piece in block for token in piece]]
        read: tuple[int, ...] = ()
        for number, ids in enumerate(pieces):
            following = pieces[number + 1][0] if number + 1 < len(pieces) else IGNORE
            targets = [*ids[1:], following] if weight else None
            read = (*read, sequence.add(Segment(ids, at, read, targets, weight)))
            at += len(ids)
            if fragments and number + 1 < len(pieces):
                self._add_document(sequence, read, at, f"{passage.key}#{number}", passage.key)
        self._add_document(sequence, read, at, passage.key, passage.key)
        return read

    def _add_document(self, sequence: TrainingSequence, read: tuple[int, ...], at: int, key: str, group: str) -> None:
        observer = sequence.add(Segment([self._codec.document_id], at, read))
        sequence.documents.append((observer, 0, key, group))

    def _add_query(
        self, sequence: TrainingSequence, ids: list[int], at: int, key: str, sentence: int | None = None
    ) -> int:
        """Add a segment that ends in the query token, which the model has to write; return its index."""
        targets = [IGNORE] * (len(ids) - 2) + [self._codec.query_id, IGNORE]
        asked = sequence.add(Segment(ids, at, (), targets))
        sequence.queries.append(_query(asked, len(ids) - 1, key, sentence))
        return asked

    @staticmethod
    def _point(sequence: TrainingSequence, written: int, ids: list[int], sources: tuple[int, ...]) -> None:
        """Note where each of `ids`, which `written` ends with, is read, if they stand in the sources just once."""
        own = sequence.segments[written].ids
        begin = max((i for i in _occurrences(ids, own) if i), default=0)
        places = [(s, i) for s in sources for i in range(len(sequence.segments[s].ids)) if s != written or i < begin]
        found = _occurrences(ids, [sequence.segments[s].ids[i] for s, i in places])
        if begin and ids and len(found) == 1:
            sequence.pointers += [(written, begin - 1 + n, *places[found[0] + n]) for n in range(len(ids))]

    def _offset(self, length: int) -> int:
        """Where a sequence starts: mostly near the beginning, now and then anywhere in the context."""
        free = max(0, self._context - length - 1)
        return self._rng.randint(0, min(free, 16) if self._rng.random() < 0.7 else free)


def _query(segment: int, offset: int, key: str, sentence: int | None = None) -> Query:
    """A query for passage `key`: right are the passage and, where it is known, its fragment with the answer.

    A fragment ends with its sentence and sees all before it; those that end before the answer are wrong.
    """
    if sentence is None:
        return Query(segment, offset, frozenset({key}))
    return Query(
        segment,
        offset,
        right=frozenset({key, f"{key}#{sentence}"}),
        wrong=frozenset(f"{key}#{number}" for number in range(sentence)),
    )


def _parts(answer: str | Sequence[Part]) -> list[Part]:
    return [answer] if isinstance(answer, str) else list(answer)


def _written(ids: list[int]) -> list[int]:
    """Targets of a segment that the model writes from its second token on."""
    return [*ids[1:], IGNORE]


def _occurrences(part: Sequence[int], whole: Sequence[int]) -> list[int]:
    """Where `part` begins in `whole`."""
    return (
        [i for i in range(len(whole) - len(part) + 1) if whole[i] == part[0] and whole[i : i + len(part)] == part]
        if part
        else []
    )


def _common_start(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the beginning that all have in common, short of the shortest by at least one."""
    length = 0
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        length += 1
    return min(length, min(map(len, sequences)) - 1)
