"""The forward contract: one pass of any causal language model that returns hidden states and logits.

The hidden state is read by a hook on the decoder, after its final norm, and the logits come from the model's own
head, so that soft-capping, scaling and adapters are right for every architecture.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onegen_integrations.errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

_SUPPORTED = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Output:
    """hidden: [B, T, D], after the final norm. logits: as `logits_to_keep` asks, or None."""

    hidden: Tensor
    logits: Tensor | None


class Forward:
    """Runs one model; holds no state of any request.

    Args:
        model: a decoder-only language model with a head, such as `AutoModelForCausalLM` loads.

    Raises:
        UnsupportedModelError: the model has layers without a key/value cache by position, or takes no positions.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.decoder: torch.nn.Module = model.get_decoder()
        config = model.config.get_text_config(decoder=True)
        layer_types = getattr(config, "layer_types", None)
        others = sorted(set(layer_types or []) - _SUPPORTED)
        if others or getattr(model, "_is_stateful", False):
            msg = (
                f"{type(model).__name__} has layers of the kind {', '.join(others) or 'recurrent'}; allowed are"
                f" {' and '.join(sorted(_SUPPORTED))}, because passages are spliced into the keys and values of single"
                " positions. Use a model with these two kinds of layers only."
            )
            raise UnsupportedModelError(msg)
        if "position_ids" not in signature(self.decoder.forward).parameters:
            msg = (
                f"{type(model).__name__} takes no position_ids, by which one-pass generation places passages. Use a"
                " decoder-only model with rotary or learned positions."
            )
            raise UnsupportedModelError(msg)
        # transformers 5.24 renames the argument.
        self._cache_argument = "cache" if "cache" in signature(self.decoder.forward).parameters else "past_key_values"
        self.layers: int = config.num_hidden_layers
        self._lock = Lock()  # a hook sees every forward of the model, whichever thread runs it
        self._window: int | None = getattr(config, "sliding_window", None)
        self._layer_types = set(layer_types or [])
        if layer_types is None:
            self._layer_types = {"sliding_attention"} if self._window else {"full_attention"}
        # A model that names the kinds of its layers picks each layer's mask from a dict; others take the mask itself.
        self._mask_by_type = layer_types is not None

    def __call__(
        self,
        input_ids: Tensor,
        positions: Tensor,
        visible: Tensor,
        *,
        key_positions: Tensor | None = None,
        cache: Cache | None = None,
        logits_to_keep: int | Tensor | None = None,
    ) -> Output:
        """One forward pass.

        Args:
            input_ids: [B, T].
            positions: rotary positions, [B, T].
            visible: bool [B, T, K], what each token may attend to, sliding windows left aside.
            key_positions: rotary positions of the keys, [B, K]; default: `positions` (no cache).
            cache: where keys and values go and come from.
            logits_to_keep: which logits to compute, as transformers takes it: an int (the last n positions), positions
                [B, n], or a bool mask [B, T] (logits come out flattened); None computes none.
        """
        captured: list[Tensor] = []

        def capture(_module: torch.nn.Module, _args: Any, output: Any) -> None:
            captured.append(output[0] if isinstance(output, tuple) else output.last_hidden_state)

        keys = positions if key_positions is None else key_positions
        arguments: dict[str, Any] = {
            "input_ids": input_ids,
            "position_ids": positions,
            "attention_mask": self._mask(visible, positions, keys),
            self._cache_argument: cache,
            "use_cache": cache is not None,
        }
        with self._lock:
            if logits_to_keep is None:
                return Output(self.decoder(**arguments).last_hidden_state, None)
            handle = self.decoder.register_forward_hook(capture)
            try:
                logits = self.model(**arguments, logits_to_keep=logits_to_keep).logits
            finally:
                handle.remove()
        return Output(captured[0], logits)

    def _mask(self, visible: Tensor, positions: Tensor, key_positions: Tensor) -> Tensor | dict[str, Tensor]:
        """The 4D mask, or one for each kind of layer, in the form that the attention implementation takes."""
        masks = {}
        for layer_type in self._layer_types:
            seen = visible
            if layer_type != "full_attention" and self._window is not None:
                seen = visible & (positions[:, :, None] - key_positions[:, None, :] < self._window)
            masks[layer_type] = self._as_bias(seen[:, None])
        return masks if self._mask_by_type else next(iter(masks.values()))

    def _as_bias(self, seen: Tensor) -> Tensor:
        """Sdpa takes the bool mask; eager attention adds its mask to the scores."""
        if self.model.config._attn_implementation == "sdpa":  # noqa: SLF001 (transformers has no public name for it)
            return seen
        device = seen.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.model.dtype
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
