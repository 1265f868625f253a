"""The optimiser of the bundled checkpoint: Muon for the matrices of the layers, AdamW for everything else."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from onegen_integrations.training.precision import training_dtype


class StackedMuon(Muon):
    """`torch.optim.Muon` with all matrices of one shape stepped together, where each alone is too small for a GPU.

    Nesterov momentum, and updates of the size of AdamW's ("match_rms_adamw").
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float, weight_decay: float) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        del closure
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._step_alike(parameters, group)

    def _step_alike(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = torch.stack([p.grad for p in parameters if p.grad is not None])
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        momentum = torch.stack(buffers).lerp_(gradients, 1 - group["momentum"])
        torch._foreach_copy_(buffers, momentum.unbind())
        updates = orthogonal(gradients.lerp_(momentum, group["momentum"]), group["ns_coefficients"], group["ns_steps"])
        rate = group["lr"] * 0.2 * math.sqrt(max(parameters[0].shape))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(updates.float().unbind()), alpha=-rate)


def orthogonal(matrices: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """Matrices [N, A, B] with their singular values brought near 1, by Newton and Schulz (Jordan et al. 2024)."""
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).to(training_dtype(matrices.device.type))
    x = x / x.flatten(1).norm(dim=1)[:, None, None].clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


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
            StackedMuon(matrices, lr=lr, weight_decay=weight_decay),
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
