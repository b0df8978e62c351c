"""What the meter counts: phases, throughput without warm-up, parameters, each multiply-accumulate once; None for no GPU."""

from __future__ import annotations

from time import sleep

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmark.meter import Meter, count_gmacs, count_parameters, host_peak_mib
from benchmark.types import plain


class Clock:
    """Seconds that pass only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("benchmark.meter.perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_gpu_figures_are_none_on_a_cpu_and_not_zero() -> None:
    meter = Meter(torch.device("cpu"))
    meter.start()
    with meter.phase("predict"):
        torch.ones(3).sum()
    meter.stop()
    cost = plain(meter.cost())
    assert [cost[f"peak_{name}_mib"] for name in ("allocated", "reserved", "device")] == [None, None, None]
    assert cost["device"] == "cpu"
    assert [cost[name] for name in ("images_per_second", "step_seconds", "params", "gmacs", "batch_size")] == [None] * 5


def test_phases_add_up_and_are_kept_apart(clock: Clock) -> None:
    meter = Meter()
    for name, seconds in (("fit", 2.0), ("predict", 0.5), ("fit", 0.25)):
        with meter.phase(name):
            clock.now += seconds
        clock.now += 10  # between phases: nobody's
    assert meter.cost().seconds == {"fit": 2.25, "predict": 0.5}


def test_a_phase_that_fails_still_counts(clock: Clock) -> None:
    meter = Meter()

    def fail() -> None:
        clock.now += 3
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), meter.phase("fit"):
        fail()
    assert meter.cost().seconds == {"fit": 3.0}


def test_the_clock_is_that_of_the_wall() -> None:
    meter = Meter()
    with meter.phase("sleep"):
        sleep(0.05)
    assert 0.05 <= meter.cost().seconds["sleep"] < 5


def test_the_warm_up_batch_does_not_count_for_the_throughput() -> None:
    meter = Meter()
    meter.batch(64, 100.0, warm_up=True)
    assert meter.cost().images_per_second is None
    meter.batch(64, 1.0, warm_up=False)
    meter.batch(32, 0.5, warm_up=False)
    meter.batch(4, 0.5, warm_up=False)
    assert meter.cost().images_per_second == pytest.approx(100 / 2)  # images by seconds, not a mean of rates


def test_a_step_is_its_median() -> None:
    meter = Meter()
    for seconds in (1.0, 9.0, 2.0, 2.5):
        meter.step(seconds)
    assert meter.cost().step_seconds == 2.25


@pytest.mark.skipif(host_peak_mib() is None, reason="this system does not tell a process's peak memory")
def test_host_memory_is_a_peak_since_the_start() -> None:
    meter = Meter()
    meter.start()
    before = meter.cost().peak_host_mib
    held = np.ones(256 * 2**20, np.uint8)
    held.sum()
    del held
    after = meter.cost().peak_host_mib
    assert before is not None
    assert after is not None
    assert after - before > 100  # the array is gone, its peak is not; other pages may have been taken back meanwhile


def test_a_multiply_accumulate_counts_once() -> None:
    layer, row = nn.Linear(400, 400), torch.zeros(1, 400)
    assert count_gmacs(lambda: layer(row)) == pytest.approx(0.00016, rel=1e-12)
    assert count_gmacs(lambda: layer(row.expand(7, 400))) == pytest.approx(7 * 0.00016, rel=1e-12)


def test_gmacs_of_a_convolution_and_of_attention_equal_those_by_hand() -> None:
    convolution, image = nn.Conv2d(3, 8, 5, stride=2, padding=2), torch.zeros(2, 3, 32, 32)
    assert count_gmacs(lambda: convolution(image)) == pytest.approx(2 * 8 * 16 * 16 * 3 * 25 / 1e9, rel=1e-12)
    heads, tokens, width = 4, 10, 16
    query = torch.zeros(1, heads, tokens, width)
    found = count_gmacs(lambda: functional.scaled_dot_product_attention(query, query, query))
    assert found == pytest.approx(2 * heads * tokens * tokens * width / 1e9, rel=1e-12)


def test_counting_changes_neither_gradients_nor_results() -> None:
    layer, row = nn.Linear(4, 4), torch.ones(1, 4)
    expected = layer(row)
    count_gmacs(lambda: layer(row))
    assert torch.equal(layer(row), expected)
    assert layer.weight.grad is None
    assert torch.is_grad_enabled()


def test_frozen_parameters_count_and_tied_ones_count_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    assert count_parameters(model) == 2 * (9 + 3) + 6
    assert count_parameters(model.requires_grad_(False)) == 30
    model[1].weight = model[0].weight
    assert count_parameters(model) == 21


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_memory_is_a_peak_since_the_start() -> None:
    device = torch.device("cuda")
    meter = Meter(device)
    meter.start()
    held = torch.ones(256 * 2**20, dtype=torch.uint8, device=device)
    sleep(0.5)
    del held
    meter.stop()
    cost = meter.cost()
    assert cost.peak_allocated_mib is not None
    assert cost.peak_reserved_mib is not None
    assert 256 <= cost.peak_allocated_mib <= cost.peak_reserved_mib
    assert cost.peak_device_mib is None or cost.peak_device_mib >= 256
    assert cost.device != "cpu"
    torch.cuda.empty_cache()
    meter.start()
    meter.stop()
    assert (meter.cost().peak_allocated_mib or 0) < 256
