"""Constrained decoding: which tokens may come next so that the output stays valid against a JSON schema.

The grammar engine is llguidance: of llguidance, xgrammar and outlines-core it is the one that needs no other packages,
compiles a schema in milliseconds and covers most of JSON Schema (see `benchmarks/grammars.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onegen_integrations.errors import InvalidInputError

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from tokenizers import Tokenizer

_MOST_CLOSING = 512  # tokens that the shortest end of an output may take
# One way to write JSON, which is that of `json.dumps`: no room for endless white space.
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammars:
    """Makes guides for the tokens of one model.

    Args:
        tokenizer: the model's tokenizer.
        vocabulary: number of logits, which may be more than the tokenizer has tokens.
        end: the token that ends an answer.

    Raises:
        ImportError: the extra `structured` is not installed.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, end: int) -> None:
        try:
            import llguidance
        except ImportError as error:
            msg = "Tools and JSON schemas need the package llguidance; install onegen-integrations[structured]."
            raise ImportError(msg) from error
        self._matcher = llguidance.LLMatcher
        self._vocabulary = vocabulary
        state = json.loads(tokenizer.to_str())
        state["truncation"] = state["padding"] = None
        self._tokens = llguidance.LLTokenizer(
            json.dumps(_without_prefix_space(state)), n_vocab=vocabulary, eos_token=end
        )
        closers = (self._tokens.tokenize_str(text) for text in ('"', "}", "]", "null", "0"))
        self._closers = [ids[0] for ids in closers if len(ids) == 1]

    def json(self, schema: Mapping[str, Any]) -> Guide:
        """A guide to text that is valid against `schema`, behind at most one space.

        Raises:
            InvalidInputError: the schema uses what cannot be enforced.
        """
        styled = {**schema, "x-guidance": _STYLE}
        grammar = self._matcher.grammar_from_lark(f'start: " "? value\nvalue: %json {json.dumps(styled)}')
        matcher = self._matcher(self._tokens, grammar)
        if matcher.is_error():
            msg = f"The JSON schema cannot be enforced: {matcher.get_error().splitlines()[0]}"
            raise InvalidInputError(msg)
        return Guide(matcher, self._closers, self._vocabulary)


class Guide:
    """Follows one output token by token."""

    def __init__(self, matcher: LLMatcher, closers: list[int], vocabulary: int) -> None:
        self._matcher = matcher
        self._closers = closers
        self._vocabulary = vocabulary

    @property
    def finished(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> Tensor:
        """Bool [V]: the tokens that may come next; the end token where the output may end."""
        return torch.from_numpy(_unpacked(self._matcher, self._vocabulary).astype(bool))

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)

    def closing(self, after: int | None = None) -> list[int] | None:
        """Tokens that bring the output to a valid end soon, without the end token; None where none are found.

        Args:
            after: a token that may come next and would stand before them.
        """
        ahead = self._matcher.deep_copy()
        if after is not None:
            ahead.consume_token(after)
        path: list[int] = []
        while not ahead.is_accepting():
            mask = _unpacked(ahead, self._vocabulary)
            closer = next((token for token in self._closers if mask[token]), None)
            token = int(mask.argmax()) if closer is None else closer
            if len(path) >= _MOST_CLOSING or not mask[token]:
                return None
            ahead.consume_token(token)
            path.append(token)
        return path


def _unpacked(matcher: LLMatcher, vocabulary: int) -> NDArray[np.uint8]:
    """Which tokens may come next: 0 or 1, [V]."""
    return np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), count=vocabulary, bitorder="little")


def _without_prefix_space(state: Any) -> Any:
    """A tokenizer's state, so that text in the middle of an output is not taken for the start of a text."""
    if isinstance(state, list):
        return [_without_prefix_space(item) for item in state if not _prepends(item)]
    if not isinstance(state, dict):
        return state
    cleaned = {
        key: _without_prefix_space(value) for key, value in state.items() if key not in ("model", "added_tokens")
    }
    cleaned |= {key: state[key] for key in ("model", "added_tokens") if key in state}
    if cleaned.get("add_prefix_space"):
        cleaned["add_prefix_space"] = False
    if "prepend_scheme" in cleaned:
        cleaned["prepend_scheme"] = "never"
    return cleaned


def _prepends(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "Prepend"
