"""Everything that can go wrong, by kind. All of it derives from `OneGenError`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onegen_integrations.generation import Generation


class OneGenError(Exception):
    """Base of all errors that this package raises on purpose.

    Attributes:
        partial: what had been generated, where the error came in the middle of an answer.
    """

    partial: Generation | None = None


class InvalidInputError(OneGenError, ValueError):
    """A value that the call cannot work with: the message names it, what is allowed and what to do."""


class ConfigError(OneGenError, ValueError):
    """A `OneGenConfig` that is missing, incomplete, or does not fit the checkpoint's tokenizer."""


class CheckpointError(OneGenError, OSError):
    """A checkpoint that cannot be found or read."""


class UnsupportedModelError(OneGenError, ValueError):
    """An architecture that one-pass generation cannot run on."""


class ContextWindowError(OneGenError, ValueError):
    """A text that does not fit the model's context window."""


class FingerprintMismatchError(OneGenError, ValueError):
    """A vector store that was filled by another model, or by this model with other settings."""


class PassageStoreError(OneGenError, RuntimeError):
    """A passage store that cannot be opened, or that failed while it was used."""


class DataFormatError(OneGenError, ValueError):
    """A file whose content is not in the expected format; the message names file and line."""


class PassageSourceError(OneGenError, RuntimeError):
    """A passage source that raised while an answer was generated; `partial` holds the answer until then."""
