"""One language model that generates and retrieves: RAG with one set of weights in memory.

Importing this package loads neither torch nor a framework; first use does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onegen_integrations.config import OneGenConfig
    from onegen_integrations.errors import (
        CheckpointError,
        ConfigError,
        ContextWindowError,
        DataFormatError,
        FingerprintMismatchError,
        InvalidInputError,
        OneGenError,
        PassageSourceError,
        PassageStoreError,
        UnsupportedModelError,
    )
    from onegen_integrations.generation import Finish, Generation, Retrieval, TextDelta, Usage
    from onegen_integrations.model import OneGen
    from onegen_integrations.passages import MemoryPassages, Passage, PassageSource, ScoredPassage
    from onegen_integrations.structured import ToolCall, ToolCallDelta

__version__ = "0.1.0"

_HOMES = {
    "config": ("OneGenConfig",),
    "errors": (
        "CheckpointError",
        "ConfigError",
        "ContextWindowError",
        "DataFormatError",
        "FingerprintMismatchError",
        "InvalidInputError",
        "OneGenError",
        "PassageSourceError",
        "PassageStoreError",
        "UnsupportedModelError",
    ),
    "generation": ("Finish", "Generation", "Retrieval", "TextDelta", "Usage"),
    "model": ("OneGen",),
    "passages": ("MemoryPassages", "Passage", "PassageSource", "ScoredPassage"),
    "structured": ("ToolCall", "ToolCallDelta"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ContextWindowError",
    "DataFormatError",
    "FingerprintMismatchError",
    "Finish",
    "Generation",
    "InvalidInputError",
    "MemoryPassages",
    "OneGen",
    "OneGenConfig",
    "OneGenError",
    "Passage",
    "PassageSource",
    "PassageSourceError",
    "PassageStoreError",
    "Retrieval",
    "ScoredPassage",
    "TextDelta",
    "ToolCall",
    "ToolCallDelta",
    "UnsupportedModelError",
    "Usage",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
