"""What the pretraining loop is fed, and how fast it learns: batches by step, rows, augmentation, rate, decay."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmark.data.dataset import Dataset
from benchmark.data.text import REPORT
from benchmark.data.transform import augment
from benchmark.errors import UserError
from benchmark.schedule import learning_rate
from benchmark.training.batches import Loader, training_rows
from benchmark.training.optimizers import optimizer_of
from benchmark.types import Recipe
from tests.test_pretrain import Setup
from tests.toy import ToySource


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_batches_hold_every_row_once_an_epoch_and_leave_the_rest_out(cache: Path) -> None:
    loader = Setup(cache).loader()  # 24 rows
    assert (loader.batch_size, loader.batches) == (8, 3)
    batches = [loader.batch(index) for index in range(6)]
    for epoch in range(2):
        rows = [uid for batch, found in batches[3 * epoch : 3 * epoch + 3] for uid in batch.uids if found == epoch]
        assert len(rows) == len(set(rows)) == 24
    assert batches[0][0].uids != batches[3][0].uids
    uneven = Setup(cache, settings=("batch_size=7",)).loader()
    assert (uneven.batch_size, uneven.batches) == (7, 3)  # 3 rows of each epoch fill no batch
    assert {len(uneven.batch(index)[0].uids) for index in range(7)} == {7}


def test_a_batch_depends_on_its_step_alone(cache: Path) -> None:
    first, second = Setup(cache).loader(), Setup(cache).loader()
    for index in (4, 0, 2):
        torch.manual_seed(index)
        one, two = first.batch(index)[0], second.batch(index)[0]
        assert one.uids == two.uids
        assert one.texts == two.texts
        assert torch.equal(one.images, two.images)


def test_rows_of_a_batch_belong_together(cache: Path) -> None:
    setup = Setup(cache, settings=("augment=0",))
    batch, _ = setup.loader().batch(1)
    records = {record.uid: record for record in setup.data.source.records}
    for row, uid in enumerate(batch.uids):
        record = records[uid]
        assert record.split == "train"
        assert (record.patient, *setup.data.texts([record], REPORT)) == (batch.patients[row], batch.texts[row])
        assert batch.targets["labels"][row].tolist() == list(record.labels)
        shown = setup.data.pixels(setup.method().input, setup.context()).take([record])[0]
        expected = (torch.from_numpy(shown).float() / 255 - 0.5) / 0.25
        assert torch.allclose(batch.images[row, 0], expected, atol=1e-6)


def test_fewer_rows_than_a_batch_make_one_batch_and_one_row_is_too_few(cache: Path) -> None:
    loader = Setup(cache, settings=("batch_size=500",)).loader()
    assert (loader.batch_size, loader.batches) == (24, 1)
    assert len(loader.batch(3)[0].uids) == 24
    everything = tuple(record.uid for record in ToySource(20).records if record.split == "train")
    with pytest.raises(UserError, match="'toy' has 1 rows to pretrain on; at least 2"):
        Setup(cache / "broken", broken=everything[1:]).loader()


def test_images_that_cannot_be_read_are_left_out_and_counted(cache: Path) -> None:
    setup = Setup(cache / "two", broken=("p000-0", "p001-1"))
    loader = Loader(setup.method(), setup.data, training_rows(setup.data, True), setup.recipe, setup.context())
    assert loader.n_skipped == 2
    assert len(loader.records) == 22
    assert not {"p000-0", "p001-1"} & {uid for index in range(9) for uid in loader.batch(index)[0].uids}


def test_training_rows_are_frontal_and_have_a_report_where_it_is_read() -> None:
    source = ToySource(5)
    first, second, *rest = source.records
    source.records = (replace(first, view="LATERAL"), replace(second, sections={}), *rest)
    data = Dataset(source)
    assert {record.uid for record in training_rows(data, True)} == {"p001-0", "p001-1", "p002-0", "p002-1"}
    assert len(training_rows(data, False)) == 5


def test_augmentation_never_mirrors() -> None:
    left = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    left[..., 20:44, 4:20] = 200  # a report would say where
    for number in range(300):
        found = augment(left, (f"u{number}",), 0, number % 3, 2.0).float()
        columns = found.sum(dim=(0, 1, 2))
        assert columns[:32].sum() > 20 * columns[32:].sum()


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    recipe = Recipe(steps=100, learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(recipe, index) for index in range(100)]
    assert rates[:10] == pytest.approx([(index + 1) / 10 for index in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert all(one > two for one, two in pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.001
    assert learning_rate(Recipe(steps=1, learning_rate=1.0), 0) == 1.0


def test_decay_is_on_matrices_only_and_frozen_parameters_stay(cache: Path) -> None:
    method = Setup(cache).method()
    method.text_tower.requires_grad_(False)
    optimizer = optimizer_of(method, Recipe(weight_decay=0.3))
    decayed, plain_ones = (group["params"] for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert all(item.ndim > 1 for item in decayed)
    assert all(item.ndim <= 1 for item in plain_ones)
    assert len(decayed) + len(plain_ones) == sum(item.requires_grad for item in method.parameters())
    assert any(item is method.logit_scale.log_scale for item in plain_ones)
