"""The pretraining loop: bitwise continuation after a stop at any step, states that are damaged or foreign, NaN, batches."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark import pretrain as engine
from benchmark import repro, weights
from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.data.text import REPORT, train_tokenizer
from benchmark.errors import UserError
from benchmark.options import override, parse_settings
from benchmark.pretrain import Pretrained, pretrain, read_pretrained
from benchmark.training.batches import Loader, training_rows
from benchmark.types import Batch, PretrainSpec, Step, plain
from methods import METHODS
from tests import child
from tests.conftest import TINY, Command
from tests.toy import ToySource

STEPS = 8
UNTIMED = dict.fromkeys(("seconds", "data_seconds", "images_per_second", "memory_mib"), 0)


class Stop(Exception):  # noqa: N818
    pass


class Setup:
    """A method on the toy, as the runner would prepare it."""

    def __init__(self, cache: Path, name: str = "mcr", settings: tuple[str, ...] = (), broken: tuple[str, ...] = ()) -> None:
        self.workers = 0
        self.cls = METHODS.load(name)
        given = parse_settings((*TINY, f"steps={STEPS}", "batch_size=8", *settings))
        self.config, self.recipe, _ = override(*self.cls.preset("quick"), given, name)
        self.data = Dataset(ToySource(20, broken))
        self.cache = cache
        self.spec = PretrainSpec(
            method=name, method_version=1, config=plain(self.config), recipe=self.recipe.keyed, dataset="toy",
            dataset_version=self.data.version, split=self.data.splits["train"], seed=0,
        )  # fmt: skip

    def method(self) -> Any:
        tokenizer = train_tokenizer(self.data.texts(training_rows(self.data, True), REPORT))
        with repro.seeded(0, "init"):
            return self.cls.build(self.config, tokenizer)

    def context(self) -> Context:
        return Context(device=torch.device("cpu"), cache=self.cache, progress=False, workers=self.workers)

    def train(self, folder: Path, stop: int = 0) -> Pretrained:
        """A whole pretraining, or one that is stopped in the middle of a step."""
        method = self.method()
        if stop:
            method.loss = interrupted(method.loss, stop)
            method.parts = interrupted(method.parts, stop, counted=False)
        return pretrain(method, self.data, self.spec, self.recipe, folder, self.context())

    def loader(self) -> Loader:
        return Loader(self.method(), self.data, training_rows(self.data, True), self.recipe, self.context())


def interrupted(loss: Any, stop: int, counted: bool = True) -> Any:
    """The loss, which stops after its terms of step `stop` were computed (the count of operations before is not a step)."""
    calls = 0 if counted else 1

    def stopping(batch: Batch, step: Step) -> Iterator[Mapping[str, Tensor]]:
        nonlocal calls
        calls += 1
        for terms in loss(batch, step):
            if step.index == stop and calls > 1:
                raise Stop
            yield terms

    return stopping


def weights_of(folder: Path) -> str:
    return sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def steps_of(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def saving(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state after every step."""
    monkeypatch.setattr(engine, "SAVE_SECONDS", -1.0)


# ------------------------------------------------------------------------------------------- continuation


@pytest.mark.parametrize(
    ("name", "settings", "workers"),
    [
        ("mcr", (), 0),
        ("mcr", (), 2),
        ("mcr", ("stream=dual", "backward=sequential", "dropout=0.1"), 0),
        ("clip", ("image_encoder=resnet",), 0),
        ("clip", ("micro_batch=3", "dropout=0.1", "average=0.9", "buckets=2"), 2),
    ],
)
def test_stopped_at_any_step_it_goes_on_bit_for_bit(
    name: str, settings: tuple[str, ...], workers: int, cache: Path, tmp_path: Path, saving: None
) -> None:
    setup = Setup(cache, name, settings)
    setup.workers = workers
    whole = setup.train(tmp_path / "whole")
    assert whole.sha256 == weights_of(tmp_path / "whole")
    losses = (tmp_path / "whole" / "log.jsonl").read_text()
    for stop in range(1, STEPS):
        folder = tmp_path / str(stop)
        with pytest.raises(Stop):
            setup.train(folder, stop)
        assert read_pretrained(folder) is None
        record = setup.train(folder)
        assert weights_of(folder) == whole.sha256 == record.sha256
        assert steps_of(folder) == list(range(STEPS))
        for one, two in zip(losses.splitlines(), (folder / "log.jsonl").read_text().splitlines(), strict=True):
            assert {**json.loads(one), **UNTIMED} == {**json.loads(two), **UNTIMED}
        assert not list(folder.glob("state*"))  # only the finished weights stay


