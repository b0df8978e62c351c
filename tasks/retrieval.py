"""Image-report retrieval, both ways, over the full gallery: rank of the right report among all, expected over ties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark import metrics
from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.errors import Unsupported
from benchmark.features import embed_images, embed_texts
from benchmark.types import Features, Predictions, Protocol, Record
from tasks.protocols import RETRIEVAL

Ints = NDArray[np.int64]
BLOCK = 512  # queries at once
RECALLS = (1, 5, 10)
DIRECTIONS = ("i2t", "t2i")


class Retrieval:
    """Rows are image-report pairs of the test split. Arrays, by direction d and pairing p in ("", "shuffled_"):

    <p><d>: (N, 3) int64, negatives above the best positive, negatives tied with it, positives tied with it.
    t2i_share: (N,) 1 / (pairs with the same text), so that each distinct text is one query where texts are merged.
    """

    name: ClassVar[str] = "retrieval"
    version: ClassVar[int] = 2  # 2: the shuffled control never keeps a text
    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    def protocols(self, preset: str) -> tuple[Protocol, ...]:
        """The same at every preset."""
        return RETRIEVAL

    def check(self, data: Dataset, protocol: Protocol) -> None:
        """Raises Unsupported without two test pairs."""
        if len(_pairs(data, protocol)) < 2:
            raise Unsupported(f"{protocol.name} needs reports in the test split, and {data.name} has fewer than two there")

    def run(self, method: Any, data: Dataset, protocol: Protocol, fraction: float, context: Context) -> Predictions:
        """Ranks every test pair against the whole gallery."""
        records, skipped = data.readable(_pairs(data, protocol), method.input, context)
        texts = data.texts(records, protocol.text)
        distinct, owner = np.unique(texts, return_inverse=True)  # equal texts are encoded once, so that they tie exactly
        images = embed_images(method, data, records, context)
        reports = embed_texts(method, [str(text) for text in distinct], context)
        context.notes |= {"pool": len(records), "distinct_texts": len(distinct)}

        def similarity(rows: slice) -> NDArray[np.float32]:
            block = method.similarity(Features(images.pooled[rows].double()), Features(reports.pooled.double()))
            return np.asarray(block.float().numpy())  # summed in float64, so that equal vectors tie in float32

        with context.meter.phase("predict"), torch.inference_mode():
            scores = np.concatenate([similarity(slice(start, start + BLOCK)) for start in range(0, len(records), BLOCK)])
            metrics.require_finite(scores, np.array([record.uid for record in records]))
            return _predictions(records, scores, owner, protocol, skipped)

    def score(self, predictions: Predictions, protocol: Protocol, weights: metrics.Array) -> Mapping[str, metrics.Array]:
        """i2t_ and t2i_ recall@K, median and mean rank; recall@K (mean of both), rsum (percent), and the shuffled control."""
        found: dict[str, metrics.Array] = {}
        arrays = predictions.arrays
        by_direction = {"i2t": weights, "t2i": weights * arrays["t2i_share"]}
        for direction, weight in by_direction.items():
            counts = arrays[direction].T
            ranks = metrics.expected_rank(*counts)
            for k in RECALLS:
                found[f"{direction}_recall@{k}"] = metrics.mean(metrics.recall_at(k, *counts), weight)
            found[f"{direction}_median_rank"] = metrics.median(ranks, weight)
            found[f"{direction}_mean_rank"] = metrics.mean(ranks, weight)
        for k in RECALLS:
            found[f"recall@{k}"] = (found[f"i2t_recall@{k}"] + found[f"t2i_recall@{k}"]) / 2
        found["rsum"] = 200 * sum((found[f"recall@{k}"] for k in RECALLS), np.zeros(len(weights)))
        shuffled = [
            metrics.mean(metrics.recall_at(10, *arrays[f"shuffled_{direction}"].T), weight)
            for direction, weight in by_direction.items()
        ]
        found["control_shuffled_recall@10"] = (shuffled[0] + shuffled[1]) / 2
        return found

    def references(self, predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
        """Random ranking of this pool, the training split's most frequent reports first, and an oracle of the true labels.

        The second one never looks at an image: where reports repeat, it is the answer to beat.
        """
        uids = set(predictions.uids)
        records = [record for record in _pairs(data, protocol) if record.uid in uids]
        distinct, owner = np.unique(data.texts(records, protocol.text), return_inverse=True)
        flat = np.zeros((len(records), len(distinct)), np.float32)
        found = {"random ranking": _predictions(records, flat, owner, protocol, ())}
        seen = Counter(data.texts(data.rows("train", protocol), protocol.text))
        frequent = np.broadcast_to(np.array([seen[str(text)] for text in distinct], np.float32), flat.shape)
        found["frequent reports first"] = _predictions(records, frequent, owner, protocol, ())
        labels = np.nan_to_num(data.labels(records), nan=0.5)
        if labels.size:
            first = np.array([int(np.argmax(owner == text)) for text in range(len(distinct))])
            agreement = -np.abs(labels[:, None] - labels[first][None]).sum(axis=2)
            found["oracle (true findings)"] = _predictions(records, agreement.astype(np.float32), owner, protocol, ())
        return found

    def degenerate(self, predictions: Predictions, protocol: Protocol) -> bool:
        """True where half of the queries tie with most of the pool: a collapsed encoder."""
        tied = predictions.arrays["i2t"][:, 1]
        return bool(len(tied) > 2 and np.median(tied) > (len(tied) - 1) / 2)


def _pairs(data: Dataset, protocol: Protocol) -> tuple[Record, ...]:
    rows = data.rows("test", protocol)
    return tuple(record for record, text in zip(rows, data.texts(rows, protocol.text), strict=True) if text)


def _predictions(
    records: Any, scores: NDArray[np.float32], owner: Ints, protocol: Protocol, skipped: tuple[tuple[str, str], ...]
) -> Predictions:
    """Ranks from the scores (N images, U distinct texts), where owner (N,) says which text is whose."""
    n = len(records)
    merged = protocol.setting("match") == "unique-text"
    groups = owner if merged else np.arange(n)
    candidates = np.arange(scores.shape[1]) if merged else groups
    expanded = scores if merged else scores[:, owner]
    shuffle = wrong_pairing(owner)
    arrays: dict[str, NDArray[Any]] = {"t2i_share": 1 / np.bincount(groups)[groups]}
    for prefix, truth in (("", groups), ("shuffled_", groups[shuffle])):
        arrays[f"{prefix}i2t"] = rank_counts(expanded, truth, candidates)
        arrays[f"{prefix}t2i"] = (
            rank_counts(scores.T, np.arange(scores.shape[1]), truth)[owner]
            if merged
            else rank_counts(expanded.T, groups, truth)
        )
    uids, patients = (np.array([getattr(record, name) for record in records]) for name in ("uid", "patient"))
    return Predictions(uids, patients, arrays, skipped=skipped)


def wrong_pairing(groups: Ints) -> Ints:
    """A fixed permutation (N,) under which no row keeps its own group (N,), where no group holds more than half of the rows.

    With it a method must score like one that never looks at the image.
    """
    order = np.random.default_rng([len(groups), 5]).permutation(len(groups))
    by_group = order[np.argsort(groups[order], kind="stable")]
    shifted = np.empty(len(groups), np.int64)
    shifted[by_group] = np.roll(by_group, -int(np.bincount(groups).max()))
    return shifted


def rank_counts(scores: NDArray[np.float32], queries: NDArray[Any], candidates: NDArray[Any]) -> Ints:
    """What decides a query's rank.

    Args:
        scores: (Q, C), higher is nearer. queries: (Q,) and candidates: (C,) group ids; equal ids are right.

    Returns:
        (Q, 3) int64: negatives above the best positive, negatives tied with it, positives tied with it.
    """
    parts = []
    for start in range(0, len(scores), BLOCK):
        block = scores[start : start + BLOCK]
        right = queries[start : start + BLOCK, None] == candidates[None]  # (b, C)
        best = np.where(right, block, -np.inf).max(axis=1, keepdims=True)
        tied = block == best
        parts.append(np.stack([((block > best) & ~right).sum(1), (tied & ~right).sum(1), (tied & right).sum(1)], axis=1))
    return np.concatenate(parts).astype(np.int64)
