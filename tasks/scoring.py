"""Metrics of every family from stored predictions, for any reweighting of the rows; needs neither torch nor the data.

Every function takes (predictions, protocol, weights (R, N)) and returns name -> (R,) float64, nan where undefined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from benchmark import metrics
from benchmark.types import PRESETS, Predictions, Protocol
from tasks.detection_metrics import detection_scores, filtered_map
from tasks.protocols import CLASSIFICATION, RETRIEVAL, ZERO_SHOT
from tasks.protocols_dense import DETECTION, SEGMENTATION
from tasks.published import classification, detection, retrieval, segmentation, zeroshot
from tasks.segmentation_scores import scores as segmentation_scores

Array = metrics.Array
Scored = Mapping[str, Array]
RECALLS = (1, 5, 10)
DEPTHS = (5, 10, 100)  # of precision at K, where the match is by class
QUERY_DEPTHS = (1, 5, 10, 50)  # where queries of one class retrieve images
DIRECTIONS = ("i2t", "t2i")


def score_retrieval(predictions: Predictions, protocol: Protocol, weights: Array) -> Scored:
    """i2t_ and t2i_ recall@K, median and mean rank, MRR; recall@K (mean of both), rsum (percent), the shuffled control.

    MRR is MAP where one candidate is right: everywhere but for a text that several images share, where texts are merged.
    """
    if protocol.setting("match") == "class":
        return _class_match(predictions, weights)
    if asks_by_query(protocol):
        return _query_match(predictions, weights)
    found: dict[str, Array] = {}
    arrays = predictions.arrays
    by_direction = {"i2t": weights, "t2i": weights * arrays["t2i_share"]}
    for direction, weight in by_direction.items():
        counts = arrays[direction]
        ranks = by_pair(counts, metrics.expected_rank)
        for k in RECALLS:
            found[f"{direction}_recall@{k}"] = metrics.mean(by_pair(counts, partial(metrics.recall_at, k)), weight)
        found[f"{direction}_median_rank"] = metrics.median(ranks, np.where(np.isnan(ranks), 0, weight))
        found[f"{direction}_mean_rank"] = metrics.mean(ranks, weight)
        found[f"{direction}_mrr"] = metrics.mean(by_pair(counts, metrics.expected_reciprocal_rank), weight)
    for k in RECALLS:
        found[f"recall@{k}"] = (found[f"i2t_recall@{k}"] + found[f"t2i_recall@{k}"]) / 2
    found["rsum"] = 200 * sum((found[f"recall@{k}"] for k in RECALLS), np.zeros(len(weights)))
    if "shuffled_i2t" in arrays:
        shuffled = [
            metrics.mean(by_pair(arrays[f"shuffled_{direction}"], partial(metrics.recall_at, 10)), weight)
            for direction, weight in by_direction.items()
        ]
        found["control_shuffled_recall@10"] = (shuffled[0] + shuffled[1]) / 2
    return found


def _class_match(predictions: Predictions, weights: Array) -> Scored:
    """i2t_ and t2i_ precision@K and map; precision@K and map, the mean of both directions."""
    found: dict[str, Array] = {}
    for direction in DIRECTIONS:
        for k, values in zip(DEPTHS, predictions.arrays[f"{direction}_precision"].T, strict=True):
            found[f"{direction}_precision@{k}"] = metrics.mean(values, weights)
        found[f"{direction}_map"] = metrics.mean(predictions.arrays[f"{direction}_ap"], weights)
    for name in (*(f"precision@{k}" for k in DEPTHS), "map"):
        found[name] = (found[f"i2t_{name}"] + found[f"t2i_{name}"]) / 2
    return found


def asks_by_query(protocol: Protocol) -> bool:
    """Whether images are retrieved by queries of one class, as on ConVIRT's 8x200."""
    return bool(protocol.setting("match") == "query class")


def _query_match(predictions: Predictions, weights: Array) -> Scored:
    """precision@K and map over the queries, and precision@10/<class>."""
    arrays, ten = predictions.arrays, QUERY_DEPTHS.index(10)
    pairs = zip(QUERY_DEPTHS, arrays["precision"].T, strict=True)
    found = {f"precision@{k}": metrics.mean(values, weights) for k, values in pairs}
    found["map"] = metrics.mean(arrays["ap"], weights)
    for label, name in enumerate(predictions.names["classes"]):
        own = np.where(arrays["targets"] == label, arrays["precision"][:, ten], np.nan)
        found[f"precision@10/{name}"] = metrics.mean(own, weights)
    return found


def by_pair(counts: NDArray[Any], measure: Callable[..., Array]) -> Array:
    """(N,) a measure of `ranking.Ranks`; with pools the mean over the draws that took the pair, nan where none did."""
    if counts.ndim == 2:
        return measure(*counts.T)
    values = np.where(counts[..., 0] < 0, np.nan, measure(*np.maximum(counts, 0).reshape(-1, 3).T).reshape(counts.shape[:2]))
    drawn = ~np.isnan(values)
    return np.where(drawn.any(axis=1), np.nansum(values, axis=1) / np.maximum(drawn.sum(axis=1), 1), np.nan)


def score_labels(predictions: Predictions, protocol: Protocol, weights: Array) -> Scored:
    """As metrics.multilabel."""
    del protocol
    arrays = predictions.arrays
    return metrics.multilabel(arrays["scores"], arrays["predicted"], arrays["targets"], predictions.names["classes"], weights)


