"""`OneGenEmbedding`: a OneGen checkpoint as LlamaIndex embedding model."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import ConfigDict, Field, field_validator
from typing_extensions import Self

from onegen_integrations.errors import FingerprintMismatchError, InvalidInputError
from onegen_integrations.llama_index.weights import OneGenComponent

if TYPE_CHECKING:
    from onegen_integrations.model import OneGen

_WEIGHTS: Final = "weights"  # the key of what tells them apart, in a dict of the fields


class OneGenEmbedding(OneGenComponent, BaseEmbedding):
    """Vectors from the weights that also answer: texts become document vectors, queries become query vectors.

        Settings.llm = OneGenLLM()
        Settings.embed_model = Settings.llm.as_embed_model()

    Vectors have unit length. A batch is divided by the model into smaller ones that fit its token budget.

    Args:
        model: a folder, a hub id, a `OneGen` that is loaded already, a `OneGenLLM` whose weights are shared, or None
            for the bundled checkpoint.
        **data: the fields: settings of the weights as in `OneGenComponent`, and those of `BaseEmbedding`.

    Raises:
        InvalidInputError: `model` is loaded already, and settings to load it with are given too.
        ValidationError: `embeddings_cache` is given, or an unknown field.
    """

    model_config = ConfigDict(validate_assignment=True)

    embed_batch_size: int = Field(default=128, gt=0, le=2048, description="Texts of one call of the model.")

    def __init__(self, model: str | Path | OneGen | OneGenComponent | None = None, **data: Any) -> None:
        super().__init__(model, **data)
        if "model_name" not in data:
            self.model_name = self._lazy.name

    @field_validator("embeddings_cache")
    @classmethod
    def _no_embeddings_cache(cls, cache: object) -> object:
        if cache is not None:
            msg = (
                "embeddings_cache keeps the vectors of queries and of texts under the same keys, but here they differ."
                " Leave it out; to embed no text twice, run an IngestionPipeline, which has a cache of its own."
            )
            raise InvalidInputError(msg)
        return cache

    @classmethod
    def class_name(cls) -> str:
        return "OneGenEmbedding"

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """The fields, with what tells the weights apart from others; they are not loaded for that.

        Ingestion caches take it for their key: vectors of a checkpoint that has changed since are made anew.
        """
        return super().to_dict(**kwargs) | {_WEIGHTS: self._lazy.identity}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """An object with the fields of `to_dict`.

        Raises:
            FingerprintMismatchError: the checkpoint has changed since.
        """
        component = super().from_dict({name: value for name, value in data.items() if name != _WEIGHTS}, **kwargs)
        meant, found = data.get(_WEIGHTS), component._lazy.identity  # noqa: SLF001 (its own class)
        if component.fingerprint is None and meant not in (None, found):
            msg = (
                f"{component.model_name!r} holds other weights ({found}) than those that are meant ({meant}): the"
                " checkpoint has changed. Embed with the one that was there, or make the vectors anew."
            )
            raise FingerprintMismatchError(msg)
        return component

    def _get_query_embedding(self, query: str) -> Embedding:
        return self.onegen.embed_queries([query])[0].tolist()

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self.onegen.embed_documents(texts).tolist()

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
