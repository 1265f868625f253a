"""Which weights a component works with: settings as public fields, and the model they name, loaded at first use."""

from __future__ import annotations

from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr, field_validator
from llama_index.core.schema import BaseComponent

from onegen_integrations.config import OneGenConfig
from onegen_integrations.errors import InvalidInputError
from onegen_integrations.serving import LazyModel, loading_settings

if TYPE_CHECKING:
    from onegen_integrations.model import OneGen

_SETTINGS: Final = ("config", "device", "dtype", "revision", "adapter")
_BOUND_TO_PROCESS: Final = {"callback_manager", "rate_limiter"}

_kept: dict[str, LazyModel] = {}  # by settings, in worker processes


class OneGenComponent(BaseComponent):
    """Base of `OneGenLLM` and `OneGenEmbedding`. Equal settings share one set of weights in a process.

    Copies share the weights. Pickling takes the settings alone: another process loads the weights by them, once, and
    checks the fingerprint where it is known.

    Args:
        model: a folder, a hub id, a `OneGen` that is loaded already, another component whose weights are shared, or
            None for the bundled checkpoint.
        **data: the fields.

    Attributes:
        model: folder or hub id; None is the bundled checkpoint.
        config: a preset, a `OneGenConfig` or its fields, where the checkpoint has none.
        device: default: a GPU where there is one.
        dtype: default: float32 on a CPU, the checkpoint's own on a GPU.
        revision: of a hub id.
        adapter: a PEFT adapter, folder or hub id.
        fingerprint: of the weights that must be found, where it is known.

    Raises:
        InvalidInputError: `model` is loaded already, and settings to load it with are given too.
    """

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(default=None, description="Folder or hub id; None is the bundled checkpoint.")
    config: str | dict[str, Any] | None = Field(default=None, description="Preset, or fields of a OneGenConfig.")
    device: str | None = Field(default=None, description="Default: a GPU where there is one.")
    dtype: str | None = Field(default=None, description="Default: float32 on a CPU, the checkpoint's on a GPU.")
    revision: str | None = Field(default=None, description="Of a hub id.")
    adapter: str | None = Field(default=None, description="A PEFT adapter, folder or hub id.")
    fingerprint: str | None = Field(default=None, description="Of the weights that must be found.")

    _lazy: LazyModel = PrivateAttr()

    def __init__(self, model: str | Path | OneGen | OneGenComponent | None = None, **data: Any) -> None:
        if model is None or isinstance(model, (str, Path)):
            settings: dict[str, Any] = {"model": None if model is None else str(model)}
        else:
            given = [name for name in _SETTINGS if data.get(name) is not None]
            if given:
                msg = f"The model is loaded already, so {given} cannot change it; leave them out, or give its name."
                raise InvalidInputError(msg)
            settings = _settings_of(model)
        super().__init__(**data | settings)
        if isinstance(model, OneGenComponent):
            self._lazy = model._lazy  # noqa: SLF001 (its own class)
        elif model is None or isinstance(model, (str, Path)):
            config = OneGenConfig.from_dict(self.config) if isinstance(self.config, dict) else self.config
            loading = {name: getattr(self, name) for name in ("fingerprint", *_SETTINGS)} | {"config": config}
            self._lazy = LazyModel(self.model, **loading)
        else:
            self._lazy = LazyModel(model)

    @field_validator("config", mode="before")
    @classmethod
    def _config_as_dict(cls, value: object) -> object:
        return value.to_dict() if isinstance(value, OneGenConfig) else value

    @field_validator("device", "dtype", "adapter", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> str | None:
        """torch.device and torch.dtype objects and paths are taken by their names."""
        return None if value is None else str(value).removeprefix("torch.")

    @property
    def onegen(self) -> OneGen:
        """The model; loads it where that has not been done yet.

        Raises:
            CheckpointError: it cannot be loaded.
            ConfigError: it has no config, or one that does not fit.
            FingerprintMismatchError: other weights were found than `fingerprint` says.
        """
        return self._lazy.get()

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: value for name, value in self.__dict__.items() if name not in _BOUND_TO_PROCESS}
        return _restored, (type(self), state)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> OneGenComponent:
        return self.model_copy()  # a deep copy would double the weights


def _restored(kind: type[OneGenComponent], state: dict[str, Any]) -> OneGenComponent:
    component = kind(**state)
    if parent_process() is not None:
        # A worker process gets its components anew with each task, and would load the weights each time.
        settings = repr(_settings_of(component))
        component._lazy = _kept.setdefault(settings, component._lazy)  # noqa: SLF001 (its own class)
    return component


def _settings_of(model: OneGen | OneGenComponent) -> dict[str, Any]:
    """Settings that load the same model, where it was loaded from somewhere."""
    if isinstance(model, OneGenComponent):
        return {name: getattr(model, name) for name in ("model", "fingerprint", *_SETTINGS)}
    settings = loading_settings(model)
    return settings | {"model": settings.pop("checkpoint"), "config": model.config.to_dict()}
