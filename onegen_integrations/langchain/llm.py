"""`OneGenLLM`: one object that is LangChain's chat model and LangChain's embeddings, with one set of weights."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any
from uuid import uuid4

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import ConfigDict, Field, PrivateAttr, model_validator
from typing_extensions import Self

from onegen_integrations import __version__
from onegen_integrations.errors import InvalidInputError
from onegen_integrations.generation import Finish, Generation, TextDelta
from onegen_integrations.langchain.messages import core_messages, tool_format, usage_metadata
from onegen_integrations.serving import LazyModel, call_options, iterate_in_thread, loading_settings
from onegen_integrations.structured import ToolCallDelta, usual_tool_choice

_PROVIDER = "onegen"
_REMOTE = {"api_key", "base_url", "max_retries", "timeout"}  # of services; a local model has no use for them
_IGNORED = {"parallel_tool_calls", "stream", "stream_usage", "strict"} | _REMOTE


class OneGenLLM(BaseChatModel, Embeddings):
    """A OneGen checkpoint as chat model and as embeddings: pass the same object as `llm=` and as `embedding=`.

    Nothing is loaded before first use; objects with equal settings share one set of weights.

    ```python
    llm = OneGenLLM()
    store = OneGenChroma.from_texts(texts, llm, persist_directory="db")
    answer = create_stuff_documents_chain(llm, prompt)
    chain = create_retrieval_chain(store.as_retriever(), answer)
    ```

    Attributes:
        model: folder or hub id of a checkpoint, or a `OneGen` that is loaded already; default: the bundled one.
        revision: of a hub id.
        device: default: a GPU where there is one.
        dtype: default: float32 on a CPU, the checkpoint's own on a GPU.
        config: a preset name or a `OneGenConfig`, where the checkpoint has no `onegen_config.json`.
        adapter: a PEFT adapter, folder or hub id.
        temperature: 0 is greedy.
        top_p: the smallest set of tokens whose probabilities add up to it is kept.
        max_tokens: written at most.
        stop: strings that end an answer and are no part of it.
        seed: makes sampling repeatable.
        streaming: True makes `invoke` stream within, so that callbacks hear of each token.
    """

    model: Any = None
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    config: Any = None
    adapter: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = Field(default=256, alias="max_new_tokens")
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    seed: int | None = None
    streaming: bool = False

    model_config = ConfigDict(populate_by_name=True, protected_namespaces=(), arbitrary_types_allowed=True)
    _lazy: LazyModel = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_settings(cls, values: dict[str, Any]) -> dict[str, Any]:
        known = {name for key, field in cls.model_fields.items() for name in (key, field.alias)} | _REMOTE
        unknown = sorted(set(values) - known)
        if unknown:
            allowed = sorted(set(OneGenLLM.__annotations__) - {"model_config", "_lazy"})
            msg = f"OneGenLLM has no settings {unknown}; its own are {allowed}."
            raise ValueError(msg)
        return values

    @model_validator(mode="after")
    def _set_onegen_version(self) -> Self:
        # pydantic calls this again for an object that becomes a field of another one: the weights stay.
        if not hasattr(self, "_lazy"):
            self._add_version("onegen-integrations", __version__)
            self._lazy = LazyModel(self.model, **self._loading())
        return self

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.model_copy()  # a deep copy would double the weights

    def __getstate__(self) -> dict[Any, Any]:
        """What is pickled names the weights and does not hold them."""
        state = super().__getstate__()
        if not isinstance(self.model, (str, Path, type(None))):
            state["__dict__"] = {**state["__dict__"], "model": loading_settings(self.model)["checkpoint"]}
        return state

    def _loading(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in ("revision", "device", "dtype", "config", "adapter")}
        return {name: value for name, value in settings.items() if value is not None}

    @property
    def onegen(self) -> Any:
        """The `OneGen` behind it; loads the weights where that has not been done yet."""
        return self._lazy.get()

    # --- what it is called ------------------------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return _PROVIDER

    @property
    def model_name(self) -> str:
        """How the model is called in messages and traces."""
        return self._lazy.name

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """All that decides an answer: LangChain's cache tells models apart by it."""
        loading = {name: str(value) for name, value in self._loading().items()}
        decoding = {name: getattr(self, name) for name in ("temperature", "top_p", "max_tokens", "stop", "seed")}
        return {"model": self._lazy.identity, **loading, **decoding}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider=_PROVIDER,
            ls_model_name=kwargs.get("model") or self.model_name,
            ls_model_type="chat",
            ls_temperature=kwargs.get("temperature", self.temperature),
            ls_max_tokens=kwargs.get("max_tokens", self.max_tokens),
        )
        stops = stop or self.stop
        if stops:
            params["ls_stop"] = stops
        return params

    def _resolve_model_profile(self) -> ModelProfile | None:
        profile = ModelProfile(
            max_output_tokens=self.max_tokens,
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            tool_calling=True,
            tool_choice=True,
            tool_call_streaming=True,
            structured_output=True,
            temperature=True,
        )
        window = LazyModel(self.model, **self._loading()).declared_context_window()
        if window is not None:
            profile["max_input_tokens"] = window
        return profile

    # --- generation -------------------------------------------------------------------------------

    def options(self, stop: list[str] | None, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The core's options: those of a call before those of the object.

        Raises:
            InvalidInputError: a setting is unknown.
        """
        given = {key: value for key, value in settings.items() if key not in _IGNORED}
        if given.pop("n", None) not in (None, 1):
            msg = f"n is {settings['n']!r}, but a call gives one answer; for several, batch() the question with seeds."
            raise InvalidInputError(msg)
        tools = tool_format(given.pop("tools", None) or ())
        choice = usual_tool_choice(given.pop("tool_choice", None))
        form = {
            "tools": tools,
            "tool_choice": choice if tools else "auto",
            "json_schema": _json_schema(given.pop("response_format", None)),
        }
        decoding = {name: getattr(self, name) for name in ("temperature", "top_p", "seed")}
        decoding |= {"max_new_tokens": self.max_tokens, "stop": stop if stop is not None else self.stop or ()}
        allowed = {*decoding, "response_format", "tool_choice", "tools"}
        return form | call_options(decoding, given, allowed, "OneGenLLM")

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with closing(self._chunks(messages, stop, kwargs)) as chunks:
            for chunk in chunks:
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with aclosing(iterate_in_thread(self._chunks(messages, stop, kwargs))) as chunks:
            async for chunk in chunks:
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 (tokens are told of when streaming)
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002 (tokens are told of when streaming)
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, **kwargs))

    def _chunks(
        self, messages: list[BaseMessage], stop: list[str] | None, settings: Mapping[str, Any]
    ) -> Generator[ChatGenerationChunk, None, None]:
        model, options = self._lazy.get(), self.options(stop, settings)
        with closing(model.stream(core_messages(messages), **options)) as events:
            for event in events:
                if isinstance(event, TextDelta):
                    yield ChatGenerationChunk(message=AIMessageChunk(content=event.text))
                elif isinstance(event, ToolCallDelta):
                    yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[_call_chunk(event)]))
                elif isinstance(event, Finish):
                    yield ChatGenerationChunk(message=self._last(event))

    def _last(self, event: Finish) -> AIMessageChunk:
        """The end of a message, which alone carries its usage and whence it comes."""
        return AIMessageChunk(content="", chunk_position="last", **self.message_fields(event.generation))

    def message_fields(self, generation: Generation) -> dict[str, Any]:
        """What a message tells of its making, beside its content."""
        metadata = {
            "model_name": self.model_name,
            "model_provider": _PROVIDER,
            "finish_reason": generation.finish_reason,
        }
        return {"usage_metadata": usage_metadata(generation.usage), "response_metadata": metadata}

    def start_run(self, managers: Any, parent: Any, messages: Sequence[BaseMessage]) -> Any:
        """Start a run of this model within another one, as its own methods do, for a caller that streams by itself.

        Args:
            managers: `CallbackManager`, or `AsyncCallbackManager`, with which the result has to be awaited.
            parent: the callback manager of the run that it belongs to.
            messages: of the conversation.

        Returns:
            A list with the callback manager of the run.
        """
        traced = dict(self._get_ls_params())
        manager = managers.configure(parent, self.callbacks, self.verbose, None, self.tags, traced, self.metadata)
        params = self._get_invocation_params()
        return manager.on_chat_model_start(
            self._serialized, [list(messages)], invocation_params=params, options={}, batch_size=1
        )

    # --- tools ------------------------------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call tools; the arguments it writes are always valid against their schemas.

        Args:
            tools: functions, pydantic classes, schemas or LangChain tools.
            tool_choice: "auto" (the model decides), "any" or True (it has to call one), "none", or the name of one.
            **kwargs: further options of each call.
        """
        return self.bind(tools=tool_format(tools), tool_choice=usual_tool_choice(tool_choice), **kwargs)

    # --- tokens -----------------------------------------------------------------------------------

    def get_token_ids(self, text: str) -> list[int]:
        """Ids of a plain text, by the checkpoint's own tokenizer."""
        return self._lazy.get().codec.encode_text(text) if text else []

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Length of the whole prompt, with all that the chat template adds."""
        codec = self._lazy.get().codec
        return len(codec.encode(codec.prompt(core_messages(messages), tools=tool_format(tools or ()))))

    # --- embeddings -------------------------------------------------------------------------------

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of unit length, read at the document token."""
        return self._lazy.get().embed_documents(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        """A vector of unit length, read at the query token."""
        return self._lazy.get().embed_queries([text])[0].tolist()


def _call_chunk(delta: ToolCallDelta) -> Any:
    call_id = f"call_{uuid4().hex}" if delta.name is not None else None
    return tool_call_chunk(name=delta.name, args=delta.arguments, id=call_id, index=delta.index)


def _json_schema(response_format: Any) -> Mapping[str, Any] | None:
    """The schema in OpenAI's `response_format`.

    Raises:
        InvalidInputError: it is of no known form.
    """
    if response_format is None or response_format == {"type": "text"}:
        return None
    if isinstance(response_format, Mapping):
        if response_format.get("type") == "json_object":
            return {"type": "object"}
        schema = response_format.get("json_schema", {}).get("schema")
        if isinstance(schema, Mapping):
            return schema
    msg = (
        "response_format must be {'type': 'text'}, {'type': 'json_object'} or {'type': 'json_schema', 'json_schema':"
        f" {{'schema': ...}}}}, not {response_format!r}."
    )
    raise InvalidInputError(msg)
