"""Exact ranks against the bare blocked product that they need, and against recalls by one-hot matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from threadpoolctl import threadpool_limits

from tasks import ranking
from tasks.ranking import COLUMNS, ROWS, PooledScores, rank

WIDTH = 512


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both sides on one: torch and numpy wait for their own threads in different ways, which would be what is measured."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(ranking, "THREADS", 1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


def vectors(n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors of n images and of the n texts near them."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(n, WIDTH))
    texts = images + 4 * rng.normal(size=(n, WIDTH))
    return tuple((item / np.linalg.norm(item, axis=1, keepdims=True)).astype(np.float32) for item in (images, texts))  # type: ignore[return-value]


def bare_product(images: NDArray[np.float32], texts: NDArray[np.float32]) -> None:
    for row in range(0, len(images), ROWS):
        for column in range(0, len(texts), COLUMNS):
            images[row : row + ROWS] @ texts[column : column + COLUMNS].T


def one_hot_recalls(images: NDArray[np.float32], texts: NDArray[np.float32], batch: int = 64) -> list[float]:
    """Recalls as LAION-AI/CLIP_benchmark@48de38c computes them: the first k of each row, one-hot, against a matrix of pairs."""
    scores = torch.from_numpy(texts) @ torch.from_numpy(images).T
    pairs = torch.eye(len(scores), dtype=torch.bool)
    found = []
    for matrix in (scores, scores.T):
        for k in (1, 5, 10):
            hits = []
            for start in range(0, len(matrix), batch):
                first = torch.topk(matrix[start : start + batch], k, dim=1)[1]
                hot = torch.nn.functional.one_hot(first, num_classes=len(scores))  # (batch, k, N)
                hits.append((hot * pairs[start : start + batch, None]).sum(dim=(1, 2)) > 0)
            found.append(float(torch.cat(hits).float().mean()))
    return found


def ours(images: NDArray[np.float32], texts: NDArray[np.float32]) -> list[float]:
    pairs = np.arange(len(images))
    (found,) = rank(PooledScores(images, texts), pairs, (pairs,), merged=False)
    return [float((counts[:, :2].sum(axis=1) < k).mean()) for counts in (found.texts, found.images) for k in (1, 5, 10)]


def seconds(call: Callable[[], object]) -> float:
    begin = perf_counter()
    call()
    return perf_counter() - begin


def test_ranks_of_20000_pairs_cost_little_more_than_the_product(benchmark: BenchmarkFixture) -> None:
    images, texts = vectors(20_000)
    rounds = [(seconds(lambda: bare_product(images, texts)), seconds(lambda: ours(images, texts))) for _ in range(3)]
    benchmark.pedantic(lambda: ours(images, texts), rounds=1)
    ratios = sorted(ranked / product for product, ranked in rounds)
    benchmark.extra_info["times the bare product, lowest to highest of 3 pairs"] = [round(ratio, 2) for ratio in ratios]
    assert ratios[1] <= 1.5, ratios


def test_ranks_of_5000_pairs_against_one_hot_matrices(benchmark: BenchmarkFixture, one_thread: None) -> None:
    images, texts = vectors(5_000)
    assert ours(images, texts) == pytest.approx(one_hot_recalls(images, texts), abs=1e-6)
    slow = median(seconds(lambda: one_hot_recalls(images, texts)) for _ in range(3))
    benchmark.pedantic(lambda: ours(images, texts), rounds=9, warmup_rounds=2)
    ratio = slow / benchmark.stats.stats.median
    benchmark.extra_info["times as fast as one-hot matrices"] = round(ratio, 1)
    assert ratio >= 10
