"""The U-Net decoder of segmentation-models-pytorch over a feature pyramid, and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from benchmark.errors import Unsupported
from tasks.heads.pyramid import FeaturePyramid

IGNORE = 255


class UnetHead(nn.Module):
    """Pyramid, U-Net decoder (Ronneberger et al. 2015) and one logit a mask.

    The decoder doubles the finest stride of the pyramid once more, then logits are resampled to the image's size.

    Args:
        info: (channels, stride) of each native map.
        strides: of the pyramid, rising, each twice the one before: 2, 4, 8, 16 or a part of it.
        width: channels of the pyramid.
        channels: of the decoder's blocks, from coarse to fine, as many as strides.
        masks: number of mask names; masks may overlap, each has its own sigmoid.

    Raises:
        ValueError: strides that do not double, or another number of channels.
    """

    def __init__(
        self, info: Sequence[tuple[int, int]], strides: Sequence[int], width: int, channels: Sequence[int], masks: int
    ) -> None:
        super().__init__()
        if len(channels) != len(strides) or any(b != 2 * a for a, b in pairwise(strides)):
            raise ValueError(f"U-Net strides {tuple(strides)} must double, with as many channels as strides: {tuple(channels)}")
        self.pyramid = FeaturePyramid(info, strides, width)
        self.finest = max(1, strides[0] // 2)
        self.decoder = UnetDecoder((0, *[width] * len(strides)), tuple(channels), n_blocks=len(channels))
        self.logits = nn.Conv2d(channels[-1], masks, 3, padding=1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Native maps (B, channels, h, w) of images of `size` (H, W) -> logits (B, M, H, W) float32."""
        levels = self.pyramid(maps, size)
        shape = [-(-length // self.finest) for length in size]
        outline = levels[0].new_empty((len(levels[0]), 0, *shape))  # the decoder reads only the shape of its first entry
        logits: Tensor = self.logits(self.decoder([outline, *levels]))
        return logits if logits.shape[-2:] == size else interpolate(logits, size=size, mode="bilinear", align_corners=False)


class NativeUnet(nn.Module):
    """The decoder of segmentation-models-pytorch's U-Net on the native maps themselves, as papers have it on a ResNet.

    Differs from `smp.Unet` in one point: methods give no map of stride 2, so that block has no skip connection.

    Args:
        info: (channels, stride) of each native map, from fine to coarse, each stride twice the one before.
        channels: of the decoder's blocks, from coarse to fine, one for each halving from the image to the coarsest map.
        masks: number of mask names, each with its own sigmoid.

    Raises:
        Unsupported: maps of other strides.
    """

    def __init__(self, info: Sequence[tuple[int, int]], channels: Sequence[int], masks: int) -> None:
        super().__init__()
        strides = [stride for _, stride in info]
        depth = len(channels)
        if not strides or strides != [2**level for level in range(depth + 1 - len(strides), depth + 1)]:
            raise Unsupported(f"a U-Net of {depth} blocks needs maps that double to stride {2**depth}, not {strides}")
        self.missing = depth + 1 - len(strides)  # levels finer than the finest map, the image's own size among them
        widths = (*[0] * self.missing, *(width for width, _ in info))
        self.decoder = UnetDecoder(widths, tuple(channels), n_blocks=depth)
        self.logits = nn.Conv2d(channels[-1], masks, 3, padding=1)
        initialize_decoder(self.decoder)
        initialize_head(self.logits)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Native maps (B, channels, h, w) of images of `size` (H, W) -> logits (B, M, H, W) float32."""
        shapes = [[-(-length // 2**level) for length in size] for level in range(self.missing)]
        outlines = [maps[0].new_empty((len(maps[0]), 0, *shape)) for shape in shapes]  # shape without content
        logits: Tensor = self.logits(self.decoder([*outlines, *maps]))
        return logits


def mask_losses(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Binary cross-entropy and soft Dice, each a mean over the masks that occur in the batch.

    Dice (Milletari et al. 2016, eq. 2, with squares left out, smoothed by one pixel) is taken per mask over all pixels of the
    batch, so that images with an empty mask do not divide by nothing.

    Args:
        logits: (B, M, H, W) float32.
        target: (B, M, H, W) uint8: 0, 1, or 255 = ignore; a row that lacks a mask is 255 everywhere.

    Returns:
        {"bce", "dice"} scalars; zero, with zero gradient, when every pixel is ignored.
    """
    valid = (target != IGNORE).to(logits.dtype)
    truth = (target == 1).to(logits.dtype)
    pixels = valid.sum(dim=(0, 2, 3))  # (M,)
    present = (pixels > 0).to(logits.dtype)
    entropy = (binary_cross_entropy_with_logits(logits, truth, reduction="none") * valid).sum(dim=(0, 2, 3))
    chance = torch.sigmoid(logits) * valid
    overlap = (chance * truth).sum(dim=(0, 2, 3))
    dice = (2 * overlap + 1) / (chance.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3)) + 1)
    count = present.sum().clamp(min=1)
    return {"bce": (entropy / pixels.clamp(min=1)).sum() / count, "dice": ((1 - dice) * present).sum() / count}
