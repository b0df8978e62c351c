"""Native maps of a frozen encoder -> maps at exactly the strides a head wants. Always trained: counts as head parameters."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log2

from torch import Tensor, nn
from torch.nn.functional import interpolate


class FeaturePyramid(nn.Module):
    """Maps at wanted strides from native maps of any strides.

    Several native maps (ResNet): a 1x1 lateral convolution from the map of that stride; where there is none, transposed
    convolutions from the next one or max-pooling. One native map (ViT): the simple feature pyramid of Li et al. 2022
    (ViTDet, arXiv 2203.16527, section 3), strided and transposed convolutions on the one map. Unlike ViTDet the map
    is first projected to `width` channels and normalized by batch statistics, so that encoders of any scale fit.

    Args:
        info: (channels, stride) of each native map.
        strides: wanted, rising.
        width: channels of every map given.

    Raises:
        ValueError: no native map, or a stride that is not positive.
    """

    def __init__(self, info: Sequence[tuple[int, int]], strides: Sequence[int], width: int) -> None:
        super().__init__()
        if not info or min(stride for _, stride in info) < 1 or min(strides, default=0) < 1:
            raise ValueError(f"pyramid of strides {tuple(strides)} over maps {tuple(info)}: all strides must be positive")
        self.info, self.strides = tuple(info), tuple(strides)
        native = [stride for _, stride in info]
        self.sources = tuple(_nearest(native, stride) for stride in self.strides)
        branches = [
            _branch(*self.info[source], stride, width, single=len(self.info) == 1)
            for source, stride in zip(self.sources, self.strides)
        ]
        self.branches = nn.ModuleList(branches)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Maps (B, channels, ceil(h / native), ceil(w / native)) of images of `size` -> (B, width, ceil(h / s), ceil(w / s)).

        Raises:
            ValueError: the number of maps is not that of `info`.
        """
        if len(maps) != len(self.info):
            raise ValueError(f"{len(maps)} maps for a pyramid over {len(self.info)}")
        made = []
        for branch, source, stride in zip(self.branches, self.sources, self.strides):
            target = (ceil(size[0] / stride), ceil(size[1] / stride))
            made.append(_fit(branch(maps[source]), target, exact=log2(self.info[source][1] / stride).is_integer()))
        return tuple(made)


def _nearest(native: Sequence[int], wanted: int) -> int:
    """The index of the native map nearest in octaves; of two as near, the coarser, which has seen more of the image."""
    return min(range(len(native)), key=lambda index: (abs(log2(native[index] / wanted)), -native[index]))


def _branch(channels: int, stride: int, wanted: int, width: int, *, single: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)]
    octaves = round(log2(stride / wanted))
    for _ in range(max(0, octaves)):
        up = nn.ConvTranspose2d(width, width, 2, stride=2, bias=False)
        layers += [nn.GELU(), up, nn.BatchNorm2d(width)]
    for _ in range(max(0, -octaves)):
        if single:
            down = nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
            layers += [nn.GELU(), down, nn.BatchNorm2d(width)]
        else:
            layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))
    return nn.Sequential(*layers)


def _fit(made: Tensor, target: tuple[int, int], *, exact: bool) -> Tensor:
    """Exactly the target size: what lies beyond the image at the right and bottom goes; odd ratios are resampled."""
    height, width = made.shape[-2:]
    if exact and height >= target[0] and width >= target[1]:
        return made[..., : target[0], : target[1]]
    return made if (height, width) == target else interpolate(made, size=target, mode="bilinear", align_corners=False)
