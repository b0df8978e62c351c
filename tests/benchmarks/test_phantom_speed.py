"""Images a second of the phantom, one core."""

from __future__ import annotations

from itertools import cycle

from pytest_benchmark.fixture import BenchmarkFixture

from benchmark.data.phantom import open_source
from benchmark.data.sources import SourceOptions


def test_drawing_at_224_pixels(benchmark: BenchmarkFixture) -> None:
    source = open_source("train=100,val=1,test=1,size=224", SourceOptions())
    records = cycle(source.records)
    image = benchmark(lambda: source.image(next(records)))
    assert image.shape == (224, 224)


def test_making_records(benchmark: BenchmarkFixture) -> None:
    source = benchmark(open_source, "train=500,val=1,test=1", SourceOptions())
    assert len(source.records) >= 500
