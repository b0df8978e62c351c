"""10,000 results: every format and a page of less than 3 MB, without torch, timed beside reading the same files alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import leaderboards
from benchmark.types import plain
from leaderboards.page.document import LIMIT
from tests.test_leaderboards import result

RESULTS = 10_000


@pytest.fixture(scope="module", params=[500, 2000])
def out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of 500 methods with four seeds in five tables, or of 2,000 with one, each then a line of its own."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "results").mkdir()
    methods: int = request.param
    for number in range(RESULTS):
        shape = {
            "method": f"m{number % methods}",
            "seed": number // methods % (2000 // methods),
            "protocol": f"p{number // 2000}",
            "weights": f"w{number}",
        }
        item = result(0.5 + number / 1e5, title=f"Method {number % methods}", changes=shape)
        (folder / "results" / f"{item.key}.json").write_text(json.dumps(plain(item)))
    return folder


def test_ten_thousand_results_in_every_format(benchmark: BenchmarkFixture, out: Path) -> None:
    code = (
        "import sys, time, pathlib, leaderboards\n"
        "start = time.process_time()\n"
        "leaderboards.write_board(pathlib.Path(sys.argv[1]))\n"
        "print(time.process_time() - start)\n"
        "assert 'torch' not in sys.modules\n"
    )

    def render() -> float:
        done = subprocess.run([sys.executable, "-c", code, str(out)], check=True, capture_output=True, text=True, timeout=300)
        return float(done.stdout)

    benchmark.pedantic(render, rounds=3)
    start = perf_counter()
    for path in (out / "results").iterdir():
        json.loads(path.read_bytes())
    benchmark.extra_info["seconds of reading the files alone"] = round(perf_counter() - start, 2)
    benchmark.extra_info["seconds of the processor for all formats"] = round(render(), 2)
    size = (out / "leaderboard.html").stat().st_size
    benchmark.extra_info["MB of the page"] = round(size / 1e6, 2)
    assert size < LIMIT
    assert '"runs":false' in (out / "leaderboard.html").read_text()
    assert len(leaderboards.load(out / "results")[0]) == RESULTS
