"""Masked attention for training on CPUs, where the backward pass of the fused kernel is slower than plain products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "onegen_cpu"


def cpu_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """softmax(scaling q k^T + mask) v, without intermediate copies in float32.

    query: [B, H, T, D]; key, value: [B, H_kv, K, D]; attention_mask: additive, [B, 1, T, K]. Returns [B, T, H, D].
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    batch, heads, length, width = query.shape
    scores = torch.baddbmm(
        attention_mask.expand(batch, heads, length, -1).flatten(0, 1),
        query.flatten(0, 1),
        key.flatten(0, 1).transpose(1, 2),
        alpha=scaling,
    )
    mixed = torch.bmm(torch.softmax(scores, dim=-1), value.flatten(0, 1))
    return mixed.view(batch, heads, length, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, cpu_attention)
