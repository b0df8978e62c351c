"""Detection: equality with pycocotools, weights, images without boxes, and the run end to end on drawn images."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from torch.nn.functional import avg_pool2d, pixel_unshuffle

from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.errors import Unsupported, UserError
from benchmark.types import Box, InputSpec, Predictions, Protocol, Record
from tasks.detection import Detection

SIZE = 64
CLASSES = ("bright", "gray", "never")
QUICK = Detection().protocols("quick")[0]


# ------------------------------------------------------------------------------------------ average precision


def padded(rows: list[np.ndarray], columns: int) -> np.ndarray:
    made = np.full((len(rows), max(len(row) for row in rows) + 1, columns), np.nan)
    for index, row in enumerate(rows):
        made[index, : len(row)] = row
    return made


def random_predictions(seed: int, n: int = 15, classes: int = 3, most: int = 6, ties_within: bool = True) -> Predictions:
    """Boxes near the truth, duplicates, ties of score and of overlap, images without truth, a class without truth."""
    draw = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(n):
        corner = draw.integers(0, 60, (draw.integers(0, 4), 2)).astype(float)
        boxes = np.concatenate([corner, corner + draw.integers(5, 40, corner.shape)], 1)
        truth.append(np.concatenate([boxes, draw.integers(0, classes - 1, (len(boxes), 1))], 1))
        near = np.repeat(truth[-1], 2, axis=0)
        near[:, :4] += draw.choice([0, 0, 1, 3.5], near[:, :4].shape)
        extra = draw.integers(0, most, 1)[0]
        corner = draw.uniform(0, 60, (extra, 2))
        noise = np.concatenate([corner, corner + draw.uniform(5, 40, corner.shape), draw.integers(0, classes, (extra, 1))], 1)
        rows = np.concatenate([near, noise])[draw.permutation(len(near) + extra)]
        grid = np.linspace(0.1, 0.9, 5 if ties_within else 50)  # ties across images in any case
        scores = draw.choice(grid, len(rows), replace=ties_within)
        found.append(np.concatenate([rows[:, :4], scores[:, None], rows[:, 4:]], 1))
    names = np.array([f"u{index:04d}" for index in range(n)])
    arrays = {"detections": padded(found, 6), "truth": padded(truth, 5)}
    return Predictions(names, names, arrays, {"classes": tuple(f"c{label}" for label in range(classes))})


def by_pycocotools(predictions: Predictions) -> dict[str, float]:
    n, classes = len(predictions.uids), predictions.names["classes"]
    annotations, results = [], []
    for image in range(n):
        for x0, y0, x1, y1, label in predictions.arrays["truth"][image]:
            if x0 == x0:
                box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
                annotations.append({"id": len(annotations) + 1, "image_id": image + 1, "category_id": int(label) + 1, **box})
        for x0, y0, x1, y1, score, label in predictions.arrays["detections"][image]:
            if x0 == x0:
                entry = {"image_id": image + 1, "category_id": int(label) + 1, "score": score}
                results.append({**entry, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": image + 1} for image in range(n)],
            "categories": [{"id": label + 1, "name": name} for label, name in enumerate(classes)],
            "annotations": annotations,
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    made = dict(zip(("map", "map50", "map75"), judge.stats[:3]))
    for label, name in enumerate(classes):
        precision = judge.eval["precision"][0, :, label, 0, 2]
        made[f"ap50/{name}"] = float("nan") if (precision < 0).all() else precision.mean()
    judge.params.iouThrs = np.array([0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75])
    with contextlib.redirect_stdout(io.StringIO()):
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, 2]
    made["map40_75"] = precision[precision > -1].mean()
    return made


@pytest.mark.parametrize("seed", range(12))
def test_average_precision_equals_pycocotools(seed: int) -> None:
    predictions = random_predictions(seed)
    ours = Detection().score(predictions, QUICK, np.ones((1, 15)))
    theirs = by_pycocotools(predictions)
    assert set(ours) == {*theirs, "froc"}  # FROC: test_detection_metrics.py
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name][0], value, atol=1e-9, err_msg=name)
    assert 0.05 < theirs["map"] < 0.95


def test_only_the_best_hundred_of_an_image_and_class_count_as_in_pycocotools() -> None:
    predictions = random_predictions(5, n=3, most=400)
    ours = Detection().score(predictions, QUICK, np.ones((1, 3)))
    assert ours["map"][0] == pytest.approx(by_pycocotools(predictions)["map"], abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_weighting_images_is_repeating_them(seed: int) -> None:
    predictions = random_predictions(seed, n=10, ties_within=False)
    weights = np.random.default_rng(seed).multinomial(10, np.full(10, 0.1), size=3).astype(float)
    weighted = Detection().score(predictions, QUICK, weights)
    for draw, row in enumerate(weights):
        repeated = predictions.take(np.repeat(np.arange(10), row.astype(int)))
        for name, value in Detection().score(repeated, QUICK, np.ones((1, 10))).items():
            np.testing.assert_allclose(weighted[name][draw], value[0], atol=1e-12, err_msg=name)


def test_an_image_without_boxes_contributes_its_false_positives() -> None:
    box = np.array([[0, 0, 10, 10, 0.0]])
    sure, false = np.array([[0, 0, 10, 10, 0.5, 0]]), np.array([[0, 0, 10, 10, 0.9, 0]])
    names = np.array(["with", "without"])
    arrays = {"detections": padded([sure, false], 6), "truth": padded([box, box[:0]], 5)}
    predictions = Predictions(names, names, arrays, {"classes": ("c",)})
    both = Detection().score(predictions, QUICK, np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))["map50"]
    np.testing.assert_allclose(both, [0.5, 1.0, np.nan])


def test_a_thousand_draws_over_four_hundred_images_bracket_the_value() -> None:
    predictions = random_predictions(0, n=400, most=8)
    weights = np.random.default_rng(0).multinomial(400, np.full(400, 1 / 400), size=1000).astype(float)
    scores = Detection().score(predictions, QUICK, weights)["map50"]
    point = Detection().score(predictions, QUICK, np.ones((1, 400)))["map50"][0]
    low, high = np.quantile(scores, [0.025, 0.975])
    assert low < point < high
    assert len(np.unique(scores)) > 900


# ------------------------------------------------------------------------------------------------ end to end


def protocol(**changes: object) -> Protocol:
    merged = {**dict(QUICK.settings), "steps": 100, "batch_size": 8, "learning_rate": 5e-3, **changes}
    return replace(QUICK, settings=tuple(sorted(merged.items())))


class Drawn:
    """One or two rectangles of two grays on noise, images of several shapes; every fourth has none, one is not annotated.

    The test images are the training images again, under other names.
    """

    name, version, classes, flags, mask_names, box_classes = "drawn", "1", (), (), (), CLASSES

    def __init__(self) -> None:
        splits = ["train"] * 8 + ["val"] * 4 + ["test"] * 8
        self.records = tuple(
            Record(
                uid=f"u{index:02d}", patient=f"p{index:02d}", study=f"s{index}", split=split, image=str(index % 12),
                boxes=self.boxes(index % 12) if index != 19 else None,
            )
            for index, split in enumerate(splits)
        )  # fmt: skip

    def boxes(self, index: int) -> tuple[Box, ...]:
        draw = np.random.default_rng(index)
        height, width = self.shape(index)
        made = []
        for label in ("bright", "gray")[: 2 if index % 2 else 1]:
            w, h = draw.integers(18, 28, 2)
            x, y = draw.integers(0, width - w), draw.integers(0, height - h)
            made.append(Box(label, *map(float, (x, y, x + w, y + h))))
        return tuple(made) if index % 4 else ()

    @staticmethod
    def shape(index: int) -> tuple[int, int]:
        return [(64, 64), (96, 70), (60, 100)][index % 3]

    def image(self, record: Record) -> np.ndarray:
        index = int(record.image)
        image = np.random.default_rng(index).uniform(0, 30, self.shape(index))
        for box in self.boxes(index):
            image[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] += 180 if box.label == "bright" else 70
        return np.clip(image, 0, 255).astype(np.uint8)

    def mask(self, record: Record, name: str) -> np.ndarray:
        raise KeyError(name)


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
    return Context(device=torch.device("cpu"), cache=tmp_path, batch_size=3, progress=False)


@pytest.mark.parametrize("method", [OneMap(), FourMaps()], ids=["one map", "four maps"])
def test_eight_images_are_learned_and_boxes_come_back_in_their_own_pixels(method: nn.Module, context: Context) -> None:
    data = Dataset(Drawn())
    made = Detection().run(method, data, protocol(), 1.0, context)
    assert list(made.uids) == [f"u{index:02d}" for index in range(12, 19)]  # u19 is not annotated; empty ones count
    scores = Detection().score(made, QUICK, np.ones((1, 7)))
    assert scores["map50"][0] > 0.5
    assert np.isnan(scores["ap50/never"][0])
    assert set(context.meter.seconds) == {"features", "fit", "predict"}
    limits = np.array([Drawn.shape(int(record.image))[::-1] * 2 for record in data.rows("test")[:7]])[:, None]
    found = made.arrays["detections"][..., :4]
    assert (np.isnan(found) | ((found >= 0) & (found <= limits))).all()


def test_the_same_seed_gives_the_same_boxes_and_the_global_generator_is_left_alone(context: Context) -> None:
    data, task = Dataset(Drawn()), Detection()
    before = torch.random.get_rng_state()
    first, second = (task.run(OneMap(), data, protocol(steps=8), 1.0, context) for _ in range(2))
    np.testing.assert_array_equal(first.arrays["detections"], second.arrays["detections"])
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_best_evaluation_on_val_is_kept_and_noted(context: Context) -> None:
    Detection().run(FourMaps(), Dataset(Drawn()), protocol(steps=10, evaluations=2), 1.0, context)
    assert 0 <= context.notes["val_score"] <= 1


def test_references_are_no_box_a_box_in_the_middle_and_the_mean_training_box_of_each_class(context: Context) -> None:
    data = Dataset(Drawn())
    made = Detection().run(OneMap(), data, protocol(steps=1), 1.0, context)
    rows = Detection().references(made, data, QUICK)
    assert set(rows) == {"no box", "center box", "mean training box"}
    assert Detection().score(rows["no box"], QUICK, np.ones((1, 7)))["map50"][0] == 0
    relative, images = [], 0
    for record in data.rows("train"):
        height, width = Drawn.shape(int(record.image))
        bright = [box for box in record.boxes if box.label == "bright"]
        relative += [(box.x0 / width, box.y0 / height, box.x1 / width, box.y1 / height) for box in bright]
        images += bool(bright)
    height, width = Drawn.shape(int(data.rows("test")[1].image))
    mean = np.mean(relative, axis=0) * (width, height, width, height)
    guess = rows["mean training box"].arrays["detections"]
    np.testing.assert_allclose(guess[1, 0], [*mean, images / 8, 0])
    central = rows["center box"].arrays["detections"]
    half = (mean[2] - mean[0]) / 2, (mean[3] - mean[1]) / 2
    middle = (width / 2 - half[0], height / 2 - half[1], width / 2 + half[0], height / 2 + half[1])
    np.testing.assert_allclose(central[1, 0], [*middle, images / 8, 0])
    assert np.isnan(guess[:, 2]).all()  # the class that has no training box
    assert np.isnan(central[:, 2]).all()
    assert (guess[:, 0, 4] >= guess[:, 1, 4]).all()


def test_a_set_without_boxes_in_train_is_unsupported() -> None:
    source = Drawn()
    source.records = tuple(replace(record, boxes=() if record.split == "train" else record.boxes) for record in source.records)
    with pytest.raises(Unsupported, match="'drawn' has no boxes in train"):
        Detection().check(Dataset(source), QUICK)
    Detection().check(Dataset(Drawn()), QUICK)


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(UserError, match="'tiny'"):
        Detection().protocols("tiny")
