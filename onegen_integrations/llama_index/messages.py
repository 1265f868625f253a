"""LlamaIndex's chat messages and responses, from and to those of the model."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms.utils import parse_partial_json

from onegen_integrations.errors import InvalidInputError

if TYPE_CHECKING:
    from onegen_integrations.generation import Event, Generation, Retrieval

_ROLES: Final = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


def model_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Chat messages as the model takes them.

    Raises:
        InvalidInputError: a message holds something else than text and tool calls.
    """
    return [_model_message(message) for message in messages]


def chat_responses(events: Generator[Event, None, None], model_name: str) -> Generator[ChatResponse, None, None]:
    """One response for each event, with the message so far; the last one has usage and finish reason.

    A retrieval has its own response, without new text.
    """
    from onegen_integrations.generation import Finish, Retrieval, TextDelta

    text = ""
    calls: list[ToolCallBlock] = []
    with closing(events):
        for event in events:
            if isinstance(event, TextDelta):
                text += event.text
                yield ChatResponse(message=_message(text, calls), delta=event.text)
            elif isinstance(event, Retrieval):
                yield ChatResponse(message=_message(text, calls), delta="", raw={"retrieval": _described(event)})
            elif isinstance(event, Finish):
                generation = event.generation
                for call, whole in zip(calls, generation.tool_calls, strict=False):
                    call.tool_kwargs = whole.arguments
                raw = _raw(generation, model_name)
                usage = {name: raw["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
                yield ChatResponse(message=_message(text, calls), delta="", raw=raw, additional_kwargs=usage)
            else:
                if event.name is not None:
                    calls.append(
                        ToolCallBlock(tool_call_id=f"call_{uuid4().hex}", tool_name=event.name, tool_kwargs="")
                    )
                calls[-1].tool_kwargs = f"{calls[-1].tool_kwargs}{event.arguments}"
                yield ChatResponse(message=_message(text, calls), delta="")


def completion(response: ChatResponse) -> CompletionResponse:
    """A chat response as a completion."""
    return CompletionResponse(
        text=response.message.content or "",
        delta=response.delta,
        raw=response.raw,
        additional_kwargs=response.additional_kwargs,
    )


def last(responses: Iterable[ChatResponse]) -> ChatResponse:
    """The whole answer, once it is there."""
    return _whole(list(responses))


async def alast(responses: AsyncGenerator[ChatResponse, None]) -> ChatResponse:
    """The whole answer, once it is there."""
    return _whole([response async for response in responses])


def tool_arguments(call: ToolCallBlock) -> dict[str, Any]:
    """The arguments of a call; of one that is still being written, those that are there."""
    if isinstance(call.tool_kwargs, dict):
        return call.tool_kwargs
    try:
        arguments = parse_partial_json(call.tool_kwargs or "{}")
    except ValueError:
        return {}
    return arguments if isinstance(arguments, dict) else {}


def _whole(responses: Sequence[ChatResponse]) -> ChatResponse:
    return responses[-1].model_copy(update={"delta": None})


def _model_message(message: ChatMessage) -> dict[str, Any]:
    texts: list[str] = []
    calls: list[ToolCallBlock] = []
    for block in message.blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ToolCallBlock):
            calls.append(block)
        elif not isinstance(block, (ThinkingBlock, CachePoint)):
            msg = f"A message holds a {type(block).__name__}; the model reads text alone. Leave it out."
            raise InvalidInputError(msg)
    converted: dict[str, Any] = {"role": _ROLES[message.role], "content": "\n".join(texts)}
    if calls:
        converted["tool_calls"] = [_openai_call(call, tool_arguments(call)) for call in calls]
    converted |= {
        key: message.additional_kwargs[key] for key in ("name", "tool_call_id") if key in message.additional_kwargs
    }
    return converted


def _message(text: str, calls: Sequence[ToolCallBlock]) -> ChatMessage:
    """The model's message so far; frameworks look for calls in the blocks or in `additional_kwargs`."""
    texts = [TextBlock(text=text)] if text or not calls else []
    blocks = [*texts, *(call.model_copy() for call in calls)]
    legacy = [
        _openai_call(c, c.tool_kwargs if isinstance(c.tool_kwargs, str) else json.dumps(c.tool_kwargs)) for c in calls
    ]
    return ChatMessage(
        role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs={"tool_calls": legacy} if legacy else {}
    )


def _openai_call(call: ToolCallBlock, arguments: object) -> dict[str, Any]:
    return {
        "id": call.tool_call_id,
        "type": "function",
        "function": {"name": call.tool_name, "arguments": arguments},
    }


def _raw(generation: Generation, model_name: str) -> dict[str, Any]:
    """What is known about an answer, in JSON types."""
    usage = asdict(generation.usage)
    return {
        "model": model_name,
        "answer": generation.answer,
        "finish_reason": generation.finish_reason,
        "usage": usage | {"total_tokens": generation.usage.total_tokens},
        "retrievals": [_described(retrieval) for retrieval in generation.retrievals],
    }


def _described(retrieval: Retrieval) -> dict[str, Any]:
    found = [{"id": passage.id, "score": passage.score} for passage in retrieval.passages]
    return {"query": retrieval.query, "position": retrieval.position, "passages": found}
