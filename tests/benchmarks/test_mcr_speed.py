"""MCR's claim, as far as a CPU can show it: a step of the single stream against one of the dual stream, at the quick size."""

from __future__ import annotations

from time import perf_counter

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmark.cli.measurement import resolve
from benchmark.efficiency.jobs import Job
from benchmark.efficiency.step import Bench, Sizes, measured_step
from benchmark.meter import count_gmacs
from benchmark.types import Step

SIZES = Sizes(tokens=72, vocabulary=1000)  # of reports of the phantom, and of the vocabulary learned from them
STREAMS: dict[str, dict[str, str | int | float | bool | None]] = {
    "single": {"stream": "single"},
    "dual": {"stream": "dual", "backward": "joint"},
    "dual, sequential": {"stream": "dual", "backward": "sequential"},
}
TURNS = 6


def bench(stream: str) -> Bench:
    method, config, recipe, _ = resolve(Job(method="mcr", batch_size=64, corner=STREAMS[stream]))
    return Bench(method, config, recipe, torch.device("cpu"), SIZES)


@pytest.mark.parametrize("dual", ["dual", "dual, sequential"])
def test_a_step_of_the_single_stream_takes_six_tenths_of_one_of_the_dual_stream(benchmark: BenchmarkFixture, dual: str) -> None:
    steps = {name: measured_step(bench(name)) for name in ("single", dual)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(TURNS + 1):  # in turns, so that a slow moment of the machine hits both; the first warms up
        for name, step in steps.items():
            begin = perf_counter()
            step()
            if turn:
                times[name].append(perf_counter() - begin)
    benchmark.pedantic(steps["single"], rounds=3)
    ratios = sorted(one / other for one, other in zip(times["single"], times[dual]))
    ratio = (ratios[(TURNS - 1) // 2] + ratios[TURNS // 2]) / 2
    benchmark.extra_info["single_over_dual"] = round(ratio, 3)
    assert ratio <= 0.6, f"{ratio:.3f} of the time"


def test_multiply_adds_of_the_single_stream_bound_what_it_can_save(benchmark: BenchmarkFixture) -> None:
    def gmacs(stream: str) -> float:
        made = bench(stream)
        batch = made.batch(8)
        return count_gmacs(lambda: list(made.method.loss(batch, Step(0, 1, 10, 1))))

    counted = benchmark.pedantic(lambda: {name: gmacs(name) for name in ("single", "dual")}, rounds=1)
    benchmark.extra_info["single_over_dual_gmacs"] = round(counted["single"] / counted["dual"], 3)
    assert counted["single"] / counted["dual"] <= 0.6
