"""What is drawn at random for rows: for the whole batch, alike in every process, and each takes its own of it."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.collectives import numbers
from benchmark.types import Batch, TextBatch


def uniform(batch: Batch, *shape: int) -> Tensor:
    """(B, *shape) float32 in [0, 1), from the global generator on the CPU, so the same on every device; there in the end."""
    drawn: Tensor = batch.own(torch.rand(len(batch.reports), *shape))
    return drawn.to(batch.images.device)


def token_noise(batch: Batch, text: TextBatch) -> Tensor:
    """(B, T) float32 in [0, 1) for the tokens of the batch's reports, T the longest of this process."""
    length = text.ids.shape[1]
    return uniform(batch, max(numbers(length, batch.images.device)))[:, :length]
