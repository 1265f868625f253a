"""Text to token ids and back: trusted templates, untrusted text, prompts, streaming.

Control tokens are written by templates and by the model alone. Text of users, of chats and of passages encodes to
ordinary tokens whatever it spells, and otherwise exactly as the tokenizer would encode it in that place.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import DecodeStream

from onegen_integrations.config import PLACEHOLDER, OneGenConfig
from onegen_integrations.errors import ConfigError, InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, Any]]

_TOOLS = 'You can call these functions, by writing {"name": ..., "arguments": ...} and nothing else: '


@dataclass(frozen=True)
class Control:
    """A control token in a rendered text; everything else in it is plain `str`."""

    token: str


Part = str | Control


@dataclass(frozen=True)
class EncodedDocument:
    """ids and rotary positions of a document; observers: indices of its document tokens, one for each fragment.

    hidden: whether the other tokens of the document cannot see its document tokens.
    """

    ids: list[int]
    positions: list[int]
    observers: list[int]
    hidden: bool


class TextCodec:
    """Renders prompts, passages and documents of one checkpoint, encodes and decodes them.

    Args:
        tokenizer: a fast tokenizer.
        config: its tokens and templates.
        end_ids: tokens that end an answer, besides the tokenizer's own.

    Raises:
        ConfigError: the tokenizer is not a fast one, or a token of the config is not one single id in it.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: OneGenConfig, *, end_ids: Collection[int] = ()
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        if not tokenizer.is_fast:
            msg = f"{type(tokenizer).__name__} is not a fast tokenizer; save the checkpoint with its tokenizer.json."
            raise ConfigError(msg)
        added: dict[int, AddedToken] = tokenizer.added_tokens_decoder
        contents = {token.content for token in added.values()}
        missing = [token for token in config.tokens if token not in contents]
        if missing:
            msg = (
                f"The tokenizer has no single token for {missing}. Add them with"
                " onegen_integrations.training.initialise, or pass the config that this checkpoint was trained with."
            )
            raise ConfigError(msg)
        self.query_id = self.token_id(config.query_token)
        self.document_id = self.token_id(config.document_token)
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        # What stands after a control token is encoded behind a sentinel token, because some tokenizers treat the
        # start of a text in a special way. Random, so that no text can hold it.
        self._sentinel = f"\n{secrets.token_hex(16)}\n"
        self._plain = _without_added_tokens(self._backend)
        self._plain.add_special_tokens([AddedToken(self._sentinel, normalized=False)])
        self._guard = f"\u2060{secrets.token_hex(16)}\u2060"
        # Of the added tokens, those are ordinary that are not special and that plain text gives anyway: some tokenizers
        # list line breaks there. Those that are not special and only match as a whole are text for the reader, but no
        # user may write them: chat models mark tool calls so.
        self.hidden_ids = frozenset(i for i, token in added.items() if token.special or token.content in config.tokens)
        ordinary = frozenset(i for i, token in added.items() if self._after_control(token.content) == [i])
        self.control_ids = frozenset(added) - (ordinary - self.hidden_ids)
        self.eos_ids = self.control_ids & {tokenizer.eos_token_id, *end_ids}
        self._added = {added[i].content: added[i] for i in self.control_ids}
        self._pattern = re.compile("|".join(re.escape(t) for t in sorted(self._added, key=len, reverse=True)))

    def token_id(self, token: str) -> int:
        token_id = self.tokenizer.convert_tokens_to_ids(token)
        assert isinstance(token_id, int)  # noqa: S101 (one token, one id)
        return token_id

    # --- rendering --------------------------------------------------------------------------------

    def fill(self, template: str, **values: str) -> list[Part]:
        """Fill a template by plain replacement: its control tokens become `Control`, the values stay text."""
        parts: list[Part] = []
        for index, piece in enumerate(PLACEHOLDER.split(template)):
            parts += self.trusted(piece) if index % 2 == 0 else [values[piece]]
        return parts

    def prompt(self, prompt: str | Messages, *, tools: Sequence[Mapping[str, Any]] | None = None) -> list[Part]:
        """The prompt for a question or for chat messages (`{"role": ..., "content": ...}`), as the model expects it.

        Raises:
            InvalidInputError: the prompt is empty, or the chat template refuses the messages.
        """
        if isinstance(prompt, str):
            check_text(prompt, "The prompt")
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if tools:
            told = {"role": "system", "content": _TOOLS + json.dumps([tool["function"] for tool in tools])}
            if not self._template_knows_tools:
                messages = [told, *messages]
        if self.config.prompt_template is not None:
            return self.fill(self.config.prompt_template, prompt=_as_dialogue(messages))
        if self.tokenizer.chat_template is None:
            return [_as_dialogue(messages)]
        return self._chat(merge_same_role(messages), tools)

    @cached_property
    def _template_knows_tools(self) -> bool:
        """Whether the chat template shows the model what tools there are."""
        name = secrets.token_hex(8)
        tool = {"type": "function", "function": {"name": name, "description": name, "parameters": {}}}
        if self.config.prompt_template is not None or self.tokenizer.chat_template is None:
            return False
        return any(
            name in part for part in self._chat([{"role": "user", "content": "a"}], [tool]) if isinstance(part, str)
        )

    def query_suffix(self) -> list[int]:
        """The ids that follow a prompt whose query vector is wanted; the last one is the query token."""
        return self.encode(self.fill(self.config.query_suffix), after_control=True)

    def passage(self, text: str, title: str = "") -> list[Part]:
        """A passage as it is spliced into an answer."""
        return self.fill(self.config.passage_template, text=text, title=self._title(title))

    def _title(self, title: str) -> str:
        return self.config.title_template.replace("{title}", title) if title else ""

    def tool_call_marks(self) -> tuple[list[Part], list[Part]]:
        """What stands before and behind the JSON of a tool call."""
        before, after = self.config.tool_call_template.split("{call}")
        return self.trusted(before), self.trusted(after)

    def passage_pieces(self, fragments: Sequence[str], title: str = "") -> list[list[int]]:
        """The ids of a spliced passage, cut where its fragments end; joined they are the ids of the whole."""
        parts = self.passage("\0", title)
        middle = parts.index("\0")
        before, after = parts[:middle], parts[middle + 1 :]
        whole = self.encode([*before, "".join(fragments), *after], after_control=True)
        ends = [0]
        for text in accumulate(fragments[:-1]):
            # A token that the end of a fragment cuts belongs to the next fragment.
            own = os.path.commonprefix([whole, self.encode([*before, text], after_control=True)])  # noqa: RUF071 (of ids)
            ends.append(max(ends[-1], len(own)))
        return [whole[start:end] for start, end in pairwise([*ends, len(whole)])]

    def document(self, fragments: Sequence[str], title: str = "") -> EncodedDocument:
        """A document ready to be embedded, with one document token for each fragment."""
        ids: list[int] = []
        positions: list[int] = []
        observers: list[int] = []
        if self.config.passage_attention == "isolated":
            at = 0
            for piece in self.passage_pieces(fragments, title):
                ids += [*piece, self.document_id]
                positions += range(at, at + len(piece) + 1)
                at += len(piece)
                observers.append(len(ids) - 1)
            return EncodedDocument(ids, positions, observers, hidden=True)
        token = Control(self.config.document_token)
        before, after = self.config.document_template.split("{text}")
        title = self._title(title)
        # In the published format the prompt quotes the document token; it is a token there too.
        parts = [
            *self.fill(before, title=title),
            *(p for f in fragments for p in (f, token)),
            *self.fill(after, title=title),
        ]
        ids = self.encode(parts)
        quoted = sum(part == token for part in self.fill(before, title=title))
        observers = [i for i, token_id in enumerate(ids) if token_id == self.document_id][
            quoted : quoted + len(fragments)
        ]
        return EncodedDocument(ids, list(range(len(ids))), observers, hidden=False)

    def _chat(self, messages: Messages, tools: Sequence[Mapping[str, Any]] | None) -> list[Part]:
        try:
            rendered = self.tokenizer.apply_chat_template(
                self._guarded(messages),
                tools=self._guarded(tools) if tools else None,
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception as error:  # jinja2 is transformers' dependency; a template raises what it likes
            msg = f"The chat template of this checkpoint refuses these messages: {error}"
            raise InvalidInputError(msg) from error
        return [p.replace(self._guard, "") if isinstance(p, str) else p for p in self.trusted(str(rendered))]

    def _guarded(self, value: Any) -> Any:
        """Break every control token in the strings of `value` by a guard that `_chat` takes out again."""
        if isinstance(value, str):
            check_text(value, "A message", allow_empty=True)
            return self._pattern.sub(lambda match: match[0][:1] + self._guard + match[0][1:], value)
        if isinstance(value, Mapping):
            return {self._guarded(key): self._guarded(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._guarded(item) for item in value]
        return value

    def trusted(self, text: str) -> list[Part]:
        """The parts of a text that a template, or the author of training data, wrote: control tokens count as such."""
        parts: list[Part] = []
        end = 0
        for match in self._pattern.finditer(text):
            if match.start() > end:
                parts.append(text[end : match.start()])
            parts.append(Control(match[0]))
            end = match.end()
        return [*parts, text[end:]] if end < len(text) else parts

    # --- encoding ---------------------------------------------------------------------------------

    def encode(self, parts: Iterable[Part], *, after_control: bool = False) -> list[int]:
        """Token ids of rendered parts. Neighbouring texts are encoded together; a `Control` is one id.

        Args:
            parts: what `prompt`, `passage` and `fill` return.
            after_control: whether a control token stands before the parts.
        """
        ids: list[int] = []
        span = ""
        before: AddedToken | None = None
        for part in [*parts, None]:
            if isinstance(part, str):
                span += part
                continue
            after = self._added[part.token] if part is not None else None
            if span:
                if before is not None and before.rstrip:
                    span = span.lstrip()
                if after is not None and after.lstrip:
                    span = span.rstrip()
                ids += self._encode_span(span, at_start=not ids and not after_control)
                span = ""
            if part is not None:
                ids.append(self.token_id(part.token))
            before = after
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text in which nothing is a control token."""
        return self.encode([text])

    def _encode_span(self, span: str, *, at_start: bool) -> list[int]:
        ids = self._plain.encode(span, add_special_tokens=False).ids if at_start else self._after_control(span)
        if self.control_ids.isdisjoint(ids):
            return ids
        # A tokenizer whose vocabulary itself spells a control token: encode around it, letter by letter.
        half = len(span) // 2
        if half == 0:
            msg = f"The tokenizer turns the plain text {span!r} into a control token; such text cannot be encoded."
            raise InvalidInputError(msg)
        return self._encode_span(span[:half], at_start=at_start) + self._encode_span(span[half:], at_start=False)

    def _after_control(self, text: str) -> list[int]:
        return self._plain.encode(self._sentinel + text, add_special_tokens=False).ids[1:]

    # --- decoding ---------------------------------------------------------------------------------

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` for a reader: without special tokens and those of the config."""
        return self._backend.decode([i for i in ids if i not in self.hidden_ids])

    def detokenizer(self) -> IncrementalDetokenizer:
        return IncrementalDetokenizer(self._backend)


class IncrementalDetokenizer:
    """Turns token ids into text piece by piece, never in the middle of a character."""

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes; empty where a character is still open."""
        return self._stream.step(self._backend, token_id) or ""


class StopStrings:
    """Holds back text that may be the start of a stop string, so that no part of one is ever emitted."""

    def __init__(self, stop: Sequence[str]) -> None:
        if any(not text for text in stop):
            msg = "A stop string must not be empty."
            raise InvalidInputError(msg)
        self._stop = tuple(stop)
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """The part of the text so far that is safe to emit; sets `found` once a stop string is complete."""
        if self.found is not None:
            return ""
        self._held += text
        hits = [(self._held.find(stop), stop) for stop in self._stop if stop in self._held]
        if hits:
            position, self.found = min(hits)
            emit, self._held = self._held[:position], ""
            return emit
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        emit, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return emit

    def flush(self) -> str:
        """What was held back, once it is clear that nothing follows."""
        emit, self._held = self._held, ""
        return emit


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a start of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def check_text(text: object, what: str, *, allow_empty: bool = False) -> None:
    """Raises:
    InvalidInputError: `text` is no string, blank, or holds characters that have no UTF-8 form.
    """
    if not isinstance(text, str):
        msg = f"{what} must be a string, not {type(text).__name__}."
        raise InvalidInputError(msg)
    if not allow_empty and not text.strip():
        msg = f"{what} is empty; give some text."
        raise InvalidInputError(msg)
    for match in re.finditer("[\ud800-\udfff\0]", text):
        kind = "a NUL character" if match[0] == "\0" else f"the lone surrogate U+{ord(match[0]):04X}"
        msg = (
            f"{what} holds {kind} at position {match.start()}; remove it or decode the source with the right encoding."
        )
        raise InvalidInputError(msg)


def merge_same_role(messages: Messages) -> list[dict[str, Any]]:
    """Join neighbouring messages of one role, and system messages into one at the start, as chat templates want it.

    Raises:
        InvalidInputError: there are no messages, or one is not `{"role": ..., "content": ...}` with a word as its role
            and text as its content.
    """
    if not messages:
        msg = "The list of messages is empty; give at least one message."
        raise InvalidInputError(msg)
    merged: list[dict[str, Any]] = []
    system: list[str] = []
    for given in messages:
        if not isinstance(given, Mapping) or not isinstance(given.get("role"), str) or "content" not in given:
            msg = f"A message must be a mapping with 'role' and 'content', not {given!r}."
            raise InvalidInputError(msg)
        if not given["role"].isidentifier():
            msg = f"The role of a message is {given['role']!r}; it must be a plain word, such as 'user' or 'assistant'."
            raise InvalidInputError(msg)
        message = {**given, "content": content_text(given["content"])}
        plain = set(message) == {"role", "content"} and isinstance(message["content"], str)
        if message["role"] == "system" and plain:
            system.append(message["content"])
        elif plain and merged and merged[-1]["role"] == message["role"] and set(merged[-1]) == {"role", "content"}:
            merged[-1]["content"] += "\n" + message["content"]
        else:
            merged.append(message)
    return ([{"role": "system", "content": "\n\n".join(system)}] if system else []) + merged


def content_text(content: object) -> str | None:
    """The text of a message, whose content may be a list of text parts; None where there is none, as with tool calls.

    Raises:
        InvalidInputError: the content holds something else than text.
    """
    if content is None or isinstance(content, str):
        return content
    parts = content if isinstance(content, (list, tuple)) else [content]
    found = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) < len(found):
        msg = f"The content of a message is {content!r}; it must be text, or a list of {{'type': 'text', 'text': ...}}."
        raise InvalidInputError(msg)
    return "".join(texts)


def _as_dialogue(messages: Messages) -> str:
    """Chat messages as plain text, for checkpoints that know no chat template: one message stays as it is."""
    messages = merge_same_role(messages)
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)


def _without_added_tokens(backend: Tokenizer) -> Tokenizer:
    """A copy of a tokenizer that knows no control tokens and adds nothing by itself."""
    state = json.loads(backend.to_str())
    state["added_tokens"] = []
    state["post_processor"] = None
    state["truncation"] = state["padding"] = None
    return Tokenizer.from_str(json.dumps(state))
