"""Ranks and recalls against brute force over all orders of ties, a loop over the gallery, and recorded values of others."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmark import metrics
from benchmark.types import Predictions, Protocol
from tasks import ranking, retrieval
from tasks.protocols import RETRIEVAL

REFERENCE = Path(os.environ.get("BENCHMARK_REFERENCE", "/nonexistent"))
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "clip_benchmark").is_dir(),
    reason="set BENCHMARK_REFERENCE to the folder of recorded reference arrays (with clip_benchmark/*.npz, cxr_clip/*.npz)",
)
Floats = NDArray[np.float64]


def one(value: Floats) -> float:
    assert value.shape == (1,)
    return float(value[0])


def ones(n: int) -> Floats:
    return np.ones((1, n))


@pytest.mark.parametrize("above", [0, 1, 3])
@pytest.mark.parametrize("tied", [0, 1, 3])
@pytest.mark.parametrize("positives", [1, 2])
def test_ranks_equal_the_mean_over_all_orders_of_ties(above: int, tied: int, positives: int) -> None:
    orders = list(permutations([False] * tied + [True] * positives))
    first = np.array([above + order.index(True) + 1 for order in orders])
    counts = (np.array([above]), np.array([tied]), np.array([positives]))
    assert one(metrics.expected_rank(*counts)) == pytest.approx(first.mean(), abs=1e-12)
    for k in range(1, above + tied + positives + 3):
        assert one(metrics.recall_at(k, *counts)) == pytest.approx((first <= k).mean(), abs=1e-12)


def loop_counts(scores: NDArray[Any], queries: Any, candidates: Any) -> list[tuple[int, int, int]]:
    """The same as `rank_counts`, one query and one candidate at a time."""
    found = []
    for row, query in zip(scores, queries, strict=True):
        best = max(score for score, candidate in zip(row, candidates, strict=True) if candidate == query)
        above = tied = positives = 0
        for score, candidate in zip(row, candidates, strict=True):
            if candidate == query:
                positives += score == best
            else:
                above += score > best
                tied += score == best
        found.append((above, tied, positives))
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(1, 4), st.integers(0, 1000))
def test_rank_counts_equal_a_loop(n: int, groups: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(-2, 3, (n, n)).astype(np.float32)
    owner = rng.integers(0, groups, n)
    np.testing.assert_array_equal(ranking.rank_counts(scores, owner, owner), loop_counts(scores, owner, owner))


def unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), np.float32)


VECTORS = {  # N images and U texts of D numbers
    "different": lambda rng, n, u, d: (rng.normal(size=(n, d)), rng.normal(size=(u, d))),
    "coarse": lambda rng, n, u, d: (np.round(rng.normal(size=(n, d))), np.round(rng.normal(size=(u, d)))),
    "half collapsed": lambda rng, n, u, d: (np.repeat(rng.normal(size=(n - n // 2, d)), 2, 0)[:n], rng.normal(size=(u, d))),
    "texts collapsed": lambda rng, n, u, d: (rng.normal(size=(n, d)), np.ones((u, d))),
    "nearly collapsed": lambda rng, n, u, d: (1 + 1e-7 * rng.normal(size=(n, d)), 1 + 1e-7 * rng.normal(size=(u, d))),
}


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("kind", list(VECTORS))
@pytest.mark.parametrize("sizes", [(1024, 4096, 128), (7, 5, 3), (64, 32, 16)])
def test_ranks_by_blocks_equal_those_of_the_whole_matrix(
    kind: str, merged: bool, sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in zip(("ROWS", "COLUMNS", "STRIP"), sizes):
        monkeypatch.setattr(ranking, name, size)
    rng = np.random.default_rng(len(kind))
    for n in (2, 37, 150):
        _, owner = np.unique(np.r_[np.arange(n - n // 4), rng.integers(0, n - n // 4, n // 4)], return_inverse=True)
        owner = owner[rng.permutation(n)]
        images, texts = map(unit, VECTORS[kind](rng, n, owner.max() + 1, 24))
        scores = ranking.PooledScores(images, texts)
        whole = np.einsum("nd,md->nm", images.astype(np.float64), texts.astype(np.float64)).astype(np.float32)
        pairings = (np.arange(n), rng.permutation(n))
        for pairs, found in zip(pairings, ranking.rank(scores, owner, pairings, merged), strict=True):
            truth = owner[pairs] if merged else pairs
            candidates = np.arange(whole.shape[1]) if merged else np.arange(n)
            by_pair = whole if merged else whole[:, owner]
            np.testing.assert_array_equal(found.images, ranking.rank_counts(by_pair, truth, candidates))
            np.testing.assert_array_equal(found.texts, ranking.rank_counts(by_pair.T, candidates, truth))


@pytest.mark.parametrize("above", [0, 1, 3])
@pytest.mark.parametrize("tied", [0, 1, 3])
@pytest.mark.parametrize("positives", [1, 2])
def test_reciprocal_ranks_equal_the_mean_over_all_orders_of_ties(above: int, tied: int, positives: int) -> None:
    orders = list(permutations([False] * tied + [True] * positives))
    first = np.array([above + order.index(True) + 1 for order in orders])
    found = metrics.expected_reciprocal_rank(np.array([above]), np.array([tied]), np.array([positives]))
    assert one(found) == pytest.approx((1 / first).mean(), abs=1e-12)


PROTOCOLS = {protocol.setting("match"): protocol for protocol in RETRIEVAL}
DIRECTIONS = ("i2t", "t2i")


def predicted(records: list[Any], scores: NDArray[Any], owner: Any, protocol: Protocol, skipped: tuple[()] = ()) -> Predictions:
    """What the task keeps of a whole matrix of scores."""
    whole = scores.astype(np.float32)
    blocks = ranking.BlockScores(whole.shape, lambda rows, columns: whole[rows][:, columns])
    return retrieval._predictions(records, blocks, owner, protocol, skipped)


def records_of(n: int) -> list[Any]:
    return [SimpleNamespace(uid=f"u{row:04d}", patient=f"p{row // 2:04d}") for row in range(n)]


def pool(n: int, seed: int = 0, duplicates: int = 3) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rounded scores of n images and the distinct texts of n reports, some of them equal."""
    rng = np.random.default_rng(seed)
    _, owner = np.unique(np.r_[np.arange(n - duplicates), rng.integers(0, n - duplicates, duplicates)], return_inverse=True)
    owner = owner[rng.permutation(n)]
    scores = rng.normal(size=(n, owner.max() + 1)) + 2.0 * (owner[:, None] == np.arange(owner.max() + 1))
    return np.round(scores, 1).astype(np.float32), owner


