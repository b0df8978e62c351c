"""YOLOv3 (Redmon and Farhadi 2018) on a feature pyramid: mmdet's neck, head, assigner and losses.

mmdet takes many seconds to import; it is imported when a head is built, not before.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from tasks.heads import mmcv_ops
from tasks.heads.pyramid import FeaturePyramid

STRIDES = (8, 16, 32)
# Table of YOLOv3's COCO priors at 416 pixels, from coarse to fine, as in open-mmlab/mmdetection@v3.3.0 configs/yolo.
ANCHORS = (((116, 90), (156, 198), (373, 326)), ((30, 61), (62, 45), (59, 119)), ((10, 13), (16, 30), (33, 23)))
ANCHOR_SIZE = 416
LARGEST_LOGIT = 20.0  # exp and sigmoid of more add nothing but overflow


@cache
def load_mmdet() -> dict[str, Any]:
    """The classes of mmdet and mmengine that detection uses, imported once, without the warnings known of them.

    Returns:
        {"neck", "head", "config", "sample", "instances"}: classes.
    """
    mmcv_ops.install()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*MultiScaleDeformableAttention.* has been moved", ImportWarning)
        for category in (DeprecationWarning, SyntaxWarning):  # when mmdet is compiled for the first time
            warnings.filterwarnings("ignore", "invalid escape sequence", category)
        from mmdet.models.dense_heads import YOLOV3Head
        from mmdet.models.necks import YOLOV3Neck
        from mmdet.structures import DetDataSample
        from mmengine.config import ConfigDict
        from mmengine.structures import InstanceData
    return {
        "neck": YOLOV3Neck,
        "head": YOLOV3Head,
        "config": ConfigDict,
        "sample": DetDataSample,
        "instances": InstanceData,
    }


class YoloHead(nn.Module):
    """Pyramid, YOLOv3 neck and head.

    Args:
        info: (channels, stride) of each native map.
        width: channels of the pyramid.
        channels: of the neck's outputs from coarse to fine, (512, 256, 128) in the paper; the head's are twice that.
        classes: number of box classes.
        size: of the square images in pixels; the standard anchors are scaled by size / 416.
    """

    def __init__(self, info: Sequence[tuple[int, int]], width: int, channels: Sequence[int], classes: int, size: int) -> None:
        super().__init__()
        library = load_mmdet()
        self.size = size
        self.pyramid = FeaturePyramid(info, STRIDES, width)
        self.neck = library["neck"](num_scales=3, in_channels=[width] * 3, out_channels=list(channels))
        self.head = library["head"](**_head_settings(library["config"], channels, classes, size))
        self.head.init_weights()

    def levels(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Native maps (B, channels, h, w) -> three neck outputs from coarse to fine, (B, channels, h, w) each."""
        fine, middle, coarse = self.pyramid(maps, (self.size, self.size))
        rows = coarse.shape[-1]  # the neck doubles the coarse map twice: finer ones are padded as images would be, to 32
        padded = [_pad_to(fine, 4 * rows), _pad_to(middle, 2 * rows), coarse]
        made: tuple[Tensor, ...] = self.neck(padded)
        return made

    def losses(self, maps: Sequence[Tensor], boxes: Sequence[NDArray[np.float64]]) -> dict[str, Tensor]:
        """Losses by name, means over the images.

        Args:
            maps: native maps (B, channels, h, w).
            boxes: B arrays (n, 5) float64, x0, y0, x1, y1 in canvas pixels and the class.

        Returns:
            {"cls", "conf", "xy", "wh"} scalars, sums over cells and scales divided by B.
        """
        library = load_mmdet()
        samples = []
        for rows in boxes:
            truth = torch.as_tensor(rows, device=maps[0].device)
            truth_instances = library["instances"](bboxes=truth[:, :4].float(), labels=truth[:, 4].long())
            sample = library["sample"](metainfo=self._meta())
            sample.gt_instances = truth_instances
            samples.append(sample)
        terms = self.head.loss(self.levels(maps), samples)
        return {name.removeprefix("loss_"): sum(scales) / len(boxes) for name, scales in terms.items()}

    @torch.no_grad()
    def predict(self, maps: Sequence[Tensor]) -> list[NDArray[np.float64]]:
        """Native maps (B, channels, h, w) -> B arrays (n, 6) float64, best score first: canvas corners, score, class."""
        (raw,) = self.head(self.levels(maps))
        bounded = [level.clamp(-LARGEST_LOGIT, LARGEST_LOGIT) for level in raw]  # what head.predict does, but finite
        found = self.head.predict_by_feat(bounded, batch_img_metas=[self._meta()] * len(maps[0]), rescale=False)
        arrays = []
        for one in found:
            columns = torch.cat([one.bboxes, one.scores[:, None], one.labels[:, None].to(one.scores.dtype)], 1)
            arrays.append(columns.double().cpu().numpy())
        return arrays

    def _meta(self) -> dict[str, Any]:
        shapes = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
        return {**dict.fromkeys(shapes, (self.size, self.size)), "scale_factor": (1.0, 1.0)}


def _head_settings(config: Any, channels: Sequence[int], classes: int, size: int) -> dict[str, Any]:
    """The settings of open-mmlab/mmdetection@v3.3.0 configs/yolo/yolov3_d53_8xb8-ms-608-273e_coco.py at our sizes."""
    scale = size / ANCHOR_SIZE
    anchors = [[(width * scale, height * scale) for width, height in level] for level in ANCHORS]
    strides = list(reversed(STRIDES))
    entropy = {"type": "CrossEntropyLoss", "use_sigmoid": True, "reduction": "sum"}
    settings = {
        "num_classes": classes,
        "in_channels": list(channels),
        "out_channels": [2 * count for count in channels],
        "anchor_generator": {"type": "YOLOAnchorGenerator", "base_sizes": anchors, "strides": strides},
        "bbox_coder": {"type": "YOLOBBoxCoder"},
        "featmap_strides": strides,
        "loss_cls": {**entropy, "loss_weight": 1.0},
        "loss_conf": {**entropy, "loss_weight": 1.0},
        "loss_xy": {**entropy, "loss_weight": 2.0},
        "loss_wh": {"type": "MSELoss", "reduction": "sum", "loss_weight": 2.0},
        "train_cfg": {"assigner": {"type": "GridAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0}},
        "test_cfg": {
            "nms_pre": 1000,
            "min_bbox_size": 0,
            "score_thr": 0.05,
            "conf_thr": 0.005,
            "nms": {"type": "nms", "iou_threshold": 0.45},
            "max_per_img": 100,
        },
    }
    return {name: config(item) if isinstance(item, dict) else item for name, item in settings.items()}


def _pad_to(level: Tensor, length: int) -> Tensor:
    """Zeros at the right and bottom up to (length, length)."""
    return pad(level, (0, length - level.shape[-1], 0, length - level.shape[-2]))
