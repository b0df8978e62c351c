"""Metrics in numpy, exact, over R reweightings of the rows at once, so that a bootstrap costs little more than a value.

Everywhere: scores (N,) float, any real numbers, only their order counts; targets (N,) 0, 1 or nan = unknown, left out;
weights (R, N), how often each row counts. Results are (R,) float64, nan where undefined (never 0 for an absent class).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from benchmark.errors import UserError

Array = NDArray[np.float64]


def require_finite(scores: NDArray[Any], uids: NDArray[np.str_]) -> None:
    """Raises UserError with the first uids if a prediction is NaN or infinite."""
    bad = ~np.isfinite(scores).all(axis=tuple(range(1, scores.ndim)))
    if bad.any():
        names = ", ".join(uids[bad][:3])
        raise UserError(f"{int(bad.sum())} predictions are not finite (first: {names}); the method or its head diverged")


def _divide(numerator: Array, denominator: Array) -> Array:
    out: Array = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def mean(values: NDArray[Any], weights: Array) -> Array:
    """Weighted mean of values (N,), rows with nan left out."""
    known = ~np.isnan(values)
    return _divide(weights[:, known] @ values[known].astype(float), weights[:, known].sum(axis=1))


def median(values: NDArray[Any], weights: Array) -> Array:
    """Weighted median of values (N,): the mean of the lower and the upper one, as numpy's for weights of 1."""
    order = np.argsort(values, kind="stable")
    ranked, cumulated = values[order].astype(float), weights[:, order].cumsum(axis=1)
    half = cumulated[:, -1:] / 2
    lower = ranked[np.minimum((cumulated < half).sum(axis=1), len(ranked) - 1)]
    upper = ranked[np.minimum((cumulated <= half).sum(axis=1), len(ranked) - 1)]
    return np.where(half[:, 0] > 0, (lower + upper) / 2, np.nan)


def _by_threshold(scores: NDArray[Any], targets: NDArray[Any], weights: Array) -> tuple[Array, Array]:
    """Positive and negative weight at each distinct score, highest first: two arrays (R, distinct scores)."""
    known = ~np.isnan(targets)
    scores, targets, weights = scores[known], targets[known], weights[:, known]
    if len(scores) == 0:
        return np.zeros((len(weights), 1)), np.zeros((len(weights), 1))
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    positive = (targets[order] > 0.5).astype(float)
    sorted_weights = weights[:, order]
    return (
        np.add.reduceat(sorted_weights * positive, starts, axis=1),
        np.add.reduceat(sorted_weights * (1 - positive), starts, axis=1),
    )


def auroc(scores: NDArray[Any], targets: NDArray[Any], weights: Array) -> Array:
    """Area under the receiver operating characteristic: P(positive above negative) + half the ties (Mann-Whitney)."""
    positive, negative = _by_threshold(scores, targets, weights)
    above = positive.cumsum(axis=1) - positive
    wins = ((above + positive / 2) * negative).sum(axis=1)
    return _divide(wins, positive.sum(axis=1) * negative.sum(axis=1))


def average_precision(scores: NDArray[Any], targets: NDArray[Any], weights: Array) -> Array:
    """Sum of precision times the step in recall over distinct thresholds (no interpolation), as scikit-learn's."""
    positive, negative = _by_threshold(scores, targets, weights)
    true = positive.cumsum(axis=1)
    precision = np.nan_to_num(_divide(true, true + negative.cumsum(axis=1)))
    return _divide((precision * positive).sum(axis=1), positive.sum(axis=1))


def confusion(predicted: NDArray[Any], targets: NDArray[Any], weights: Array) -> tuple[Array, Array, Array, Array]:
    """Weights of true positives, false positives, false negatives and true negatives; predicted (N,) is 0 or 1."""
    known = ~np.isnan(targets)
    chosen, true, weight = predicted[known] > 0.5, targets[known] > 0.5, weights[:, known]
    cells = (chosen & true, chosen & ~true, ~chosen & true, ~chosen & ~true)
    tp, fp, fn, tn = (weight @ cell.astype(float) for cell in cells)
    return tp, fp, fn, tn


def f1(predicted: NDArray[Any], targets: NDArray[Any], weights: Array) -> Array:
    """F1 of the positive answer, 2 TP / (2 TP + FP + FN); nan without a positive and a predicted positive."""
    tp, fp, fn, _ = confusion(predicted, targets, weights)
    return _f1(tp, fp, fn)


