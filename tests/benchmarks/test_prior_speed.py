"""PRIOR's ragged terms, forward and backward at batch 32: over the whole batch at once against report by report."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from tests.prior_loop import Terms, looped, setup, vectorised

BATCH = 32


def ragged(width: int = 128, prototypes: int = 128) -> Terms:
    """49 patches, the width of `quick`, reports of 2 to 14 sentences."""
    lengths = torch.randint(2, 15, (BATCH,), generator=torch.Generator().manual_seed(0))
    return setup(BATCH, 49, width, prototypes, lengths)


def step(terms: Terms, way: Callable[[Terms], Tensor]) -> None:
    for leaf in terms.leaves():
        leaf.grad = None
    way(terms).sum().backward()


@pytest.mark.parametrize("way", [vectorised, looped])
def test_a_step_of_the_ragged_terms(benchmark: BenchmarkFixture, way: Callable[[Terms], Tensor]) -> None:
    benchmark.pedantic(step, (ragged(), way), rounds=5, warmup_rounds=1)


def test_the_vectorised_terms_take_a_third_of_the_time_of_the_loop(benchmark: BenchmarkFixture) -> None:
    terms = ragged()
    times: dict[str, list[float]] = {"vectorised": [], "looped": []}
    for turn in range(8):  # in turns, so that a slow moment of the machine hits both; the first warms up
        for way in (vectorised, looped):
            begin = perf_counter()
            step(terms, way)
            if turn:
                times[way.__name__].append(perf_counter() - begin)
    benchmark.pedantic(step, (terms, vectorised), rounds=3)
    ratio = sorted(times["looped"])[3] / sorted(times["vectorised"])[3]
    benchmark.extra_info["times_faster_than_the_loop"] = round(ratio, 2)
    assert ratio >= 3, f"{ratio:.2f} times as fast as the loop"
