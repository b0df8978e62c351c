"""Scores of stored detections: average precision at COCO's and LoVT's thresholds, MGCA's filtered variant, and FROC."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmark import metrics
from tasks.coco import FIRST_COCO, N_LOVT, average_precision

Array = NDArray[np.float64]
RATES = np.array([0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0])  # false positives an image
AT_50, AT_75 = FIRST_COCO, FIRST_COCO + 5


def detection_scores(detections: Array, truth: Array, classes: Sequence[str], weights: Array) -> dict[str, Array]:
    """Every image counts, those without boxes and those without detections as well.

    Args:
        detections: (N, D, 6) x0, y0, x1, y1, score, class; truth: (N, G, 5) x0, y0, x1, y1, class; nan-padded.
        weights: (R, N), how often each image counts.

    Returns:
        name -> (R,) float64 in [0, 1]: "map", "map50", "map75" (COCO), "map40_75" (mean over IoU .40, .45, ..., .75, as LoVT
        and MGCA report), "froc" and "ap50/<class>". A class without truth in a draw is nan there; means are over the others.
    """
    by_class = [average_precision(detections, truth, label, weights) for label in range(len(classes))]  # (R, T) each
    found = {
        "map": metrics.macro([item[:, FIRST_COCO:].mean(axis=1) for item in by_class]),
        "map50": metrics.macro([item[:, AT_50] for item in by_class]),
        "map75": metrics.macro([item[:, AT_75] for item in by_class]),
        "map40_75": metrics.macro([item[:, :N_LOVT].mean(axis=1) for item in by_class]),
        "froc": metrics.macro([froc(detections, truth, label, weights) for label in range(len(classes))]),
    }
    return found | {f"ap50/{name}": item[:, AT_50] for name, item in zip(classes, by_class)}


def filtered_map(detections: Array, truth: Array, classes: Sequence[str], weights: Array, confidence: float) -> Array:
    """The mean over IoU .40, ..., .75 of only those images that have both a box and a detection: too high by construction.

    As HKU-MedAI/MGCA@680fe4a mgca/models/ssl_detector.py computes it. An image on which nothing is found costs no recall, and
    a false alarm on an image without boxes no precision; comparable with numbers of that code alone.

    Args:
        confidence: detections of a lower score do not count.

    Returns:
        (R,) float64, nan where no such image is drawn.
    """
    sure = np.where((detections[..., 4] >= confidence)[..., None], detections, np.nan)
    kept = ~np.isnan(sure[..., 4]).all(axis=1) & ~np.isnan(truth[..., 4]).all(axis=1)
    counted = weights * kept
    by_class = [average_precision(sure, truth, label, counted)[:, :N_LOVT] for label in range(len(classes))]
    return metrics.macro([item.mean(axis=1) for item in by_class])


def froc(detections: Array, truth: Array, label: int, weights: Array) -> Array:
    """Mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives an image, of one class.

    Object-CXR's challenge (hlk-1135/object-CXR@204d673 README.md, froc.py) and, for boxes, LoVT (philip-mueller/lovt@87b9a30
    src/metrics/detection_metrics.py): a detection is its center; an object is found when a center lies in it or on its edge,
    a center in no object is a false positive, and one more center in an object already found is neither. The sensitivity at
    a rate is that of the lowest score threshold whose false positives an image are below the rate: what the challenge's
    walk down the scores has found when a false positive brings it to the rate, but equal scores stand or fall together.

    Args:
        detections: (N, D, 6), truth: (N, G, 5), nan-padded. weights: (R, N).

    Returns:
        (R,) float64, nan where the class has no truth.
    """
    false, found = _centers(detections, truth, label)  # score and image of each false positive, of each object
    made = np.full(len(weights), np.nan)
    for draw, weight in enumerate(weights):
        objects = weight[found[1]]
        if objects.sum() == 0:
            continue
        alarms = weight[false[1]].cumsum()  # at and above each score
        reached = np.searchsorted(alarms, RATES * weight.sum(), side="left")
        limits = np.append(false[0], -np.inf)[reached]  # only what scores above counts
        hits = np.append(0.0, objects.cumsum())  # by falling score
        made[draw] = hits[np.searchsorted(-found[0], -limits, side="left")].mean() / objects.sum()
    return made


Scored = tuple[Array, NDArray[np.intp]]  # scores, falling, and the image of each


def _centers(detections: Array, truth: Array, label: int) -> tuple[Scored, Scored]:
    """The false positives, and the objects with the best score of a center in each (-inf where there is none)."""
    false: list[tuple[float, int]] = []
    found: list[tuple[float, int]] = []
    for image, (rows, boxes) in enumerate(zip(detections, truth)):
        mine, real = rows[rows[:, 5] == label], boxes[boxes[:, 4] == label]
        centers = (mine[:, None, :2] + mine[:, None, 2:4]) / 2  # (d, 1, 2)
        inside = ((real[None, :, :2] <= centers) & (centers <= real[None, :, 2:4])).all(axis=2)  # (d, g)
        false += [(score, image) for score in mine[~inside.any(axis=1), 4]]
        best = np.where(inside, mine[:, None, 4], -np.inf).max(axis=0, initial=-np.inf)
        found += [(score, image) for score in best]
    return _by_score(false), _by_score(found)


def _by_score(pairs: list[tuple[float, int]]) -> Scored:
    scores = np.array([score for score, _ in pairs], float)
    order = np.argsort(-scores, kind="stable")
    return scores[order], np.array([image for _, image in pairs], np.intp)[order]
