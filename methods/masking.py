"""What is hidden from an encoder: image patches are left out, text tokens become [MASK]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.types import TextBatch


@dataclass(frozen=True, slots=True)
class ImageMask:
    """keep: (B, V) int64, visible patches. hidden: (B, P) bool. restore: (B, P) int64, undoes the shuffle."""

    keep: Tensor
    hidden: Tensor
    restore: Tensor


@dataclass(frozen=True, slots=True)
class TextMask:
    """ids: (B, T) int64 with [MASK] in place of hidden tokens. hidden: (B, T) bool."""

    ids: Tensor
    hidden: Tensor


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """tokens (B, P, D), index (B, V) int64 -> (B, V, D)."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def image_mask(noise: Tensor, ratio: float) -> ImageMask:
    """Keeps the patches of smallest noise, int(P (1 - ratio)) of them and at least one.

    As facebookresearch/mae@efb2a80 `random_masking`. The encoder's tokens in the order of `keep`, followed by one mask
    token for each hidden patch, are in the order of the image again after `take(tokens, restore)`.

    Args:
        noise: (B, P) float. ratio: of hidden patches, 0 <= ratio < 1.
    """
    order = noise.argsort(dim=1, stable=True)
    restore = order.argsort(dim=1)
    visible = max(1, int(noise.shape[1] * (1 - ratio)))
    return ImageMask(order[:, :visible], restore >= visible, restore)


def text_mask(text: TextBatch, noise: Tensor, ratio: float, mask_id: int) -> TextMask:
    """Hides the round(n * ratio) tokens of smallest noise among the n non-special ones of each text, at least one of any.

    Every hidden token becomes [MASK]; none is replaced at random.

    Args:
        text: B texts. noise: (B, T) float in [0, 1). ratio: 0 <= ratio <= 1; 0 hides nothing. mask_id: of [MASK].
    """
    maskable = text.mask & ~text.special
    count = maskable.sum(dim=1, keepdim=True)
    wanted = (count * ratio).round().clamp(min=1 if ratio > 0 else 0)
    rank = noise.masked_fill(~maskable, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
    hidden = maskable & (rank < wanted)
    return TextMask(text.ids.masked_fill(hidden, mask_id), hidden)
