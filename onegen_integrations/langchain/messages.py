"""LangChain's messages and tools in the terms of the core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.utils.function_calling import convert_to_openai_tool

from onegen_integrations.errors import InvalidInputError
from onegen_integrations.generation import Usage

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "tool"}


def core_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """`{"role", "content"}` with what else a chat template may want: tool calls, their ids, names.

    Raises:
        InvalidInputError: a message holds something else than text.
    """
    return [_core_message(message) for message in messages]


def _core_message(message: BaseMessage) -> dict[str, Any]:
    role = (
        message.role if isinstance(message, ChatMessage) else _ROLES[message.type.removesuffix("MessageChunk").lower()]
    )
    converted: dict[str, Any] = {"role": role, "content": _text(message)}
    if isinstance(message, AIMessage) and message.tool_calls:
        converted["tool_calls"] = [
            {"type": "function", "id": call["id"], "function": {"name": call["name"], "arguments": call["args"]}}
            for call in message.tool_calls
        ]
    if isinstance(message, ToolMessage):
        converted["tool_call_id"] = message.tool_call_id
    if message.name:
        converted["name"] = message.name
    return converted


def _text(message: BaseMessage) -> str:
    """The text of a message, without blocks that repeat its tool calls or reasoning; anything else is refused."""
    if isinstance(message.content, str):
        return message.content
    texts = []
    for block in message.content:
        if isinstance(block, str):
            texts.append(block)
        elif block.get("type") == "text":
            texts.append(str(block.get("text", "")))
        elif block.get("type") not in ("tool_use", "tool_call", "function_call", "reasoning", "thinking"):
            msg = f"A message holds a block of type {block.get('type')!r}; this model reads text only."
            raise InvalidInputError(msg)
    return "".join(texts)


def tool_format(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """Functions, classes, schemas and LangChain's tools in OpenAI's format."""
    return [convert_to_openai_tool(tool) for tool in tools]


def usage_metadata(usage: Usage) -> UsageMetadata:
    """Passages count as input; what an earlier sequence had computed counts as read from the cache."""
    return UsageMetadata(
        input_tokens=usage.prompt_tokens + usage.passage_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        input_token_details={"cache_read": usage.reused_tokens},
    )
