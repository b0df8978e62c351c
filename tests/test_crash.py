"""A run that is killed without notice and started again with the same command ends as one that was left alone."""

from __future__ import annotations

import json
import signal
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import child
from tests.conftest import TINY

Facts = dict[str, Any]


def words(out: Path, method: str, task: str, *settings: str) -> list[str]:
    pairs = [part for setting in (*TINY, *settings) for part in ("--set", setting)]
    fixed = ["--workers", "0", "--no-progress", "--draws", "20", "--labels", "0.1,1", "--data", "toy"]
    return ["run", "--method", method, "--task", task, "--out", str(out), *fixed, *pairs]


def facts(out: Path) -> Facts:
    """What must not differ: scores, predictions, weights and flags by cell; times and memory may."""
    found: Facts = {}
    for path in (out / "results").glob("*.json"):
        result = json.loads(path.read_text())
        predictions = out / "predictions" / f"{path.stem}.npz"
        kept = {name: result[name] for name in ("status", "spec", "metrics", "n_used", "skipped", "flags", "predictions")}
        kept["weights"] = result["notes"].get("weights_sha256")
        kept["file"] = sha256(predictions.read_bytes()).hexdigest()
        found[path.stem] = kept
    assert all(item["predictions"] == item["file"] for item in found.values())
    for record in (out / "pretrained").glob("*/record.json"):
        found[record.parent.name] = sha256((record.parent / "model.safetensors").read_bytes()).hexdigest()
    return found


def uninterrupted(folder: Path, *request: str) -> Facts:
    log = str(folder / "log.txt")
    assert child.finish(child.start(child.command, words(folder / "whole", *request), log)) == 0, Path(log).read_text()
    return facts(folder / "whole")


def test_killed_in_the_middle_of_a_write_it_finishes_what_is_left(tmp_path: Path) -> None:
    request = ("clip", "retrieval", "steps=3", "batch_size=8")
    expected = uninterrupted(tmp_path, *request)
    out, log = tmp_path / "killed", str(tmp_path / "log.txt")
    for write in (3, 6):  # while it pretrains, and among the cells of the second start
        assert child.finish(child.start(child.command, words(out, *request), log, write)) == -signal.SIGKILL
        assert facts(out).items() <= expected.items()  # what is there is whole
    assert child.finish(child.start(child.command, words(out, *request), log)) == 0
    assert facts(out) == expected


@pytest.mark.slow
def test_killed_in_the_middle_of_any_write_it_finishes_what_is_left(tmp_path: Path) -> None:
    request = ("mcr", "retrieval,zeroshot", "steps=3", "batch_size=8")
    expected = uninterrupted(tmp_path, *request)
    for write in range(1, 80):
        out, log = tmp_path / str(write), str(tmp_path / f"log-{write}.txt")
        status = child.finish(child.start(child.command, words(out, *request), log, write))
        if status == 0:
            assert write > 12  # every write of the run was the last one of some run
            return
        assert status == -signal.SIGKILL
        assert child.finish(child.start(child.command, words(out, *request), log)) == 0, Path(log).read_text()
        assert facts(out) == expected, write
    pytest.fail("the run still writes after 79 files")


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(3))
def test_killed_at_random_moments_it_ends_as_if_nothing_had_happened(attempt: int, tmp_path: Path) -> None:
    seed = int(time.time_ns() % 2**32)
    moments = np.random.default_rng(seed)
    request = ("mcr,random", "retrieval,zeroshot,classification", "steps=40", "batch_size=8")
    begin = time.monotonic()
    expected = uninterrupted(tmp_path, *request)
    longest = time.monotonic() - begin
    out, log = tmp_path / "killed", str(tmp_path / "log.txt")
    for _ in range(8):
        running = child.start(child.command, words(out, *request), log)
        running.join(moments.uniform(0.02, 0.8) * longest)
        running.kill()
        running.join()
        assert facts(out).items() <= expected.items(), seed
    assert child.finish(child.start(child.command, words(out, *request), log)) == 0, Path(log).read_text()
    assert facts(out) == expected, seed
