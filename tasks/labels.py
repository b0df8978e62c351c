"""What zero-shot and supervised classification share: rows with known labels, their predictions, constant references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import metrics
from benchmark.data.dataset import Dataset
from benchmark.errors import Unsupported
from benchmark.types import Predictions, Protocol, Record


def labelled_rows(data: Dataset, protocol: Protocol, split: str, fraction: float = 1.0, seed: int = 0) -> tuple[Record, ...]:
    """Rows with at least one known label; a fraction is of the patients of these rows."""
    rows = data.rows(split, protocol)
    known = tuple(record for record in rows if any(value == value for value in record.labels))
    return data.fraction(known, fraction, seed)


def check_labels(data: Dataset, protocol: Protocol, splits: Sequence[str]) -> None:
    """Raises Unsupported where a split has no known label."""
    for split in splits:
        if not data.classes or not labelled_rows(data, protocol, split):
            raise Unsupported(f"{protocol.name} needs labels in the {split} split, and {data.name} has none there")


def label_predictions(
    data: Dataset, records: Sequence[Record], scores: NDArray[Any], predicted: NDArray[Any], skipped: Any = ()
) -> Predictions:
    """Scores and predicted (N, K) beside the targets of the rows. Raises UserError where a score is not finite."""
    uids, patients = (np.array([getattr(record, name) for record in records]) for name in ("uid", "patient"))
    metrics.require_finite(scores, uids)
    arrays = {
        "scores": np.asarray(scores, np.float64),
        "predicted": np.asarray(predicted, np.float64),
        "targets": data.labels(records).astype(np.float64),
    }
    return Predictions(uids, patients, arrays, {"classes": data.classes}, skipped)


def constant_references(predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
    """What a constant answer scores: each class's majority in the training split, and everything positive."""
    targets = predictions.arrays["targets"]
    train = data.labels(labelled_rows(data, protocol, "train"))
    known = ~np.isnan(train)
    prevalence = np.where(known, train, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    answers = {"majority class": (prevalence > 0.5).astype(float), "all positive": np.ones(len(prevalence))}
    return {
        name: Predictions(
            predictions.uids,
            predictions.patients,
            {"scores": np.zeros_like(targets), "predicted": np.broadcast_to(answer, targets.shape).copy(), "targets": targets},
            predictions.names,
        )
        for name, answer in answers.items()
    }


class LabelScores:
    """The scoring half of a task whose predictions are those of `label_predictions`."""

    def score(self, predictions: Predictions, protocol: Protocol, weights: metrics.Array) -> Mapping[str, metrics.Array]:
        """As metrics.multilabel."""
        arrays = predictions.arrays
        return metrics.multilabel(
            arrays["scores"], arrays["predicted"], arrays["targets"], predictions.names["classes"], weights
        )

    def references(self, predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
        """Majority class and all positive."""
        return constant_references(predictions, data, protocol)

    def degenerate(self, predictions: Predictions, protocol: Protocol) -> bool:
        """True where no class has two different scores."""
        return bool((np.ptp(predictions.arrays["scores"], axis=0) == 0).all())
