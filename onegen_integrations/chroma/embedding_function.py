"""`OneGenEmbeddingFunction`: a OneGen checkpoint as the embedding function of a Chroma collection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
from chromadb.utils.embedding_functions import register_embedding_function

from onegen_integrations.chroma.collection import SPACE
from onegen_integrations.config import OneGenConfig
from onegen_integrations.errors import FingerprintMismatchError, InvalidInputError
from onegen_integrations.serving import LazyModel, loading_settings

if TYPE_CHECKING:
    from onegen_integrations.model import OneGen


@register_embedding_function
class OneGenEmbeddingFunction(EmbeddingFunction[Documents]):
    """Chroma's embedding function over a OneGen: stored texts become document vectors, query texts query vectors.

    Weights are loaded when the first text is embedded. Chroma keeps what `get_config` returns with the collection, and
    builds the function from it again where none is given. It does not check that a function which is given fits the
    collection; `open_collection` does.

    Args:
        model: a OneGen that is loaded already; or else:
        checkpoint: a folder or hub id; default: the bundled checkpoint.
        config: a preset name or a config, where the checkpoint has no `onegen_config.json`.
        device: as in `OneGen.from_pretrained`.
        dtype: as in `OneGen.from_pretrained`.
        revision: as in `OneGen.from_pretrained`.
        adapter: as in `OneGen.from_pretrained`.
        fingerprint: of the weights that must be found, where it is known.

    Raises:
        InvalidInputError: `model` and `checkpoint` are both given.
    """

    def __init__(
        self,
        *,
        model: OneGen | None = None,
        checkpoint: str | Path | None = None,
        config: str | OneGenConfig | None = None,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        adapter: str | Path | None = None,
        fingerprint: str | None = None,
    ) -> None:
        if model is not None and checkpoint is not None:
            msg = f"model= and checkpoint={str(checkpoint)!r} are both given; give the one or the other."
            raise InvalidInputError(msg)
        settings: dict[str, Any] = {
            "checkpoint": str(checkpoint) if checkpoint is not None else None,
            "config": config,
            "dtype": dtype,
            "revision": revision,
            "adapter": str(adapter) if adapter is not None else None,
            "fingerprint": fingerprint,
        }
        self._settings = settings | (loading_settings(model) if model is not None else {})
        self._lazy = LazyModel(**settings, device=device) if model is None else LazyModel(model)

    def __call__(self, input: Documents) -> Embeddings:  # noqa: A002 (Chroma's name)
        """Document vectors, float32 [dim] of unit length for each text.

        Raises:
            InvalidInputError: a text is empty.
            ContextWindowError: one does not fit.
            FingerprintMismatchError: the weights are not those that made the collection's vectors.
        """
        return list(self._lazy.get().embed_documents(input))

    def embed_query(self, input: Documents) -> Embeddings:  # noqa: A002
        """Query vectors; they differ from document vectors of the same texts. Errors are those of a call."""
        return list(self._lazy.get().embed_queries(input))

    @staticmethod
    def name() -> str:
        """What Chroma calls this kind of function."""
        return "onegen"

    def default_space(self) -> Space:
        """How collections compare its vectors."""
        return SPACE

    def get_config(self) -> dict[str, Any]:
        """What `build_from_config` needs, in JSON types.

        The device is a matter of the machine. The fingerprint is there once the weights are.
        """
        config = self._settings["config"]
        return self._settings | {
            "config": config.to_dict() if isinstance(config, OneGenConfig) else config,
            "fingerprint": self._lazy.fingerprint,
        }

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> OneGenEmbeddingFunction:
        """The function that `get_config` describes; it loads nothing."""
        settings = config.get("config")
        if isinstance(settings, dict):
            config = config | {"config": OneGenConfig.from_dict(settings)}
        return OneGenEmbeddingFunction(**config)

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Refuse a change after which texts would be embedded in another way.

        Raises:
            FingerprintMismatchError: the new function would make other vectors than those in the collection.
        """
        old, new = old_config.get("fingerprint"), new_config.get("fingerprint")
        same = old == new if old and new else old_config | {"fingerprint": None} == new_config | {"fingerprint": None}
        if not same:
            msg = (
                f"The collection's vectors were made by {old_config}, not by {new_config}. Use another collection, and"
                " add the texts there."
            )
            raise FingerprintMismatchError(msg)