def _f1(tp: Array, fp: Array, fn: Array) -> Array:
    return _divide(2 * tp, 2 * tp + fp + fn)


def macro(per_class: list[Array]) -> Array:
    """Mean over the classes that are defined, draw by draw; nan where none is."""
    stacked = np.stack(per_class)
    defined = ~np.isnan(stacked)
    return _divide(np.where(defined, stacked, 0).sum(axis=0), defined.sum(axis=0).astype(float))


def f1_thresholds(scores: NDArray[Any], targets: NDArray[Any]) -> Array:
    """The threshold (score >= it is positive) of the best F1 for each class, to be chosen on validation rows, never on test.

    Args:
        scores, targets: (N, K). Returns (K,); +inf (all negative) where a class has no positive.
    """
    chosen = np.full(scores.shape[1], np.inf)
    for k in range(scores.shape[1]):
        known = ~np.isnan(targets[:, k])
        values = scores[known, k]
        if not (targets[known, k] > 0.5).any():
            continue
        positive, negative = _by_threshold(values, targets[known, k], np.ones((1, int(known.sum()))))
        true, false = positive[0].cumsum(), negative[0].cumsum()
        best = int(np.argmax(2 * true / (true + false + positive.sum())))
        chosen[k] = np.unique(values)[::-1][best]
    return chosen


def multilabel(
    scores: NDArray[Any], predicted: NDArray[Any], targets: NDArray[Any], classes: tuple[str, ...], weights: Array
) -> dict[str, Array]:
    """The metrics of a multi-label set: macro over defined classes and class by class.

    Args:
        scores, predicted, targets: (N, K).

    Returns:
        auroc, average_precision, accuracy, f1 (macro over classes with both values, with a positive, all, and with a
        positive or a predicted positive), defined_classes, and auroc/<class>, average_precision/<class>.
    """
    found: dict[str, Array] = {}
    columns = range(len(classes))
    areas = [auroc(scores[:, k], targets[:, k], weights) for k in columns]
    precisions = [average_precision(scores[:, k], targets[:, k], weights) for k in columns]
    tables = [confusion(predicted[:, k], targets[:, k], weights) for k in columns]
    found["auroc"] = macro(areas)
    found["average_precision"] = macro(precisions)
    found["accuracy"] = macro([_divide(tp + tn, tp + fp + fn + tn) for tp, fp, fn, tn in tables])
    found["f1"] = macro([_f1(tp, fp, fn) for tp, fp, fn, _ in tables])
    found["defined_classes"] = (~np.isnan(np.stack(areas))).sum(axis=0).astype(float)
    found |= {f"auroc/{name}": area for name, area in zip(classes, areas, strict=True)}
    found |= {f"average_precision/{name}": value for name, value in zip(classes, precisions, strict=True)}
    return found


def multiclass(predicted: NDArray[Any], targets: NDArray[Any], classes: tuple[str, ...], weights: Array) -> dict[str, Array]:
    """The metrics of rows that have one class each, from the expected table of true by predicted classes.

    Args:
        predicted: (N, K), the share of each class in a row's answer, rows summing to 1: one 1, or 1/m for m tied classes.
        targets: (N,) int, the true class.

    Returns:
        accuracy; precision, recall, f1, each the mean over the classes that rows of positive weight have (a class that is
        never predicted has precision 0, as in scikit-learn); kappa (Cohen, unweighted), nan where one class is all there is
        on both sides; recall/<class>.
    """
    table = np.stack([weights[:, targets == k] @ predicted[targets == k] for k in range(len(classes))], axis=1)  # (R, K, K)
    right, true, given = np.diagonal(table, axis1=1, axis2=2), table.sum(axis=2), table.sum(axis=1)
    total = true.sum(axis=1)
    recall = _divide(right, true)
    precision = np.where(true > 0, np.nan_to_num(_divide(right, given)), np.nan)
    f1 = np.where(true > 0, _divide(2 * right, true + given), np.nan)
    observed, expected = _divide(right.sum(axis=1), total), _divide((true * given).sum(axis=1), total**2)
    found = {"accuracy": observed}
    found |= {name: macro(list(values.T)) for name, values in (("precision", precision), ("recall", recall), ("f1", f1))}
    found["kappa"] = _divide(observed - expected, 1 - expected)
    return found | {f"recall/{name}": values for name, values in zip(classes, recall.T, strict=True)}


