"""Supervised classification: a linear probe on frozen features at nested fractions of the training patients."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmark import metrics
from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.features import embed_towers
from benchmark.types import Predictions, Protocol
from tasks.labels import LabelScores, check_labels, label_predictions, labelled_rows
from tasks.protocols import CLASSIFICATION
from tasks.published import classification as published

Floats = NDArray[np.float64]


class Classification(LabelScores):
    """Rows are test images with a known label. Arrays: scores (log-odds), predicted, targets (N, K)."""

    name: ClassVar[str] = "classification"
    version: ClassVar[int] = 2  # 2: features of the tower, before any projection
    needs: ClassVar[frozenset[str]] = frozenset()

    def protocols(self, preset: str) -> tuple[Protocol, ...]:
        """The same at every preset; those of papers as "published"."""
        return published.PROTOCOLS if preset == "published" else CLASSIFICATION

    def check(self, data: Dataset, protocol: Protocol) -> None:
        """Raises Unsupported where a split has no known label."""
        check_labels(data, protocol, ("train", "val", "test"))

    def run(self, method: Any, data: Dataset, protocol: Protocol, fraction: float, context: Context) -> Predictions:
        """One probe a class; one strength of the L2 penalty for all, the best on validation."""
        chosen = labelled_rows(data, protocol, "train", fraction, context.eval_seed)
        everyone, _ = data.readable(labelled_rows(data, protocol, "train"), method.input, context)
        val, _ = data.readable(labelled_rows(data, protocol, "val"), method.input, context)
        test, skipped = data.readable(labelled_rows(data, protocol, "test"), method.input, context)
        features = [embed_towers(method, data, rows, context).numpy() for rows in (everyone, val, test)]
        kept = {record.uid for record in chosen}
        rows = np.array([record.uid in kept for record in everyone])
        train_labels, val_labels = data.labels(everyone)[rows], data.labels(val)
        scaler = StandardScaler().fit(features[0][rows])
        train_x, val_x, test_x = (scaler.transform(item).astype(np.float64) for item in (features[0][rows], *features[1:]))
        with context.meter.phase("fit"):
            best, best_area, heads = 0.0, -np.inf, _Heads()
            for penalty in (float(value) for value in protocol.setting("grid").split(",")):
                candidate = _Heads().fit(train_x, train_labels, penalty)
                area = _macro_auroc(candidate.decide(val_x), val_labels)
                if area > best_area:
                    best, best_area, heads = penalty, area, candidate
        context.notes |= {"train_rows": len(train_x), "l2_c": best, "classes_without_both_values": heads.constant}
        with context.meter.phase("predict"):
            thresholds = metrics.f1_thresholds(heads.decide(val_x), val_labels)
            scores = heads.decide(test_x)
        return label_predictions(data, test, scores, scores >= thresholds, skipped)


def _macro_auroc(scores: Floats, targets: NDArray[Any]) -> float:
    ones = np.ones((1, len(scores)))
    areas = [metrics.auroc(scores[:, k], targets[:, k], ones) for k in range(scores.shape[1])]
    return float(np.nan_to_num(metrics.macro(areas)[0], nan=0.5))


class _Heads:
    """One logistic regression a class; a class whose known training labels are all equal gets a constant score."""

    def __init__(self) -> None:
        self.weight: Floats = np.zeros((0, 0))
        self.bias: Floats = np.zeros(0)
        self.constant = 0

    def fit(self, features: Floats, labels: NDArray[Any], penalty: float) -> _Heads:
        self.weight, self.bias = np.zeros((labels.shape[1], features.shape[1])), np.zeros(labels.shape[1])
        for k in range(labels.shape[1]):
            known = ~np.isnan(labels[:, k])
            values = labels[known, k] > 0.5
            if values.all() or not values.any():
                self.constant += 1
                continue
            # Newton's method: exact in a dozen steps for the few hundred to two thousand features of a pooled vector
            head = LogisticRegression(C=penalty, solver="newton-cholesky", tol=1e-8, max_iter=100).fit(features[known], values)
            self.weight[k], self.bias[k] = head.coef_[0], head.intercept_[0]
        return self

    def decide(self, features: Floats) -> Floats:
        return np.asarray(features @ self.weight.T + self.bias)
