"""FCOS (Tian et al. 2019) and Faster R-CNN (Ren et al. 2015) of mmdet with a feature pyramid network (Lin et al. 2017).

Settings are those of open-mmlab/mmdetection@v3.3.0 configs/fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py and
configs/_base_/models/faster-rcnn_r50_fpn.py at our widths; what differs is named where it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.heads.box_head import Array, BoxHead, as_arrays, configured, load_mmdet, quiet
from tasks.heads.pyramid import FeaturePyramid

GROUPS = 32  # of group normalization
ANCHOR_SCALE = 4  # anchors of 4 strides, 16 to 256 pixels; 8 at the 800 pixels that mmdet's settings are for


ONE_STAGE_TEST = {  # which boxes of a one-stage head are kept, as mmdet's settings of FCOS and RetinaNet say
    "nms_pre": 1000,
    "min_bbox_size": 0,
    "score_thr": 0.05,
    "nms": {"type": "nms", "iou_threshold": 0.5},
    "max_per_img": 100,
}


class PyramidBoxHead(BoxHead):
    """A box head of mmdet behind a pyramid of maps and a feature pyramid network; subclasses build `pyramid` and `neck`."""

    size: int
    pyramid: FeaturePyramid
    neck: Any

    def _levels(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Native maps (B, channels, h, w) -> levels (B, width, h, w), the finest first."""
        levels: tuple[Tensor, ...] = self.neck(self.pyramid(maps, (self.size, self.size)))
        return levels


class OneStageHead(PyramidBoxHead):
    """A pyramid head whose one dense `head` gives classes and boxes."""

    head: Any

    @torch.no_grad()
    def predict(self, maps: Sequence[Tensor]) -> list[Array]:
        """Maps (B, channels, h, w) -> B arrays (n, 6) as BoxHead says."""
        samples = self.samples([NO_BOXES] * len(maps[0]), maps[0].device)
        with quiet():
            return as_arrays(self.head.predict(self._levels(maps), samples, rescale=False))


class FcosHead(OneStageHead):
    """One stage, no anchors: pyramid, top-down network and head at strides 8, 16, 32; the last takes boxes of any size.

    A score is that of the class times the centerness. mmdet's has strides 64 and 128 as well, for images of 800 pixels.

    Args:
        info: (channels, stride) of each native map. width: channels throughout. convolutions: stacked in the head.
        classes: number of box classes. size: of the square images in pixels.
    """

    STRIDES = (8, 16, 32)

    def __init__(self, info: Sequence[tuple[int, int]], width: int, convolutions: int, classes: int, size: int) -> None:
        super().__init__()
        library = load_mmdet()
        self.size = size
        self.pyramid = FeaturePyramid(info, self.STRIDES, width)
        self.neck = library["fpn"](in_channels=[width] * 3, out_channels=width, num_outs=3)
        settings = {
            "num_classes": classes,
            "in_channels": width,
            "feat_channels": width,
            "stacked_convs": convolutions,
            "strides": list(self.STRIDES),
            "regress_ranges": ((-1, 64), (64, 128), (128, 1e8)),
            "norm_cfg": {"type": "GN", "num_groups": gcd(GROUPS, width), "requires_grad": True},
            "test_cfg": ONE_STAGE_TEST,
        }
        self.head = library["fcos"](**configured(settings))
        with quiet():
            self.neck.init_weights()
            self.head.init_weights()

    def losses(self, maps: Sequence[Tensor], boxes: Sequence[Array]) -> dict[str, Tensor]:
        """{"cls", "bbox", "centerness"} scalars, means over positives. Maps (B, channels, h, w), boxes B x (n, 5)."""
        with quiet():
            terms = self.head.loss(self._levels(maps), self.samples(boxes, maps[0].device))
        return {name.removeprefix("loss_"): term for name, term in terms.items()}


