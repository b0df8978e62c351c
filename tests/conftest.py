"""What the tests of the engine share: the toy data set by name, tiny towers, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.types import Protocol, RunResult
from tests.toy import ToySource

TINY = (
    "image_size=32", "patch_size=8", "image_width=16", "image_depth=1", "image_heads=2", "text_width=16", "text_layers=1",
    "text_heads=2", "embed_dim=16", "max_tokens=24",
)  # fmt: skip
TRAINED = ("steps=3", "batch_size=8")


def small(protocol: Protocol) -> Protocol:
    """A dense protocol with a head that learns for a moment only; others as they are."""
    sizes = {"steps": 2, "batch_size": 4, "train_rows": 8}
    settings = tuple((name, sizes.get(name, value)) for name, value in protocol.settings)
    return replace(protocol, settings=settings)


@dataclass(slots=True)
class Command:
    """`python -m benchmark ...` in this process, with its folder of results."""

    out: Path
    capture: pytest.CaptureFixture[str]
    error: str = ""
    output: str = ""

    def __call__(self, *words: str) -> int:
        """Runs any command; keeps what it printed. argparse's own refusals count as a status."""
        from benchmark.__main__ import main

        try:
            status = main(list(words))
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        self.output, self.error = self.capture.readouterr()
        return status

    def run(self, method: str, task: str, *words: str, settings: tuple[str, ...] = TINY, data: str = "toy") -> int:
        """`run` on the toy with tiny towers, no intervals and no workers."""
        pairs = [part for setting in settings for part in ("--set", setting)]
        fixed = ("--workers", "0", "--no-progress", "--out", str(self.out), "--batch-size", "16")
        draws = () if "--draws" in words else ("--draws", "0")
        return self("run", "--method", method, "--task", task, "--data", data, *fixed, *draws, *pairs, *words)

    def results(self, role: str = "method") -> list[RunResult]:
        """Every result in the folder, by protocol, fraction and method."""
        from benchmark.store import Store

        store = Store(self.out)
        found = [store.read(path.stem) for path in sorted((self.out / "results").glob("*.json"))]
        rows = [result for result in found if result is not None and result.role == role]
        return sorted(rows, key=lambda item: (item.spec.protocol, item.spec.label_fraction, item.spec.method, item.spec.seed))

    def refused(self, *parts: str) -> None:
        """Asserts that the request was refused in one sentence on stderr, which holds the parts."""
        lines = self.error.splitlines()
        assert len(lines) == 1, self.error
        assert lines[0].startswith("error: ")
        assert "Traceback" not in self.error + self.output
        for part in parts:
            assert part in lines[0], lines[0]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str, Any], None]:
    """Adds a name to a registry for one test."""

    def add(registry: Any, name: str, target: Any) -> None:
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        registry.add(name, target)

    return add


@pytest.fixture
def toy(register: Callable[[Any, str, Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set `toy` or `toy:PATIENTS`, and dense heads that learn for a moment only."""
    from benchmark.data.sources import SOURCES
    from tasks import detection, segmentation

    register(SOURCES, "toy", lambda location, options: ToySource(int(location or 30)))
    for name, module in (("SEGMENTATION", segmentation), ("DETECTION", detection)):
        presets = {preset: tuple(map(small, found)) for preset, found in getattr(module, name).items()}
        monkeypatch.setattr(module, name, presets)


@pytest.fixture
def command(tmp_path: Path, toy: None, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line in this process, on the toy."""
    return Command(tmp_path / "runs", capsys)
