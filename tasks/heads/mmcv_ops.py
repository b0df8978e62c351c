"""The operators that mmdet calls through mmcv's compiled module, written with torch and torchvision.

mmcv-lite holds mmcv's Python files but not `mmcv._ext`. `install` puts a module of that name in place where no compiled one
can be found; the signatures and the convention (results are written into an `output` argument) are those of
open-mmlab/mmcv@v2.1.0, mmcv/ops/csrc/pytorch/pybind.cpp.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torchvision import ops

NAME = "mmcv._ext"


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: (N, 4) float x0, y0, x1, y1. scores: (N,) float.
        iou_threshold: a box goes when its IoU with a better one is above.
        offset: 0 or 1; widths and heights are x1 - x0 + offset, y1 - y0 + offset.

    Returns:
        (n,) int64, kept rows by falling score.
    """
    corner = boxes.new_tensor((0, 0, offset, offset))
    kept: Tensor = ops.nms(boxes + corner, scores, iou_threshold)
    return kept


def roi_align_forward(
    features: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **options: Any
) -> None:
    """Average RoIAlign of features (B, C, H, W) at rois (N, 5: image, x0, y0, x1, y1) into output (N, C, h, w)."""
    del argmax_y, argmax_x  # of max pooling only
    output.copy_(_roi_align(features, rois, **options))


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor, **options: Any
) -> None:
    """Writes the gradient (B, C, H, W) of average RoIAlign into grad_input, from grad_output (N, C, h, w)."""
    del argmax_y, argmax_x
    with torch.enable_grad():
        point = torch.zeros_like(grad_input, requires_grad=True)  # linear in the features: any point has this gradient
        (gradient,) = torch.autograd.grad(_roi_align(point, rois, **options), point, grad_output)
    grad_input.copy_(gradient)


def _roi_align(features: Tensor, rois: Tensor, **options: Any) -> Tensor:
    if options["pool_mode"] != 1:
        raise NotImplementedError("roi_align with pool_mode='max' needs a compiled mmcv; use pool_mode='avg'")
    size = (options["aligned_height"], options["aligned_width"])
    aligned: Tensor = ops.roi_align(
        features, rois, size, options["spatial_scale"], options["sampling_ratio"], options["aligned"]
    )
    return aligned


def sigmoid_focal_loss_forward(
    logits: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """Focal loss (Lin et al. 2017, eq. 5) of logits (N, K) and classes (N,) int64, K = background, into output (N, K)."""
    output.copy_(_focal(logits, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    logits: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, *, gamma: float, alpha: float
) -> None:
    """Writes the gradient (N, K) of the sum of the focal loss into grad_input."""
    with torch.enable_grad():
        point = logits.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(_focal(point, target, weight, gamma, alpha).sum(), point)
    grad_input.copy_(gradient)


def _focal(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    if weight.numel():
        raise NotImplementedError("sigmoid_focal_loss with class weights needs a compiled mmcv")
    positive = target[:, None] == torch.arange(logits.shape[1], device=logits.device)  # (N, K)
    hit = -alpha * torch.sigmoid(-logits) ** gamma * logsigmoid(logits)
    miss = -(1 - alpha) * torch.sigmoid(logits) ** gamma * logsigmoid(-logits)
    return torch.where(positive, hit, miss)


OPERATORS: dict[str, Callable[..., Any]] = {
    "nms": nms,
    "roi_align_forward": roi_align_forward,
    "roi_align_backward": roi_align_backward,
    "sigmoid_focal_loss_forward": sigmoid_focal_loss_forward,
    "sigmoid_focal_loss_backward": sigmoid_focal_loss_backward,
}


class OperatorModule(ModuleType):
    """Stands where `mmcv._ext` is looked for; an operator that is not here raises when it is called, not when imported."""

    def __init__(self) -> None:
        super().__init__(NAME, "torch and torchvision in place of mmcv's compiled operators")
        self.__spec__ = ModuleSpec(NAME, None)
        self.__dict__.update(OPERATORS)

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_args: object, **_options: object) -> NoReturn:
            raise NotImplementedError(f"operator {name!r} needs a compiled mmcv: pip install mmcv==2.1.0 in place of mmcv-lite")

        return missing


def install() -> bool:
    """Makes `import mmcv.ops` work without a compiled mmcv.

    Returns:
        True when the operators of this module serve, False when compiled ones were found and left alone.
    """
    found = sys.modules.get(NAME)
    if found is None and importlib.util.find_spec(NAME) is None:
        found = sys.modules[NAME] = OperatorModule()
    return isinstance(found, OperatorModule)
