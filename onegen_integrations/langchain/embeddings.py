"""`OneGenEmbeddings`: LangChain's embeddings with the weights of a chat model."""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings
from pydantic import BaseModel, ConfigDict, PrivateAttr, model_validator
from typing_extensions import Self

from onegen_integrations.langchain.llm import OneGenLLM


class OneGenEmbeddings(BaseModel, Embeddings):
    """Document and query vectors of a OneGen checkpoint.

    Documents are read at the document token, queries at the query token, so the two differ for the same text.

    Attributes:
        llm: the chat model to share weights with; or
        model: folder or hub id of a checkpoint, or a loaded `OneGen`; default: the bundled one.
        revision: as in `OneGenLLM`, beside `model`.
        device: as in `OneGenLLM`, beside `model`.
        dtype: as in `OneGenLLM`, beside `model`.
        config: as in `OneGenLLM`, beside `model`.
        adapter: as in `OneGenLLM`, beside `model`.
    """

    llm: OneGenLLM | None = None
    model: Any = None
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    config: Any = None
    adapter: str | None = None

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)
    _llm: OneGenLLM = PrivateAttr()

    @model_validator(mode="after")
    def _share_weights(self) -> Self:
        given = {name: getattr(self, name) for name in type(self).model_fields if name != "llm"}
        given = {name: value for name, value in given.items() if value is not None}
        if self.llm is not None and given:
            msg = f"llm= and {sorted(given)} are both given; the llm has settings of its own, so give one of them."
            raise ValueError(msg)
        # pydantic calls this again for an object that becomes a field of another one: the weights stay.
        if not hasattr(self, "_llm"):
            self._llm = self.llm if self.llm is not None else OneGenLLM(**given)
        return self

    @property
    def onegen(self) -> Any:
        """The `OneGen` behind it; loads the weights where that has not been done yet."""
        return self._llm.onegen

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of unit length, read at the document token; batched within."""
        return self._llm.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """A vector of unit length, read at the query token."""
        return self._llm.embed_query(text)
