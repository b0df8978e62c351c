"""A good state outlives what only passes: a disk that fails for now, and too little memory to read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark import pretrain as engine
from benchmark.errors import UserError
from tests.test_pretrain import Setup, Stop


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cut(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a pretraining that stopped, with two states."""
    monkeypatch.setattr(engine, "SAVE_SECONDS", -1.0)
    with pytest.raises(Stop):
        Setup(cache).train(tmp_path, 3)
    return tmp_path


def test_a_disk_that_fails_for_now_costs_no_state(cut: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, real = (cut / "state.pt").read_bytes(), Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == "state.pt":
            raise OSError(116, "Stale file handle")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        with pytest.raises(UserError, match=r"state\.pt cannot be read now \(Stale file handle\); see to the disk"):
            Setup(cache).train(cut)
    assert (cut / "state.pt").read_bytes() == data


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()], ids=["torch", "host"]
)
def test_too_little_memory_for_a_state_costs_no_state(
    error: Exception, cut: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (cut / "state.pt").read_bytes()

    def full(*words: Any, **named: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", full)
        with pytest.raises(UserError, match=r"state\.pt does not fit into memory .*; free some"):
            Setup(cache).train(cut)
    assert (cut / "state.pt").read_bytes() == data
