"""Key/value cache of one sequence, and the reuse of common beginnings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

_BLOCK = 128  # buffers grow by at least so many positions


class _Layer(CacheLayerMixin):
    """Keys and values [1, H, capacity, D] of one layer; position in the buffer is position in the sequence."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, owner: SequenceCache) -> None:
        super().__init__()
        self._owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = key_states[:, :, :0]
        self.values = value_states[:, :, :0]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self._owner.length, self._owner.length + key_states.shape[2]
        self.reserve(end)
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def reserve(self, length: int) -> None:
        """Make room for `length` positions."""
        capacity = self.keys.shape[2]
        if length > capacity:
            grown = max(length, 2 * capacity, _BLOCK)
            self.keys = _extended(self.keys, grown)
            self.values = _extended(self.values, grown)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._owner.length + query_length, 0

    def get_seq_length(self) -> int:
        return self._owner.length

    def get_max_length(self) -> int:
        return -1


class SequenceCache(Cache):
    """Keys and values of one sequence. `length` positions are valid; what lies behind is overwritten."""

    def __init__(self, layers: int) -> None:
        self.length = 0
        super().__init__(layers=[_Layer(self) for _ in range(layers)])

    def copy_start(self, length: int) -> SequenceCache:
        """A cache of its own that holds the first `length` positions."""
        copy = SequenceCache(len(self.layers))
        for mine, theirs in zip(self.layers, copy.layers, strict=True):
            assert isinstance(mine, _Layer)  # noqa: S101 (as made above)
            assert isinstance(theirs, _Layer)  # noqa: S101
            theirs.keys = mine.keys[:, :, :length].clone()
            theirs.values = mine.values[:, :, :length].clone()
            theirs.is_initialized = True
        copy.length = length
        return copy


class PrefixCache:
    """Finished sequences whose beginnings later ones may start with; the least recently used give way.

    What a position holds depends on the tokens before it alone, so equal token ids mean equal keys and values.

    Args:
        capacity: how many positions are kept in all.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[tuple[int, ...], SequenceCache] = OrderedDict()
        self._lock = Lock()

    def longest(self, ids: Sequence[int]) -> SequenceCache | None:
        """A copy of the longest stored beginning of `ids` that leaves at least one token to forward; or None."""
        with self._lock:
            best, best_key = 0, None
            for key in self._entries:
                common = _common(key, ids)
                if common > best:
                    best, best_key = common, key
            best = min(best, len(ids) - 1)
            if best_key is None or best < 1:
                return None
            self._entries.move_to_end(best_key)
            return self._entries[best_key].copy_start(best)

    def store(self, ids: Sequence[int], cache: SequenceCache) -> None:
        """Keep a finished sequence; `cache` holds the first `cache.length` of `ids` and is not used afterwards."""
        key = tuple(ids[: cache.length])
        with self._lock:
            for stored in [k for k in self._entries if k == key[: len(k)]]:
                del self._entries[stored]
            self._entries[key] = cache
            while sum(map(len, self._entries)) > self._capacity and self._entries:
                self._entries.popitem(last=False)


def _extended(buffer: Tensor, capacity: int) -> Tensor:
    # Zeros: memory that was never written could hold NaN, which leaks through masked positions.
    grown = buffer.new_zeros((*buffer.shape[:2], capacity, buffer.shape[3]))
    grown[:, :, : buffer.shape[2]] = buffer
    return grown


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def causal(length: int, queries: int, device: torch.device) -> Tensor:
    """Bool [1, queries, length + queries]: new tokens see what is cached and each other causally."""
    return torch.ones(1, queries, length + queries, dtype=torch.bool, device=device).tril(length)
