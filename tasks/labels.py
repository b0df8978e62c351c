"""What zero-shot and supervised classification share: rows with known labels, their predictions, constant references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import metrics
from benchmark.data.dataset import Dataset
from benchmark.errors import Unsupported
from benchmark.types import Predictions, Protocol, Record, Scalar
from tasks.scoring import score_labels


def class_columns(data: Dataset, protocol: Protocol) -> list[int]:
    """Columns of the classes that a protocol names in its setting "classes", separated by commas; of all without it.

    Raises:
        Unsupported: the set lacks one of them.
    """
    named = dict(protocol.settings).get("classes")
    if named is None:
        return list(range(len(data.classes)))
    wanted = str(named).split(",")
    missing = [name for name in wanted if name not in data.classes]
    if missing:
        raise Unsupported(f"{protocol.name} is of {', '.join(wanted)}, and {data.name} has no label {', '.join(missing)}")
    return [data.classes.index(name) for name in wanted]


def protocol_labels(data: Dataset, records: Sequence[Record], protocol: Protocol) -> NDArray[np.float32]:
    """(N, K) float32 of the protocol's classes: 1, 0, nan = unknown. Raises Unsupported."""
    return data.labels(records)[:, class_columns(data, protocol)]


def labelled_rows(data: Dataset, protocol: Protocol, split: str, fraction: float = 1.0, seed: int = 0) -> tuple[Record, ...]:
    """Rows with at least one known label of the protocol's classes; a fraction is of the patients of these rows."""
    rows, columns = data.rows(split, protocol), class_columns(data, protocol)
    known = tuple(record for record in rows if any(record.labels[k] == record.labels[k] for k in columns if record.labels))
    return data.fraction(known, fraction, seed)


def policy_note(data: Dataset, protocol: Protocol) -> dict[str, Scalar]:
    """The note "label_policy_differs" where a protocol states a policy of open labels and `--label-policy` is another."""
    used = data.notes.get("label_policy", "")
    wanted = dict(protocol.settings).get("label_policy", used)
    return {} if wanted == used else {"label_policy_differs": f"{protocol.name} is of --label-policy {wanted}"}


def check_labels(data: Dataset, protocol: Protocol, splits: Sequence[str]) -> None:
    """Raises Unsupported where the set lacks a class of the protocol, or a split has no known label."""
    for split in splits:
        if not data.classes or not labelled_rows(data, protocol, split):
            raise Unsupported(f"{protocol.name} needs labels in the {split} split, and {data.name} has none there")


def label_predictions(
    data: Dataset,
    records: Sequence[Record],
    scores: NDArray[Any],
    predicted: NDArray[Any],
    skipped: Any = (),
    columns: Sequence[int] | None = None,
) -> Predictions:
    """Scores and predicted (N, K) beside the targets of the rows. Raises UserError where a score is not finite.

    Args:
        columns: K of the set's classes; None: all.
    """
    columns = list(range(len(data.classes)) if columns is None else columns)
    uids, patients = (np.array([getattr(record, name) for record in records]) for name in ("uid", "patient"))
    metrics.require_finite(scores, uids)
    arrays = {
        "scores": np.asarray(scores, np.float64),
        "predicted": np.asarray(predicted, np.float64),
        "targets": data.labels(records)[:, columns].astype(np.float64),
    }
    return Predictions(uids, patients, arrays, {"classes": tuple(data.classes[k] for k in columns)}, skipped)


def constant_references(predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
    """What constant answers score, which know of the training split each class's share at most.

    majority class, all positive: that answer, whatever the threshold. prevalence: the log-odds of the share (one row of each
    answer added), positive everywhere, since a constant score is at the threshold of the best F1: a head that has learned
    nothing from its features.
    """
    train = protocol_labels(data, labelled_rows(data, protocol, "train"), protocol)
    positive, negative = (train == 1).sum(axis=0), (train == 0).sum(axis=0)
    ones = np.ones(train.shape[1])
    majority = np.where(positive > negative, 1.0, -1.0)
    answers = {
        "majority class": (majority, majority > 0),
        "all positive": (ones, ones),
        "prevalence": (np.log((positive + 1) / (negative + 1)), ones),
    }
    targets = predictions.arrays["targets"]
    made = {}
    for name, (scores, predicted) in answers.items():
        arrays = {"scores": scores, "predicted": predicted.astype(float)}
        constant = {key: np.broadcast_to(value, targets.shape).copy() for key, value in arrays.items()}
        made[name] = replace(predictions, arrays={"targets": targets, **constant}, skipped=())
    return made


class LabelScores:
    """The scoring half of a task whose predictions are those of `label_predictions`."""

    def score(self, predictions: Predictions, protocol: Protocol, weights: metrics.Array) -> Mapping[str, metrics.Array]:
        """As tasks.scoring.score_labels."""
        return score_labels(predictions, protocol, weights)

    def references(self, predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
        """As `constant_references`."""
        return constant_references(predictions, data, protocol)
