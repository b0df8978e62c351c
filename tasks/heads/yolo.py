"""YOLOv3 (Redmon and Farhadi 2018) on a feature pyramid: mmdet's neck, head, assigner and losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from benchmark.types import Protocol
from tasks.heads.box_head import Array, BoxHead, as_arrays, configured, load_mmdet
from tasks.heads.pyramid import FeaturePyramid

STRIDES = (8, 16, 32)
Anchors = tuple[tuple[tuple[float, float], ...], ...]
ANCHORS: dict[str, tuple[Anchors, int]] = {  # name -> ((width, height) in pixels from coarse to fine, of images of that size)
    # YOLOv3's COCO priors, as in open-mmlab/mmdetection@v3.3.0 configs/yolo; at 224 they are MGCA's
    "coco": ((((116, 90), (156, 198), (373, 326)), ((30, 61), (62, 45), (59, 119)), ((10, 13), (16, 30), (33, 23))), 416),
    # philip-mueller/lovt@87b9a30 src/models/downstream/detection.py; the first width is not 0.54 x 116 there
    "lovt": (
        (
            ((64.64, 48.6), (84.24, 106.92), (201.42, 176.04)),
            ((16.2, 32.94), (33.48, 24.3), (31.86, 64.26)),
            ((5.4, 7.02), (8.64, 16.2), (17.82, 12.42)),
        ),
        224,
    ),
}
LARGEST_LOGIT = 20.0  # exp and sigmoid of more add nothing but overflow
MOST = 100  # boxes of an image


@dataclass(frozen=True, slots=True, kw_only=True)
class YoloOptions:
    """What a protocol may state of the head; the defaults are those of mmdet's configuration.

    anchors: a name of ANCHORS. loss_*: weights. ignore: a cell whose anchor overlaps a box more is no background.
    confidence: boxes of less objectness go. nms_iou: of two boxes that overlap more, the worse one goes.
    direct: the neck reads the native maps themselves where the encoder has strides 8, 16 and 32.
    """

    anchors: str = "coco"
    loss_xy: float = 2.0
    loss_wh: float = 2.0
    loss_conf: float = 1.0
    loss_cls: float = 1.0
    ignore: float = 0.5
    confidence: float = 0.005
    nms_iou: float = 0.45
    direct: bool = False

    @classmethod
    def of(cls, protocol: Protocol) -> Self:
        """What a protocol's settings state."""
        stated = dict(protocol.settings)
        return cls(**{item.name: stated[item.name] for item in fields(cls) if item.name in stated})  # type: ignore[arg-type]

    def sizes(self, size: int) -> list[list[tuple[float, float]]]:
        """Anchors (width, height) in pixels of images of `size`, from coarse to fine."""
        levels, at = ANCHORS[self.anchors]
        return [[(width * (size / at), height * (size / at)) for width, height in level] for level in levels]


