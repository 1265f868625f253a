"""What a retriever of LlamaIndex has found, given to the model as passages to read and not as text of a prompt.

LlamaIndex's own prompt for questions about retrieved context holds all of it, and the question behind it. A OneGen
checkpoint is trained otherwise: it reads one passage at a time, after its query token. So the query engines of
LlamaIndex use the template of this module with a `OneGenLLM`, as they have one for each kind of model that takes
documents apart from messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock
from llama_index.core.prompts import ChatPromptTemplate, PromptType

from onegen_integrations.errors import InvalidInputError
from onegen_integrations.passages import GivenPassages, Passage

if TYPE_CHECKING:
    from onegen_integrations.model import OneGen


class ContextMessage(ChatMessage):
    """Retrieved context in a prompt for `OneGenLLM`: the passages that it answers from, best first.

    The first is spliced into the answer after the model's query token; if the model asks on, it searches in all of them
    by its own vector. Where nodes have metadata above their text, as LlamaIndex writes it, each node is a passage;
    otherwise all of the context is one. To other models it is a system message.
    """

    role: MessageRole = MessageRole.SYSTEM


TEXT_QA_TEMPLATE = ChatPromptTemplate(
    [ContextMessage(blocks=[TextBlock(text="{context_str}")]), ChatMessage("{query_str}")],
    prompt_type=PromptType.QUESTION_ANSWER,
)

# Metadata as LlamaIndex writes it above the text of a node: one line for each key.
_METADATA = re.compile(r"(?P<key>[^\n:]+): [^\n]*(\n[^\n:]+: [^\n]*)*")


def split_context(context: str) -> list[str]:
    """The nodes in a context, where metadata tell them apart; joined by an empty line they are the context.

    A node begins with metadata whose first key is that of the first node.
    """
    paragraphs = context.split("\n\n")
    keys = [found["key"] if (found := _METADATA.fullmatch(paragraph)) else None for paragraph in paragraphs]
    starts = [number for number, key in enumerate(keys) if number == 0 or (key is not None and key == keys[0])]
    return ["\n\n".join(paragraphs[start:end]) for start, end in zip(starts, [*starts[1:], None], strict=True)]


def with_context(
    messages: Sequence[ChatMessage], options: Mapping[str, Any], model: OneGen
) -> tuple[list[ChatMessage], dict[str, Any]]:
    """Messages without their `ContextMessage`s, and options of `OneGen.generate` that have these as passages.

    Raises:
        InvalidInputError: the options name passages too, or a threshold for scores that such passages do not have.
    """
    contexts = [message.content or "" for message in messages if isinstance(message, ContextMessage)]
    if not contexts:
        return list(messages), dict(options)
    if taken := sorted({"passages", "score_threshold"} & options.keys()):
        msg = f"A ContextMessage says what an answer is read from, so {taken} cannot be given with it; leave one out."
        raise InvalidInputError(msg)
    nodes = [node for context in contexts for node in split_context(context)]
    passages = [Passage(f"context-{number}", node) for number, node in enumerate(nodes)]
    rest = [message for message in messages if not isinstance(message, ContextMessage)]
    return rest, {"retrieval": "always", **options, "passages": GivenPassages(model, passages)}
