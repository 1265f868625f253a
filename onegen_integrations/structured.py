"""Answers of a given form: calls of tools, and text that is valid against a JSON schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from onegen_integrations.errors import InvalidInputError
from onegen_integrations.text import Control, TextCodec

if TYPE_CHECKING:
    from torch import Tensor

    from onegen_integrations.engine.guide import Grammars, Guide

Tools = Sequence[Mapping[str, Any]]
Kind = Literal["text", "mark", "call"]  # for the reader; marks around a call; inside a call
Step = tuple[int, Kind]
Choose = Callable[["Tensor | None"], int]  # the next token, of those allowed (bool [V]) or of all

_CALL_HEAD = re.compile(r'\s*\{"name": ("(?:[^"\\]|\\.)*"), "arguments": ')


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool.

    Attributes:
        name: of the tool.
        arguments: valid against the schema of its parameters.
    """

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class ToolCallDelta:
    """A new piece of a call.

    Attributes:
        index: number of the call, from 0.
        name: of the tool, in the first piece of a call only.
        arguments: a piece of the JSON text of the arguments.
    """

    index: int
    name: str | None
    arguments: str


class Structure:
    """Holds the answer of one request to its form; without tools and schema it holds it to nothing.

    Args:
        codec: knows how calls are marked.
        grammars: makes the guides; called where one is needed.
        tools: functions in OpenAI's format.
        tool_choice: "auto": the model decides; "none"; "required": one of the tools; or the name of one.
        json_schema: of the whole text. All three have passed `check_form`.

    Raises:
        InvalidInputError: a schema cannot be enforced, or the checkpoint cannot start a call by itself.
        ImportError: the extra `structured` is not installed.
    """

    def __init__(
        self,
        codec: TextCodec,
        grammars: Callable[[], Grammars],
        tools: Tools,
        tool_choice: str,
        json_schema: Mapping[str, Any] | None,
    ) -> None:
        self.calls: list[ToolCall] = []
        self.cut_short = False  # whether an answer was ended where the room for it ended
        self._codec = codec
        self._guide: Guide | None = None
        self._fresh = True
        self._call_text = ""  # of the call in progress
        self._sent: int | None = None  # how much of its arguments has been told of; None before its name has
        self._tools = list(tools) if tool_choice != "none" else []
        self._forced = bool(self._tools) and tool_choice != "auto"
        self._before, self._after = codec.tool_call_marks()
        self._start = next((codec.token_id(part.token) for part in self._before[:1] if isinstance(part, Control)), None)
        self._json = json_schema is not None
        if json_schema is not None:
            self._guide = grammars().json(_closed(json_schema))
        if not self._tools:
            return
        if not self._forced and self._start is None:
            msg = (
                "This checkpoint has no token that starts a tool call, so it cannot decide by itself whether to call"
                " one. Use tool_choice='required' or a tool's name, or set tool_call_template in its OneGenConfig."
            )
            raise InvalidInputError(msg)
        wanted = [tool for tool in self._tools if tool_choice in ("auto", "required", _name(tool))]
        schema = _closed(_calls_schema(wanted))
        self._grammars = grammars()
        shortest = self._grammars.json(schema).closing()  # what is wrong with the schema shows now
        marks = len(self._marks(self._before)) + len(self._marks(self._after))
        self._shortest_call = marks + len(shortest or ()) + 1
        self._schema = schema

    @property
    def banned(self) -> frozenset[int]:
        """Marks of calls, which the model may not write by itself."""
        marks = {self._codec.token_id(p.token) for p in (*self._before, *self._after) if isinstance(p, Control)}
        return frozenset(marks - ({self._start} if self._tools else set()))

    def too_long(self, left: int) -> frozenset[int]:
        """What the model may not write with room for `left` tokens: the start of a call that would not fit."""
        free = self._guide is None and bool(self._tools) and self._start is not None
        return frozenset({self._start} if free and left < self._shortest_call else ())  # type: ignore[arg-type]

    def begin(self) -> list[Step]:
        """What an answer starts with where a call is forced."""
        return self._open() if self._forced else []

    def next(self, choose: Choose, left: int, also: Collection[int] = ()) -> list[Step]:
        """The next tokens: one that the model has chosen, or several that have to follow.

        Args:
            choose: lets the model choose.
            left: how many tokens there is room for.
            also: tokens that may come before a constrained text.

        Raises:
            InvalidInputError: no valid answer is short enough.
        """
        if self._guide is None:
            token = choose(None)
            if token == self._start and self._tools:
                return [(token, "mark"), *self._open()[1:]]
            return [(token, "text")]
        if self._guide.finished and not self._json:
            return self._close()
        allowed = self._guide.allowed()
        if self._fresh:
            allowed[list(also)] = True
        token = choose(allowed)
        if token in self._codec.eos_ids or (self._fresh and token in also):
            return [(token, "text")]
        closing = self._guide.closing(token)
        tail = 1 if self._json else len(self._marks(self._after)) + 1
        if closing is None or len(closing) + 1 + tail > left:
            return self._finish_early(left - tail, token)
        self._fresh = False
        self._guide.accept(token)
        return [(token, "text" if self._json else "call")]

    def deltas(self, text: str) -> Iterator[ToolCallDelta]:
        """The pieces of the call in progress that `text`, new in it, completes."""
        self._call_text += text
        head = _CALL_HEAD.match(self._call_text)
        if head is None:
            return
        index = len(self.calls)
        if self._sent is None:
            self._sent = 0
            yield ToolCallDelta(index, json.loads(head[1]), "")
        arguments = self._call_text[head.end() : -1]  # the last brace closes the call itself
        if len(arguments) > self._sent:
            yield ToolCallDelta(index, None, arguments[self._sent :])
            self._sent = len(arguments)

    def _finish_early(self, room: int, token: int) -> list[Step]:
        """The shortest valid end, where there is no room for more than that; `token` where no end is in sight."""
        assert self._guide is not None  # noqa: S101 (the caller has it)
        kind: Kind = "text" if self._json else "call"
        self._fresh = False
        closing = self._guide.closing()
        if closing is None:  # the model goes on, and its answer ends as too long
            self._guide.accept(token)
            return [(token, kind)]
        if len(closing) > room:
            msg = (
                f"There is room for {max(room, 0)} more tokens, but the shortest answer of the form asked for takes"
                f" {len(closing)}. Raise max_new_tokens, or shorten the prompt."
            )
            raise InvalidInputError(msg)
        for chosen in closing:
            self._guide.accept(chosen)
        self.cut_short = True
        end: list[Step] = [(next(iter(self._codec.eos_ids)), kind)] if self._json else []
        return [*((chosen, kind) for chosen in closing), *end]

    def _open(self) -> list[Step]:
        self._guide = self._grammars.json(self._schema)
        self._call_text = ""
        self._sent = None
        return [(token, "mark") for token in self._marks(self._before)]

    def _close(self) -> list[Step]:
        """End a call; where the model was free to call, it may go on, else the answer ends."""
        head = _CALL_HEAD.match(self._call_text)
        assert head is not None  # noqa: S101 (the grammar sees to it)
        arguments = json.loads(self._call_text[head.end() : -1])
        self.calls.append(ToolCall(json.loads(head[1]), arguments))
        self._guide = None
        steps: list[Step] = [(token, "mark") for token in self._marks(self._after)]
        return [*steps, (next(iter(self._codec.eos_ids)), "mark")] if self._forced else steps

    def _marks(self, parts: Sequence[Any]) -> list[int]:
        return self._codec.encode(parts, after_control=True)


