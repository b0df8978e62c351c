"""A linear map from an encoder's positions to masks: what the features themselves know about where things are."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate


class LinearHead(nn.Module):
    """Batch norm and a 1x1 convolution of each native map, brought to the finest stride, summed, and resampled to the image.

    The linear evaluation of DINOv2 (Oquab et al. 2023, section 7.4) over all depths that a tower gives. A U-Net with many
    masks learns the task from whatever tells pixels, an untrained tower included; this head cannot.

    Args:
        info: (channels, stride) of each native map. masks: number of mask names, each with its own sigmoid.

    Raises:
        ValueError: no native map.
    """

    def __init__(self, info: Sequence[tuple[int, int]], masks: int) -> None:
        super().__init__()
        if not info:
            raise ValueError("a linear head needs at least one native map")
        parts = (nn.Sequential(nn.BatchNorm2d(channels), nn.Conv2d(channels, masks, 1)) for channels, _ in info)
        self.parts = nn.ModuleList(parts)
        self.finest = min(range(len(info)), key=lambda index: info[index][1])

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Native maps (B, channels, h, w) of images of `size` (H, W) -> logits (B, M, H, W) float32.

        Raises:
            ValueError: the number of maps is not that of `info`.
        """
        if len(maps) != len(self.parts):
            raise ValueError(f"{len(maps)} maps for a linear head over {len(self.parts)}")
        grid = maps[self.finest].shape[-2:]
        total = maps[0].new_zeros(())
        for part, one in zip(self.parts, maps):
            total = total + interpolate(part(one), size=grid, mode="bilinear", align_corners=False)
        return interpolate(total, size=size, mode="bilinear", align_corners=False)


class LastLinear(nn.Module):
    """A 1x1 convolution of the last native map, resampled to the image: LoVT's linear segmentation.

    Facts from philip-mueller/lovt@87b9a30, src/models/downstream/segmentation.py (no batch norm, no dropout, bilinear).

    Args:
        info: (channels, stride) of each native map; the coarsest is read. masks: number of mask names.

    Raises:
        ValueError: no native map.
    """

    def __init__(self, info: Sequence[tuple[int, int]], masks: int) -> None:
        super().__init__()
        if not info:
            raise ValueError("a linear head needs at least one native map")
        self.last = max(range(len(info)), key=lambda index: info[index][1])
        self.logits = nn.Conv2d(info[self.last][0], masks, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Native maps (B, channels, h, w) of images of `size` (H, W) -> logits (B, M, H, W) float32."""
        return interpolate(self.logits(maps[self.last]), size=size, mode="bilinear", align_corners=False)