def loop_ranks(scores: NDArray[Any], owner: Any, merged: bool) -> dict[str, Floats]:
    """Expected rank of each image's text and of each text's image, by the definition, over all others."""
    n, found = len(owner), {direction: np.zeros(len(owner)) for direction in DIRECTIONS}
    for i in range(n):
        texts = set(owner) if merged else range(n)
        own = scores[i, owner[i]]
        rivals = [scores[i, text if merged else owner[text]] for text in texts if text != (owner[i] if merged else i)]
        found["i2t"][i] = 1 + sum((rival > own) + 0.5 * (rival == own) for rival in rivals)
        right = [j for j in range(n) if (owner[j] == owner[i] if merged else j == i)]
        best = max(scores[j, owner[i]] for j in right)
        peers = sum(scores[j, owner[i]] == best for j in right)
        rivals = [scores[j, owner[i]] for j in range(n) if j not in right]
        tied = sum(rival == best for rival in rivals)
        found["t2i"][i] = sum(rival > best for rival in rivals) + (tied + peers + 1) / (peers + 1)
    return found


@pytest.mark.parametrize("match", list(PROTOCOLS))
def test_retrieval_ranks_against_the_full_gallery(match: str) -> None:
    scores, owner = pool(40)
    found = predicted(records_of(40), scores, owner, PROTOCOLS[match], ())
    expected = loop_ranks(scores, owner, match == "unique-text")
    for direction in DIRECTIONS:
        np.testing.assert_allclose(metrics.expected_rank(*found.arrays[direction].T), expected[direction], atol=1e-12)


