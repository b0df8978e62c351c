"""GLoRIA's local loss against a plain loop over reports: the same value and gradients, and how much faster at batch 32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn import functional as F

from methods.gloria_attention import local_scores, pair_losses

BATCH = 32
SIZES = {  # regions of an image, width, and words of a sentence from and to
    "paper": (361, 768, 4, 20),  # ResNet-50 at 299 pixels
    "quick": (64, 128, 4, 20),
}
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Found = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def inputs(size: str, batch: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
    """regions (B, P, D), words (B, W, D), mask (B, W)."""
    regions, width, low, high = SIZES[size]
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(low, high + 1, (batch,), generator=generator)
    words = torch.randn(batch, high, width, generator=generator) * width**-0.25
    return torch.randn(batch, regions, width, generator=generator) * width**-0.25, words, torch.arange(high) < lengths[:, None]


def plain(regions: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    """One report after another, each against all images, as the released code goes about it."""
    columns = []
    for report, kept in zip(words, mask):
        own = report[kept].expand(len(regions), -1, -1)  # (B, n, D)
        share = (regions @ own.transpose(1, 2)).softmax(dim=2)  # (B, P, n)
        context = (4.0 * share.transpose(1, 2)).softmax(dim=2) @ regions  # (B, n, D)
        columns.append((5.0 * F.cosine_similarity(context, own, dim=2)).exp().sum(dim=1).log())
    return torch.stack(pair_losses(10.0 * torch.stack(columns, dim=1))).sum()


def vectorized(regions: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    return torch.stack(pair_losses(10.0 * local_scores(regions, words, mask))).sum()


def chunked(regions: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    return torch.stack(pair_losses(10.0 * local_scores(regions, words, mask, chunk=8))).sum()


def step(loss: Loss, size: str, batch: int = BATCH) -> Found:
    """Forward and backward: the value, and the gradients of regions and words."""
    regions, words, mask = inputs(size, batch)
    regions.requires_grad_()
    words.requires_grad_()
    value = loss(regions, words, mask)
    first, second = torch.autograd.grad(value, (regions, words))
    return value.detach(), first, second


def seconds(work: Callable[[], object], rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        begin = perf_counter()
        work()
        best = min(best, perf_counter() - begin)
    return best


@pytest.mark.parametrize("loss", [vectorized, chunked])
@pytest.mark.parametrize(("size", "batch"), [("quick", BATCH), ("paper", 3)])
def test_value_and_gradients_are_those_of_the_plain_loop(loss: Loss, size: str, batch: int) -> None:
    found, expected = step(loss, size, batch), step(plain, size, batch)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    for one, other in zip(found[1:], expected[1:]):
        torch.testing.assert_close(one, other, atol=1e-4 * float(other.abs().max()), rtol=0)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("size", list(SIZES))
def test_a_step_takes_at_most_a_third_of_the_plain_loop(size: str, benchmark: BenchmarkFixture) -> None:
    rounds = 2 if size == "paper" else 5
    slow = seconds(lambda: step(plain, size), rounds)
    fast = seconds(lambda: step(vectorized, size), rounds)
    benchmark.extra_info |= {
        "plain_seconds": slow,
        "ratio": slow / fast,
        "chunked": slow / seconds(lambda: step(chunked, size), 2),
    }
    benchmark.pedantic(lambda: step(vectorized, size), rounds=rounds)
    value = step(vectorized, size)[0]
    torch.testing.assert_close(value, step(plain, size)[0], atol=1e-5, rtol=1e-5)
    print(f"{size}: plain {slow:.3f} s, vectorized {fast:.3f} s, ratio {slow / fast:.1f}")
    assert slow / fast >= 3
