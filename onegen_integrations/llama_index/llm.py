"""`OneGenLLM`: a OneGen checkpoint as LlamaIndex LLM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.prompts.default_prompt_selectors import DEFAULT_TEXT_QA_PROMPT_SEL
from pydantic import AliasChoices

from onegen_integrations.llama_index.context import TEXT_QA_TEMPLATE, with_context
from onegen_integrations.llama_index.embedding import OneGenEmbedding
from onegen_integrations.llama_index.messages import (
    alast,
    chat_responses,
    completion,
    last,
    model_messages,
)
from onegen_integrations.llama_index.structured import StructuredCalls
from onegen_integrations.llama_index.weights import OneGenComponent
from onegen_integrations.serving import call_options, iterate_in_thread

if TYPE_CHECKING:
    from onegen_integrations.model import OneGen


class OneGenLLM(OneGenComponent, StructuredCalls):
    """The model that writes and embeds, as chat model, completion model and function calling model.

        llm = OneGenLLM()  # the bundled checkpoint
        Settings.llm, Settings.embed_model = llm, llm.as_embed_model()
        # so that engines and splitters count tokens as the model does
        Settings.tokenizer = llm.tokenize

    Nothing is loaded before it is needed. Every call takes the fields `max_tokens` (or `max_new_tokens`),
    `temperature`, `top_p`, `seed` and `stop` as keyword arguments, and the other options of `OneGen.generate`:
    `json_schema`, `tools`, `tool_choice`, and with `passages` those of retrieval. A stream ends with a response without
    new text, whose `raw` has usage, finish reason and retrievals.

    Args:
        model: a folder, a hub id, a `OneGen` that is loaded already, another component whose weights are shared, or
            None for the bundled checkpoint.
        **data: the fields: settings of the weights as in `OneGenComponent`, and those of `LLM`.

    Raises:
        InvalidInputError: `model` is loaded already, and settings to load it with are given too.
        ValidationError: a field is unknown or out of range.
    """

    max_tokens: int = Field(
        default=256,
        gt=0,
        validation_alias=AliasChoices("max_tokens", "max_new_tokens"),
        description="Most tokens of one answer.",
    )
    temperature: float = Field(default=0.0, ge=0, description="0 is greedy.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Share of the probability that is sampled from.")
    seed: int | None = Field(default=None, description="Of the sampling.")
    stop: list[str] | None = Field(default=None, description="Strings that end an answer, not part of it.")

    def __init__(self, model: str | Path | OneGen | OneGenComponent | None = None, **data: Any) -> None:
        super().__init__(model, **data)

    @classmethod
    def class_name(cls) -> str:
        return "OneGenLLM"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=self._lazy.declared_context_window() or self.onegen.context_window,
            num_output=self.max_tokens,
            is_chat_model=True,
            is_function_calling_model=True,
            model_name=self._lazy.name,
        )

    def to_payload(self) -> dict[str, Any]:
        """What events tell about the model, known without loading it."""
        decoding = {name: getattr(self, name) for name in ("max_tokens", "temperature", "top_p", "seed", "stop")}
        return {"class_name": self.class_name(), "model_name": self._lazy.name, **decoding}

    def as_embed_model(self, **fields: Any) -> OneGenEmbedding:
        """The embedding model with the same weights; `fields` are further ones of `OneGenEmbedding`."""
        return OneGenEmbedding(self, **fields)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text, for counting."""
        return self.onegen.codec.encode_text(text)

    # --- chat and completion ----------------------------------------------------------------------

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation.

        Raises:
            InvalidInputError: messages or keyword arguments that the model cannot work with.
            ContextWindowError: they do not fit.
            PassageSourceError: a passage source failed; `partial` has the answer until then.
        """
        return last(self._stream(messages, kwargs))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """As `chat`, with the message so far at each step; closing the stream stops the work."""
        return self._stream(messages, kwargs)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The answer to one user message. Errors are those of `chat`."""
        return completion(last(self._stream(self._messages(prompt, formatted=formatted), kwargs)))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """As `complete`, with the text so far at each step; closing the stream stops the work."""
        return _completions(self._stream(self._messages(prompt, formatted=formatted), kwargs))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """As `chat`; cancelling stops the work."""
        return await alast(await self._astream(messages, kwargs))

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """As `stream_chat`."""
        return await self._astream(messages, kwargs)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """As `complete`; cancelling stops the work."""
        return completion(await alast(await self._astream(self._messages(prompt, formatted=formatted), kwargs)))

    @llm_completion_callback()
    async def astream_complete(
        self,
        prompt: str,
        formatted: bool = False,
        **kwargs: Any,
    ) -> CompletionResponseAsyncGen:
        """As `stream_complete`."""
        messages = self._messages(prompt, formatted=formatted)
        return iterate_in_thread(_completions(await asyncio.to_thread(self._stream, messages, kwargs)))

    def _messages(self, prompt: str, *, formatted: bool) -> list[ChatMessage]:
        if not formatted and self.completion_to_prompt is not None:
            prompt = self.completion_to_prompt(prompt)
        return [ChatMessage(role=MessageRole.USER, content=prompt)]

    def _stream(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> ChatResponseGen:
        """The one way to an answer. What is wrong with the input shows at once, not when the stream is read."""
        model = self.onegen
        messages, options = with_context(messages, self._options(kwargs), model)
        return chat_responses(model.stream(model_messages(messages), **options), model.name)

    async def _astream(
        self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]
    ) -> AsyncGenerator[ChatResponse, None]:
        return iterate_in_thread(await asyncio.to_thread(self._stream, messages, kwargs))

    def _options(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The fields, and what a call sets otherwise, as options of `OneGen.generate`."""
        from onegen_integrations.generation import GenerationOptions

        decoding = {name: getattr(self, name) for name in ("temperature", "top_p", "seed")}
        decoding |= {"max_new_tokens": self.max_tokens, "stop": self.stop or ()}
        allowed = {field.name for field in fields(GenerationOptions)}
        return call_options(decoding, kwargs, allowed, self.class_name())


def _completions(responses: Iterable[ChatResponse]) -> CompletionResponseGen:
    return (completion(response) for response in responses)


def _is_onegen(llm: object) -> bool:
    return isinstance(llm, OneGenLLM)


# LlamaIndex picks its prompts by the model; with all other models they stay as they are.
DEFAULT_TEXT_QA_PROMPT_SEL.conditionals = [
    (_is_onegen, TEXT_QA_TEMPLATE),
    *(DEFAULT_TEXT_QA_PROMPT_SEL.conditionals or ()),
]
