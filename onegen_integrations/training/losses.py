"""The two losses of OneGen: next-token cross-entropy and a contrastive loss over retrieval tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cosine(queries: Tensor, documents: Tensor) -> Tensor:
    """Cosine similarity over the features, in float32 under autocast too: [Q, D_model] and [N, D_model] give [Q, N]."""
    with torch.autocast(queries.device.type, enabled=False):
        return F.normalize(queries.float(), dim=-1) @ F.normalize(documents.float(), dim=-1).T


def info_nce(similarity: Tensor, positive: Tensor, candidate: Tensor, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al. 2018), the positives of a query taken together.

    Args:
        similarity: [Q, N].
        positive: bool [Q, N]; queries without a positive are left out.
        candidate: bool [Q, N], the documents that take part.
        temperature: divides the similarities.

    Returns:
        The mean over queries of `-log(sum over positives of exp(s / t) / sum over candidates of exp(s / t))`.
    """
    kept = positive.any(dim=1)
    scores = (similarity[kept] / temperature).masked_fill(~candidate[kept], float("-inf"))
    right = scores.masked_fill(~positive[kept], float("-inf"))
    losses = torch.logsumexp(scores, dim=1) - torch.logsumexp(right, dim=1)
    return losses.mean() if len(losses) else similarity.sum() * 0.0


def bpr(similarity: Tensor, positive: Tensor, candidate: Tensor) -> Tensor:
    """Bayesian personalised ranking (Rendle et al. 2009): mean of `-log sigmoid(s+ - s-)` over all pairs."""
    negative = candidate & ~positive
    difference = similarity[:, :, None] - similarity[:, None, :]  # [Q, N+, N-]
    pairs = positive[:, :, None] & negative[:, None, :]
    if not pairs.any():
        return similarity.sum() * 0.0
    return -F.logsigmoid(difference[pairs]).mean()


def next_token(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy: logits [N, V], targets [N], weights [N]."""
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1e-6)