@pytest.mark.parametrize("match", list(PROTOCOLS))
def test_retrieval_is_independent_of_row_order_and_block_size(match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, owner = pool(60, 1)
    records, protocol = records_of(60), PROTOCOLS[match]
    task = retrieval.Retrieval()
    whole = predicted(records, scores, owner, protocol, ())
    values = task.score(whole, protocol, ones(60))
    order = np.random.default_rng(2).permutation(60)
    for block in (1, 7, 16, 1000):
        for name in ("ROWS", "COLUMNS", "STRIP"):
            monkeypatch.setattr(ranking, name, min(block, 128))
        moved = predicted([records[row] for row in order], scores[order], owner[order], protocol, ())
        for name in (*DIRECTIONS, "t2i_share"):
            np.testing.assert_array_equal(moved.arrays[name], whole.arrays[name][order])
        np.testing.assert_array_equal(moved.uids, whole.uids[order])
        for name, value in task.score(moved, protocol, ones(60)).items():
            if name != "control_shuffled_recall@10":  # another wrong pairing
                np.testing.assert_allclose(value, values[name], rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("match", list(PROTOCOLS))
def test_retrieval_scores_ignore_a_constant_and_a_scale(match: str) -> None:
    scores, owner = pool(30, 3)
    protocol = PROTOCOLS[match]
    whole = predicted(records_of(30), scores, owner, protocol, ())
    for changed in (scores - 100, scores * 2, np.arctan(scores)):  # all scores negative: hits stay hits
        again = predicted(records_of(30), changed.astype(np.float32), owner, protocol, ())
        for name, array in whole.arrays.items():
            np.testing.assert_array_equal(array, again.arrays[name])


def test_pools_hold_each_pair_once_a_draw_whatever_the_order_of_rows() -> None:
    uids = np.array([f"u{row:03d}" for row in range(53)])
    order = np.random.default_rng(0).permutation(53)
    for draw in range(3):
        found = retrieval.pools(uids, 10, draw)
        assert [len(pool) for pool in found] == [10] * 5
        assert len(set(np.concatenate(found))) == 50
        moved = retrieval.pools(uids[order], 10, draw)
        assert [list(uids[order][pool]) for pool in moved] == [list(uids[pool]) for pool in found]
    assert list(retrieval.pools(uids, 10, 0)[0]) != list(retrieval.pools(uids, 10, 1)[0])


def test_ranks_within_pools_equal_those_of_each_pool_alone() -> None:
    scores, owner = pool(47, 5)
    records = records_of(47)
    protocol = replace(PROTOCOLS["exact-pair"], settings=(("draws", 3), ("match", "exact-pair"), ("pool", 10)))
    found = predicted(records, scores, owner, protocol)
    task = retrieval.Retrieval()
    values = task.score(found, protocol, ones(47))
    recalls: dict[int, list[float]] = {row: [] for row in range(47)}
    for draw in range(3):
        for rows in retrieval.pools([record.uid for record in records], 10, draw):
            alone = loop_ranks(scores[rows], owner[rows], merged=False)["i2t"]
            for row, rank in zip(rows, alone, strict=True):
                recalls[int(row)].append(float(rank))
    means = [float(np.mean(ranks)) for ranks in recalls.values() if ranks]
    assert one(values["i2t_mean_rank"]) == pytest.approx(float(np.mean(means)), abs=1e-9)
    flat = task.score(predicted(records, np.zeros_like(scores), owner, protocol), protocol, ones(47))
    assert one(flat["recall@1"]) == pytest.approx(0.1)  # of a pool of ten
    assert task.degenerate(predicted(records, np.zeros_like(scores), owner, protocol), protocol)
    assert not task.degenerate(found, protocol)


@pytest.mark.parametrize("match", list(PROTOCOLS))
def test_a_collapsed_encoder_scores_chance(match: str) -> None:
    n, task, protocol = 1000, retrieval.Retrieval(), PROTOCOLS[match]
    flat = predicted(records_of(n), np.zeros((n, n), np.float32), np.arange(n), protocol, ())
    found = task.score(flat, protocol, ones(n))
    for k in (1, 5, 10):
        assert one(found[f"recall@{k}"]) == pytest.approx(k / n, abs=1e-12)
    assert one(found["i2t_mean_rank"]) == pytest.approx((n + 1) / 2, abs=1e-9)
    assert one(found["t2i_median_rank"]) == pytest.approx((n + 1) / 2, abs=1e-9)
    assert task.degenerate(flat, protocol)


@pytest.mark.parametrize("match", list(PROTOCOLS))
def test_a_perfect_encoder_scores_one_and_its_shuffled_control_chance(match: str) -> None:
    n, task, protocol = 1000, retrieval.Retrieval(), PROTOCOLS[match]
    perfect = predicted(records_of(n), np.eye(n, dtype=np.float32), np.arange(n), protocol, ())
    found = task.score(perfect, protocol, ones(n))
    assert one(found["recall@1"]) == 1
    assert one(found["rsum"]) == pytest.approx(600)
    assert one(found["control_shuffled_recall@10"]) == pytest.approx(10 / n, abs=0.01)
    assert not task.degenerate(perfect, protocol)


def test_each_distinct_text_is_one_query_where_texts_are_merged() -> None:
    owner = np.array([0, 0, 0, 1])
    scores = np.array([[0, 1], [0, 1], [0, 1], [1, 2]], np.float32)  # text 0 prefers the wrong image, text 1 its own
    protocol = PROTOCOLS["unique-text"]
    found = retrieval.Retrieval().score(predicted(records_of(4), scores, owner, protocol, ()), protocol, ones(4))
    assert one(found["t2i_recall@1"]) == pytest.approx(0.5)  # two texts, not four rows


def normalized(vectors: NDArray[Any]) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), float)


