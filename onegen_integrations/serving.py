"""What the adapters of all frameworks share: a model that is loaded at first use, and streams for event loops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from onegen_integrations.config import BUNDLED, BUNDLED_NAME
from onegen_integrations.errors import FingerprintMismatchError

if TYPE_CHECKING:
    from onegen_integrations.model import OneGen

_Item = TypeVar("_Item")


class LazyModel:
    """A checkpoint that is loaded at first use; equal settings share one set of weights in a process.

    Args:
        checkpoint: a folder, a hub id, a `OneGen` that is loaded already, or None for the bundled checkpoint.
        fingerprint: of the weights that must be found, where it is known.
        **settings: as `OneGen.from_pretrained` takes them.
    """

    def __init__(
        self, checkpoint: str | Path | OneGen | None = None, *, fingerprint: str | None = None, **settings: Any
    ) -> None:
        given = checkpoint is None or isinstance(checkpoint, (str, Path))
        self._model: OneGen | None = None if given else checkpoint  # type: ignore[assignment]
        self._checkpoint: str | Path | None = checkpoint if given else None  # type: ignore[assignment]
        self._expected = fingerprint
        self._settings = settings
        self._lock = Lock()

    @property
    def name(self) -> str:
        """How the model is called, known without loading it."""
        if self._model is not None:
            return self._model.name
        if self._checkpoint is None:
            return BUNDLED_NAME
        path = Path(self._checkpoint)
        return path.name if path.exists() else str(self._checkpoint)

    @property
    def identity(self) -> str:
        """What tells its weights apart from others, known without loading them."""
        if self._model is not None:
            return f"{self._model.name} ({self._model.fingerprint})"
        return str(self._checkpoint or BUNDLED_NAME)

    @property
    def fingerprint(self) -> str | None:
        """Of the weights that are loaded, or that must be found; None where neither is known."""
        return self._expected if self._model is None else self._model.fingerprint

    def declared_context_window(self) -> int | None:
        """How many positions the model can hold, read without its weights; None where that cannot be told."""
        if self._model is not None:
            return self._model.context_window
        folder = Path(self._checkpoint) if self._checkpoint is not None else BUNDLED
        path = folder / "config.json"
        if not path.is_file():
            return None
        window = json.loads(path.read_text(encoding="utf-8")).get("max_position_embeddings")
        return window if isinstance(window, int) else None

    def get(self) -> OneGen:
        """The model; loads it where that has not been done yet.

        Raises:
            CheckpointError: it cannot be loaded.
            ConfigError: it has no config, or one that does not fit.
            FingerprintMismatchError: other weights were found than those that are expected.
        """
        if self._model is None:
            with self._lock:
                if self._model is None:
                    self._model = self._load()
        return self._model

    def _load(self) -> OneGen:
        from onegen_integrations.model import OneGen

        model = OneGen.from_pretrained(self._checkpoint, **self._settings)
        if self._expected not in (None, model.fingerprint):
            msg = (
                f"The weights of {model.name!r} have the fingerprint {model.fingerprint}, but {self._expected} is"
                " expected: the checkpoint has changed, or the model that this was made from stands in no folder. Save"
                " that model with save_pretrained, and give its folder, or give the model itself."
            )
            raise FingerprintMismatchError(msg)
        return model


def loading_settings(model: OneGen) -> dict[str, Any]:
    """Settings by which another process can load the same model, where it was loaded from somewhere."""
    return {
        "checkpoint": model.model.name_or_path or None,
        "config": model.config,
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "fingerprint": model.fingerprint,
    }


async def iterate_in_thread(items: Generator[_Item, None, None]) -> AsyncGenerator[_Item, None]:
    """The items of a generator that computes, made in worker threads, so that the event loop goes on meanwhile.

    Closing or cancelling closes `items`, as soon as the item that is being made is finished.
    """
    end = object()
    pending: asyncio.Future[Any] | None = None
    try:
        while True:
            pending = asyncio.ensure_future(asyncio.to_thread(next, items, end))
            item = await asyncio.shield(pending)
            if item is end:
                return
            yield item
    finally:
        if pending is not None and not pending.done():
            await asyncio.wait([pending])
        items.close()
