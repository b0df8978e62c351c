"""Average precision as COCO defines it, in numpy, over R reweightings of the images at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
COCO = np.linspace(0.5, 0.95, 10)
LOVT = np.linspace(0.4, 0.75, 8)  # philip-mueller/lovt@87b9a30 src/metrics/detection_metrics.py; MGCA's as well
THRESHOLDS = np.concatenate([LOVT[:2], COCO])  # of IoU: those of both
FIRST_COCO, N_LOVT = 2, len(LOVT)  # where COCO's begin, and how many LoVT's are
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100  # detections of an image and class that count
DRAWS_AT_ONCE = 4_000_000  # elements of a (draws, detections) array


def average_precision(detections: Array, truth: Array, label: int, weights: Array) -> Array:
    """COCO average precision of one class at the IoU thresholds of THRESHOLDS, for R reweightings of the images.

    The matching, the order of ties and the 101-point interpolation are those of COCOeval (cocodataset/cocoapi@8c9bcc3,
    PythonAPI/pycocotools/cocoeval.py, bbox, area "all", maxDets 100). Images are matched once; a draw weighs their
    counts. Whole weights give what rows repeated next to each other would, except within equal scores of one image and
    class, which a repetition would interleave.

    Args:
        detections: (N, D, 6), truth: (N, G, 5), nan-padded. weights: (R, N).

    Returns:
        (R, T) float64, nan where the class has no truth.
    """
    scores, hits, owners, n_truth = _match_all(detections, truth, label)
    order = np.argsort(-scores, kind="stable")
    hits, owners = hits[:, order], owners[order]
    precision = np.full((len(weights), len(THRESHOLDS)), np.nan)
    step = max(1, DRAWS_AT_ONCE // max(1, len(owners)))
    for start in range(0, len(weights), step):
        drawn = weights[start : start + step]
        positives = drawn @ n_truth  # (r,)
        counted = drawn[:, owners]  # (r, detections)
        total = counted.cumsum(axis=1)
        for index, hit in enumerate(hits):
            area = _interpolate(counted[:, hit].cumsum(axis=1), total[:, hit], positives)
            precision[start : start + step, index] = np.where(positives > 0, area, np.nan)
    return precision


def _interpolate(true: Array, total: Array, positives: Array) -> Array:
    """(r,) mean precision at 101 recalls; true, total (r, n) cumulated at the hits alone: only there can recall rise."""
    area = np.zeros(len(true))
    if not true.shape[1]:
        return area
    recall = np.divide(true, positives[:, None], out=np.zeros_like(true), where=positives[:, None] > 0)
    precision = true / (total + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.concatenate([precision, np.zeros((len(true), 1))], axis=1)  # beyond the last recall: 0
    for draw in range(len(true)):
        area[draw] = padded[draw, np.searchsorted(recall[draw], RECALLS, side="left")].mean()
    return area


def _match_all(detections: Array, truth: Array, label: int) -> tuple[Array, NDArray[np.bool_], NDArray[np.intp], Array]:
    """Scores (d,), hits (T, d), image of each (d,), in COCO's order before sorting by score; boxes of truth per image (N,)."""
    scores, hits, owners = [np.empty(0)], [np.empty((len(THRESHOLDS), 0), bool)], [np.empty(0, np.intp)]
    n_truth = np.zeros(len(truth))
    for image, (found, boxes) in enumerate(zip(detections, truth)):
        mine = found[found[:, 5] == label]
        mine = mine[np.argsort(-mine[:, 4], kind="stable")][:MOST]
        real = boxes[boxes[:, 4] == label]
        n_truth[image] = len(real)
        if len(mine):
            scores.append(mine[:, 4])
            hits.append(_match(box_iou(mine[:, :4], real[:, :4])))
            owners.append(np.full(len(mine), image, np.intp))
    return np.concatenate(scores), np.concatenate(hits, axis=1), np.concatenate(owners), n_truth


def box_iou(found: Array, real: Array) -> Array:
    """(d, 4), (g, 4) corners -> (d, g) intersection over union, computed from widths as pycocotools does; 0 without overlap."""
    sizes, real_sizes = found[:, 2:] - found[:, :2], real[:, 2:] - real[:, :2]
    ends = np.minimum((found[:, :2] + sizes)[:, None], (real[:, :2] + real_sizes)[None])
    spans = ends - np.maximum(found[:, None, :2], real[None, :, :2])  # (d, g, 2)
    overlap = np.where((spans > 0).all(axis=2), spans.prod(axis=2), 0.0)
    union = sizes.prod(axis=1)[:, None] + real_sizes.prod(axis=1)[None] - overlap
    shares: Array = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return shares


def _match(overlaps: Array) -> NDArray[np.bool_]:
    """(d, g) IoU, best score first -> (T, d): greedy, each takes the best box still free, of equal ones the last."""
    n_found, n_real = overlaps.shape
    hits = np.zeros((len(THRESHOLDS), n_found), bool)
    if not n_real:
        return hits
    free = np.ones((len(THRESHOLDS), n_real), bool)
    needed = np.minimum(THRESHOLDS, 1 - 1e-10)
    rows = np.arange(len(THRESHOLDS))
    for index in np.flatnonzero(overlaps.max(axis=1) >= needed[0]):
        left = np.where(free, overlaps[index], -1.0)
        best = n_real - 1 - left[:, ::-1].argmax(axis=1)
        hits[:, index] = left[rows, best] >= needed
        free[rows, best] &= ~hits[:, index]
    return hits
