"""A campaign of SIGKILLs, inside steps and in the middle of writes: the files in the end are those of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark import pretrain as engine
from benchmark.pretrain import pretrain
from tests import child
from tests.test_pretrain import STEPS, UNTIMED, Setup

RUNS, KILLS = 20, 4  # of each run
FILES = ("model.safetensors", "config.json", "tokenizer.json")


def pretraining(cache: str, folder: str, workers: int, step: int, write: int) -> None:
    """In the child: pretrains with a state after each step, and dies inside a step or a write, where one is given."""
    torch.set_num_threads(1)
    engine.SAVE_SECONDS = -1.0
    setup = Setup(Path(cache))
    setup.workers = workers
    real = engine.Trainer.step

    def dying(self: engine.Trainer, *words: object) -> object:
        if words[1] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, *words)  # type: ignore[arg-type]

    engine.Trainer.step = dying  # type: ignore[assignment, method-assign]
    if write:
        child.die_at_write(write)
    pretrain(setup.method(), setup.data, setup.spec, setup.recipe, Path(folder), setup.context())


def left(folder: Path) -> list[object]:
    log = [{**json.loads(line), **UNTIMED} for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(folder / name).read_bytes() for name in FILES] + [log]


@pytest.mark.slow
def test_files_are_identical_after_a_campaign_of_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache, generator = str(tmp_path / "cache"), np.random.default_rng(0)
    assert child.finish(child.start(pretraining, cache, str(tmp_path / "whole"), 0, -1, 0)) == 0
    expected, kills, strays = left(tmp_path / "whole"), 0, 0
    for run in range(RUNS):
        folder, workers = tmp_path / str(run), 2 * (run % 2)
        for place in np.sort(generator.integers(0, STEPS, KILLS - 1)):
            status = child.finish(child.start(pretraining, cache, str(folder), workers, int(place), 0))
            kills += status == -signal.SIGKILL
            assert status in (-signal.SIGKILL, 0)  # 0: it had passed that step before
        status = child.finish(child.start(pretraining, cache, str(folder), workers, -1, int(generator.integers(1, 5))))
        kills += status == -signal.SIGKILL
        assert child.finish(child.start(pretraining, cache, str(folder), workers, -1, 0)) == 0
        strays += len(list(folder.glob(".tmp-*")))
        assert left(folder) == expected, run
        assert not list(folder.glob("state*"))
    with capsys.disabled():
        print(f"\n{kills} kills in {RUNS} runs, files identical in all; {strays} temporaries left, which nothing reads")
    assert kills >= 60
