"""Supervised classification at nested fractions of the training patients: heads on frozen features, and fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from benchmark import metrics
from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.features import embed_towers
from benchmark.types import SPLITS, Predictions, Protocol, Record
from tasks import checks, multiclass
from tasks.classes import of_protocol
from tasks.degenerate import REFERENCE_KINDS
from tasks.heads.finetune import FineTuning
from tasks.heads.logistic import fit_logistic
from tasks.heads.neighbours import fit_neighbours
from tasks.heads.probe import fit_probe
from tasks.heads.supervised import Decide, Labelled
from tasks.labels import (
    LabelScores,
    check_labels,
    class_columns,
    label_predictions,
    labelled_rows,
    policy_note,
    protocol_labels,
)
from tasks.protocols import CLASSIFICATION
from tasks.published import classification as published
from tasks.scoring import asks_for_one_class, score_classification

Floats = NDArray[np.float64]
HEADS: Mapping[str, Callable[[Labelled, Labelled, Protocol, Context], Decide]] = {
    "logistic regression, L2 (scikit-learn)": fit_logistic,
    "linear": fit_probe,
    "nearest neighbours": fit_neighbours,
}  # on frozen features; any other is fine-tuned


class Classification(LabelScores):
    """Rows are test images with a known label. Arrays: scores, predicted, targets (N, K).

    Scores are log-odds, those of neighbours the share of the votes less 0.5: above 0 the positive answer is the likelier.
    Protocols with an "answer" ask which one of several classes it is, as MGCA does of COVIDx: rows have exactly one of them,
    and arrays and metrics are those of tasks/multiclass.py.
    """

    name: ClassVar[str] = "classification"
    version: ClassVar[int] = checks.VERSIONS["classification"]
    needs: ClassVar[frozenset[str]] = frozenset()
    reference_kinds: ClassVar[Mapping[str, str]] = REFERENCE_KINDS

    def protocols(self, preset: str) -> tuple[Protocol, ...]:
        """The same at every preset; those of papers as "published"."""
        return published.PROTOCOLS if preset == "published" else CLASSIFICATION

    def check(self, data: Dataset, protocol: Protocol) -> None:
        """Raises Unsupported where the set lacks a class of the protocol, or a split has no known label."""
        if asks_for_one_class(protocol):
            return multiclass.check(data, protocol, SPLITS)
        return check_labels(data, protocol, SPLITS)

    def run(self, method: Any, data: Dataset, protocol: Protocol, fraction: float, context: Context) -> Predictions:
        """Fits on the fraction of train and on val, predicts test.

        A class whose known labels in the fraction are all equal cannot be learned: no head sees it, and its score is 0
        everywhere. The threshold of a class is that of the best F1 on val, +inf where val has no positive.

        Raises:
            Unsupported: fine-tuning of a method that gives no gradient. UserError: a loss or score is not finite.
        """
        if asks_for_one_class(protocol):
            return _one_class(method, of_protocol(data, protocol), protocol, fraction, context)
        context.notes |= policy_note(data, protocol)
        rows = _Rows.of(method, data, protocol, fraction, context)
        train, val = (protocol_labels(data, records, protocol) for records in (rows.train, rows.val))
        learned = (train == 1).any(axis=0) & (train == 0).any(axis=0)
        context.notes |= {"train_rows": len(train), "classes_without_both_values": int((~learned).sum())}
        scores = [np.zeros((len(records), len(learned))) for records in (rows.val, rows.test)]
        if learned.any():
            answers = _answers((method, data, context), rows, (train[:, learned], val[:, learned]), protocol)
            for whole, part in zip(scores, answers, strict=True):
                whole[:, learned] = part
        predicted = scores[1] >= metrics.f1_thresholds(scores[0], val)
        return label_predictions(data, rows.test, scores[1], predicted, rows.skipped, class_columns(data, protocol))

    def score(self, predictions: Predictions, protocol: Protocol, weights: metrics.Array) -> Mapping[str, metrics.Array]:
        """As tasks.scoring.score_classification."""
        return score_classification(predictions, protocol, weights)

    def references(self, predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
        """Majority class, all positive, prevalence; uniform guess and majority class where one class is the answer."""
        if asks_for_one_class(protocol):
            return multiclass.references(predictions, data, protocol)
        return super().references(predictions, data, protocol)

    def degenerate(self, predictions: Predictions, protocol: Protocol) -> bool:
        """True where no class has two different scores, or where every row gets the same one class."""
        return checks.degenerate("classification", predictions, protocol)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Readable rows: those of the whole training split, those of the fraction, val and test; and what of test was skipped."""

    everyone: tuple[Record, ...]
    train: tuple[Record, ...]
    val: tuple[Record, ...]
    test: tuple[Record, ...]
    skipped: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, method: Any, data: Dataset, protocol: Protocol, fraction: float, context: Context) -> Self:
        rows = multiclass.rows_of if asks_for_one_class(protocol) else labelled_rows
        chosen = {record.uid for record in rows(data, protocol, "train", fraction, context.eval_seed)}
        splits = [data.readable(rows(data, protocol, split), method.input, context) for split in SPLITS]
        (everyone, _), (val, _), (test, skipped) = splits
        return cls(everyone, tuple(record for record in everyone if record.uid in chosen), val, test, skipped)