def check_form(tools: Tools, choice: str, json_schema: Mapping[str, Any] | None) -> None:
    """Raises:
    InvalidInputError: a tool is not in OpenAI's format, the choice is none, or tools and a schema are both given.
    """
    for tool in tools:
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            msg = (
                f"A tool must be {{'type': 'function', 'function': {{'name': ..., 'parameters': ...}}}}, not {tool!r}."
            )
            raise InvalidInputError(msg)
    names = [_name(tool) for tool in tools]
    if choice not in ("auto", "none", "required", *names):
        msg = f"tool_choice is {choice!r}; it must be 'auto', 'none', 'required' or the name of a tool: {names}."
        raise InvalidInputError(msg)
    if choice == "required" and not names:
        msg = "tool_choice='required' needs tools; give tools=."
        raise InvalidInputError(msg)
    if names and choice != "none" and json_schema is not None:
        msg = "tools= and json_schema= are both given; an answer is either a call or JSON text."
        raise InvalidInputError(msg)


def usual_tool_choice(choice: Any) -> str:
    """A tool choice as frameworks and providers write it, in the form that `Structure` takes.

    Args:
        choice: None or False: "auto"; "any", "required" or True: "required"; `{"function": {"name": ...}}` or
            `{"name": ...}`: that name; other strings stay.

    Raises:
        InvalidInputError: it is of no known form.
    """
    if choice is None or choice is False:
        return "auto"
    if choice is True or choice == "any":
        return "required"
    if isinstance(choice, Mapping):
        choice = choice.get("function", choice).get("name")
    if isinstance(choice, str):
        return choice
    msg = f"tool_choice must be 'auto', 'none', 'any' or a tool, as its name or {{'function': ...}}, not {choice!r}."
    raise InvalidInputError(msg)


def _name(tool: Mapping[str, Any]) -> str:
    return str(tool["function"]["name"])


def _calls_schema(tools: Tools) -> dict[str, Any]:
    """The schema of `{"name": ..., "arguments": ...}` for one of the tools."""
    definitions: dict[str, Any] = {}
    calls = []
    for number, tool in enumerate(tools):
        parameters = _moved(tool["function"].get("parameters") or {}, f"{number}.")
        for keyword in ("$defs", "definitions"):
            definitions |= {f"{number}.{key}": value for key, value in parameters.pop(keyword, {}).items()}
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": _name(tool)}, "arguments": {"type": "object", **parameters}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return {"anyOf": calls, "$defs": definitions}


_OPEN = {"additionalProperties", "unevaluatedProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"}


def _closed(schema: Any) -> Any:
    """A schema whose objects have the properties that it names and no others, where it leaves that open."""
    if isinstance(schema, Mapping):
        closed = {key: value if key == "allOf" else _closed(value) for key, value in schema.items()}
        if isinstance(schema.get("properties"), Mapping) and not _OPEN & set(schema):
            closed["additionalProperties"] = False
        return closed
    return [_closed(item) for item in schema] if isinstance(schema, list) else schema


def _moved(schema: Any, prefix: str) -> Any:
    """A schema whose references point to definitions that have moved to the root under names with `prefix`."""
    if isinstance(schema, Mapping):
        return {
            key: re.sub(r"^#/(\$defs|definitions)/", f"#/$defs/{prefix}", value)
            if key == "$ref" and isinstance(value, str)
            else _moved(value, prefix)
            for key, value in schema.items()
        }
    return [_moved(item, prefix) for item in schema] if isinstance(schema, list) else schema