class NativeLevels(nn.Module):
    """The encoder's own maps at the wanted strides, in place of a pyramid."""

    def __init__(self, info: Sequence[tuple[int, int]], strides: Sequence[int]) -> None:
        super().__init__()
        native = [stride for _, stride in info]
        self.sources = [native.index(stride) for stride in strides]

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Those of the maps (B, channels, h, w) that are wanted, unchanged."""
        del size
        return tuple(maps[source] for source in self.sources)


class YoloHead(BoxHead):
    """Pyramid, YOLOv3 neck and head.

    Args:
        info: (channels, stride) of each native map.
        width: channels of the pyramid.
        channels: of the neck's outputs from coarse to fine, (512, 256, 128) in the paper; the head's are twice that.
        classes: number of box classes.
        size: of the square images in pixels; anchors are scaled to it.
        options: those of mmdet's configuration where None.
    """

    def __init__(
        self,
        info: Sequence[tuple[int, int]],
        width: int,
        channels: Sequence[int],
        classes: int,
        size: int,
        options: YoloOptions | None = None,
    ) -> None:
        super().__init__()
        library = load_mmdet()
        self.size, self.options = size, options or YoloOptions()
        given = {stride: count for count, stride in info}
        if self.options.direct and set(STRIDES) <= set(given):
            self.pyramid: nn.Module = NativeLevels(info, STRIDES)
            inputs = [given[stride] for stride in reversed(STRIDES)]
        else:
            self.pyramid = FeaturePyramid(info, STRIDES, width)
            inputs = [width] * 3
        self.neck = library["neck"](num_scales=3, in_channels=inputs, out_channels=list(channels))
        self.head = library["head"](**configured(_head_settings(channels, classes, size, self.options)))
        self.head.init_weights()

    def levels(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Native maps (B, channels, h, w) -> three neck outputs from coarse to fine, (B, channels, h, w) each."""
        fine, middle, coarse = self.pyramid(maps, (self.size, self.size))
        rows = coarse.shape[-1]  # the neck doubles the coarse map twice: finer ones are padded as images would be, to 32
        padded = [_pad_to(fine, 4 * rows), _pad_to(middle, 2 * rows), coarse]
        made: tuple[Tensor, ...] = self.neck(padded)
        return made

    def losses(self, maps: Sequence[Tensor], boxes: Sequence[Array]) -> dict[str, Tensor]:
        """{"cls", "conf", "xy", "wh"} scalars, sums divided by B. Maps (B, channels, h, w), boxes B x (n, 5)."""
        terms = self.head.loss(self.levels(maps), self.samples(boxes, maps[0].device))
        return {name.removeprefix("loss_"): sum(scales) / len(boxes) for name, scales in terms.items()}

    @torch.no_grad()
    def predict(self, maps: Sequence[Tensor]) -> list[Array]:
        """Maps (B, channels, h, w) -> B arrays (n, 6) as BoxHead says; a score is that of the class times the objectness."""
        bounded = self.raw(maps)  # what head.predict does, but finite
        found = self.head.predict_by_feat(bounded, batch_img_metas=[self.meta()] * len(maps[0]), rescale=False)
        return as_arrays(found)

    def raw(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Bounded outputs of the head from coarse to fine, (B, anchors * (5 + classes), h, w) each."""
        (levels,) = self.head(self.levels(maps))
        return [level.clamp(-LARGEST_LOGIT, LARGEST_LOGIT) for level in levels]


def _head_settings(channels: Sequence[int], classes: int, size: int, options: YoloOptions) -> dict[str, Any]:
    """The settings of open-mmlab/mmdetection@v3.3.0 configs/yolo/yolov3_d53_8xb8-ms-608-273e_coco.py at our sizes."""
    strides = list(reversed(STRIDES))
    entropy = {"type": "CrossEntropyLoss", "use_sigmoid": True, "reduction": "sum"}
    shared = {"type": "GridAssigner", "pos_iou_thr": options.ignore, "neg_iou_thr": options.ignore, "min_pos_iou": 0}
    return {
        "num_classes": classes,
        "in_channels": list(channels),
        "out_channels": [2 * count for count in channels],
        "anchor_generator": {"type": "YOLOAnchorGenerator", "base_sizes": options.sizes(size), "strides": strides},
        "bbox_coder": {"type": "YOLOBBoxCoder"},
        "featmap_strides": strides,
        "loss_cls": {**entropy, "loss_weight": options.loss_cls},
        "loss_conf": {**entropy, "loss_weight": options.loss_conf},
        "loss_xy": {**entropy, "loss_weight": options.loss_xy},
        "loss_wh": {"type": "MSELoss", "reduction": "sum", "loss_weight": options.loss_wh},
        "train_cfg": {"assigner": shared},
        "test_cfg": {
            "nms_pre": 1000,
            "min_bbox_size": 0,
            "score_thr": 0.05,
            "conf_thr": options.confidence,
            "nms": {"type": "nms", "iou_threshold": options.nms_iou},
            "max_per_img": MOST,
        },
    }


def _pad_to(level: Tensor, length: int) -> Tensor:
    """Zeros at the right and bottom up to (length, length)."""
    return pad(level, (0, length - level.shape[-1], 0, length - level.shape[-2]))
