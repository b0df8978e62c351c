"""A progressive decoder over one map: what segmentation papers put on a vision transformer."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmark.errors import Unsupported


class SetrHead(nn.Module):
    """SETR-PUP (Zheng et al. 2021, section 3.2) as MGCA has it: convolutions, each with batch norm, ReLU and a doubling.

    Facts from HKU-MedAI/MGCA@4075a69, mgca/models/backbones/transformer_seg.py: a linear map of the tokens to the width of
    the encoder, then four times convolution 3x3 (512, 256, 128, 64), batch norm, ReLU, bilinear doubling with aligned
    corners, then a convolution 3x3 to the logits. Differs from it: the one map of a method holds several depths, and the
    linear map reads them all; a patch of fewer than 16 pixels needs fewer doublings.

    Args:
        info: (channels, stride) of the one native map.
        width: channels after the linear map.
        channels: of the convolutions.
        masks: number of mask names, each with its own sigmoid.

    Raises:
        Unsupported: more than one map.
    """

    def __init__(self, info: Sequence[tuple[int, int]], width: int, channels: Sequence[int], masks: int) -> None:
        super().__init__()
        if len(info) != 1:
            raise Unsupported(f"a SETR decoder reads one map, and this method gives {len(info)}")
        (native, stride) = info[0]
        self.project = nn.Conv2d(native, width, 1)
        doublings = min(len(channels), round(log2(stride)))
        blocks: list[nn.Module] = []
        for index, (before, after) in enumerate(zip((width, *channels), channels)):
            blocks += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
            if index < doublings:
                blocks.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True))
        self.blocks = nn.Sequential(*blocks)
        self.logits = nn.Conv2d(channels[-1], masks, 3, padding=1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """The one map (B, channels, h, w) of images of `size` (H, W) -> logits (B, M, H, W) float32.

        Raises:
            ValueError: another number of maps.
        """
        if len(maps) != 1:
            raise ValueError(f"{len(maps)} maps for a SETR decoder over one")
        logits: Tensor = self.logits(self.blocks(self.project(maps[0])))
        return logits if logits.shape[-2:] == size else interpolate(logits, size=size, mode="bilinear", align_corners=False)