def asks_for_one_class(protocol: Protocol) -> bool:
    """Whether a protocol asks which one of several classes an image has."""
    return "answer" in dict(protocol.settings)


def score_classification(predictions: Predictions, protocol: Protocol, weights: Array) -> Scored:
    """As metrics.multilabel, and f1_argmax: F1 of the positive answer where it is the likelier one, a score above 0.

    f1_argmax is macro over classes, and f1_argmax/<class>. Of a set with one class it is the F1 that BenchX prints.
    Where one class is the answer, as metrics.multiclass.
    """
    if asks_for_one_class(protocol):
        return score_one_class(predictions, weights)
    arrays, names = predictions.arrays, predictions.names["classes"]
    likelier = arrays["scores"] > 0
    by_class = [metrics.f1(likelier[:, k], arrays["targets"][:, k], weights) for k in range(len(names))]
    found = {**score_labels(predictions, protocol, weights), "f1_argmax": metrics.macro(by_class)}
    return found | {f"f1_argmax/{name}": value for name, value in zip(names, by_class, strict=True)}


def score_one_class(predictions: Predictions, weights: Array) -> Scored:
    """As metrics.multiclass; with further draws of prompts accuracy_prompt_mean and accuracy_prompt_spread, over them."""
    arrays = predictions.arrays
    found = dict(metrics.multiclass(arrays["predicted"], arrays["targets"], predictions.names["classes"], weights))
    if "predicted_draws" in arrays:
        right = arrays["predicted_draws"][np.arange(len(arrays["targets"])), :, arrays["targets"]]  # (N, draws)
        accuracies = np.stack([metrics.mean(one, weights) for one in right.T])
        found["accuracy_prompt_mean"] = accuracies.mean(axis=0)
        found["accuracy_prompt_spread"] = accuracies.std(axis=0, ddof=1)
    return found


def score_zeroshot(predictions: Predictions, protocol: Protocol, weights: Array) -> Scored:
    """As metrics.multilabel, or metrics.multiclass where one class is the answer.

    auroc_prompt_spread: the sample standard deviation of the macro AUROC over the templates, each used alone;
    accuracy_prompt_mean and accuracy_prompt_spread: over further draws of prompts.
    """
    if asks_for_one_class(protocol):
        return score_one_class(predictions, weights)
    arrays, classes = predictions.arrays, predictions.names["classes"]
    found = dict(score_labels(predictions, protocol, weights))
    if "template_scores" in arrays:
        areas = [
            metrics.macro([metrics.auroc(scores[:, k], arrays["targets"][:, k], weights) for k in range(len(classes))])
            for scores in arrays["template_scores"].transpose(1, 0, 2)
        ]
        found["auroc_prompt_spread"] = np.std(areas, axis=0, ddof=1)
    return found


def score_segmentation(predictions: Predictions, protocol: Protocol, weights: Array) -> Scored:
    """Dice and IoU by mask and over the masks that are defined: means over images, and pooled over all pixels.

    "_empty1", "_nonempty", "mdice": `image_scores`; "_micro": `pooled_scores`. MGCA's mean over batches of the means
    within them is not offered: it depends on the batch size and on the order of the rows.
    """
    del protocol
    return segmentation_scores(predictions.arrays["counts"], weights, predictions.names["masks"])


def score_detection(predictions: Predictions, protocol: Protocol, weights: Array) -> Scored:
    """What `detection_scores` gives, and MGCA's "map40_75_mgca_filtered" for a protocol that states its confidence
    threshold "filtered_confidence".
    """
    rows = (predictions.arrays["detections"], predictions.arrays["truth"], predictions.names["classes"], weights)
    made = detection_scores(*rows)
    threshold = dict(protocol.settings).get("filtered_confidence")
    if threshold is not None:
        made["map40_75_mgca_filtered"] = filtered_map(*rows, confidence=float(threshold))
    return made


SCORES: Mapping[str, Callable[[Predictions, Protocol, Array], Scored]] = {
    "retrieval": score_retrieval,
    "zeroshot": score_zeroshot,
    "classification": score_classification,
    "segmentation": score_segmentation,
    "detection": score_detection,
}


def probabilities(predictions: Predictions, task: str, protocol: Protocol) -> Array | None:
    """(N, K) P(class is present), nan for a class that no head learned; None where scores are no probabilities.

    Only supervised classification gives any: log-odds of its heads, and the share of the votes of nearest neighbours.
    Similarities of zero-shot and retrieval, pixel counts and box confidences are none.
    """
    if task != "classification" or asks_for_one_class(protocol):
        return None
    scores = predictions.arrays["scores"]
    found = scores + 0.5 if protocol.setting("head") == "nearest neighbours" else expit(scores)
    learned = np.ptp(scores, axis=0) > 0 if len(scores) else np.zeros(scores.shape[1], bool)
    return np.where(learned, found, np.nan)


@cache
def protocols() -> Mapping[str, Protocol]:
    """Every literal of this version by its hash."""
    dense = [item for literals in (SEGMENTATION, DETECTION) for preset in PRESETS for item in literals.get(preset, ())]
    own = (*RETRIEVAL, *ZERO_SHOT, *CLASSIFICATION, *dense)
    of_papers = [item for module in (retrieval, zeroshot, classification, segmentation, detection) for item in module.PROTOCOLS]
    return {protocol.hash: protocol for protocol in (*own, *of_papers)}
