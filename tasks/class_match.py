"""Retrieval by class, as on CheXpert 5x200: a report is right when its image has the query's class, and the other way round.

Queries and candidates are the test rows that have exactly one of the protocol's classes and a report; a row's own report is
among its candidates, equal reports stay several. Arrays: targets (N,) int64, the class; by direction d: <d>_precision (N, 3)
at DEPTHS, nan where there are fewer candidates; <d>_ap (N,) average precision, both expected over ties; <d>_ties (N,) int64,
candidates that share the best score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import metrics
from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.errors import Unsupported
from benchmark.types import Predictions, Protocol, Record
from tasks.classes import class_of, of_protocol, one_class_rows
from tasks.ranking import ROWS
from tasks.scoring import DEPTHS, DIRECTIONS
from tasks.similarity import similarities

LIMIT = 10_000  # rows: scores of all pairs are held, 0.4 GB


def check(data: Dataset, protocol: Protocol) -> None:
    """Raises Unsupported where the set lacks a class, or has fewer than two such rows with a report, or too many."""
    narrow = of_protocol(data, protocol)
    alone, rows = len(one_class_rows(narrow, protocol, "test")), len(_rows(narrow, protocol))
    if not 2 <= rows <= LIMIT:
        raise Unsupported(
            f"{protocol.name} needs from 2 to {LIMIT:,} test images with exactly one of its classes and a report, "
            f"and {data.name} has {alone:,} with one class, {rows:,} of them with a report"
        )


def run(method: Any, data: Dataset, protocol: Protocol, context: Context) -> Predictions:
    """Ranks all reports for each image, and all images for each report."""
    data = of_protocol(data, protocol)
    rows = _rows(data, protocol)
    records, skipped = data.readable(rows, method.input, context)
    distinct, owner = np.unique(data.texts(records, protocol.text), return_inverse=True)  # equal texts tie exactly
    texts = [str(text) for text in distinct]
    context.notes |= {
        "pairs": len(records), "distinct_texts": len(distinct), "rows_left_out": len(data.rows("test", protocol)) - len(rows),
    }  # fmt: skip
    values = similarities(method, data, records, texts, protocol.setting("similarity"), context)
    with context.meter.phase("predict"):
        return _predictions(records, values[:, owner], skipped)


def references(predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
    """Random ranking of these candidates: everything ties."""
    uids = set(predictions.uids)
    records = [record for record in _rows(of_protocol(data, protocol), protocol) if record.uid in uids]
    return {"random ranking": _predictions(records, np.zeros((len(records), len(records)), np.float32), ())}


def _rows(data: Dataset, protocol: Protocol) -> tuple[Record, ...]:
    rows = one_class_rows(data, protocol, "test")
    return tuple(record for record, text in zip(rows, data.texts(rows, protocol.text), strict=True) if text)


def _predictions(records: Any, scores: NDArray[Any], skipped: tuple[tuple[str, str], ...]) -> Predictions:
    """From the scores (N, N) of images and reports in the order of the records, whose labels say what is right."""
    uids, patients = (np.array([getattr(record, name) for record in records]) for name in ("uid", "patient"))
    targets = class_of(records)
    arrays: dict[str, NDArray[Any]] = {"targets": targets}
    for direction, table in zip(DIRECTIONS, (scores, scores.T), strict=True):
        precision, average = np.empty((len(targets), len(DEPTHS))), np.empty(len(targets))
        for start in range(0, len(targets), ROWS):
            part = slice(start, start + ROWS)
            right = targets[part, None] == targets[None]
            precision[part] = np.stack([metrics.precision_at(k, table[part], right) for k in DEPTHS], axis=1)
            average[part] = metrics.expected_average_precision(table[part], right)
        ties = (table == table.max(axis=1, keepdims=True)).sum(axis=1)
        arrays |= {f"{direction}_precision": precision, f"{direction}_ap": average, f"{direction}_ties": ties}
    return Predictions(uids, patients, arrays, skipped=skipped)
