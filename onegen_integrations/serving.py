"""What the adapters of all frameworks share: models loaded at first use, options of a call, streams for event loops."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
from collections.abc import AsyncGenerator, Collection, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from onegen_integrations.config import BUNDLED, BUNDLED_NAME
from onegen_integrations.errors import FingerprintMismatchError, InvalidInputError
from onegen_integrations.identity import cached_config, identity_of

if TYPE_CHECKING:
    from onegen_integrations.model import OneGen

_Item = TypeVar("_Item")

_workers: ThreadPoolExecutor


def _make_workers() -> None:
    global _workers
    _workers = ThreadPoolExecutor(thread_name_prefix="onegen")


_make_workers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_make_workers)  # a forked process has none of the threads


class LazyModel:
    """A checkpoint that is loaded at first use; equal settings share one set of weights in a process.

    Args:
        checkpoint: a folder, a hub id, a `OneGen` that is loaded already, or None for the bundled checkpoint.
        fingerprint: of the weights that must be found, where it is known.
        **settings: as `OneGen.from_pretrained` takes them; None counts as not given.

    Raises:
        InvalidInputError: the checkpoint is loaded already, and settings to load it with are given too.
    """

    def __init__(
        self, checkpoint: str | Path | OneGen | None = None, *, fingerprint: str | None = None, **settings: Any
    ) -> None:
        named = checkpoint is None or isinstance(checkpoint, (str, Path))
        self._given: OneGen | None = None if named else checkpoint  # type: ignore[assignment]
        self._model = self._given
        self._checkpoint: str | Path | None = checkpoint if named else None  # type: ignore[assignment]
        self._expected = fingerprint
        self._settings = {name: value for name, value in settings.items() if value is not None}
        if self._given is not None and self._settings:
            msg = (
                f"The model is loaded already, so {sorted(self._settings)} cannot change it; leave them out, or give"
                " its name."
            )
            raise InvalidInputError(msg)
        self._identity: str | None = None
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
        """What tells its weights apart from others, known without loading them and the same afterwards."""
        if self._identity is None:
            if self._expected is not None:
                self._identity = self._expected
            elif self._given is not None:
                self._identity = self._given.fingerprint
            else:
                settings = {name: self._settings.get(name) for name in ("revision", "adapter")}
                self._identity = identity_of(self._checkpoint or BUNDLED, **settings)
        return self._identity

    @property
    def fingerprint(self) -> str | None:
        """Of the weights that are loaded, or that must be found; None where neither is known."""
        return self._expected if self._model is None else self._model.fingerprint

    def declared_context_window(self) -> int | None:
        """How many positions the model can hold, read without its weights; None where that cannot be told."""
        if self._model is not None:
            return self._model.context_window
        folder = Path(self._checkpoint) if self._checkpoint is not None else BUNDLED
        path = folder / "config.json" if folder.is_dir() else cached_config(str(folder), self._settings.get("revision"))
        if path is None or not path.is_file():
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

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyModel:
        return self  # a deep copy would double the weights

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles what it takes to load the weights again."""
        if self._given is not None:
            return _unpickled, (loading_settings(self._given),)
        return _unpickled, ({"checkpoint": self._checkpoint, "fingerprint": self._expected, **self._settings},)

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


def call_options(
    defaults: Mapping[str, Any], given: Mapping[str, Any], allowed: Collection[str], what: str
) -> dict[str, Any]:
    """Options of `OneGen.generate`: those of a call before those of the object that is called.

    Args:
        defaults: of the object.
        given: with the call; None counts as not given, and `max_tokens` is `max_new_tokens`.
        allowed: names that may be given.
        what: is called, for messages.

    Raises:
        InvalidInputError: a name is not allowed, or `max_tokens` and `max_new_tokens` are both given.
    """
    named = {name: value for name, value in given.items() if value is not None}
    if {"max_tokens", "max_new_tokens"} <= named.keys():
        msg = "max_tokens and max_new_tokens are both given; they are the same, so give one of them."
        raise InvalidInputError(msg)
    named = {"max_new_tokens" if name == "max_tokens" else name: value for name, value in named.items()}
    unknown = sorted(named.keys() - set(allowed))
    if unknown:
        msg = f"{what} knows no {unknown} for a call; allowed are {sorted({*allowed, 'max_tokens'})}."
        raise InvalidInputError(msg)
    return {**defaults, **named}


async def iterate_in_thread(items: Generator[_Item, None, None]) -> AsyncGenerator[_Item, None]:
    """The items of a generator that computes, made in worker threads, so that the event loop goes on meanwhile.

    The threads are this package's own: the pool of the event loop stays free for what the generator waits for, such as
    callbacks. Closing or cancelling closes `items`, as soon as the item that is being made is finished.
    """
    end = object()

    def step() -> Any:
        return next(items, end)

    loop = asyncio.get_running_loop()
    pending: asyncio.Future[Any] | None = None
    try:
        while True:
            pending = loop.run_in_executor(_workers, contextvars.copy_context().run, step)
            item = await asyncio.shield(pending)
            if item is end:
                return
            yield item
    finally:
        if pending is not None and not pending.done():
            await asyncio.wait([pending])
        items.close()


def _unpickled(settings: Mapping[str, Any]) -> LazyModel:
    return LazyModel(**settings)
