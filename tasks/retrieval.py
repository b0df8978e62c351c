"""Image-report retrieval, both ways, over the full gallery: rank of the right report among all, expected over ties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from benchmark import metrics
from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.errors import Unsupported
from benchmark.features import embed_images, embed_texts
from benchmark.types import Features, Predictions, Protocol, Record
from tasks.protocols import RETRIEVAL
from tasks.ranking import BlockScores, Floats, Ints, PooledScores, Scores, rank

CONTROLLED = 10_000  # pairs at most that are ranked by a wrong pairing too
PROBED = 64  # rows by which a method's similarity is compared with the inner product
RECALLS = (1, 5, 10)
DIRECTIONS = ("i2t", "t2i")


class Retrieval:
    """Rows are image-report pairs of the test split. Arrays, by direction d and pairing p in ("", "shuffled_"):

    <p><d>: (N, 3) int64, negatives above the best positive, negatives tied with it, positives tied with it.
    t2i_share: (N,) 1 / (pairs with the same text), so that each distinct text is one query where texts are merged.
    """

    name: ClassVar[str] = "retrieval"
    version: ClassVar[int] = 3  # 3: reciprocal ranks
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
        with context.meter.phase("predict"), torch.inference_mode():
            return _predictions(records, _scores(method, images, reports, records, owner), owner, protocol, skipped)

    def score(self, predictions: Predictions, protocol: Protocol, weights: metrics.Array) -> Mapping[str, metrics.Array]:
        """i2t_ and t2i_ recall@K, median and mean rank, MRR; recall@K (mean of both), rsum (percent), the shuffled control.

        MRR is MAP where one candidate is right: everywhere but for a text that several images share, where texts are merged.
        """
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
            found[f"{direction}_mrr"] = metrics.mean(metrics.expected_reciprocal_rank(*counts), weight)
        for k in RECALLS:
            found[f"recall@{k}"] = (found[f"i2t_recall@{k}"] + found[f"t2i_recall@{k}"]) / 2
        found["rsum"] = 200 * sum((found[f"recall@{k}"] for k in RECALLS), np.zeros(len(weights)))
        if "shuffled_i2t" in arrays:
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
        shape = (len(records), len(distinct))
        seen = Counter(data.texts(data.rows("train", protocol), protocol.text))
        counts = np.array([seen[str(text)] for text in distinct], np.float32)
        labels = np.nan_to_num(data.labels(records), nan=0.5)
        first = np.unique(owner, return_index=True)[1]  # of each text, a row that has it
        answers: dict[str, Callable[[slice, slice], Floats]] = {
            "random ranking": lambda rows, columns: np.zeros((len(labels[rows]), len(counts[columns])), np.float32),
            "frequent reports first": lambda rows, columns: np.tile(counts[columns], (len(labels[rows]), 1)),
        }
        if labels.size:
            answers["oracle (true findings)"] = lambda rows, columns: (
                -cdist(labels[rows], labels[first[columns]], "cityblock").astype(np.float32)
            )
        return {
            name: _predictions(records, BlockScores(shape, answer), owner, protocol, ()) for name, answer in answers.items()
        }

    def degenerate(self, predictions: Predictions, protocol: Protocol) -> bool:
        """True where half of the queries tie with most of the pool: a collapsed encoder."""
        tied = predictions.arrays["i2t"][:, 1]
        return bool(len(tied) > 2 and np.median(tied) > (len(tied) - 1) / 2)


def _pairs(data: Dataset, protocol: Protocol) -> tuple[Record, ...]:
    rows = data.rows("test", protocol)
    return tuple(record for record, text in zip(rows, data.texts(rows, protocol.text), strict=True) if text)


def _scores(method: Any, images: Features, reports: Features, records: Sequence[Record], owner: Ints) -> Scores:
    """The matrix of a method's similarities: inner products of pooled vectors, or its own where it has another.

    Raises:
        UserError: a text's vector or a similarity is not finite (uids named).
    """
    few, uids = slice(0, PROBED), np.array([record.uid for record in records])
    metrics.require_finite(reports.pooled.numpy(), uids[np.unique(owner, return_index=True)[1]])

    def block(rows: slice, columns: slice) -> Floats:
        found = method.similarity(Features(images.pooled[rows]), Features(reports.pooled[columns]))
        values = np.asarray(found.float().cpu().numpy())
        metrics.require_finite(values, uids[rows])
        return values

    cosines = images.pooled[few] @ reports.pooled[few].T
    if np.allclose(block(few, few), cosines, rtol=0, atol=1e-6):
        return PooledScores(images.pooled.numpy(), reports.pooled.numpy())
    return BlockScores((len(images.pooled), len(reports.pooled)), block)


def _predictions(
    records: Sequence[Record], scores: Scores, owner: Ints, protocol: Protocol, skipped: tuple[tuple[str, str], ...]
) -> Predictions:
    """Ranks from the scores of N images and U distinct texts, where owner (N,) says which text is whose."""
    n = len(records)
    merged = protocol.setting("match") == "unique-text"
    pairings = {"": np.arange(n)} | ({"shuffled_": wrong_pairing(owner)} if n <= CONTROLLED else {})
    arrays: dict[str, NDArray[Any]] = {"t2i_share": 1 / np.bincount(owner)[owner] if merged else np.ones(n)}
    for prefix, found in zip(pairings, rank(scores, owner, tuple(pairings.values()), merged)):
        arrays[f"{prefix}i2t"] = found.images
        arrays[f"{prefix}t2i"] = found.texts[owner] if merged else found.texts
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
