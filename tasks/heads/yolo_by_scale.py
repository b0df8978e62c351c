"""YOLOv3 with the losses and the decoding of LoVT's code, which MGCA's shares.

Facts from philip-mueller/lovt@87b9a30 src/models/downstream/detection.py and HKU-MedAI/MGCA@680fe4a mgca/utils/yolo_loss.py,
mgca/utils/detection_utils.py. Unlike mmdet's: every scale has to find every box, with the best of its own three anchors;
terms are means over all cells; background counts half; a score is the objectness alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as entropy
from torch.nn.functional import softplus
from torchvision import ops

from tasks.heads.box_head import Array
from tasks.heads.yolo import MOST, STRIDES, YoloHead

BACKGROUND = 0.5  # weight of the objectness of cells without a box
PIXEL = 1.0  # widths and heights of overlaps are x1 - x0 + 1: pixels in suppression, cells where anchors are chosen


class YoloByScale(YoloHead):
    """YoloHead, trained and decoded as LoVT and MGCA do."""

    def losses(self, maps: Sequence[Tensor], boxes: Sequence[Array]) -> dict[str, Tensor]:
        """{"xy", "wh", "conf", "cls"} scalars, weighted as the options say. Maps (B, channels, h, w), boxes B x (n, 5)."""
        weights = {"xy": self.options.loss_xy, "wh": self.options.loss_wh}
        weights |= {"conf": self.options.loss_conf, "cls": self.options.loss_cls}
        (levels,) = self.head(self.levels(maps))
        strides = reversed(STRIDES)
        parts = [
            scale_losses(level, boxes, np.array(anchors), stride, self.options.ignore)
            for level, anchors, stride in zip(levels, self.options.sizes(self.size), strides)
        ]
        return {name: weight * torch.stack([part[name] for part in parts]).sum() for name, weight in weights.items()}

    @torch.no_grad()
    def predict(self, maps: Sequence[Tensor]) -> list[Array]:
        """Maps (B, channels, h, w) -> B arrays (n, 6) as BoxHead says; a score is the objectness."""
        parts = [
            decode(level, np.array(anchors), stride)
            for level, anchors, stride in zip(self.raw(maps), self.options.sizes(self.size), reversed(STRIDES))
        ]
        return [suppress(rows, self.options.confidence, self.options.nms_iou) for rows in torch.cat(parts, dim=1)]


def scale_losses(level: Tensor, boxes: Sequence[Array], anchors: Array, stride: int, ignore: float) -> dict[str, Tensor]:
    """The unweighted losses of one scale, means over all B * A * h * w cells.

    Args:
        level: (B, A * (5 + K), h, w), for each anchor x, y, width, height, objectness and K classes.
        boxes: B arrays (n, 5), x0, y0, x1, y1 in pixels and the class. anchors: (A, 2) width and height in pixels.
        ignore: a cell is no background where an anchor's overlap with a box whose center it holds is above.

    Returns:
        {"xy", "wh", "conf", "cls"}: x and y summed, width and height summed.
    """
    cells = _by_anchor(level, len(anchors))  # (B, A, h, w, 5 + K)
    made = _targets(tuple(cells.shape), boxes, anchors / stride, stride, ignore)
    target, owned, background = (torch.as_tensor(item, device=level.device) for item in made)
    mine, truth, count = cells[owned], target[owned], owned.numel()
    conf = softplus(-mine[:, 4]).sum() + BACKGROUND * softplus(cells[..., 4][background]).sum()
    return {
        "xy": entropy(mine[:, :2], truth[:, :2], reduction="sum") / count,
        "wh": (mine[:, 2:4] - truth[:, 2:4]).square().sum() / count,
        "conf": conf / count,
        "cls": entropy(mine[:, 5:], truth[:, 5:], reduction="sum") / (count * (cells.shape[-1] - 5)),
    }


def decode(level: Tensor, anchors: Array, stride: int) -> Tensor:
    """One scale (B, A * (5 + K), h, w) -> (B, A * h * w, 5 + K): center, width and height in pixels, objectness, classes."""
    cells = _by_anchor(level, len(anchors))
    down, across = (torch.arange(length, device=level.device) for length in cells.shape[2:4])
    corner = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)  # (h, w, 2)
    sizes = torch.as_tensor(anchors, dtype=level.dtype, device=level.device)[:, None, None]  # (A, 1, 1, 2)
    chances = cells.sigmoid()
    boxes = torch.cat([(chances[..., :2] + corner) * stride, cells[..., 2:4].exp() * sizes], dim=-1)
    return torch.cat([boxes, chances[..., 4:]], dim=-1).flatten(1, 3)


def suppress(rows: Tensor, confidence: float, overlap: float) -> Array:
    """One image's decoded rows (n, 5 + K) -> (m, 6) float64, best first: corners, objectness, the likeliest class.

    Greedy by objectness within each class; at most MOST boxes.

    Args:
        confidence: less objectness goes. overlap: a box goes when it overlaps a better one more.
    """
    rows = rows[rows[:, 4] >= confidence]
    corners = torch.cat([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], dim=1)
    scores, labels = rows[:, 4], rows[:, 5:].argmax(dim=1)
    pixels = corners + corners.new_tensor((0.0, 0.0, PIXEL, PIXEL))
    kept = [of_class[ops.nms(pixels[of_class], scores[of_class], overlap)] for of_class in _each(labels)]
    order = torch.cat([labels.new_empty(0), *kept])
    order = order[scores[order].argsort(descending=True, stable=True)][:MOST]
    found = torch.cat([corners[order], scores[order, None], labels[order, None].to(scores.dtype)], dim=1)
    array: Array = found.double().cpu().numpy()
    return array


def _each(labels: Tensor) -> list[Tensor]:
    """The rows (n,) int64 of every class that is there."""
    return [(labels == label).nonzero()[:, 0] for label in set(labels.tolist())]


def _by_anchor(level: Tensor, count: int) -> Tensor:
    """(B, A * (5 + K), h, w) -> (B, A, h, w, 5 + K)."""
    n, channels, height, width = level.shape
    return level.reshape(n, count, channels // count, height, width).permute(0, 1, 3, 4, 2)


Targets = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]


def _targets(shape: tuple[int, ...], boxes: Sequence[Array], anchors: Array, stride: int, ignore: float) -> Targets:
    """What each cell should give, the cells that own a box, and those that are background.

    A cell whose best anchor does not overlap its box by more than `ignore` is both, as in the code that this follows.

    Args:
        shape: (B, A, h, w, 5 + K). anchors: (A, 2) in cells.
    """
    target, owned, background = np.zeros(shape, np.float32), np.zeros(shape[:4], bool), np.ones(shape[:4], bool)
    limits = np.array(shape[3:1:-1]) - 1
    for image, rows in enumerate(boxes):
        for x0, y0, x1, y1, label in rows:
            center, size = np.array([x0 + x1, y0 + y1]) / 2 / stride, np.array([x1 - x0, y1 - y0]) / stride
            column, row = np.clip(center.astype(int), 0, limits)
            shared = (np.minimum(size, anchors) + PIXEL).prod(axis=1)
            overlaps = shared / ((size + PIXEL).prod() + (anchors + PIXEL).prod(axis=1) - shared)
            background[image, overlaps > ignore, row, column] = False
            cell = (image, int(overlaps.argmax()), row, column)
            owned[cell] = True
            target[cell][:5] = *(center - (column, row)), *np.log(size / anchors[cell[1]]), 1
            target[cell][5 + int(label)] = 1
    return target, owned, background
