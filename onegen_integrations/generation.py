"""One-pass generation: text, query token, search, passage, text ... over one key/value cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from onegen_integrations.engine.cache import PrefixCache, SequenceCache, causal
from onegen_integrations.engine.forward import Forward
from onegen_integrations.engine.sampling import Sampler
from onegen_integrations.errors import ContextWindowError, InvalidInputError, OneGenError, PassageSourceError
from onegen_integrations.passages import PassageSource, ScoredPassage, Vectors, search_one
from onegen_integrations.structured import Step, Structure, ToolCall, ToolCallDelta, Tools, check_form
from onegen_integrations.text import Control, Part, StopStrings, TextCodec, check_text

if TYPE_CHECKING:
    from onegen_integrations.config import OneGenConfig
    from onegen_integrations.engine.guide import Grammars

RetrievalMode = Literal["auto", "always", "never"]
FinishReason = Literal["stop", "tool_calls", "length", "error", "closed"]


@dataclass(frozen=True)
class Usage:
    """Token counts of one answer: `forwarded_tokens + reused_tokens` is the length of the whole sequence less one.

    Attributes:
        prompt_tokens: of the rendered prompt.
        completion_tokens: written by the model, control tokens included.
        passage_tokens: spliced in.
        forwarded_tokens: positions that went through the model.
        reused_tokens: positions taken from an earlier sequence that starts alike.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    passage_tokens: int = 0
    forwarded_tokens: int = 0
    reused_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Of prompt, passages and answer."""
        return self.prompt_tokens + self.passage_tokens + self.completion_tokens


@dataclass(frozen=True)
class TextDelta:
    """A new piece of text for the reader.

    Attributes:
        text: the piece; the pieces of an answer joined are its text.
    """

    text: str


@dataclass(frozen=True)
class Retrieval:
    """One retrieval in the middle of an answer.

    Attributes:
        query: the text that led to it.
        vector: the query vector, float32 [dim] of unit length.
        passages: what was found, best first; empty where nothing reached the score threshold.
        position: index of the query token in the final sequence.
    """

    query: str
    vector: Vectors = field(repr=False)
    passages: tuple[ScoredPassage, ...]
    position: int


@dataclass(frozen=True)
class Generation:
    """An answer.

    Attributes:
        text: what the model wrote for the reader, without control tokens and passages.
        answer: the final answer in it, where the checkpoint marks one; else the text.
        retrievals: in order.
        usage: token counts.
        finish_reason: "stop", "tool_calls", "length", or "error" where it is the `partial` of an error.
        token_ids: the whole final sequence: prompt, control tokens, passages and text.
        tool_calls: in order.
    """

    text: str
    answer: str
    retrievals: tuple[Retrieval, ...]
    usage: Usage
    finish_reason: FinishReason
    token_ids: tuple[int, ...] = field(repr=False)
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Finish:
    """The end of a stream, with everything in it.

    Attributes:
        generation: what `OneGen.generate` returns.
    """

    generation: Generation


Event = TextDelta | Retrieval | ToolCallDelta | Finish


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How to generate: the keyword arguments of `OneGen.generate` and `OneGen.stream`.

    Attributes:
        passages: where to search; without it the model cannot retrieve.
        retrieval: "auto": the model decides; "always": it retrieves at once; "never".
        top_k: passages of one retrieval; checkpoints are trained with one.
        max_retrievals: of one answer; default: the checkpoint's.
        score_threshold: cosine similarity that a passage has to reach.
        max_new_tokens: tokens that the model may write, control tokens included.
        stop: strings that end the answer and are no part of it.
        temperature: 0 is greedy.
        top_p: the smallest set of tokens whose probabilities add up to it is kept.
        seed: makes sampling repeatable.
        tools: functions in OpenAI's format.
        tool_choice: "auto": the model decides; "none"; "required": one of the tools; or the name of one.
        json_schema: of the whole text; not together with tools.

    Raises:
        InvalidInputError: a value is out of range.
    """

    passages: PassageSource | None = None
    retrieval: RetrievalMode = "auto"
    top_k: int = 1
    max_retrievals: int | None = None
    score_threshold: float | None = None
    max_new_tokens: int = 256
    stop: Sequence[str] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    tools: Tools = ()
    tool_choice: str = "auto"
    json_schema: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        checks = (
            (self.retrieval in ("auto", "always", "never"), "retrieval", "'auto', 'always' or 'never'"),
            (self.top_k >= 1, "top_k", "at least 1"),
            (self.max_retrievals is None or self.max_retrievals >= 0, "max_retrievals", "at least 0"),
            (self.max_new_tokens >= 1, "max_new_tokens", "at least 1"),
            (0 <= self.temperature < math.inf, "temperature", "0 (greedy) or above"),
            (0 < self.top_p <= 1, "top_p", "above 0 and at most 1"),
        )
        for allowed, name, rule in checks:
            if not allowed:
                msg = f"{name} is {getattr(self, name)!r}; it must be {rule}."
                raise InvalidInputError(msg)
        check_form(self.tools, self.tool_choice, self.json_schema)
        if self.retrieval == "always" and self.passages is None:
            msg = "retrieval='always' needs passages; give passages=, or use retrieval='auto'."
            raise InvalidInputError(msg)


