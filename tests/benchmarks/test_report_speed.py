"""Ten thousand results from files to every format, the analysis made before and not again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import process_time

from pytest_benchmark.fixture import BenchmarkFixture

from benchmark.cli.board import write_all
from tests.finished import noisy
from tests.test_layering import ROOT
from tests.test_leaderboards import result, save


def many(out: Path, groups: int = 100, methods: int = 20, seeds: int = 5) -> None:
    """Results without predictions: 100 cells of 20 methods with 5 seeds each."""
    save(
        out,
        *(
            result(
                0.5 + method / 100 + seed / 1000,
                title=f"Method {method}",
                changes={"method": f"m{method}", "seed": seed, "protocol": f"p{group}", "weights": f"{seed}" * 16},
            )
            for group in range(groups)
            for method in range(methods)
            for seed in range(seeds)
        ),
    )


def test_a_report_over_ten_thousand_results(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    many(tmp_path)
    write_all(tmp_path, 1000, progress=False)
    start = process_time()
    benchmark.pedantic(lambda: write_all(tmp_path, 1000, progress=False), rounds=1)
    benchmark.extra_info["seconds of the processor"] = round(process_time() - start, 2)
    assert len((tmp_path / "leaderboard.csv").read_text().splitlines()) == 10_001


def test_the_whole_command_over_ten_thousand_results(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    many(tmp_path)
    command = [sys.executable, "-m", "benchmark", "report", "--out", str(tmp_path)]

    def run() -> None:
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=300)

    run()
    benchmark.pedantic(run, rounds=1)


def test_a_second_report_against_the_first(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    for number in range(30):
        noisy(tmp_path, f"m{number}", 0.5 + number / 30)
    start = process_time()
    write_all(tmp_path, 1000, progress=False)
    first = process_time() - start
    benchmark.pedantic(lambda: write_all(tmp_path, 1000, progress=False), rounds=3)
    benchmark.extra_info["times as fast as the first"] = round(first / benchmark.stats.stats.median, 1)
