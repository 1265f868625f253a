"""The optimiser of the bundled checkpoint: Muon for the matrices of the layers, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer


class MuonAdamW(Optimizer):
    """One optimiser that steps two: Muon (Jordan et al. 2024) and AdamW.

    Muon's updates are scaled to the size of AdamW's, so that one learning rate serves both (Liu et al. 2025).

    Args:
        model: its embedding, head and vectors go to AdamW, all other matrices to Muon.
        lr: learning rate.
        weight_decay: decoupled.
    """

    def __init__(self, model: nn.Module, *, lr: float, weight_decay: float) -> None:
        tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        parameters = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in parameters if p.dim() == 2 and id(p) not in tables]
        others = [p for p in parameters if p.dim() != 2 or id(p) in tables]
        self._inner: tuple[Optimizer, ...] = (
            Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            AdamW(others, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.98), fused=True),
        )
        super().__init__(parameters, {"lr": lr})
        # The same dictionaries as in the inner optimisers: a schedule that sets a rate here sets it there.
        self.param_groups = [group for inner in self._inner for group in inner.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        del closure
        for inner in self._inner:
            inner.step()

    def state_dict(self) -> dict[str, Any]:
        return {"inner": [inner.state_dict() for inner in self._inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for inner, state in zip(self._inner, state_dict["inner"], strict=True):
            inner.load_state_dict(state)
        self.param_groups = [group for inner in self._inner for group in inner.param_groups]
