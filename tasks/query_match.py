"""Retrieval of images by a query of one class, as on ConVIRT's CheXpert 8x200: image-image and text-image.

A candidate is right when its label of the query's class is 1, whatever else it has. Rows are queries; those in words are units
of their own where intervals are drawn. Arrays: targets (N,) int64, the class; precision (N, 4) at QUERY_DEPTHS, nan where
there are fewer candidates, and ap (N,) average precision, both expected over ties; ties (N,) int64, candidates that share the
best score; right (N, 2) int64, how many candidates are right, and how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark import metrics
from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.errors import Unavailable, UserError
from benchmark.features import embed_towers
from benchmark.types import Predictions, Protocol, Record
from tasks.classes import of_protocol
from tasks.scoring import QUERY_DEPTHS
from tasks.similarity import similarities


def needs(protocol: Protocol) -> frozenset[str]:
    """No text where images ask."""
    return frozenset() if protocol.setting("queries") == "images" else frozenset({"text"})


def check(data: Dataset, protocol: Protocol) -> None:
    """Raises Unsupported where the set lacks a class, Unavailable where its split names no queries or no candidates."""
    narrow = of_protocol(data, protocol)
    records = narrow.rows("test", protocol)
    queries, candidates = len(_queries(narrow, protocol, records)), len(_candidates(records))
    if not queries or candidates < 2:
        raise Unavailable(
            f"{protocol.name} needs queries and candidates in the test split, and {data.name} has {queries} and {candidates}",
            "clone github.com/yuhaozhang/convirt, or write lists of its form, and give the folder by --split FOLDER",
        )


def run(method: Any, data: Dataset, protocol: Protocol, context: Context) -> Predictions:
    """Ranks all candidates for each query; an image that asks is no candidate of its own query."""
    data = of_protocol(data, protocol)
    records, skipped = data.readable(data.rows("test", protocol), method.input, context)
    candidates = _candidates(records)
    queries = _queries(data, protocol, records)
    if not queries or len(candidates) < 2:
        raise UserError(f"{protocol.name}: {len(queries)} queries and {len(candidates)} candidates of {data.name} can be read")
    context.notes |= {"queries": len(queries), "candidates": len(candidates)}
    scores: NDArray[Any]
    if protocol.setting("queries") == "images":
        scores = _image_scores(method, data, [record for query in queries for record in query.records], candidates, context)
    else:
        texts = list(dict.fromkeys(query.text for query in queries))
        kind = protocol.setting("similarity")
        columns = [texts.index(query.text) for query in queries]
        scores = similarities(method, data, candidates, texts, kind, context).T[columns]
    with context.meter.phase("predict"):
        return _predictions(queries, candidates, scores, data.classes, skipped)


def references(predictions: Predictions) -> Mapping[str, Predictions]:
    """Random ranking of the same candidates: everything ties."""
    counts = predictions.arrays["right"]
    made = _joined([_measures(np.zeros((1, total)), np.arange(total)[None] < right) for right, total in counts])
    return {"random ranking": replace(predictions, arrays=made | {"targets": predictions.arrays["targets"]}, skipped=())}


@dataclass(frozen=True, slots=True)
class _Query:
    """One query: its class as a column, a name and a unit of resampling; an image, or a text."""

    label: int
    uid: str
    patient: str
    records: tuple[Record, ...] = ()  # the image that asks
    text: str = ""


def _queries(data: Dataset, protocol: Protocol, records: Sequence[Record]) -> list[_Query]:
    place = {name: column for column, name in enumerate(data.classes)}
    if protocol.setting("queries") == "images":
        asking = ((one, one.attributes.get("query", "")) for one in records)
        return [_Query(place[name], one.uid, one.patient, records=(one,)) for one, name in asking if name in place]
    stated: Sequence[tuple[str, str]] = getattr(data.source, "queries", ())
    named = [(f"text {number:03}", name, text) for number, (name, text) in enumerate(stated)]
    return [_Query(place[name], uid, uid, text=text) for uid, name, text in named if name in place]


def _candidates(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.attributes.get("candidate")]


def _image_scores(
    method: Any, data: Dataset, asking: Sequence[Record], candidates: Sequence[Record], context: Context
) -> NDArray[np.float64]:
    """(Q, C) cosine of the towers' features, unprojected; rounded, so that equal images tie."""
    records = list({record.uid: record for record in (*asking, *candidates)}.values())
    place = {record.uid: row for row, record in enumerate(records)}
    towers = torch.nn.functional.normalize(embed_towers(method, data, records, context).double(), dim=1)
    first, second = (towers[[place[record.uid] for record in part]] for part in (asking, candidates))
    return np.asarray((first @ second.T).numpy()).round(9)


def _measures(scores: NDArray[Any], right: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Of one query, (1, C) each."""
    return {
        "precision": np.stack([metrics.precision_at(k, scores, right) for k in QUERY_DEPTHS], axis=1),
        "ap": metrics.expected_average_precision(scores, right),
        "ties": (scores == scores.max(axis=1, keepdims=True)).sum(axis=1),
        "right": np.array([[right.sum(), right.size]]),
    }


def _joined(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _predictions(
    queries: Sequence[_Query], candidates: Sequence[Record], scores: NDArray[Any], names: tuple[str, ...], skipped: Any
) -> Predictions:
    """From the scores (Q, C) of queries and candidates."""
    uids, patients = (np.array([getattr(query, name) for query in queries]) for name in ("uid", "patient"))
    own = np.array([record.uid for record in candidates])
    labels = np.array([record.labels for record in candidates]) == 1
    parts = []
    for query, row in zip(queries, scores, strict=True):
        others = own != query.uid
        parts.append(_measures(row[None, others], labels[None, others, query.label]))
    arrays = _joined(parts) | {"targets": np.array([query.label for query in queries], np.int64)}
    return Predictions(uids, patients, arrays, {"classes": names}, skipped)
