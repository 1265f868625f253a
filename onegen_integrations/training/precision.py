"""The number format that a device trains fastest in."""

from __future__ import annotations

import torch

_MULTIPLIES_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")  # of x86 processors, and of Arm's


def training_dtype(device: str) -> torch.dtype:
    """bfloat16, but float32 on a processor that has to emulate it, where bfloat16 takes several times as long.

    device: its type, "cpu" or "cuda".
    """
    if device != "cpu":
        return torch.bfloat16
    has = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(has.get(name) for name in _MULTIPLIES_BFLOAT16) else torch.float32