@needs_reference
def test_recalls_equal_the_recorded_ones() -> None:
    with np.load(REFERENCE / "clip_benchmark" / "recall_at_k_a.npz") as stored:
        scores, owner = stored["in/scores"], stored["in/text_image_index"]  # (texts, images)
        images = np.arange(scores.shape[1])
        ways = {  # the recorded "image_retrieval" queries by text
            "image_retrieval_recall": ranking.rank_counts(scores, owner, images),
            "text_retrieval_recall": ranking.rank_counts(scores.T, images, owner),
        }
        for name, counts in ways.items():
            for k in (1, 5, 10):
                found = one(metrics.mean(metrics.recall_at(k, *counts.T), ones(len(counts))))
                assert found == pytest.approx(float(stored[f"out/{name}@{k}"]), abs=1e-6), (name, k)


@needs_reference
def test_retrieval_with_equal_reports_equals_the_recorded_one() -> None:
    with np.load(REFERENCE / "cxr_clip" / "retrieval_duplicates_a.npz") as stored:
        texts, first, owner = np.unique(stored["in/text_id"], return_index=True, return_inverse=True)
        scores = normalized(stored["in/image_emb"]) @ normalized(stored["in/text_emb"][first]).T
        protocol = PROTOCOLS["unique-text"]
        records = records_of(len(owner))
        predictions = predicted(records, scores.astype(np.float32), owner, protocol, ())
        assert len(texts) < len(owner)
        found = retrieval.Retrieval().score(predictions, protocol, ones(len(owner)))
        assert one(found["i2t_mean_rank"]) == pytest.approx(float(stored["out/MeanRank"]), abs=1e-6)
        for k in (1, 5, 10):
            assert one(found[f"i2t_recall@{k}"]) == pytest.approx(float(stored[f"out/Recall@{k}"]), abs=1e-6)
