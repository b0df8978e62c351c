"""What every detection head gives, and what the heads of mmdet share.

mmdet takes many seconds to import; it is imported when a head is built, not before.
"""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.heads import mmcv_ops

Array = NDArray[np.float64]


class BoxHead(nn.Module, ABC):
    """Native maps of an encoder to boxes on a square canvas of `size` pixels."""

    size: int

    @abstractmethod
    def losses(self, maps: Sequence[Tensor], boxes: Sequence[Array]) -> dict[str, Tensor]:
        """Scalar terms whose sum is minimized.

        Args:
            maps: native maps (B, channels, h, w).
            boxes: B arrays (n, 5) float64, x0, y0, x1, y1 in canvas pixels and the class.
        """

    @abstractmethod
    def predict(self, maps: Sequence[Tensor]) -> list[Array]:
        """Native maps (B, channels, h, w) -> B arrays (n, 6) float64, best score first: canvas corners, score, class."""

    def meta(self) -> dict[str, Any]:
        """What mmdet wants to know of an image: it fills the canvas."""
        shapes = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
        return {**dict.fromkeys(shapes, (self.size, self.size)), "scale_factor": (1.0, 1.0)}

    def samples(self, boxes: Sequence[Array], device: torch.device) -> list[Any]:
        """The boxes of B images as mmdet's DetDataSample."""
        library = load_mmdet()
        made = []
        for rows in boxes:
            truth = torch.as_tensor(rows, device=device)
            sample = library["sample"](metainfo=self.meta())
            sample.gt_instances = library["instances"](bboxes=truth[:, :4].float(), labels=truth[:, 4].long())
            made.append(sample)
        return made


@cache
def load_mmdet() -> dict[str, Any]:
    """The classes of mmdet and mmengine that detection uses, imported once, without the warnings known of them.

    Returns:
        Classes "neck" and "head" (YOLOv3), "fpn", "fcos", "retina", "rpn", "roi", "sample", "instances", "config".
    """
    mmcv_ops.install()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*MultiScaleDeformableAttention.* has been moved", ImportWarning)
        for category in (DeprecationWarning, SyntaxWarning):  # when mmdet is compiled for the first time
            warnings.filterwarnings("ignore", "invalid escape sequence", category)
        from mmdet.models.dense_heads import FCOSHead, RetinaHead, RPNHead, YOLOV3Head
        from mmdet.models.necks import FPN, YOLOV3Neck
        from mmdet.models.roi_heads import StandardRoIHead
        from mmdet.structures import DetDataSample
        from mmengine.config import ConfigDict
        from mmengine.structures import InstanceData
    return {
        "neck": YOLOV3Neck,
        "head": YOLOV3Head,
        "fpn": FPN,
        "fcos": FCOSHead,
        "retina": RetinaHead,
        "rpn": RPNHead,
        "roi": StandardRoIHead,
        "sample": DetDataSample,
        "instances": InstanceData,
        "config": ConfigDict,
    }


@contextmanager
def quiet() -> Iterator[None]:
    """mmengine's log of every initialized parameter, and mmdet's call of torch.meshgrid without `indexing`, are not shown."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.meshgrid: in an upcoming release", UserWarning)
            yield
    finally:
        logging.disable(before)


def configured(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with every mapping as mmengine's ConfigDict, which mmdet's constructors want."""
    config = load_mmdet()["config"]
    return {name: config(item) if isinstance(item, dict) else item for name, item in settings.items()}


def as_arrays(found: Sequence[Any]) -> list[Array]:
    """mmdet's instances of B images as (n, 6) float64: corners, score, class."""
    rows = [torch.cat([one.bboxes, one.scores[:, None], one.labels[:, None].to(one.scores.dtype)], 1) for one in found]
    return [row.double().cpu().numpy() for row in rows]
