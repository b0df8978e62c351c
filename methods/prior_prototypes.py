"""PRIOR's sentence prototype bank: a sentence becomes a mixture of learned prototypes.

Formulas: QtacierP/PRIOR@086bf2e modules/spb.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.collectives import numbers, rank, share
from methods.losses import at_least_float32

SCHEDULES = ("fixed", "linear", "exponential")


def temperature_at(start: float, schedule: str, progress: float) -> float:
    """The mixture's temperature: t, t (1 - 0.9 p), or t 0.1^p; p = 1 at the end of the training with the bank."""
    if schedule == "linear":
        return start - 0.9 * start * progress
    return start * 0.1**progress if schedule == "exponential" else start


def gumbel_noise(logits: Tensor) -> Tensor:
    """logits (..., K) float32 -> standard Gumbel noise (..., K) float32 on the same device, from the global generator."""
    every = numbers(len(logits), logits.device)  # of several processes, each takes its rows of one draw
    own = slice(start := sum(every[: rank()]), start + len(logits))
    drawn = logits.new_empty(sum(every), *logits.shape[1:]).exponential_()
    return -drawn[own].log()


class PrototypeBank(nn.Module):
    """K learned prototypes E: l = s E^T, p = softmax((l + noise) / temperature), z = p E; no normalisation anywhere.

    Args:
        size: K. width: of a prototype.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(size, width)

    def logits(self, sentences: Tensor) -> Tensor:
        """sentences (..., D) -> l (..., K) float32."""
        with torch.autocast(sentences.device.type, enabled=False):
            return at_least_float32(sentences) @ self.embed.weight.T

    def mix(self, logits: Tensor, temperature: float, noisy: bool) -> Tensor:
        """l (..., K) float32 -> prototypes z (..., D) float32.

        Args:
            temperature: positive. noisy: adds Gumbel noise, in training and in no evaluation.
        """
        with torch.autocast(logits.device.type, enabled=False):
            noise = gumbel_noise(logits) if noisy else 0.0
            return ((logits + noise) / temperature).softmax(dim=-1) @ self.embed.weight


def prototype_loss(prototypes: Tensor, sentences: Tensor) -> Tensor:
    """mean |z - s| over (N, D); both sides get the gradient, there is no moving average and no commitment term."""
    return share((at_least_float32(prototypes) - at_least_float32(sentences)).abs().mean(), len(sentences))


def divergence(true: Tensor, predicted: Tensor) -> Tensor:
    """KL(softmax(true) || softmax(predicted)), mean over N; the true side gets its gradient too.

    Args:
        true: (N, K) logits of the sentences, not of their prototypes. predicted: (N, K) logits.
    """
    expected, found = F.log_softmax(true, dim=-1), F.log_softmax(predicted, dim=-1)
    return share(F.kl_div(found, expected, reduction="batchmean", log_target=True), len(true))
