"""Encoding in batches: memory that runs out at any of them changes nothing but a note, and maps need not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark import features
from benchmark.context import Context
from benchmark.errors import UserError
from benchmark.features import FrozenMaps, embed_images, embed_texts
from benchmark.types import Features, TextBatch
from methods.baselines import Random
from tests.conftest import Command
from tests.test_pretrain import Setup


class Hungry:
    """A method whose encoders run out of memory above a number of rows, from a certain call on."""

    def __init__(self, method: Any, at_call: int, most: int) -> None:
        self.method, self.at_call, self.most, self.calls = method, at_call, most, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def _eat(self, rows: int) -> None:
        self.calls += 1
        if self.calls >= self.at_call and rows > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory (as if)")

    def encode_image(self, images: Tensor) -> Features:
        self._eat(len(images))
        found: Features = self.method.encode_image(images)
        return found

    def encode_text(self, text: TextBatch) -> Features:
        self._eat(len(text.ids))
        found: Features = self.method.encode_text(text)
        return found

    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        self._eat(len(images))
        found: tuple[Tensor, ...] = self.method.feature_maps(images)
        return found


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(tmp_path_factory.mktemp("cache"), "random")


def context_of(setup: Setup, batch_size: int) -> Context:
    return Context(device=torch.device("cpu"), cache=setup.cache, batch_size=batch_size, progress=False)


@pytest.mark.parametrize("call", range(1, 5))
def test_running_out_of_memory_at_any_batch_halves_it_and_changes_nothing(call: int, setup: Setup) -> None:
    rows, method = setup.data.rows("train"), setup.method().eval()  # 24 rows in batches of 8
    whole = embed_images(method, setup.data, rows, context_of(setup, 8)).pooled
    context = context_of(setup, 8)
    found = embed_images(Hungry(method, call, 3), setup.data, rows, context).pooled
    assert torch.allclose(found, whole, atol=1e-6)
    assert len(found) == 24
    if call < 4:
        assert context.batch_size == context.notes["batch_size_after_out_of_memory"] == 2
    else:
        assert "batch_size_after_out_of_memory" not in context.notes


def test_texts_encoded_again_are_counted_once(setup: Setup) -> None:
    method = setup.method().eval()
    texts = [f"number {index} " * 40 for index in range(10)]
    context = context_of(setup, 8)
    found = embed_texts(Hungry(method, 1, 2), texts, context).pooled
    assert context.notes["texts_truncated"] == 10
    assert context.notes["batch_size_after_out_of_memory"] == 2
    assert torch.allclose(found, embed_texts(method, texts, context_of(setup, 8)).pooled, atol=1e-6)


def test_one_row_that_does_not_fit_is_the_end(setup: Setup) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        embed_images(Hungry(setup.method().eval(), 1, 0), setup.data, setup.data.rows("val"), context_of(setup, 4))


def test_out_of_memory_in_a_run_is_noted_and_scores_stay(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.run("random", "retrieval") == 0
    expected = [item.metrics for item in command.results()]
    real = Random.encode_image

    def hungry(self: Random, images: Tensor) -> Features:
        if len(images) > 4:
            raise torch.OutOfMemoryError("as if")
        return real(self, images)

    monkeypatch.setattr(Random, "encode_image", hungry)
    monkeypatch.setattr("benchmark.store.Store.finished", lambda self, key: None)
    assert command.run("random", "retrieval") == 0
    for result, metrics in zip(command.results(), expected, strict=True):
        assert result.notes.get("batch_size_after_out_of_memory", 4) == 4
        for name, metric in metrics.items():
            assert result.metrics[name].value == pytest.approx(metric.value)


def test_maps_over_the_memory_budget_are_computed_again_and_are_the_same(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    method, rows = setup.method().eval(), setup.data.rows("val")
    kept = FrozenMaps(method, setup.data, rows, context_of(setup, 3))
    needed = sum(4 * channels * (32 // stride) ** 2 for channels, stride in method.feature_info) * len(rows)  # float32
    monkeypatch.setattr(features, "MAP_BUDGET", needed - 1)
    counted = Hungry(method, 1, 100)
    again = FrozenMaps(counted, setup.data, rows, context_of(setup, 3))
    assert counted.calls == 0
    for chosen in ([0, 3, 1], [5], list(range(len(rows)))):
        for one, two in zip(kept.batch(chosen), again.batch(chosen), strict=True):
            assert torch.allclose(one, two, atol=1e-6)
    assert counted.calls == 3


def test_no_rows_at_all_are_refused_in_one_sentence(setup: Setup) -> None:
    with pytest.raises(UserError, match="nothing to encode images"):
        embed_images(setup.method().eval(), setup.data, (), context_of(setup, 4))


def test_the_same_rows_are_encoded_once_and_the_time_is_told_again(setup: Setup) -> None:
    rows, context = setup.data.rows("val"), context_of(setup, 4)
    counted = Hungry(setup.method().eval(), 1, 100)
    first = embed_images(counted, setup.data, rows, context)
    calls, seconds = counted.calls, context.meter.seconds["features"]
    assert "features_reused" not in context.notes
    assert embed_images(counted, setup.data, rows, context).pooled is first.pooled
    assert counted.calls == calls == 2  # 8 rows in batches of 4
    assert context.meter.seconds["features"] == pytest.approx(2 * seconds)
    assert context.notes["features_reused"] is True
    assert len(embed_images(counted, setup.data, rows[:3], context).pooled) == 3  # other rows are other features
    assert counted.calls == 3


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_dense_predictions_are_the_same_when_memory_runs_out_among_them(
    task: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "MAP_BUDGET", 0)  # maps are made anew, as for a large set
    assert command.run("random", task) == 0
    expected = command.results()
    real, most = Random.feature_maps, 4  # the batch that heads are fitted on here

    def hungry(self: Random, images: Tensor) -> tuple[Tensor, ...]:
        if len(images) > most:
            raise torch.OutOfMemoryError("as if")
        found: tuple[Tensor, ...] = real(self, images)
        return found

    monkeypatch.setattr(Random, "feature_maps", hungry)
    monkeypatch.setattr("benchmark.store.Store.finished", lambda self, key: None)
    assert command.run("random", task) == 0
    found = command.results()
    assert {result.notes["batch_size_after_out_of_memory"] for result in found} <= {1, 2, 3, 4}
    assert len(found) == len(expected) > 0
    for result, before in zip(found, expected, strict=True):
        assert result.status == "ok"
        for name, metric in before.metrics.items():
            assert result.metrics[name].value == pytest.approx(metric.value, abs=1e-6)
