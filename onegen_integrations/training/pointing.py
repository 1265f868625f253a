"""Pointing: one attention head learns where the next token of an answer stands in the context.

An answer is copied, token by token, from a passage. Where each token stands is known when the training data is made, so
one head is told: its attention from the place that writes a token should fall on the place where that token is read
(guided attention, Liu et al. 2016; pointer networks, Vinyals et al. 2015). Only the training knows of it: the trained
model is an ordinary Llama.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb

from onegen_integrations.training.sequences import Batch


def pointing_layer(layers: int) -> int:
    """The layer whose first head is taught to point: the last but one, which has the others to work from."""
    return max(1, layers - 2)


class PointerHead:
    """One head of one layer of a Llama, with a loss on where it looks.

    Args:
        model: the model in training.
        layer, head: which head.
        weight: of its loss beside the others.
    """

    def __init__(self, model: LlamaForCausalLM, *, layer: int, head: int = 0, weight: float = 1.0) -> None:
        self._attention: LlamaAttention = model.model.layers[layer].self_attn
        size = self._attention.head_dim
        self._rows = slice(head * size, (head + 1) * size)
        self._weight = weight
        self._seen: dict[str, Any] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what the layer's attention is given while the model runs."""

        def note(_module: nn.Module, _args: Any, inputs: dict[str, Any]) -> None:
            self._seen = inputs

        handle = self._attention.register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy of the head's attention, from where tokens are written to where they are read."""
        row, column, target = batch.pointer_at.T
        hidden = self._seen["hidden_states"]
        if len(row) == 0:
            return hidden.sum() * 0.0
        cos, sin = self._seen["position_embeddings"]
        query = F.linear(hidden, self._attention.q_proj.weight[self._rows])[:, None]
        key = F.linear(hidden, self._attention.k_proj.weight[self._rows])[:, None]
        query, key = apply_rotary_pos_emb(query, key, cos, sin)  # [B, 1, T, head_dim]
        scores = torch.matmul(query, key.transpose(2, 3))[row, 0, column].float() * self._attention.scaling
        return self._weight * F.cross_entropy(scores.masked_fill(~batch.visible[row, column], float("-inf")), target)
