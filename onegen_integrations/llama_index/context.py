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

    Where nodes have metadata above their text, as LlamaIndex writes it, each node is a passage: the first is spliced
    into the answer after the model's query token, and if the model asks on, it searches in all of them by its own
    vector. Without metadata each paragraph is a passage, and every search is by vector. To other models it is a system
    message.
    """

    role: MessageRole = MessageRole.SYSTEM


TEXT_QA_TEMPLATE = ChatPromptTemplate(
    [ContextMessage(blocks=[TextBlock(text="{context_str}")]), ChatMessage("{query_str}")],
    prompt_type=PromptType.QUESTION_ANSWER,
)

# Metadata as LlamaIndex writes it above the text of a node: one line for each key.
_METADATA = re.compile(r"(?P<key>[^\n:]+): [^\n]*(\n[^\n:]+: [^\n]*)*")
# A short line of its own that is no sentence.
_HEADING = re.compile(r"[^\n]{0,79}[^\n.!?:;…]")


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
    rest = [message for message in messages if not isinstance(message, ContextMessage)]
    return rest, {"retrieval": "always", **options, "passages": _source("\n\n".join(contexts), model)}


def _source(context: str, model: OneGen) -> GivenPassages:
    """The passages of a context: its nodes as they are ranked, or else its paragraphs, to be compared."""
    nodes = nodes_of(context)
    passages = [Passage(f"context-{number}", text) for number, text in enumerate(nodes or paragraphs_of(context))]
    return GivenPassages(model, passages, ranked=bool(nodes))


def nodes_of(context: str) -> list[str]:
    """The nodes in a context, if metadata tell them apart: each begins with metadata that have the same first key."""
    paragraphs = context.split("\n\n")
    keys = [found["key"] if (found := _METADATA.fullmatch(paragraph)) else None for paragraph in paragraphs]
    if keys[0] is None:
        return []
    return _joined(paragraphs, [key == keys[0] for key in keys])


def paragraphs_of(context: str) -> list[str]:
    """The paragraphs of a context, headings with what they stand above."""
    paragraphs = [paragraph for paragraph in context.split("\n\n") if paragraph.strip()]
    headings = [_HEADING.fullmatch(paragraph.strip()) is not None for paragraph in paragraphs]
    return _joined(paragraphs, [number == 0 or not headings[number - 1] for number in range(len(paragraphs))])


def _joined(paragraphs: Sequence[str], begins: Sequence[bool]) -> list[str]:
    """Paragraphs joined to texts, each up to where the next begins."""
    starts = [number for number, begin in enumerate(begins) if begin]
    return ["\n\n".join(paragraphs[start:end]) for start, end in zip(starts, [*starts[1:], None], strict=False)]
