"""Cross-entropy over a vocabulary of 30,522 words: all logits at once against pieces of them, in time and in peak memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

ROOT = Path(__file__).resolve().parents[2]
TOKENS, WIDTH = 8192, 192  # hidden tokens of about 146 reports of 112 at half of them
CODE = """
import sys, time, torch
from benchmark.meter import host_now_mib, host_peak_mib
from methods.losses import LOGITS, word_error
tokens, width, rounds = map(int, sys.argv[2:])
torch.manual_seed(0)
states, words, bias = (torch.randn(*shape).requires_grad_() for shape in ((tokens, width), (30522, width), (30522,)))
target = torch.randint(30522, (tokens,))
held = LOGITS if sys.argv[1] == "pieces" else 2**62
before, times = host_now_mib(), []
for _ in range(rounds):
    start = time.perf_counter()
    word_error(states, words, bias, target, held).mean().backward()
    times.append(time.perf_counter() - start)
print(sorted(times)[len(times) // 2], host_peak_mib() - before)
"""


def measured(kind: str, rounds: int = 3) -> tuple[float, float]:
    """Median seconds forward and backward, and MiB above what the process held before."""
    command = [sys.executable, "-c", CODE, kind, str(TOKENS), str(WIDTH), str(rounds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, cwd=ROOT)
    seconds, mib = map(float, done.stdout.split())
    return seconds, mib


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pieces_of_the_vocabulary_take_a_third_of_the_memory(benchmark: BenchmarkFixture) -> None:
    whole = measured("whole")
    pieces = benchmark.pedantic(lambda: measured("pieces"), rounds=1)
    benchmark.extra_info["MiB, all logits at once"] = round(whole[1])
    benchmark.extra_info["MiB, in pieces"] = round(pieces[1])
    benchmark.extra_info["pieces over whole, time"] = round(pieces[0] / whole[0], 2)
    assert pieces[1] <= whole[1] / 3