class FasterRcnnHead(PyramidBoxHead):
    """Two stages: pyramid, top-down network, region proposals at strides 4 to 64, and a box head on 7 x 7 regions.

    Args:
        info: (channels, stride) of each native map. width: channels throughout. hidden: of the box head, 1024 in the paper.
        classes: number of box classes. size: of the square images in pixels.
    """

    STRIDES = (4, 8, 16, 32)

    def __init__(self, info: Sequence[tuple[int, int]], width: int, hidden: int, classes: int, size: int) -> None:
        super().__init__()
        library = load_mmdet()
        self.size = size
        self.pyramid = FeaturePyramid(info, self.STRIDES, width)
        self.neck = library["fpn"](in_channels=[width] * 4, out_channels=width, num_outs=5)
        self.proposals = library["rpn"](**configured(_proposal_settings(width)))
        self.regions = library["roi"](**configured(_region_settings(self.STRIDES, width, hidden, classes)))
        with quiet():
            for part in (self.neck, self.proposals, self.regions):
                part.init_weights()

    def losses(self, maps: Sequence[Tensor], boxes: Sequence[Array]) -> dict[str, Tensor]:
        """{"rpn_cls", "rpn_bbox", "cls", "bbox"} scalars. See BoxHead; regions are sampled by torch's global generator."""
        levels = self._levels(maps)
        anonymous = [_without_class(rows) for rows in boxes]
        device = maps[0].device
        terms, proposed = self.proposals.loss_and_predict(
            levels, self.samples(anonymous, device), proposal_cfg=load_mmdet()["config"](PROPOSED | {"nms_pre": 2000})
        )
        made = {name.removeprefix("loss_"): sum(scales) for name, scales in terms.items()}
        second = self.regions.loss(levels, proposed, self.samples(boxes, device))
        return made | {name.removeprefix("loss_"): term for name, term in second.items() if name.startswith("loss_")}

    @torch.no_grad()
    def predict(self, maps: Sequence[Tensor]) -> list[Array]:
        """Maps (B, channels, h, w) -> B arrays (n, 6) as BoxHead says; a score is the class's share of the softmax."""
        levels, samples = self._levels(maps), self.samples([NO_BOXES] * len(maps[0]), maps[0].device)
        proposed = self.proposals.predict(levels, samples, rescale=False)
        return as_arrays(self.regions.predict(levels, proposed, samples, rescale=False))


NO_BOXES: Array = np.zeros((0, 5))
PROPOSED: dict[str, Any] = {
    "nms_pre": 1000,
    "max_per_img": 1000,
    "nms": {"type": "nms", "iou_threshold": 0.7},
    "min_bbox_size": 0,
}


def _without_class(rows: Array) -> Array:
    """The same boxes, all of class 0."""
    made = rows.copy()
    made[:, 4] = 0
    return made


def _sampler(number: int, positive: float, add: bool) -> dict[str, Any]:
    return {
        "type": "RandomSampler",
        "num": number,
        "pos_fraction": positive,
        "neg_pos_ub": -1,
        "add_gt_as_proposals": add,
    }


def assigner(positive: float, negative: float, least: float, low_quality: bool) -> dict[str, Any]:
    """mmdet's MaxIoUAssigner: IoU from `positive` on is a box, under `negative` is none.

    low_quality: the best place of each box is that box's, from `least` on.
    """
    return {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": positive,
        "neg_iou_thr": negative,
        "min_pos_iou": least,
        "match_low_quality": low_quality,
        "ignore_iof_thr": -1,
    }


def _proposal_settings(width: int) -> dict[str, Any]:
    strides = [4, 8, 16, 32, 64]
    return {
        "in_channels": width,
        "feat_channels": width,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": [ANCHOR_SCALE],
            "ratios": [0.5, 1.0, 2.0],
            "strides": strides,
        },
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [1.0] * 4},
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
        "train_cfg": {
            "assigner": assigner(0.7, 0.3, 0.3, low_quality=True),
            "sampler": _sampler(256, 0.5, add=False),
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        "test_cfg": PROPOSED,
    }


def _region_settings(strides: Sequence[int], width: int, hidden: int, classes: int) -> dict[str, Any]:
    return {
        "bbox_roi_extractor": {
            "type": "SingleRoIExtractor",
            "roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0},
            "out_channels": width,
            "featmap_strides": list(strides),
        },
        "bbox_head": {
            "type": "Shared2FCBBoxHead",
            "in_channels": width,
            "fc_out_channels": hidden,
            "roi_feat_size": 7,
            "num_classes": classes,
            "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]},
            "reg_class_agnostic": False,
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
            "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
        },
        "train_cfg": {
            "assigner": assigner(0.5, 0.5, 0.5, low_quality=False),
            "sampler": _sampler(512, 0.25, add=True),
            "pos_weight": -1,
            "debug": False,
        },
        "test_cfg": {"score_thr": 0.05, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 100},
    }
