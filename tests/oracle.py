"""The oracle of the engine's tests: one clean full forward of the plain transformers model, without any cache.

It shares no code with the package: masks are written out from their definition, and where nothing is hidden from a
token, transformers makes the mask itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from onegen_integrations import Generation, OneGenConfig


@dataclass(frozen=True)
class Clean:
    """hidden: [T, D], after the final norm. logits: [T, V]."""

    hidden: Tensor
    logits: Tensor

    def vector(self, position: int) -> np.ndarray:
        """The hidden state at `position` as a unit vector, [D]."""
        hidden = self.hidden[position].double()
        return (hidden / hidden.norm()).numpy()


@torch.no_grad()
def clean_forward(
    model: PreTrainedModel,
    ids: Sequence[int],
    *,
    blocks: Sequence[range] = (),
    observers: Sequence[int] = (),
    positions: Sequence[int] | None = None,
    own_mask: bool = False,
) -> Clean:
    """Forward the whole sequence at once.

    Args:
        model: a causal language model of transformers.
        ids: the final sequence, [T].
        blocks: index ranges whose tokens attend to nothing before the block.
        observers: indices of tokens that nothing else attends to.
        positions: rotary positions, [T]; default: 0, 1, 2, ...
        own_mask: write the mask out even where nothing is hidden.
    """
    places = torch.arange(len(ids)) if positions is None else torch.tensor(positions)
    mask = _masks(model, places, blocks, observers) if blocks or observers or own_mask else None
    output = model(
        input_ids=torch.tensor([list(ids)]),
        position_ids=places[None],
        attention_mask=mask,
        use_cache=False,
        output_hidden_states=True,
    )
    return Clean(output.hidden_states[-1][0], output.logits[0])


def _masks(
    model: PreTrainedModel, places: Tensor, blocks: Sequence[range], observers: Sequence[int]
) -> Tensor | dict[str, Tensor]:
    """[1, 1, T, T]: bool for sdpa, 0 and the lowest number for eager; by kind of layer where the model has kinds."""
    index = torch.arange(len(places))
    seen = index[:, None] >= index[None, :]
    for block in blocks:
        seen[block.start : block.stop, : block.start] = False
    for observer in observers:
        seen[:, observer] = index == observer
    window = getattr(model.config, "sliding_window", None)
    near = seen if window is None else seen & (places[:, None] - places[None, :] < window)
    kinds = getattr(model.config, "layer_types", None)
    if kinds is None:
        return _form(model, near)
    return {"full_attention": _form(model, seen), "sliding_attention": _form(model, near)}


def _form(model: PreTrainedModel, seen: Tensor) -> Tensor:
    if model.config._attn_implementation == "sdpa":
        return seen[None, None]
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]


def spliced_blocks(
    generation: Generation, tokenizer: PreTrainedTokenizerFast, config: OneGenConfig
) -> list[list[range]]:
    """Where the passages of each retrieval stand in the final sequence; fails where another text stands there."""
    found = []
    for retrieval in generation.retrievals:
        at = retrieval.position + 1
        ranges = []
        for text, title in [(p.text, p.title) for p in retrieval.passages] or [("", "")]:
            heading = config.title_template.replace("{title}", title) if title else ""
            rendered = config.passage_template.replace("{text}", text).replace("{title}", heading)
            ids = tokenizer(rendered, add_special_tokens=False).input_ids
            assert list(generation.token_ids[at : at + len(ids)]) == ids
            ranges.append(range(at, at + len(ids)))
            at += len(ids)
        found.append(ranges)
    return found


def assert_one_pass(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: OneGenConfig, generation: Generation
) -> None:
    """Every token went through once, every query vector and every greedy choice is that of one clean full forward.

    Written by the fixture `play`: query tokens stand where its script says, elsewhere they were forbidden.
    """
    ids = generation.token_ids
    usage = generation.usage
    assert usage.forwarded_tokens + usage.reused_tokens == len(ids) - 1
    assert usage.prompt_tokens + usage.completion_tokens + usage.passage_tokens == len(ids)

    blocks = spliced_blocks(generation, tokenizer, config)
    isolated = [block for ranges in blocks for block in ranges] if config.passage_attention == "isolated" else []
    clean = clean_forward(model, ids, blocks=isolated)
    query = tokenizer.convert_tokens_to_ids(config.query_token)
    assert [r.position for r in generation.retrievals] == [i for i, token in enumerate(ids[:-1]) if token == query]
    for retrieval in generation.retrievals:
        np.testing.assert_allclose(retrieval.vector, clean.vector(retrieval.position), atol=1e-5)

    after = len(tokenizer(config.after_passages, add_special_tokens=False).input_ids)
    spliced = {i for ranges in blocks for i in range(ranges[0].start, ranges[-1].stop + after)}
    assert len(spliced) == usage.passage_tokens
    # Nor does a model mark a tool call where it has no tools.
    marks = [token for token in ("<tool_call>", "</tool_call>") if token in config.tool_call_template]
    never = tokenizer.convert_tokens_to_ids([config.document_token, "<paragraph>", "</paragraph>", *marks])
    for position in set(range(usage.prompt_tokens, len(ids))) - spliced:
        if ids[position] != query:
            scores = clean.logits[position - 1].clone()
            scores[[*never, query, tokenizer.eos_token_id]] = -torch.inf
            assert scores.max() - scores[ids[position]] < 1e-4
