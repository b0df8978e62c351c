"""Scores of segmentation from pixel counts: image by image, and pooled over all images, for any reweighting of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmark import metrics

INTERSECTION, PREDICTED, TARGET, VALID = range(4)  # the columns of "counts"
Array = NDArray[np.float64]


def image_scores(counts: Array) -> dict[str, Array]:
    """Dice and IoU of each image and mask.

    "_empty1": an image whose target and prediction are both empty counts 1, one with an empty target alone 0.
    "_nonempty": images with a target only.
    "mdice": the mean of the Dice of the mask and that of its background, both with the rule of "_empty1". Papers that
    print it under the name of Dice are not comparable with any of the others.

    Args:
        counts: (N, M, 4) intersection, predicted, target, valid.

    Returns:
        name -> (N, M) float64, nan where a mask is unknown, has no valid pixel, or (nonempty) is empty.
    """
    overlap, predicted, target = counts[..., INTERSECTION], counts[..., PREDICTED], counts[..., TARGET]
    valid = counts[..., VALID]
    unknown = _unknown(counts)
    total = predicted + target
    dice = _dice(overlap, total)
    iou = np.divide(overlap, total - overlap, out=np.ones_like(total), where=total > 0)
    background = _dice(valid - total + overlap, 2 * valid - total)
    dice[unknown] = iou[unknown] = background[unknown] = np.nan
    return {
        "dice_empty1": dice,
        "iou_empty1": iou,
        "dice_nonempty": np.where(target > 0, dice, np.nan),
        "mdice": (dice + background) / 2,
    }


def pooled_scores(counts: Array, weights: Array) -> dict[str, Array]:
    """Dice and IoU over the pixels of all images at once, mask by mask: "dice_micro" (LoVT), "iou_micro".

    Args:
        counts: (N, M, 4) as in `image_scores`. weights: (R, N), how often each row counts.

    Returns:
        name -> (R, M) float64, nan where neither target nor prediction has a pixel.
    """
    known = np.where(_unknown(counts)[..., None], 0.0, counts)
    sums = np.einsum("rn,nmc->rmc", weights, known)
    overlap, total = sums[..., INTERSECTION], sums[..., PREDICTED] + sums[..., TARGET]
    made = {}
    for name, above, below in (("dice_micro", 2 * overlap, total), ("iou_micro", overlap, total - overlap)):
        made[name] = np.divide(above, below, out=np.full_like(total, np.nan), where=below > 0)
    return made


def scores(counts: Array, weights: Array, names: Sequence[str]) -> Mapping[str, Array]:
    """Every metric, "<metric>/<mask>" of each mask and "<metric>", the mean over the masks that are defined, (R,) each."""
    by_mask = {
        metric: [metrics.mean(values[:, column], weights) for column in range(len(names))]
        for metric, values in image_scores(counts).items()
    }
    by_mask |= {metric: list(values.T) for metric, values in pooled_scores(counts, weights).items()}
    made: dict[str, Array] = {}
    for metric, columns in by_mask.items():
        made[metric] = metrics.macro(columns)
        made.update({f"{metric}/{name}": one for name, one in zip(names, columns)})
    return made


def _unknown(counts: Array) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.isnan(counts[..., TARGET]) | (counts[..., VALID] == 0)
    return found


def _dice(overlap: Array, total: Array) -> Array:
    found: Array = np.divide(2 * overlap, total, out=np.ones_like(total), where=total > 0)
    return found
