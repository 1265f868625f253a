"""Turn any causal language model into one that can be trained as OneGen: add its retrieval tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onegen_integrations.config import OneGenConfig
from onegen_integrations.errors import InvalidInputError

DESCRIPTIONS = {
    "query_token": "a question to search documents with",
    "document_token": "the meaning of a document",
    "other": "a mark in the text",
}


@torch.no_grad()
def add_retrieval_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: OneGenConfig,
    descriptions: Mapping[str, str] | None = None,
) -> list[str]:
    """Add the tokens of `config` that the tokenizer lacks, with rows that start from the mean of a description.

    The rows are written by token id, so checkpoints whose embedding is padded beyond the tokenizer are handled too; the
    head's rows are written as well where they are not tied to the embedding.

    Args:
        model: is changed in place.
        tokenizer: is changed in place.
        config: names the tokens.
        descriptions: what each token means in a few words, by token; there are defaults.

    Returns:
        The tokens that were added.

    Raises:
        InvalidInputError: a description is empty.
    """
    known = set(tokenizer.get_vocab())
    new = [token for token in config.tokens if token not in known]
    if not new:
        return []
    meanings = dict.fromkeys(new, DESCRIPTIONS["other"])
    meanings |= {config.query_token: DESCRIPTIONS["query_token"], config.document_token: DESCRIPTIONS["document_token"]}
    meanings |= descriptions or {}
    described = {token: tokenizer.encode(meanings[token], add_special_tokens=False) for token in new}
    empty = [token for token, ids in described.items() if not ids]
    if empty:
        msg = f"The descriptions of {empty} are empty; describe each token in a few words."
        raise InvalidInputError(msg)
    tokenizer.add_tokens(new, special_tokens=True)
    if len(tokenizer) > len(_tables(model)[0]):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tables = _tables(model)
    for token, ids in described.items():
        row = tokenizer.convert_tokens_to_ids(token)
        for table in tables:
            table[row] = table[ids].mean(dim=0)
    # Equal descriptions would give equal tokens, and equal tokens cannot be told apart.
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([tokenizer.convert_tokens_to_ids(token) for token in new])
    for table in tables:
        noise = torch.randn(len(new), table.shape[1], generator=generator) * (0.1 * table[rows].std().item())
        table[rows] += noise.to(table)
    return new


def _tables(model: PreTrainedModel) -> list[Tensor]:
    """The embedding, and the head where it is not tied to it: [rows, D] each."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    weights = [module.weight for module in (embedding, head) if module is not None]
    return [
        weight
        for n, weight in enumerate(weights)
        if isinstance(weight, Tensor) and weight is not (weights[0] if n else None)
    ]
