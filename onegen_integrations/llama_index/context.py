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

from llama_index.core.base.llms.types import ChatMessage, TextBlock
from llama_index.core.prompts import ChatPromptTemplate, PromptType

from onegen_integrations.errors import InvalidInputError
from onegen_integrations.llama_index.messages import model_messages
from onegen_integrations.passages import GivenPassages, Passage

if TYPE_CHECKING:
    from onegen_integrations.model import OneGen


class ContextMessage(ChatMessage):
    """Retrieved context in a prompt for `OneGenLLM`: the passages that it answers from.

    After its query token the model picks one by its own vector, and another if it asks on. Where nodes have metadata
    above their text, as LlamaIndex writes it, each node is a passage, otherwise each paragraph. They are embedded for
    that, which the usage of the answer does not count. To other models it is a message like any other.
    """


TEXT_QA_TEMPLATE = ChatPromptTemplate(
    [ContextMessage(blocks=[TextBlock(text="{context_str}")]), ChatMessage("{query_str}")],
    prompt_type=PromptType.QUESTION_ANSWER,
)

# Metadata as LlamaIndex writes it above the text of a node: one line for each key.
_METADATA = re.compile(r"[\w.-]+: [^\n]*(\n[\w.-]+: [^\n]*)*")
# A short line of its own that is no sentence.
_HEADING = re.compile(r"[^\n]{0,79}[^\n.!?;…]")


def with_context(
    messages: Sequence[ChatMessage], options: Mapping[str, Any], model: OneGen
) -> tuple[list[ChatMessage], dict[str, Any]]:
    """Messages without their `ContextMessage`s, and options of `OneGen.generate` that have these as passages.

    Raises:
        InvalidInputError: the options contradict that, or a context holds something else than text.
    """
    contexts = [message for message in messages if isinstance(message, ContextMessage)]
    if not contexts:
        return list(messages), dict(options)
    if taken := sorted({"passages", "retrieval", "score_threshold"} & options.keys()):
        msg = f"A ContextMessage says what an answer is read from, so {taken} cannot be given with it; leave one out."
        raise InvalidInputError(msg)
    context = "\n\n".join(message["content"] for message in model_messages(contexts))
    texts = nodes_of(context) or paragraphs_of(context)
    passages = [Passage(f"context-{number}", text) for number, text in enumerate(texts)]
    rest = [message for message in messages if not isinstance(message, ContextMessage)]
    return rest, {**options, "passages": GivenPassages(model, passages), "retrieval": "always"}


def nodes_of(context: str) -> list[str]:
    """The nodes in a context, if metadata tell them apart: each begins with some that have a key of the first ones."""
    paragraphs = context.split("\n\n")
    keys = [_keys(paragraph) for paragraph in paragraphs]
    return _joined(paragraphs, [not keys[0].isdisjoint(each) for each in keys])


def paragraphs_of(context: str) -> list[str]:
    """The paragraphs of a context, headings with what they stand above."""
    paragraphs = [paragraph for paragraph in context.split("\n\n") if paragraph.strip()]
    headings = [_HEADING.fullmatch(paragraph.strip()) is not None for paragraph in paragraphs]
    return _joined(paragraphs, [number == 0 or not headings[number - 1] for number in range(len(paragraphs))])


def _keys(paragraph: str) -> set[str]:
    """The keys of a paragraph that is metadata."""
    return {line.partition(":")[0] for line in paragraph.split("\n")} if _METADATA.fullmatch(paragraph) else set()


def _joined(paragraphs: Sequence[str], begins: Sequence[bool]) -> list[str]:
    """Paragraphs joined to texts, each up to where the next begins."""
    starts = [number for number, begin in enumerate(begins) if begin]
    return ["\n\n".join(paragraphs[start:end]) for start, end in zip(starts, [*starts[1:], None], strict=False)]
