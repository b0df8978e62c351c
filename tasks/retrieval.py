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
from benchmark.types import Features, Predictions, Protocol, Record, digest
from tasks import checks, class_match, query_match
from tasks.degenerate import REFERENCE_KINDS
from tasks.examples import write_examples
from tasks.protocols import RETRIEVAL
from tasks.published import retrieval as published
from tasks.ranking import BlockScores, Floats, Ints, Part, PooledScores, Scores, rank
from tasks.scoring import DIRECTIONS, asks_by_query, score_retrieval

CONTROLLED = 10_000  # pairs at most that are ranked by a wrong pairing too
PROBED = 64  # rows by which a method's similarity is compared with the inner product


class Retrieval:
    """Rows are image-report pairs of the test split. Arrays, by direction d and pairing p in ("", "shuffled_"):

    <p><d>: (N, 3) int64, negatives above the best positive, negatives tied with it, positives tied with it; with pools
    (N, draws, 3), -1 where a draw left the pair out.
    t2i_share: (N,) 1 / (pairs with the same text), so that each distinct text is one query where texts are merged.
    Where the match is "class": tasks/class_match.py; where it is "query class": tasks/query_match.py.
    """

    name: ClassVar[str] = "retrieval"
    version: ClassVar[int] = checks.VERSIONS["retrieval"]
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    reference_kinds: ClassVar[Mapping[str, str]] = REFERENCE_KINDS

    def protocols(self, preset: str) -> tuple[Protocol, ...]:
        """The same at every preset; those of papers as "published"."""
        return published.PROTOCOLS if preset == "published" else RETRIEVAL

    def needs_of(self, protocol: Protocol) -> frozenset[str]:
        """Text, but for images that are found by images."""
        return query_match.needs(protocol) if asks_by_query(protocol) else self.needs

    def check(self, data: Dataset, protocol: Protocol) -> None:
        """Raises Unsupported without two test pairs, or with fewer than a pool holds, or where the protocol's classes lack."""
        if protocol.setting("match") == "class":
            return class_match.check(data, protocol)
        if asks_by_query(protocol):
            return query_match.check(data, protocol)
        pairs, pool = len(_pairs(data, protocol)), protocol.setting("pool")
        if pairs < 2:
            raise Unsupported(f"{protocol.name} needs reports in the test split, and {data.name} has fewer than two there")
        if pool != "full" and pairs < pool:
            raise Unsupported(f"{protocol.name} needs {pool} pairs in the test split, and {data.name} has {pairs} there")

    def run(self, method: Any, data: Dataset, protocol: Protocol, fraction: float, context: Context) -> Predictions:
        """Ranks every test pair against the whole gallery, or against its pools."""
        if protocol.setting("match") == "class":
            return class_match.run(method, data, protocol, context)
        if asks_by_query(protocol):
            return query_match.run(method, data, protocol, context)
        records, skipped = data.readable(_pairs(data, protocol), method.input, context)
        texts = data.texts(records, protocol.text)
        distinct, owner = np.unique(texts, return_inverse=True)  # equal texts are encoded once, so that they tie exactly
        images = embed_images(method, data, records, context)
        reports = embed_texts(method, [str(text) for text in distinct], context)
        pool = protocol.setting("pool")
        context.notes |= {"pool": len(records) if pool == "full" else pool, "distinct_texts": len(distinct)}
        with context.meter.phase("predict"), torch.inference_mode():
            scores = _scores(method, images, reports, records, owner)
            predictions = _predictions(records, scores, owner, protocol, skipped)
        if pool == "full":
            candidates = len(distinct) if protocol.setting("match") == "unique-text" else len(records)
            ranks = (owner, predictions.arrays["i2t"])
            write_examples((data, records, distinct), scores, ranks, method.input, context, candidates)
        return predictions

    def score(self, predictions: Predictions, protocol: Protocol, weights: metrics.Array) -> Mapping[str, metrics.Array]:
        """As tasks.scoring.score_retrieval."""
        return score_retrieval(predictions, protocol, weights)

    def references(self, predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
        """Random ranking of this pool, the training split's most frequent reports first, and an oracle of the true labels.

        The second one never looks at an image: where reports repeat, it is the answer to beat.
        """
        if protocol.setting("match") == "class":
            return class_match.references(predictions, data, protocol)
        if asks_by_query(protocol):
            return query_match.references(predictions)
        uids = set(predictions.uids)
        records = [record for record in _pairs(data, protocol) if record.uid in uids]
        distinct, owner = np.unique(data.texts(records, protocol.text), return_inverse=True)
        shape = (len(records), len(distinct))
        seen = Counter(data.texts(data.rows("train", protocol), protocol.text))
        counts = np.array([seen[str(text)] for text in distinct], np.float32)
        labels = np.nan_to_num(data.labels(records), nan=0.5)
        first = np.unique(owner, return_index=True)[1]  # of each text, a row that has it
        answers: dict[str, Callable[[Part, Part], Floats]] = {
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
        return checks.degenerate("retrieval", predictions, protocol)


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

    def block(rows: Part, columns: Part) -> Floats:
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
    uids, patients = (np.array([getattr(record, name) for record in records]) for name in ("uid", "patient"))
    merged = protocol.setting("match") == "unique-text"
    arrays: dict[str, NDArray[Any]] = {"t2i_share": 1 / np.bincount(owner)[owner] if merged else np.ones(len(uids))}
    if protocol.setting("pool") == "full":
        arrays |= _ranks(scores, owner, merged, CONTROLLED)
    else:
        size, draws = protocol.setting("pool"), protocol.setting("draws")
        arrays |= {direction: np.full((len(uids), draws, 3), -1) for direction in DIRECTIONS}
        for draw in range(draws):
            for pool in pools(uids, size, draw):
                texts, own = np.unique(owner[pool], return_inverse=True)
                for direction, counts in _ranks(scores.take(pool, texts), own, merged, 0).items():
                    arrays[direction][pool, draw] = counts
    return Predictions(uids, patients, arrays, skipped=skipped)


def _ranks(scores: Scores, owner: Ints, merged: bool, controlled: int) -> dict[str, Ints]:
    """The arrays "i2t" and "t2i" (N, 3), and those of the wrong pairing where there are no more pairs than `controlled`."""
    n = len(owner)
    pairings = {"": np.arange(n)} | ({"shuffled_": wrong_pairing(owner)} if n <= controlled else {})
    arrays: dict[str, Ints] = {}
    for prefix, found in zip(pairings, rank(scores, owner, tuple(pairings.values()), merged)):
        arrays |= {f"{prefix}i2t": found.images, f"{prefix}t2i": found.texts[owner] if merged else found.texts}
    return arrays


def pools(uids: Sequence[str] | NDArray[np.str_], size: int, draw: int) -> list[Ints]:
    """Row numbers of as many pools of this size as N pairs give, in an order of the uids that the draw's number decides."""
    order = np.array(sorted(range(len(uids)), key=lambda row: digest(["pool", draw, str(uids[row])], 32)), np.int64)
    return [order[start : start + size] for start in range(0, len(order) - size + 1, size)]


def wrong_pairing(groups: Ints) -> Ints:
    """A fixed permutation (N,) under which no row keeps its own group (N,), where no group holds more than half of the rows.

    With it a method must score like one that never looks at the image.
    """
    order = np.random.default_rng([len(groups), 5]).permutation(len(groups))
    by_group = order[np.argsort(groups[order], kind="stable")]
    shifted = np.empty(len(groups), np.int64)
    shifted[by_group] = np.roll(by_group, -int(np.bincount(groups).max()))
    return shifted