def test_stopped_again_and_again_it_still_ends_the_same(cache: Path, tmp_path: Path, saving: None) -> None:
    setup = Setup(cache)
    whole = setup.train(tmp_path / "whole")
    for stop in (2, 3, 6, 7):
        with pytest.raises(Stop):
            setup.train(tmp_path / "often", stop)
    record = setup.train(tmp_path / "often")
    assert record.sha256 == whole.sha256
    assert record.cost.seconds["pretrain"] > 0
    assert steps_of(tmp_path / "often") == list(range(STEPS))


def test_without_a_saved_state_it_starts_anew_and_ends_the_same(cache: Path, tmp_path: Path) -> None:
    setup = Setup(cache)
    whole = setup.train(tmp_path / "whole")
    with pytest.raises(Stop):
        setup.train(tmp_path / "cut", 5)
    assert not list((tmp_path / "cut").glob("state*"))
    assert setup.train(tmp_path / "cut").sha256 == whole.sha256
    assert steps_of(tmp_path / "cut") == list(range(STEPS))


def test_counting_operations_moves_no_running_statistics(cache: Path, tmp_path: Path) -> None:
    setup = Setup(cache, "clip", ("image_encoder=resnet",))
    method = setup.method()
    pretrain(method, setup.data, setup.spec, setup.recipe, tmp_path, setup.context())
    counted = [value for name, value in method.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counted
    assert all(int(value) == STEPS for value in counted)


def test_a_finished_folder_is_loaded_and_not_trained_again(cache: Path, tmp_path: Path) -> None:
    setup = Setup(cache)
    first = setup.train(tmp_path)
    method = setup.method()
    method.loss = None  # would raise
    assert pretrain(method, setup.data, setup.spec, setup.recipe, tmp_path, setup.context()) == first
    assert not method.training
    damaged = bytearray((tmp_path / "model.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(damaged)
    with pytest.raises(UserError, match="not the file that was recorded"):
        setup.train(tmp_path)


def killed_pretraining(cache: str, folder: str, step: int) -> None:
    """In a child: pretrains, and dies by SIGKILL inside a step."""
    torch.set_num_threads(1)
    engine.SAVE_SECONDS = -1.0
    setup = Setup(Path(cache))
    method = setup.method()
    loss = method.loss

    def dying(batch: Batch, now: Step) -> Iterator[Mapping[str, Tensor]]:
        if now.index == step:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from loss(batch, now)

    method.loss = dying if step else loss
    pretrain(method, setup.data, setup.spec, setup.recipe, Path(folder), setup.context())


def test_killed_at_random_steps_it_goes_on_bit_for_bit(cache: Path, tmp_path: Path) -> None:
    assert child.finish(child.start(killed_pretraining, str(cache), str(tmp_path / "whole"), 0)) == 0
    first, second = sorted(np.random.default_rng().choice(np.arange(1, STEPS), 2, replace=False).tolist())
    for step in (first, second):
        assert child.finish(child.start(killed_pretraining, str(cache), str(tmp_path / "killed"), step)) == -signal.SIGKILL
    assert child.finish(child.start(killed_pretraining, str(cache), str(tmp_path / "killed"), 0)) == 0
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole"), (first, second)
    assert steps_of(tmp_path / "killed") == list(range(STEPS))


# ------------------------------------------------------------------------------------------- bad states


def test_a_state_of_an_earlier_version_is_refused_and_stays(cache: Path, tmp_path: Path, saving: None) -> None:
    setup = Setup(cache)
    with pytest.raises(Stop):
        setup.train(tmp_path, 3)
    state = weights.load_state(tmp_path / "state.pt")
    weights.save_state(tmp_path / "state.pt", {"optimizer" if key == "moments" else key: item for key, item in state.items()})
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(UserError, match="was written by an earlier version and cannot be gone on from; move it away"):
        setup.train(tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_state_of_another_key_is_refused(cache: Path, tmp_path: Path, saving: None) -> None:
    setup = Setup(cache)
    with pytest.raises(Stop):
        setup.train(tmp_path, 3)
    other = Setup(cache, settings=("learning_rate=0.5",))
    with pytest.raises(UserError, match="belongs to another pretraining"):
        other.train(tmp_path)
    setup.train(tmp_path)
    before = weights_of(tmp_path)
    with pytest.raises(UserError, match="holds another pretraining"):
        other.train(tmp_path)
    assert weights_of(tmp_path) == before


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped"])
def test_a_damaged_newest_state_falls_back_to_the_one_before(damage: str, cache: Path, tmp_path: Path, saving: None) -> None:
    setup = Setup(cache)
    whole = setup.train(tmp_path / "whole")
    folder = tmp_path / "cut"
    with pytest.raises(Stop):
        setup.train(folder, 5)
    data = (folder / "state.pt").read_bytes()
    garbage = {"cut": data[: len(data) // 2], "empty": b"", "flipped": b"\0" * 64 + data[64:]}
    (folder / "state.pt").write_bytes(garbage[damage])
    with pytest.raises(Stop):
        setup.train(folder, 4)  # the state before is that of step 4, so it stops at once
    assert not (folder / "state.pt").exists() or (folder / "state.pt").read_bytes() != garbage[damage]
    assert (folder / "state.pt.damaged").read_bytes() == garbage[damage]
    assert setup.train(folder).sha256 == whole.sha256
    assert steps_of(folder) == list(range(STEPS))


def test_a_full_disk_names_the_log_and_keeps_the_state(
    cache: Path, tmp_path: Path, saving: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup(cache)
    whole = setup.train(tmp_path / "whole")
    folder, real = tmp_path / "full", Path.open

    def full(path: Path, mode: str = "r", **options: Any) -> Any:
        if path.name == "log.jsonl" and mode == "a" and (folder / "state.pt").exists():
            raise OSError(28, "No space left on device")
        return real(path, mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(UserError, match=r"log\.jsonl cannot be written \(No space left on device\)"):
            setup.train(folder)
    assert setup.train(folder).sha256 == whole.sha256


# ------------------------------------------------------------------------------------------------- NaN


class Diverging:
    """Adds NaN to the total, or an infinite gradient, at one step."""

    def __init__(self, loss: Any, at: int, how: str) -> None:
        self.loss, self.at, self.how, self.uids = loss, at, how, ()

    def __call__(self, batch: Batch, step: Step) -> Iterator[Mapping[str, Tensor]]:
        for terms in self.loss(batch, step):
            if step.index == self.at:
                self.uids = batch.uids
                total = terms["total"]
                yield {
                    **terms,
                    "total": total * float("nan") if self.how == "loss" else total + (total - total.detach()).sqrt(),
                }
            else:
                yield terms


@pytest.mark.parametrize(("how", "words"), [("loss", "total of mcr"), ("gradient", "gradient norm of mcr")])
def test_a_loss_that_is_not_finite_names_step_and_rows(how: str, words: str, cache: Path, tmp_path: Path, saving: None) -> None:
    setup = Setup(cache)
    method = setup.method()
    method.loss = diverging = Diverging(method.loss, 5, how)
    with pytest.raises(UserError, match=f"{words} is not finite at step 5, rows ") as found:
        pretrain(method, setup.data, setup.spec, setup.recipe, tmp_path, setup.context())
    assert len(diverging.uids) == 8
    assert ", ".join(diverging.uids) in str(found.value)
    assert all(bool(torch.isfinite(item).all()) for item in method.state_dict().values())  # the step was not taken
    whole = setup.train(tmp_path / "whole").sha256
    assert steps_of(tmp_path)[-1] == 4
    assert setup.train(tmp_path).sha256 == whole  # what was computed before is kept


def test_a_diverged_pretraining_ends_the_command_with_one_sentence(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("methods.mcr.info_nce", lambda *words: torch.tensor(float("nan"), requires_grad=True))
    words = [part for setting in (*TINY, "steps=3", "batch_size=8") for part in ("--set", setting)]
    status = command("pretrain", "--method", "mcr", "--data", "toy", "--out", str(command.out), "--workers", "0", *words)
    assert status == 2
    assert command.error.count("\n") == 1
    assert "contrast, total of mcr is not finite at step 0, rows p0" in command.error
