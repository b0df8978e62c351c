"""Segmentation: the run end to end on drawn images, the empty-mask rule, ignored pixels, weights and references."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import avg_pool2d, pixel_unshuffle

from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.data.geometry import IGNORE
from benchmark.errors import ImageError, Unsupported, UserError
from benchmark.types import InputSpec, Predictions, Protocol, Record
from tasks.segmentation import Segmentation
from tasks.segmentation_scores import image_scores

SIZE = 64
NAMES = ("disc", "square")
QUICK = Segmentation().protocols("quick")[0]


def protocol(**changes: object) -> Protocol:
    merged = {**dict(QUICK.settings), "steps": 150, "batch_size": 8, "learning_rate": 5e-3, **changes}
    return replace(QUICK, settings=tuple(sorted(merged.items())))


class Drawn:
    """Bright discs and squares on noise, images of several shapes; every fourth has an empty disc mask, one lacks squares."""

    name, version, classes, flags, box_classes, mask_names = "drawn", "1", (), (), (), NAMES

    def __init__(self, train: int = 8, test: int = 8, broken: str = "") -> None:
        self.broken = broken
        splits = ["train"] * train + ["val"] * 4 + ["test"] * test
        self.records = tuple(
            Record(
                uid=f"u{index:02d}", patient=f"p{index // 2:02d}", study=f"s{index}", split=split, image=str(index),
                masks={name: str(index) for name in NAMES if (name, index) != ("square", train + 4)},
            )
            for index, split in enumerate(splits)
        )  # fmt: skip

    def parts(self, record: Record) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        index = int(record.image)
        draw = np.random.default_rng(index)
        height, width = [(64, 64), (96, 70), (60, 100)][index % 3]
        y, x = np.mgrid[:height, :width]
        cy, cx, radius = draw.uniform(20, height - 20), draw.uniform(20, width - 20), draw.uniform(12, 18)
        disc = ((y - cy) ** 2 + (x - cx) ** 2 < radius**2) & (index % 4 != 0)
        square = np.zeros((height, width), bool)
        square[4 : 4 + height // 3, 4 : 4 + width // 3] = True
        image = draw.uniform(0, 30, (height, width)) + 190 * disc + 80 * (square & ~disc)
        return np.clip(image, 0, 255).astype(np.uint8), {"disc": disc, "square": square}

    def image(self, record: Record) -> np.ndarray:
        return self.parts(record)[0]

    def mask(self, record: Record, name: str) -> np.ndarray:
        if record.uid == self.broken:
            raise ImageError(record.uid, "cut off")
        return self.parts(record)[1][name].astype(np.uint8)


class OneMap(nn.Module):
    """ViT-like: one map of stride 16, the pixels of each patch as channels."""

    input = InputSpec(size=SIZE)
    feature_info = ((256, 16),)

    def feature_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (pixel_unshuffle(images, 16),)


class FourMaps(nn.Module):
    """ResNet-like: means and details at strides 4 to 32."""

    input = InputSpec(size=SIZE, resize="stretch")
    feature_info = ((16, 4), (32, 8), (64, 16), (64, 32))

    def feature_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        fine = pixel_unshuffle(images, 4)
        middle = torch.cat([avg_pool2d(fine, 2), avg_pool2d(fine, 2) ** 2], 1)
        coarse = torch.cat([avg_pool2d(middle, 2)] * 2, 1)
        return fine, middle, coarse, avg_pool2d(coarse, 2)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(device=torch.device("cpu"), cache=tmp_path, batch_size=5, progress=False)


class Twice(Drawn):
    """The test rows are the training images again, under other names: a head that learns them must score on them."""

    def parts(self, record: Record) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return super().parts(replace(record, image=str(int(record.image) % 12)) if record.split == "test" else record)


@pytest.mark.parametrize("method", [OneMap(), FourMaps()], ids=["one map", "four maps"])
def test_eight_images_are_learned_and_mapped_back_to_their_own_pixels(method: nn.Module, context: Context) -> None:
    data = Dataset(Twice())
    made = Segmentation().run(method, data, protocol(), 1.0, context)
    assert list(made.uids) == [f"u{index:02d}" for index in range(12, 20)]
    scores = Segmentation().score(made, QUICK, np.ones((1, 8)))
    assert scores["dice_empty1"][0] > 0.9
    pixels = [data.source.image(record).size for record in data.rows("test")]
    assert (made.arrays["counts"][:, :, 3] == np.array(pixels)[:, None]).all()
    assert set(context.meter.seconds) == {"features", "fit", "predict"}
    assert context.notes["train_rows"] == 8


def test_the_same_seed_gives_the_same_counts_and_the_global_generator_is_left_alone(context: Context) -> None:
    data, task = Dataset(Drawn()), Segmentation()
    before = torch.random.get_rng_state()
    first, second = (task.run(OneMap(), data, protocol(steps=5), 1.0, context) for _ in range(2))
    np.testing.assert_array_equal(first.arrays["counts"], second.arrays["counts"])
    assert torch.equal(before, torch.random.get_rng_state())
    context.eval_seed = 1
    other = task.run(OneMap(), data, protocol(steps=5), 1.0, context)
    assert not np.array_equal(first.arrays["counts"], other.arrays["counts"], equal_nan=True)


def test_a_row_that_lacks_a_mask_is_unknown_there_and_known_elsewhere(context: Context) -> None:
    made = Segmentation().run(OneMap(), Dataset(Drawn()), protocol(steps=2), 1.0, context)
    target = made.arrays["counts"][:, :, 2]
    assert np.isnan(target[0, 1])
    assert np.isnan(target).sum() == 1


def test_a_test_mask_that_cannot_be_read_is_skipped_with_its_reason(context: Context) -> None:
    made = Segmentation().run(OneMap(), Dataset(Drawn(broken="u13")), protocol(steps=2), 1.0, context)
    assert "u13" not in made.uids
    assert made.skipped == (("u13", "cut off"),)


def test_the_best_evaluation_on_val_is_kept_and_noted(context: Context) -> None:
    Segmentation().run(FourMaps(), Dataset(Drawn()), protocol(steps=20, evaluations=2), 1.0, context)
    assert 0 <= context.notes["val_score"] <= 1


def counts(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    valid = target != IGNORE
    found, truth = (predicted == 1) & valid, target == 1
    return np.array([[[(found & truth).sum(), found.sum(), truth.sum(), valid.sum()]]], float)


@pytest.mark.parametrize(
    ("predicted", "target", "dice", "iou"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0, 1.0),
        ([1, 0, 0, 0], [0, 0, 0, 0], 0.0, 0.0),
        ([0, 0, 0, 0], [1, 0, 0, 0], 0.0, 0.0),
        ([1, 1, 0, 0], [0, 1, 1, 0], 0.5, 1 / 3),
        ([1, 1, 0, 0], [IGNORE, 1, 0, 0], 1.0, 1.0),
        ([1, 0, 0, 0], [IGNORE, 0, 0, 0], 1.0, 1.0),
        ([1, 0, 0, 0], [IGNORE] * 4, np.nan, np.nan),
    ],
)
def test_dice_and_iou_follow_the_rule_in_their_name(predicted: list[int], target: list[int], dice: float, iou: float) -> None:
    scores = image_scores(counts(np.array(predicted), np.array(target)))
    np.testing.assert_allclose(scores["dice_empty1"], [[dice]])
    np.testing.assert_allclose(scores["iou_empty1"], [[iou]])
    assert np.isnan(scores["dice_nonempty"]).all() == (1 not in target)


def random_predictions(seed: int, n: int = 12) -> Predictions:
    draw = np.random.default_rng(seed)
    both = draw.integers(0, 5, (n, 2))
    made = np.stack([both, both + draw.integers(0, 4, (n, 2)), both + draw.integers(0, 4, (n, 2)), np.full((n, 2), 20)], 2)
    made = made.astype(float)
    made[draw.random((n, 2)) < 0.2, 2] = np.nan
    names = np.array([f"u{index}" for index in range(n)])
    return Predictions(names, names, {"counts": made}, {"masks": NAMES})


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_weighting_rows_is_repeating_them(seed: int) -> None:
    predictions = random_predictions(seed)
    weights = np.random.default_rng(seed + 1).multinomial(12, np.full(12, 1 / 12), size=3).astype(float)
    weighted = Segmentation().score(predictions, QUICK, weights)
    for draw, row in enumerate(weights):
        repeated = predictions.take(np.repeat(np.arange(12), row.astype(int)))
        alone = Segmentation().score(repeated, QUICK, np.ones((1, 12)))
        assert set(alone) == set(weighted)
        for name, value in alone.items():
            np.testing.assert_allclose(weighted[name][draw], value[0], atol=1e-12)


def test_scores_are_means_over_images_and_masks_by_a_loop() -> None:
    predictions = random_predictions(3)
    by_mask = []
    for mask in range(2):
        dices = []
        for overlap, found, truth, _ in predictions.arrays["counts"][:, mask]:
            if truth == truth:
                dices.append(1.0 if found + truth == 0 else 2 * overlap / (found + truth))
        by_mask.append(sum(dices) / len(dices))
    scores = Segmentation().score(predictions, QUICK, np.ones((1, 12)))
    assert scores["dice_empty1/disc"][0] == pytest.approx(by_mask[0])
    assert scores["dice_empty1"][0] == pytest.approx(sum(by_mask) / 2)


def test_references_are_what_a_loop_over_the_masks_gives(context: Context) -> None:
    data = Dataset(Drawn())
    made = Segmentation().run(OneMap(), data, protocol(steps=1), 1.0, context)
    rows = Segmentation().references(made, data, QUICK)
    assert set(rows) == {"empty mask", "all foreground", "mean training mask"}
    ones = np.ones((1, len(made.uids)))
    empty = [float(not data.source.mask(record, "disc").any()) for record in data.rows("test")]
    assert Segmentation().score(rows["empty mask"], QUICK, ones)["dice_empty1/disc"][0] == pytest.approx(np.mean(empty))
    full = [2 * mask.mean() / (mask.mean() + 1) for mask in (data.source.mask(r, "disc") for r in data.rows("test"))]
    assert Segmentation().score(rows["all foreground"], QUICK, ones)["dice_empty1/disc"][0] == pytest.approx(np.mean(full))
    # the squares lie at the same relative place everywhere: the mean training mask is nearly right
    assert Segmentation().score(rows["mean training mask"], QUICK, ones)["dice_empty1/square"][0] > 0.85
    assert set(rows["empty mask"].arrays) == set(made.arrays)


def test_a_set_without_masks_in_test_is_unsupported() -> None:
    source = Drawn()
    source.records = tuple(replace(r, masks={}) if r.split == "test" else r for r in source.records)
    with pytest.raises(Unsupported, match="'drawn' has no masks in test"):
        Segmentation().check(Dataset(source), QUICK)
    Segmentation().check(Dataset(Drawn()), QUICK)


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(UserError, match="'tiny'"):
        Segmentation().protocols("tiny")


def test_presets_have_sorted_settings_and_different_hashes() -> None:
    literals = [Segmentation().protocols(preset)[0] for preset in ("quick", "small", "paper")]
    assert len({literal.hash for literal in literals}) == 3
    assert all(list(literal.settings) == sorted(literal.settings) for literal in literals)
