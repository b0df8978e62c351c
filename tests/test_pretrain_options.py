"""What a recipe may ask of the loop beyond the plain step, and what happens when a step cannot be taken."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark import pretrain as engine
from benchmark import weights
from benchmark.errors import Stopped, UserError
from benchmark.pretrain import pretrain
from benchmark.schedule import learning_rate
from benchmark.types import Batch, Recipe, Step, plain
from tests.conftest import TINY, Command
from tests.test_pretrain import STEPS, Setup, weights_of


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


class Before:
    """Does something at a step, before its terms; the first call, which counts operations, is no step."""

    def __init__(self, method: Any, step: int, act: Any) -> None:
        self.loss, self.step, self.act, self.calls = method.loss, step, act, 0
        method.loss = self

    def __call__(self, batch: Batch, step: Step) -> Iterator[Mapping[str, Tensor]]:
        self.calls += 1
        if self.calls > 1 and step.index == self.step:
            self.act()
        yield from self.loss(batch, step)


def train(setup: Setup, folder: Path, step: int, act: Any) -> None:
    method = setup.method()
    Before(method, step, act)
    pretrain(method, setup.data, setup.spec, setup.recipe, folder, setup.context())


# ------------------------------------------------------------------------------------------- keys


def test_later_settings_enter_a_key_when_they_are_changed_only() -> None:
    recipe = Recipe(steps=3)
    assert set(plain(recipe)) - set(recipe.keyed) == {
        "micro_batch", "gradient_checkpointing", "compile", "average", "layer_decay", "schedule", "buckets",
    }  # fmt: skip
    assert Recipe(micro_batch=4, schedule="linear").keyed == {**Recipe().keyed, "micro_batch": 4, "schedule": "linear"}


# ------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_saves_the_state_and_ends_with_its_own_status(number: int, cache: Path, tmp_path: Path) -> None:
    setup = Setup(cache)
    whole = setup.train(tmp_path / "whole").sha256
    folder, before = tmp_path / "run", signal.getsignal(number)
    with pytest.raises(Stopped, match="stopped after step 3; the same command goes on"):
        train(setup, folder, 3, lambda: os.kill(os.getpid(), number))
    assert signal.getsignal(number) == before
    assert weights.load_state(folder / "state.pt")["step"] == 4
    assert setup.train(folder).sha256 == whole


def test_a_signal_before_the_first_step_ends_at_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def struck(*words: Any) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(engine, "Loader", struck)
    with pytest.raises(Stopped, match="SIGUSR1: stopped before its first step; the same command goes on"):
        Setup(cache).train(tmp_path)


def test_the_command_stopped_by_a_signal_says_so_and_returns_75(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from methods.mcr import MCR

    parts = MCR.parts

    def struck(self: MCR, batch: Batch, step: Step) -> Iterator[Any]:
        if step.index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return parts(self, batch, step)

    words = [part for setting in (*TINY, "steps=3", "batch_size=8") for part in ("--set", setting)]
    words = ["pretrain", "--method", "mcr", "--data", "toy", "--out", str(command.out), "--workers", "0", *words]
    monkeypatch.setattr(MCR, "parts", struck)
    assert command(*words) == 75
    assert command.error == "stopped: SIGTERM: stopped after step 1; the same command goes on from here\n"
    monkeypatch.undo()


def test_run_is_refused_under_several_processes(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command.run("random", "retrieval") == 2
    command.refused("run works in one process; start `pretrain` under torchrun")


def test_a_launch_with_deepspeed_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="is not supported: losses here are no single forward pass"):
        Setup(cache).train(tmp_path)


@pytest.mark.parametrize("way", ["--fsdp", "ACCELERATE_USE_FSDP"])
def test_fsdp_in_one_process_is_refused(way: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["pretrain", "--method", "mcr", "--data", "toy", "--out", str(command.out), "--workers", "0"]
    if way.isupper():
        monkeypatch.setenv(way, "true")
    assert command(*words, *(() if way.isupper() else (way,))) == 2
    command.refused("FSDP spreads a method over several processes; start them by torchrun")


# ------------------------------------------------------------------------------------------- memory and NaN


@pytest.mark.parametrize(
    ("settings", "ways"),
    [
        ((), "--set micro_batch=4 or --set gradient_checkpointing=true or --set precision=bf16"),
        (("micro_batch=4", "precision=bf16"), "--set micro_batch=2 or --set gradient_checkpointing=true"),
        (("micro_batch=1", "precision=bf16", "gradient_checkpointing=true"), "a larger device"),
    ],
)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_names_what_would_need_less(
    settings: tuple[str, ...], ways: str, error: Exception, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*words: Any) -> None:
        raise error

    setup = Setup(cache, settings=settings)
    monkeypatch.setattr(engine.Trainer, "step", full)
    with pytest.raises(UserError, match=f"rows at a time in .* does not fit into memory; add {ways}, and the batch stays"):
        setup.train(tmp_path)


def test_a_loss_that_is_not_finite_leaves_its_batch(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Batch] = []

    def bad(step: int, batch: Batch) -> None:
        seen.append(batch)

    setup = Setup(cache)
    method = setup.method()
    loss = method.loss

    def diverging(batch: Batch, step: Step) -> Iterator[Mapping[str, Tensor]]:
        for terms in loss(batch, step):
            if step.index == 2:
                bad(step.index, batch)
            yield {**terms, "total": terms["total"] * (float("nan") if step.index == 2 else 1.0)}

    method.loss = diverging
    with pytest.raises(UserError, match=r"total of mcr is not finite at step 2, rows .*not-finite-step2\.npz, which holds"):
        pretrain(method, setup.data, setup.spec, setup.recipe, tmp_path, setup.context())
    with np.load(tmp_path / "not-finite-step2.npz", allow_pickle=False) as kept:
        assert tuple(kept["uids"]) == seen[0].uids
        assert tuple(kept["texts"]) == seen[0].texts
        assert np.array_equal(kept["images"], seen[0].images.numpy())
        assert np.array_equal(kept["target labels"], seen[0].targets["labels"].numpy())
        assert int(kept["step"]) == 2


def test_a_method_without_parts_refuses_pieces_and_trains_as_a_whole(cache: Path, tmp_path: Path) -> None:
    class Whole:
        def __init__(self, method: Any) -> None:
            self.method = method

        def __getattr__(self, name: str) -> Any:
            if name == "parts":
                raise AttributeError(name)
            return getattr(self.method, name)

    setup = Setup(cache, settings=("micro_batch=2",))
    with pytest.raises(UserError, match="micro_batch=2: the loss of mcr comes as a whole"):
        engine.Trainer(Whole(setup.method()), setup.recipe, torch.device("cpu"))


def test_a_compiler_that_fails_is_one_sentence(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})

    def broken(*words: Any) -> None:
        raise kind("no C++ compiler\nlong story")

    monkeypatch.setattr(engine.Trainer, "step", broken)
    with pytest.raises(UserError, match=r"compile=true: torch.compile fails here \(no C\+\+ compiler\); leave compile out"):
        Setup(cache).train(tmp_path)


# ------------------------------------------------------------------------------------------- average, order, rate, log


def test_the_average_is_what_is_kept_and_goes_on_after_a_stop(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SAVE_SECONDS", -1.0)
    setup, plain_one = Setup(cache, settings=("average=0.5",)), Setup(cache)
    states: list[dict[str, Tensor]] = []
    method = plain_one.method()
    start = {name: item.clone() for name, item in method.state_dict().items()}
    Before(method, -1, None)
    real = engine.Trainer.step

    def noted(self: engine.Trainer, *words: Any) -> Any:
        taken = real(self, *words)
        states.append({name: item.clone() for name, item in self.method.state_dict().items()})
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(engine.Trainer, "step", noted)
        pretrain(method, plain_one.data, plain_one.spec, plain_one.recipe, tmp_path / "plain", plain_one.context())
    whole = setup.train(tmp_path / "whole")
    expected = start["text_tower.bert.encoder.layer.0.output.dense.weight"]
    for step, state in enumerate(states):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * state["text_tower.bert.encoder.layer.0.output.dense.weight"]
    kept = weights.load(tmp_path / "whole" / "model.safetensors")
    assert torch.allclose(kept["text_tower.bert.encoder.layer.0.output.dense.weight"], expected, atol=1e-6)
    with pytest.raises(Stopped):
        train(setup, tmp_path / "cut", 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    setup.train(tmp_path / "cut")
    assert weights_of(tmp_path / "cut") == whole.sha256 != weights_of(tmp_path / "plain")


def test_buckets_give_batches_of_like_reports_each_row_once(cache: Path) -> None:
    setup = Setup(cache, settings=("buckets=3", "batch_size=4"))
    loader, plain_one = setup.loader(), Setup(cache, settings=("batch_size=4",)).loader()

    def spread(rows: Any) -> float:
        lengths = np.array([len(text) for text in loader._texts])[rows.reshape(-1, 4)]
        return float((lengths.max(axis=1, keepdims=True) - lengths).sum())

    orders = [loader.order(epoch) for epoch in range(6)]
    assert all(len(set(order.tolist())) == 24 for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    assert sum(map(spread, orders)) < 0.7 * sum(spread(plain_one.order(epoch)) for epoch in range(6))


def test_schedules_after_the_warm_up() -> None:
    rates = {
        name: [learning_rate(Recipe(steps=100, learning_rate=1.0, schedule=name), index) for index in range(100)]
        for name in ("linear", "constant", "step:0.5,0.8")
    }
    assert all(found[:10] == pytest.approx([(index + 1) / 10 for index in range(10)]) for found in rates.values())
    assert rates["linear"][10:] == pytest.approx([1 - index / 90 for index in range(90)])
    assert set(rates["constant"][10:]) == {1.0}
    assert rates["step:0.5,0.8"][49:51] == [1.0, pytest.approx(0.1)]
    assert rates["step:0.5,0.8"][79:81] == [pytest.approx(0.1), pytest.approx(0.01)]


@pytest.mark.parametrize("schedule", ["cosin", "step", "step:", "step:2", "step:a"])
def test_an_unknown_schedule_is_refused_before_anything_runs(schedule: str, command: Command) -> None:
    assert command.run("mcr", "retrieval", "--set", f"schedule={schedule}", "--dry-run") == 2
    command.refused(f"schedule={schedule!r} is none of cosine, linear, constant and step:PLACE")


def test_workers_change_no_weight_and_the_log_tells_what_a_step_took(cache: Path, tmp_path: Path) -> None:
    setup = Setup(cache)
    alone = setup.train(tmp_path / "alone")
    context = setup.context()
    context.workers = 2
    helped = pretrain(setup.method(), setup.data, setup.spec, setup.recipe, tmp_path / "helped", context)
    assert helped.sha256 == alone.sha256
    assert alone.data_wait_share is not None
    assert helped.data_wait_share is not None
    assert 0 <= helped.data_wait_share < 1
    assert 0 < alone.data_wait_share < 1
    lines = [json.loads(line) for line in (tmp_path / "helped" / "log.jsonl").read_text().splitlines()]
    assert len(lines) == STEPS
    for line in lines:
        assert line["images_per_second"] == pytest.approx(8 / line["seconds"], rel=0.02)
        assert line["gradient_norm"] > 0
        assert line["memory_mib"] is None or line["memory_mib"] > 0
        assert 0 <= line["data_seconds"] <= line["seconds"]


def test_trackers_take_every_line_of_the_log(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[Mapping[str, Any]] = []
    opened: list[Any] = []

    @contextmanager
    def kept(*words: Any) -> Iterator[Any]:
        opened.append(words)
        yield lines.append

    setup = Setup(cache)
    context = setup.context()
    context.track = ("wandb",)
    monkeypatch.setattr(engine, "tracked", kept)
    pretrain(setup.method(), setup.data, setup.spec, setup.recipe, tmp_path, context)
    assert opened == [(("wandb",), f"mcr-{setup.spec.key}", tmp_path, plain(setup.spec))]
    assert lines == [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(lines) == STEPS
