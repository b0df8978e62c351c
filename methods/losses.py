"""Losses as pure functions of tensors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from benchmark.collectives import count, gather, mean_over_processes

MAX_SCALE = 100.0
LOGITS = 2**26  # of words that are held at once: 256 MiB in float32


class _Clamp(torch.autograd.Function):
    """min(x, limit) whose gradient is cut only where a descent step would lead further beyond the limit."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(value >= limit)
        return value.clamp(max=limit)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (beyond,) = ctx.saved_tensors
        return gradient.masked_fill(beyond & (gradient < 0), 0), None


class LogitScale(nn.Module):
    """s = exp(parameter), learned, at most 100 (CLIP). At the limit the gradient that leads back below it stays.

    Args:
        temperature: s starts at its inverse.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))

    def forward(self) -> Tensor:
        """() float32."""
        clamped: Tensor = _Clamp.apply(self.log_scale, math.log(MAX_SCALE))
        return clamped.exp()


def info_nce(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE, the mean of both directions of `directed_nce`, () of at least float32.

    CLIP (arXiv 2103.00020, figure 3).

    Args:
        image: (B, D) float, L2-normalised. text: (B, D), same. scale: () positive.
    """
    to_text, to_image = directed_nce(image, text, scale)
    return (to_text + to_image) / 2


def directed_nce(image: Tensor, text: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """InfoNCE of images with texts, CE(s G_image G_text^T, I), and of texts with images, over the pairs of all processes.

    The mean over processes of each value is the loss of the whole batch, so averaged gradients are those of one process.

    Args:
        image: (B, D) float, L2-normalised. text: (B, D), same. scale: s, above 0, the inverse of the temperature.
    """
    with torch.autocast(image.device.type, enabled=False):  # logits up to 100 need more than 8 bits
        image, text = at_least_float32(image), at_least_float32(text)
        every_image, start = gather(image)
        every_text, _ = gather(text)
        target = torch.arange(start, start + len(image), device=image.device)
        to_text = F.cross_entropy(scale * image @ every_text.T, target)
        return to_text, F.cross_entropy(scale * text @ every_image.T, target)


def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, h, w) -> (B, P, patch * patch * C), patches by rows, their values by row, column, channel."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch, width // patch
    grid = images.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    return grid.reshape(batch, rows * columns, patch * patch * channels)


def standardize(patches: Tensor) -> Tensor:
    """Each patch (..., N) to mean 0, variance 1; unbiased variance, epsilon 1e-6 (MAE's normalised pixels)."""
    mean, variance = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def patch_error(predicted: Tensor, target: Tensor) -> Tensor:
    """(B, P) of at least float32, the mean squared error of each patch. predicted, target: (B, P, N)."""
    return (at_least_float32(predicted) - at_least_float32(target)).square().mean(dim=-1)


def hidden_mean(error: Tensor, hidden: Tensor) -> Tensor:
    """Mean of (B, ...) over places where hidden (B, ...) bool is True, in all processes; 0 where none is."""
    weight = hidden.to(error.dtype)
    return (error * weight).sum() / mean_over_processes(weight.sum()).clamp(min=1 / count())


def masked_patch_error(predicted: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Mean over hidden patches of the mean squared error of a patch; 0 where none is hidden.

    Args:
        predicted, target: (B, P, N). hidden: (B, P) bool.
    """
    return hidden_mean(patch_error(predicted, target), hidden)


def word_error(states: Tensor, words: Tensor, bias: Tensor, target: Tensor, held: int = LOGITS) -> Tensor:
    """(M,) of at least float32, the cross-entropy of the logits states @ words^T + bias.

    Where all logits would be more than `held`, rows go in pieces, whose logits are made again on the way back and never kept: a
    batch of 256 reports at the paper size has 0.4 billion. One piece is the plain product.
    Recomputation: Chen et al. 2016, arXiv 1604.06174.

    Args:
        states: (M, D), one row a token. words: (V, D). bias: (V,). target: (M,) int64.
        held: logits that may be in memory at once, of a piece.
    """
    rows = max(1, held // len(words))
    if len(states) <= rows:
        return _word_error(states, words, bias, target)
    pieces = zip(torch.split(states, rows), torch.split(target, rows), strict=True)
    errors = [
        checkpoint(_word_error, some, words, bias, own, use_reentrant=False, preserve_rng_state=False) for some, own in pieces
    ]
    return torch.cat(errors)


def _word_error(states: Tensor, words: Tensor, bias: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(at_least_float32(F.linear(states, words, bias)), target, reduction="none")


def spread_out(error: Tensor, hidden: Tensor) -> Tensor:
    """(B, T), the errors (M,) of hidden tokens where hidden (B, T) bool is True, M times, and 0 elsewhere."""
    return error.new_zeros(hidden.shape).masked_scatter(hidden, error)


def at_least_float32(tensor: Tensor) -> Tensor:
    """float32 for half precision, the tensor itself for float32 and float64."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
