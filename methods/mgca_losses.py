"""The three alignments of MGCA (arXiv 2210.06044): instances, tokens, prototypes; as pure functions of features.

Facts from HKU-MedAI/MGCA@680fe4a, mgca/models/mgca/mgca_module.py (MGCA.forward, sinkhorn).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.collectives import gather
from methods.losses import at_least_float32, info_nce


def instance_loss(image: Tensor, text: Tensor, temperature: float = 0.07) -> Tensor:
    """ITA: the cross-entropy of images among reports plus that of reports among images, over the pairs of all processes.

    The paper has their mean, the released code their sum.

    Args:
        image, text: (B, D) float, L2-normalised.
    """
    return 2 * info_nce(image, text, torch.as_tensor(1 / temperature, device=image.device))


def token_loss(  # noqa: PLR0913  (two sides with a mask each, weights, and how to compare)
    queries: Tensor, keys: Tensor, weights: Tensor, query_mask: Tensor | None = None, key_mask: Tensor | None = None,
    temperature: float = 0.1, normalize: bool = True,
) -> Tensor:  # fmt: skip
    """CTA of one direction: each query with what it attends to on the other side, against those of its sample.

    Args:
        queries: (B, N, D) float, L2-normalised. keys: (B, M, D), same. weights: (B, N) float of the queries.
        query_mask: (B, N) bool, the queries that are negatives; None for all. key_mask: (B, M) bool, what can be attended to.
        normalize: whether the attended vectors are brought to length 1.

    Returns:
        () float, the mean of both directions of cross-entropy, weighted in a sample and averaged over samples.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = at_least_float32(queries), at_least_float32(keys)
        likeness = queries @ keys.transpose(1, 2) / temperature  # (B, N, M)
        if key_mask is not None:
            likeness = likeness.masked_fill(~key_mask.unsqueeze(1), -torch.inf)
        attended = likeness.softmax(dim=2) @ keys  # (B, N, D)
        if normalize:
            attended = F.normalize(attended, dim=-1)
        logits = queries @ attended.transpose(1, 2) / temperature  # (B, N, N)
        own = logits.diagonal(dim1=1, dim2=2)
        rows = columns = logits
        if query_mask is not None:
            rows = logits.masked_fill(~query_mask.unsqueeze(1), -torch.inf)
            columns = logits.masked_fill(~query_mask.unsqueeze(2), -torch.inf)
        error = (rows.logsumexp(dim=2) + columns.logsumexp(dim=1)) / 2 - own
        return (error * weights.to(error.dtype)).sum(dim=1).mean()


@torch.no_grad()
def sinkhorn(logits: Tensor, iterations: int = 3, epsilon: float = 0.05) -> Tensor:
    """Codes that use every prototype alike (Cuturi 2013; SwAV, arXiv 2006.09882), in the log domain; no gradient.

    Args:
        logits: (B, K) float, one row an instance; of several processes, their own rows.

    Returns:
        (B, K) float32 or float64, rows that sum to 1.
    """
    every, start = gather(at_least_float32(logits))
    codes = every / epsilon
    for _ in range(iterations):
        codes = codes.log_softmax(dim=0)
        codes = codes.log_softmax(dim=1)
    return codes.softmax(dim=1)[start : start + len(logits)]


def prototype_loss(
    image: Tensor, text: Tensor, prototypes: Tensor, temperature: float = 0.2, iterations: int = 3, epsilon: float = 0.05
) -> Tensor:
    """CPA: the code of an image predicted from its report and the reverse.

    Args:
        image, text: (B, D) float, L2-normalised. prototypes: (K, D) float, same.
    """
    with torch.autocast(image.device.type, enabled=False):
        prototypes = at_least_float32(prototypes)
        scores = [at_least_float32(features) @ prototypes.T for features in (image, text)]  # (B, K)
        codes = [sinkhorn(score.detach(), iterations, epsilon) for score in scores]
        guesses = [(score / temperature).log_softmax(dim=1) for score in scores]
        errors = [-(code * guess).sum(dim=1).mean() for code, guess in zip(codes, guesses[::-1])]
        return (errors[0] + errors[1]) / 2


@torch.no_grad()
def renormalize(prototypes: Tensor) -> None:
    """Brings the rows of (K, D) to length 1 in place; rows that have it stay bit for bit."""
    length = prototypes.norm(dim=1, keepdim=True)
    kept = (length - 1).abs() < 1e-6  # rounding
    prototypes.copy_(torch.where(kept, prototypes, F.normalize(prototypes, dim=1)))