class OnePass:
    """The state machine of one request; all its state is here, none in the model.

    Args:
        forward: runs the model.
        codec: its tokens and templates.
        grammars: makes the guides of constrained answers; called where one is needed.
        prefixes: where beginnings of earlier sequences are found.
        context_window: how many positions the model can hold.
        prompt: the rendered prompt.
        question: the text of the prompt that a first retrieval is about.
        options: how to generate.

    Raises:
        InvalidInputError: a stop string is empty, there is no room for the retrieval asked for, or the form of the
            answer cannot be enforced.
        ContextWindowError: the prompt does not fit.
    """

    def __init__(
        self,
        forward: Forward,
        codec: TextCodec,
        grammars: Callable[[], Grammars],
        prefixes: PrefixCache,
        context_window: int,
        prompt: Sequence[Part],
        question: str,
        options: GenerationOptions,
    ) -> None:
        self._forward = forward
        self._codec = codec
        self._config: OneGenConfig = codec.config
        self._prefixes = prefixes
        self._window = context_window
        self._options = options
        self._device = next(forward.model.parameters()).device
        self._sampler = Sampler(options.temperature, options.top_p, options.seed, self._device)
        self._limit = self._config.max_retrievals if options.max_retrievals is None else options.max_retrievals
        self._structure = Structure(codec, grammars, options.tools, options.tool_choice, options.json_schema)
        self._never = self._structure.banned | {
            codec.document_id,
            *(codec.token_id(part.token) for part in codec.passage("") if isinstance(part, Control)),
        }
        self._ids: list[int] = codec.encode(prompt)
        self._prompt_tokens = len(self._ids)
        self._completion_tokens = 0
        self._passage_tokens = 0
        self._forwarded = 0
        self._reused = 0
        self._retrievals: list[Retrieval] = []
        self._question = question
        self._written = False  # an answer never ends before it has begun
        self._text = ""
        self._since_retrieval = ""
        self._stops = StopStrings(options.stop)
        self._cache = SequenceCache(forward.layers)
        self._query_suffix = codec.query_suffix() if options.retrieval == "always" and self._limit > 0 else []
        if options.max_new_tokens <= len(self._query_suffix):
            msg = (
                f"max_new_tokens is {options.max_new_tokens}, but with retrieval='always' an answer begins with"
                f" {len(self._query_suffix)} tokens that ask for passages; allow more."
            )
            raise InvalidInputError(msg)
        self._check_room(1)

    @torch.inference_mode()
    def run(self) -> Generator[Event, None, None]:
        """Generate; closing the iterator stops the work and keeps what is in the cache for later requests."""
        detokenizer = self._codec.detokenizer()
        call_detokenizer = self._codec.detokenizer()
        stops = self._stops
        eos = self._codec.eos_ids
        pending: list[Step] = [*((token, "text") for token in self._query_suffix), *self._structure.begin()]
        reason: FinishReason = "closed"
        try:
            logits = self._start()
            while True:
                if not pending:
                    pending = self._next(logits)
                token, kind = pending.pop(0)
                self._ids.append(token)
                self._completion_tokens += 1
                if token in eos:
                    reason = "length" if self._structure.cut_short else "stop"
                    break
                if kind == "call":
                    yield from self._structure.deltas(call_detokenizer.push(token))
                elif kind == "text" and token not in self._codec.hidden_ids:
                    self._written = True
                    yield from self._emit(stops.push(detokenizer.push(token)))
                    if stops.found is not None:
                        reason = "stop"
                        break
                if self._left() < 1:
                    reason = "length"
                    break
                if token == self._codec.query_id:
                    retrieval = self._retrieve()
                    yield retrieval
                    logits = self._splice(retrieval.passages)
                else:
                    logits = self._step([token])
            yield from self._emit(stops.flush())
            yield Finish(self._result(reason))
        except OneGenError as error:
            self._add(stops.flush())
            error.partial = self._result("error")
            raise
        finally:
            self._prefixes.store(self._ids, self._cache)

    # --- steps ------------------------------------------------------------------------------------

    def _start(self) -> Tensor:
        """Prefill the prompt, from an earlier sequence where one starts the same way."""
        known = self._prefixes.longest(self._ids)
        if known is not None:
            self._cache = known
            self._reused = known.length
        return self._step(self._ids[self._cache.length :])

    def _step(self, ids: list[int]) -> Tensor:
        """Forward `ids` behind what is cached; logits [V] after the last of them."""
        return self._run(ids, causal(self._cache.length, len(ids), self._device))

    def _run(self, ids: list[int], visible: Tensor) -> Tensor:
        start = self._cache.length
        positions = torch.arange(start, start + len(ids), device=self._device)[None]
        output = self._forward(
            torch.tensor([ids], device=self._device),
            positions,
            visible,
            key_positions=torch.arange(start + len(ids), device=self._device)[None],
            cache=self._cache,
            logits_to_keep=1,
        )
        self._cache.length += len(ids)
        self._forwarded += len(ids)
        self._last_hidden = output.hidden[0, -1]
        assert output.logits is not None  # noqa: S101 (logits were asked for)
        return output.logits[0, -1]

    def _retrieve(self) -> Retrieval:
        """Forward the query token, whose hidden state is the query vector, and search with it."""
        self._step([self._ids[-1]])
        vector = vectors_of(self._last_hidden[None])[0]
        query = self._since_retrieval.strip() or self._question
        self._since_retrieval = ""
        try:
            found = self._search(query, vector)
        except Exception as error:
            msg = f"The passage source failed while an answer was generated: {error}"
            raise PassageSourceError(msg) from error
        retrieval = Retrieval(query, vector, tuple(found), len(self._ids) - 1)
        self._retrievals.append(retrieval)
        return retrieval

    def _search(self, query: str, vector: Vectors) -> list[ScoredPassage]:
        source = self._options.passages
        assert source is not None  # noqa: S101 (the query token is banned without a source)
        found = search_one(source, query, vector, self._options.top_k)
        for passage in found:
            check_text(passage.text, f"The text of the passage {passage.id!r}", allow_empty=True)
        threshold = self._options.score_threshold
        return [passage for passage in found if threshold is None or passage.score >= threshold]

    def _splice(self, passages: Sequence[ScoredPassage]) -> Tensor:
        """Append the passages found, an empty one where there are none, and forward them in one go."""
        blocks = [self._codec.passage(p.text, p.title) for p in passages] or [self._codec.passage("")]
        encoded = [self._codec.encode(block, after_control=True) for block in blocks]
        resume = self._codec.encode(self._codec.fill(self._config.after_passages), after_control=True)
        ids = [token for block in encoded for token in block] + resume
        self._ids += ids
        self._passage_tokens += len(ids)
        self._check_room(1)
        start = self._cache.length
        visible = causal(start, len(ids), self._device)
        if self._config.passage_attention == "isolated":
            row = 0
            for block in encoded:
                visible[:, row : row + len(block), : start + row] = False
                row += len(block)
        return self._run(ids, visible)

    # --- rules ------------------------------------------------------------------------------------

    def _next(self, logits: Tensor) -> list[Step]:
        """The tokens that follow: the model's choice, within the rules and the form of the answer."""
        options = self._options
        query = {self._codec.query_id}
        may_retrieve = (
            options.passages is not None and options.retrieval != "never" and len(self._retrievals) < self._limit
        )
        banned = self._never if may_retrieve else self._never | query
        if not self._written and not self._structure.calls:
            banned |= self._codec.eos_ids
        banned |= self._structure.too_long(self._left())
        return self._structure.next(
            lambda allowed: self._sampler.choose(logits, self._ids, banned, allowed),
            self._left(),
            query if may_retrieve else (),
        )

    def _left(self) -> int:
        """How many more tokens may be written."""
        return min(self._options.max_new_tokens - self._completion_tokens, self._window - len(self._ids))

    def _check_room(self, new_tokens: int) -> None:
        if len(self._ids) + new_tokens > self._window:
            what = "prompt and passages take" if self._passage_tokens else "prompt takes"
            msg = (
                f"The {what} {len(self._ids)} tokens, but the context window holds {self._window} and"
                f" {new_tokens} more are needed. Shorten the prompt, use smaller passages, or lower top_k."
            )
            raise ContextWindowError(msg)

    # --- results ----------------------------------------------------------------------------------

    def _emit(self, text: str) -> Iterator[TextDelta]:
        added = self._add(text)
        if added:
            yield TextDelta(added)

    def _add(self, text: str) -> str:
        """Add text for the reader, which does not begin with white space; what of it was added."""
        added = text if self._text else text.lstrip()
        self._text += added
        self._since_retrieval += added
        return added

    def _result(self, reason: FinishReason) -> Generation:
        usage = Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            passage_tokens=self._passage_tokens,
            forwarded_tokens=self._forwarded,
            reused_tokens=self._reused,
        )
        calls = tuple(self._structure.calls)
        if reason == "stop" and calls:
            reason = "tool_calls"
        answer = final_answer(self._text, self._config.answer_start, self._config.answer_end)
        return Generation(self._text, answer, tuple(self._retrievals), usage, reason, tuple(self._ids), calls)


def final_answer(text: str, start: str, end: str) -> str:
    """What stands between the last `start` and the `end` after it; the whole text where there is no `start`."""
    if not start or start not in text:
        return text.strip()
    answer = text.rsplit(start, 1)[1]
    return (answer.split(end, 1)[0] if end else answer).strip()


def vectors_of(hidden: Tensor) -> Vectors:
    """Hidden states [N, D] as unit vectors float32 [N, D]."""
    return np.ascontiguousarray(torch.nn.functional.normalize(hidden.float(), dim=-1).cpu().numpy())
