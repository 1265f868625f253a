"""An initialisation in which a small Llama can copy from the first step on.

Copying what stands in the context takes two attention heads in a row: one that brings to each token its predecessor,
and one that looks for a place whose predecessor is the current token and passes on what stands there (induction heads,
Olsson et al. 2022). From random weights the pair forms late and all at once; here it is written into the first two
layers, and training goes on from it like from any other start (structured starts: Trockman and Kolter 2023).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

from onegen_integrations.training.pointing import pointing_layer

_SHARPNESS = 6.0  # how many logits the right place is ahead of the others
_FAST_PAIRS = 5  # rotary pairs that tell neighbouring positions apart
_SLOW_FROM = 0.5  # share of the rotary pairs that turn too fast to compare contents over a distance


@torch.no_grad()
def write_induction_heads(model: LlamaForCausalLM, generator: torch.Generator) -> None:
    """Initialise all weights, and the first two layers with induction heads.

    Head 0 of layer 0 attends to the previous token, by way of one embedding feature that all tokens share; the first
    half of the heads of layer 1 compare the current token with the predecessors that layer 0 has brought.
    """
    config = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    head = width // heads
    scale = 1 / math.sqrt(width)
    residual = 1 / math.sqrt(2 * config.num_hidden_layers)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            factor = residual if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            fan_in = width if "embed" in name else weight.shape[1]
            nn.init.normal_(weight, 0, 0.5 * factor / math.sqrt(fan_in), generator=generator)
    embedding = model.model.embed_tokens.weight
    nn.init.normal_(embedding, 0, scale, generator=generator)
    embedding[:, 0] = 4 * scale
    constant = 4 / math.sqrt(1 + 16 / width)  # the shared feature after the norm

    base: float = config.rope_parameters["rope_theta"]  # type: ignore[index, assignment]
    angle = base ** (-torch.arange(head // 2) / (head / 2))
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn

    rows = slice(0, head)
    strength = math.sqrt(_SHARPNESS * math.sqrt(head)) / constant
    turn_q, turn_k = torch.zeros(head), torch.zeros(head)
    for pair in range(_FAST_PAIRS):
        turn_q[pair], turn_q[pair + head // 2] = math.cos(-angle[pair]), math.sin(-angle[pair])
        turn_k[pair] = 1.0
    first.q_proj.weight[rows] *= 0.1
    first.k_proj.weight[rows] *= 0.1
    first.q_proj.weight[rows, 0] = strength * turn_q
    first.k_proj.weight[rows, 0] = strength * turn_k
    read = _orthonormal(head, width, generator)  # [head, width]
    write = _orthonormal(head, width, generator)
    read[:, 0] = write[:, 0] = 0.0
    first.v_proj.weight[rows] = read
    first.o_proj.weight[:, rows] = 2 * scale * write.T

    start = int(_SLOW_FROM * head / 2)
    slow = torch.cat([torch.arange(start, head // 2), torch.arange(start + head // 2, head)])
    for index in range(heads // 2):
        rows = slice(index * head, (index + 1) * head)
        _write_copying(second, rows, 4 * scale, generator)
        at = index * head + slow
        match = math.sqrt(_SHARPNESS * math.sqrt(head) / len(slow))
        second.q_proj.weight[rows] *= 0.1
        second.k_proj.weight[rows] *= 0.1
        second.q_proj.weight[at] = 1.5 * match * read[slow]
        second.k_proj.weight[at] = 1.5 * match * write[slow]
    # The head that learns to point (see pointing.py) passes on what it looks at.
    pointing = model.model.layers[pointing_layer(config.num_hidden_layers)].self_attn
    _write_copying(pointing, slice(0, head), 4 * scale, generator)


def _write_copying(attention: LlamaAttention, rows: slice, gain: float, generator: torch.Generator) -> None:
    """Let a head write what it attends to where the output embedding finds it again."""
    copied = _orthonormal(rows.stop - rows.start, attention.o_proj.out_features, generator)
    copied[:, 0] = 0.0
    attention.v_proj.weight[rows] = copied
    attention.o_proj.weight[:, rows] = gain * copied.T


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(columns, rows, generator=generator)).Q.T.contiguous()
