"""A supervised fit that was stopped goes on bit for bit: heads in steps, epochs and rounds, alone and with their encoder."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark import repro
from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.store import Store, read_predictions
from benchmark.types import Predictions, Protocol
from tasks.classification import Classification
from tasks.detection import Detection
from tasks.heads import loop
from tasks.published import classification as published
from tasks.segmentation import Segmentation
from tests import child
from tests.conftest import TINY
from tests.test_detection_heads import LITERALS
from tests.test_detection_runs import moment
from tests.test_pretrain import Setup
from tests.test_segmentation_published import literal
from tests.toy import ToySource

DATA = Dataset(ToySource(20))


class Stop(Exception):  # noqa: N818
    pass


def changed(protocol: Protocol, **settings: Any) -> Protocol:
    return replace(protocol, settings=tuple(sorted({**dict(protocol.settings), **settings}.items())))


def named(name: str) -> Protocol:
    return next(protocol for protocol in published.PROTOCOLS if protocol.name == name)


QUICK: dict[str, Any] = {"rounds": 3, "round_steps": 2, "batch_size": 8, "learning_rate": 3e-3}
TUNED = changed(named("finetune-linear"), **QUICK, schedule="cosine:2")
FITS: dict[str, tuple[Any, Protocol]] = {
    "rounds, cosine, encoder": (Classification(), TUNED),
    "rounds, plateau": (Classification(), changed(named("probe-mgca"), **QUICK, schedule="plateau:0.5,0,1")),
    "epochs, held encoder, plateau": (
        Segmentation(), literal("unet-lovt-finetune", batch_size=8, epochs=2, frozen_steps=4, plateau_patience=0),
    ),
    "epochs, augmentation, batch norms": (Segmentation(), literal("unet-gloria-siim", epochs=6)),
    "steps, regions drawn": (
        Detection(), changed(moment(LITERALS["faster-rcnn-frozen"]), steps=5, evaluations=2, train_rows=None),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def method(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """With batch norms."""
    return Setup(tmp_path_factory.mktemp("cache"), "random", ("image_encoder=resnet",)).method().eval()


@pytest.fixture
def run(method: Any, tmp_path: Path) -> Callable[..., tuple[Predictions, dict[str, Any]]]:
    def once(name: str, state: Path | None = None) -> tuple[Predictions, dict[str, Any]]:
        task, protocol = FITS[name]
        context = Context(device=torch.device("cpu"), cache=tmp_path, progress=False, batch_size=8, state=state)
        with repro.seeded(0, name):
            found = task.run(method, DATA, protocol, 1.0, context)
        return found, context.notes

    return once


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Saves after every step, and stops the fit after one of them."""
    save = loop._Loop._save

    def saved(self: Any, at: int) -> None:
        save(self, at)
        if at == step:
            raise Stop

    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop._Loop, "_save", saved)


def equal(first: Predictions, second: Predictions) -> bool:
    return all(np.array_equal(item, second.arrays[name], equal_nan=True) for name, item in first.arrays.items())


@pytest.mark.parametrize("name", FITS)
def test_stopped_after_any_step_it_ends_as_if_nothing_had_happened(
    name: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, notes = run(name)
    stops = 0
    for step in (1, 3, 5):
        state = tmp_path / f"{step}.fit.pt"
        with monkeypatch.context() as patch:
            stop_after(patch, step)
            try:
                run(name, state)
            except Stop:
                stops += 1
        if state.is_file():  # a fit that early stopping or its length ended before has saved its last step but one
            again, noted = run(name, state)
            assert equal(again, whole), step
            assert noted == notes, step
    assert stops >= 2


@pytest.mark.parametrize("kind", ["cut short", "of another fit", "of other rows"])
def test_a_state_that_does_not_fit_starts_again(
    kind: str, run: Any, method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, other = "rounds, plateau", "rounds, cosine, encoder"
    whole, _ = run(name)
    state = tmp_path / "cell.fit.pt"
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        if kind == "of other rows":
            patch.setattr("tests.test_fit_resume.DATA", Dataset(ToySource(25)))
        with pytest.raises(Stop):
            run(other if kind == "of another fit" else name, state)
    if kind == "cut short":
        state.write_bytes(state.read_bytes()[:100])
    assert equal(run(name, state)[0], whole)


# ------------------------------------------------------------------------------------------- killed for good


def fine_tune(out: str, kill_at_state: int) -> None:
    """In the child: one cell of fine-tuning, killed without notice at its n-th write of a state (0: never)."""
    from benchmark import weights
    from benchmark.__main__ import main
    from benchmark.data.sources import SOURCES

    torch.set_num_threads(1)
    SOURCES.add("toy", lambda location, options: ToySource(20))
    published.PROTOCOLS = (TUNED,)
    loop.SAVE_SECONDS = 0.0
    save, count = weights.save_state, 0

    def dying(path: Path, state: Any) -> None:
        nonlocal count
        save(path, state)
        count += 1
        if count == kill_at_state:
            os.kill(os.getpid(), signal.SIGKILL)

    weights.save_state = dying
    words = ["--data", "toy", "--workers", "0", "--no-progress", "--draws", "0", "--labels", "1", "--out", out]
    pairs = [part for setting in TINY for part in ("--set", setting)]
    os._exit(main(["run", "--method", "random", "--task", "classification", "--protocol", TUNED.name, *words, *pairs]))


def predictions(out: Path) -> Predictions:
    """Of the one cell; asserts that it is finished and has no state left."""
    assert not list((out / "results").glob("*.fit.pt"))
    results = [Store(out).read(path.stem) for path in (out / "results").glob("*.json")]
    (key,) = (result.key for result in results if result is not None and result.role == "method" and result.status == "ok")
    return read_predictions(Store(out).predictions_path(key))


def test_a_killed_fine_tuning_goes_on_and_leaves_no_state(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert child.finish(child.start(fine_tune, str(whole), 0)) == 0
    assert child.finish(child.start(fine_tune, str(killed), 3)) == -signal.SIGKILL
    (state,) = (killed / "results").glob("*.fit.pt")
    assert torch.load(state, weights_only=True)["step"] == 3  # noqa: TID251
    assert child.finish(child.start(fine_tune, str(killed), 3)) == 0  # two states more, and the end
    assert equal(predictions(killed), predictions(whole))
