"""How the next token is chosen: transformers' own logits processors, greedy or sampled."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper


class Sampler:
    """Chooses tokens for one request.

    Args:
        temperature: 0 is greedy; above, logits are divided by it.
        top_p: the smallest set of tokens whose probabilities add up to it is kept.
        seed: makes sampling repeatable; None draws anew each time.
        device: where the logits are.
    """

    def __init__(self, temperature: float, top_p: float, seed: int | None, device: torch.device) -> None:
        self._greedy = temperature == 0
        self._processors = LogitsProcessorList()
        if not self._greedy:
            self._processors.append(TemperatureLogitsWarper(float(temperature)))
            if top_p < 1:
                self._processors.append(TopPLogitsWarper(top_p))
        self._generator = torch.Generator(device)
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def choose(self, logits: Tensor, ids: list[int], banned: Collection[int], allowed: Tensor | None = None) -> int:
        """The next token after `ids`, from logits [V], none of `banned` and, where given, of `allowed` (bool [V])."""
        scores = logits.float().clone()
        if allowed is not None:
            scores[~allowed.to(scores.device)] = float("-inf")
        scores[list(banned)] = float("-inf")
        if self._greedy:
            return int(scores.argmax())
        written = torch.tensor([ids], device=scores.device)
        scores = self._processors(written, scores[None])[0]  # type: ignore[arg-type]
        return int(torch.multinomial(torch.softmax(scores, dim=-1), 1, generator=self._generator))