def precision_at(k: int, scores: NDArray[Any], right: NDArray[np.bool_]) -> Array:
    """Expected share of right candidates among the first k, over all orders of ties, (Q,); nan where there are fewer than k.

    Args:
        scores, right: (Q, C).
    """
    if k > scores.shape[1]:
        return np.full(len(scores), np.nan)
    level = np.partition(scores, -k, axis=1)[:, [-k]]  # of the candidate at place k
    above, tied = scores > level, scores == level
    places = k - above.sum(axis=1)
    return np.asarray(((above & right).sum(axis=1) + places * (tied & right).sum(axis=1) / tied.sum(axis=1)) / k)


def expected_average_precision(scores: NDArray[Any], right: NDArray[np.bool_]) -> Array:
    """Mean over a query's right candidates of the precision at their place, expected over all orders of ties, (Q,).

    Of n tied candidates with p right ones, behind `before` candidates with c right ones, place i holds a right one with p/n,
    and then c + 1 + (i - 1)(p - 1)/(n - 1) right ones stand up to it (McSherry and Najork, ECIR 2008). nan where none is right.

    Args:
        scores, right: (Q, C).
    """
    found = np.full(len(scores), np.nan)
    for query in np.flatnonzero(right.any(axis=1)):
        order = np.argsort(-scores[query], kind="stable")
        ranked, hits = scores[query][order], right[query][order].astype(float)
        starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
        size = np.diff(np.r_[starts, len(ranked)])
        among = np.add.reduceat(hits, starts)
        before = np.cumsum(among) - among
        n, p, c, first = (np.repeat(item, size) for item in (size, among, before, starts))
        place = np.arange(len(ranked))
        upto = c + 1 + (place - first) * (p - 1) / np.maximum(n - 1, 1)
        found[query] = (p / n * upto / (place + 1)).sum() / hits.sum()
    return found


def recall_at(k: int, above: NDArray[Any], tied: NDArray[Any], positives: NDArray[Any]) -> Array:
    """P(at least one positive among the first k) for each query, over all orders of ties.

    Args:
        above: (N,) negatives that score higher than the best positive. tied: (N,) negatives that score the same.
        positives: (N,) positives that score the same as the best one, at least 1.

    A collapsed encoder (everything tied) gets chance, not 1.
    """
    missed = np.ones(len(above))
    slots = k - above
    for drawn in range(k):
        remaining = np.maximum(tied - drawn, 0) / np.maximum(tied + positives - drawn, 1)
        missed = np.where(drawn < slots, missed * remaining, missed)
    return np.where(slots > 0, 1 - missed, 0.0)


def expected_rank(above: NDArray[Any], tied: NDArray[Any], positives: NDArray[Any]) -> Array:
    """Expected rank (1 is best) of the first positive over all orders of ties.

    With p positives among p + n tied ones it is above + (n + p + 1) / (p + 1), the mean of the lowest order statistic.
    """
    return np.asarray(above + (tied + positives + 1) / (positives + 1), float)


def expected_reciprocal_rank(above: NDArray[Any], tied: NDArray[Any], positives: NDArray[Any]) -> Array:
    """Expected 1 / rank of the first positive over all orders of ties; its mean is the MRR, with one positive also the MAP.

    With one positive among n + 1 tied ones it is (H(above + n + 1) - H(above)) / (n + 1), with H the harmonic numbers.
    """
    above, tied, positives = (np.asarray(item, float) for item in (above, tied, positives))
    found = np.asarray((digamma(above + tied + 2) - digamma(above + 1)) / (tied + 1), float)
    several = positives > 1
    if several.any():
        found[several] = _first_of_several(above[several], tied[several], positives[several])
    return found


def _first_of_several(above: Array, tied: Array, positives: Array) -> Array:
    """The sum over places of P(the first positive stands there) / (above + place)."""
    found, missed = np.zeros(len(above)), np.ones(len(above))
    for place in range(1, int(tied.max()) + 2):
        left = np.maximum(tied + positives - place + 1, 1)
        hit = np.minimum(positives / left, 1.0)
        found += missed * hit / (above + place)
        missed = missed * (1 - hit)
    return found
