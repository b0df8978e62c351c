"""Real chest X-rays: BENCHMARK_DEV_DATA names a folder with records.csv; without it these tests are skipped, and say so."""

from __future__ import annotations

import csv
import math
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import Command

FOLDER = os.environ.get("BENCHMARK_DEV_DATA", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="BENCHMARK_DEV_DATA is not set to a folder with records.csv and images")


def rows_with_reports_and_labels() -> Counter[tuple[str, str]]:
    """(source, split) -> rows that have both, as the table states them."""
    counts: Counter[tuple[str, str]] = Counter()
    with (Path(FOLDER) / "records.csv").open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            if (row.get("findings") or row.get("impression") or row.get("report_text")) and row.get("labels"):
                counts[(row.get("source") or "", row["split"])] += 1
    return counts


def smallest_source() -> str:
    """The smallest source with enough rows of every split, so that the check stays short."""
    counts = rows_with_reports_and_labels()
    sizes = {name: sum(counts[name, split] for split in ("train", "val", "test")) for name, _ in counts}
    enough = [name for name in sizes if name and all(counts[name, split] >= 20 for split in ("train", "val", "test"))]
    if not enough:
        pytest.skip(f"{FOLDER} has no source with 20 labelled reports in each split")
    return min(enough, key=lambda name: sizes[name])


@pytest.mark.slow
def test_the_random_baseline_goes_through_real_reports_and_labels(command: Command) -> None:
    source = smallest_source()
    request = ("random", "retrieval,zeroshot,classification", "--draws", "50", "--where", f"source={source}")
    assert command.run(*request, settings=(), data=f"csv:{FOLDER}") == 0, command.output
    results = command.results()
    assert {item.spec.task for item in results} == {"retrieval", "zeroshot", "classification"}
    for result in results:
        assert result.status == "ok"
        assert result.n_used == result.n_expected >= 20
        assert result.skipped == ()
        assert set(result.flags) <= {"own-data", "development", "trivial"}  # untrained towers
        primary = result.metrics[result.primary]
        assert primary.value is not None
        assert primary.low is not None
        assert primary.high is not None
        assert 0 <= primary.low <= primary.value <= primary.high <= 1
        numbers = [value for metric in result.metrics.values() for value in (metric.value, metric.low, metric.high)]
        assert all(math.isfinite(value) for value in numbers if value is not None)
    board = (command.out / "leaderboard.md").read_text()
    assert Path(FOLDER).name in board


def test_every_image_of_a_sample_can_be_read(tmp_path: Path) -> None:
    from dataclasses import replace

    from benchmark.data.pixels import PixelCache
    from benchmark.data.sources import SourceOptions
    from benchmark.data.sources.csv_folder import open_source
    from benchmark.types import InputSpec

    source = open_source(FOLDER, SourceOptions())
    sample = replace(source, records=source.records[:: max(1, len(source.records) // 40)])
    cache = PixelCache.open(sample, InputSpec(64), tmp_path, progress=False)
    assert cache.failed == {}
    pixels = cache.take(sample.records)
    assert all(image.std() > 5 for image in pixels)  # something is in each picture
