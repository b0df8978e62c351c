"""Nearest neighbours on frozen features: nothing is trained, nothing chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from benchmark.context import Context
from benchmark.types import Protocol
from tasks.heads.fit import in_chunks
from tasks.heads.supervised import Decide, Labelled

QUERIES = 1024  # at once


def fit_neighbours(train: Labelled, val: Labelled, protocol: Protocol, context: Context) -> Decide:
    """The weighted vote of the k training rows nearest in cosine, each weighing exp(cosine / temperature).

    The rule of DINO (Caron et al. 2021, arXiv 2104.14294, k = 20 and temperature 0.07; Wu et al. 2018), class by class: of
    the k neighbours those count whose label is known; where none is, the share of the class in training.

    Returns:
        Features (N, W) -> share of the votes less 0.5, (N, K) float64.
    """
    del val
    bank = normalize(context.to_device(torch.from_numpy(train.features.astype(np.float32))), dim=1)
    labels = context.to_device(torch.from_numpy(train.labels.astype(np.float64)))
    k, temperature = min(protocol.setting("k"), len(bank)), protocol.setting("temperature")

    def vote(queries: NDArray[Any]) -> torch.Tensor:
        near = normalize(context.to_device(torch.from_numpy(queries.astype(np.float32))), dim=1) @ bank.T
        cosines, rows = near.topk(k, dim=1)  # (B, k)
        weights = torch.exp((cosines.double() - cosines[:, :1]) / temperature).unsqueeze(2)
        answers = labels[rows]  # (B, k, K)
        known = ~torch.isnan(answers)
        total = (weights * known).sum(dim=1)
        share = (weights * answers.nan_to_num(0.0)).sum(dim=1) / total
        return torch.where(total > 0, share, labels.nanmean(dim=0)) - 0.5

    def decide(values: NDArray[Any]) -> NDArray[np.float64]:
        parts = [vote(values[list(rows)]) for rows in in_chunks(len(values), QUERIES)]
        return np.asarray(torch.cat(parts).cpu().numpy())

    return decide