Where = tuple[Any, Dataset, Context]
Labels = tuple[NDArray[Any], NDArray[Any]]


def _answers(where: Where, rows: _Rows, labels: Labels, protocol: Protocol) -> tuple[Floats, Floats]:
    """Scores of val and test by the head of the protocol."""
    answer = _frozen if protocol.setting("head") in HEADS else _tuned
    return answer(where, rows, labels, protocol)


def _one_class(method: Any, data: Dataset, protocol: Protocol, fraction: float, context: Context) -> Predictions:
    """Which one of the protocol's classes each test row has, ties shared; data: with these classes alone."""
    rows = _Rows.of(method, data, protocol, fraction, context)
    train, val = (np.nan_to_num(data.labels(records)) for records in (rows.train, rows.val))
    context.notes |= {
        "train_rows": len(train),
        "rows_left_out": len(data.rows("test", protocol)) - len(rows.test) - len(rows.skipped),
        "classes_without_train_rows": ", ".join(name for k, name in enumerate(data.classes) if not train[:, k].any()),
    }
    _, scores = _answers((method, data, context), rows, (train, val), protocol)
    return multiclass.answered(rows.test, scores, data.classes, rows.skipped)


def _frozen(where: Where, rows: _Rows, labels: Labels, protocol: Protocol) -> tuple[Floats, Floats]:
    """Scores of val and test by a head on features, which are computed once for all fractions."""
    method, data, context = where
    everyone, val, test = (
        embed_towers(method, data, records, context).numpy() for records in (rows.everyone, rows.val, rows.test)
    )
    chosen = {record.uid for record in rows.train}
    train = everyone[[record.uid in chosen for record in rows.everyone]]
    if protocol.setting("standardize"):
        scaler = StandardScaler().fit(train)
        train, val, test = (scaler.transform(item).astype(np.float64) for item in (train, val, test))
    known, seen = (
        Labelled(tuple(record.uid for record in records), features, values)
        for records, features, values in ((rows.train, train, labels[0]), (rows.val, val, labels[1]))
    )
    with context.meter.phase("fit"):
        decide = HEADS[protocol.setting("head")](known, seen, protocol, context)
    with context.meter.phase("predict"):
        return decide(val), decide(test)


def _tuned(where: Where, rows: _Rows, labels: Labels, protocol: Protocol) -> tuple[Floats, Floats]:
    """Scores of val and test by a fine-tuned copy of the method."""
    method, data, context = where
    tuning = FineTuning(method, data, protocol, context)
    with context.meter.phase("fit"):
        val = tuning.fit((rows.train, labels[0]), (rows.val, labels[1]))
    with context.meter.phase("predict"):
        return val, tuning.scores(rows.test)
