"""Scores of stored detections against the recorded arrays of MGCA's code, a plain loop of FROC, and their properties."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.statistics import with_intervals
from benchmark.types import Predictions
from tasks.detection import Detection
from tasks.detection_metrics import RATES, detection_scores, filtered_map, froc
from tasks.published.detection import PROTOCOLS
from tests.golden import Case, needs_golden
from tests.test_detection import QUICK, padded, random_predictions

MGCA = next(protocol for protocol in PROTOCOLS if protocol.name == "yolov3-mgca")
seeds = st.integers(0, 10_000)


def one(predictions: Predictions) -> dict[str, float]:
    scores = Detection().score(predictions, MGCA, np.ones((1, len(predictions.uids))))
    return {name: float(value[0]) for name, value in scores.items()}


def extended(predictions: Predictions, found: np.ndarray, truth: np.ndarray) -> Predictions:
    """With one more image at the end; (d, 6) and (g, 5)."""
    arrays = predictions.arrays
    rows = {
        name: padded([row[~np.isnan(row[:, 0])] for row in arrays[name]] + [new], width)
        for name, new, width in (("detections", found, 6), ("truth", truth, 5))
    }
    names = np.append(predictions.uids, "one more")
    return Predictions(names, names, rows, predictions.names)


# ------------------------------------------------------------------------------------------------------ MGCA


@needs_golden
def test_both_means_over_iou_40_to_75_equal_the_recorded_ones() -> None:
    case = Case("mgca_metrics/detection_map_boxes_a")
    counts = case.arrays["in/pred_count"]
    rows = np.split(case.arrays["in/pred_boxes"].astype(float), np.cumsum(counts)[:-1])
    found = [row[np.argsort(-row[:, 4], kind="stable")][:, [0, 1, 2, 3, 4, 6]] for row in rows]
    truth = [corners(labels) for labels in case.arrays["in/labels"]]
    detections, boxes, ones = padded(found, 6), padded(truth, 5), np.ones((1, 6))
    everything = detection_scores(detections, boxes, ("opacity",), ones)["map40_75"][0]
    assert everything == pytest.approx(case.number("out/all_images_map"), abs=1e-6)
    filtered = filtered_map(detections, boxes, ("opacity",), ones, confidence=0.5)[0]
    assert filtered == pytest.approx(case.number("out/official_map"), abs=1e-6)
    assert case.number("out/images_counted") == 4
    assert filtered > everything + 0.1


def corners(labels: np.ndarray) -> np.ndarray:
    """Rows class, center, width and height in 0..1, zeros as padding -> (n, 5) corners at 224 pixels and the class."""
    rows = labels[labels[:, 3] > 0].astype(float)
    center, half = 224 * rows[:, 1:3], 224 * rows[:, 3:5] / 2
    return np.concatenate([center - half, center + half, rows[:, :1]], 1)


def test_the_filtered_mean_stands_under_its_own_name_and_for_the_protocol_that_asks_alone() -> None:
    box, far = np.array([[0, 0, 10, 10, 0.0]]), np.array([[50, 50, 60, 60, 0.9, 0]])
    hit = np.array([[0, 0, 10, 10, 0.8, 0.0]])
    unsure = np.array([[0, 0, 10, 10, 0.4, 0.0]])
    names = np.array(["found", "missed", "unsure", "false alarm"])
    arrays = {"detections": padded([hit, hit[:0], unsure, far], 6), "truth": padded([box, box, box, box[:0]], 5)}
    scores = one(Predictions(names, names, arrays, {"classes": ("c",)}))
    assert scores["map40_75_mgca_filtered"] == pytest.approx(1)
    assert scores["map40_75"] < 0.5
    assert "map40_75_mgca_filtered" not in Detection().score(random_predictions(0), QUICK, np.ones((1, 15)))


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_the_filtered_mean_is_that_of_the_images_that_it_keeps(seed: int) -> None:
    predictions = random_predictions(seed, n=10, most=2, ties_within=False)
    detections, truth = predictions.arrays["detections"].copy(), predictions.arrays["truth"]
    detections[detections[..., 4] < 0.5] = np.nan
    kept = np.flatnonzero(~np.isnan(detections[..., 0]).all(axis=1) & ~np.isnan(truth[..., 0]).all(axis=1))
    chosen = replace(predictions, arrays={"detections": detections, "truth": truth}).take(kept)
    np.testing.assert_allclose(one(predictions)["map40_75_mgca_filtered"], one(chosen)["map40_75"], atol=1e-12)


# ------------------------------------------------------------------------------------------------------ FROC


def by_loop(predictions: Predictions, label: int = 0) -> float:
    """The challenge's walk down the scores, for one class whose scores are distinct."""
    n, rows = len(predictions.uids), []
    objects = [[box for box in image if box[4] == label] for image in predictions.arrays["truth"]]
    for image, found in enumerate(predictions.arrays["detections"]):
        rows += [(row[4], image, (row[0] + row[2]) / 2, (row[1] + row[3]) / 2) for row in found if row[5] == label]
    n_objects = sum(map(len, objects))
    hits: set[tuple[int, int]] = set()
    false, sensitivities, left = 0, [], list(RATES)
    for _, image, x, y in sorted(rows, reverse=True):
        inside = [index for index, (x0, y0, x1, y1, _) in enumerate(objects[image]) if x0 <= x <= x1 and y0 <= y <= y1]
        hits |= {(image, index) for index in inside}
        false += not inside
        while left and false / n >= left[0]:
            sensitivities.append(len(hits) / n_objects)
            left.pop(0)
    sensitivities += [len(hits) / n_objects] * len(left)
    return float(np.mean(sensitivities))


def distinct(seed: int, n: int = 12) -> Predictions:
    """One class, no two equal scores."""
    predictions = random_predictions(seed, n=n, classes=2)
    detections = predictions.arrays["detections"].copy()
    real = ~np.isnan(detections[..., 4])
    detections[..., 4][real] = np.random.default_rng(seed).permutation(real.sum()) / 1000
    return replace(predictions, arrays={**predictions.arrays, "detections": detections})


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_froc_equals_a_walk_down_the_scores(seed: int) -> None:
    predictions = distinct(seed)
    detections, truth = predictions.arrays["detections"], predictions.arrays["truth"]
    if (truth[..., 4] == 0).any():
        assert froc(detections, truth, 0, np.ones((1, 12)))[0] == pytest.approx(by_loop(predictions), abs=1e-12)


def test_the_seven_rates_are_those_of_the_challenge() -> None:
    boxes = padded([np.array([[0, 0, 10, 10, 0.0]])] * 8, 5)  # 8 images with an object each
    hit, miss = [0.0, 0, 10, 10], [50.0, 50, 60, 60]
    rows = [np.array([[*miss, 0.9 - image / 100, 0], [*hit, 0.8 - image / 100, 0]]) for image in range(8)]
    # 8 false alarms before the first hit: no object at rates to 1, then all 8
    assert froc(padded(rows, 6), boxes, 0, np.ones((1, 8)))[0] == pytest.approx(3 / 7)
    only_hits = [row[1:] for row in rows]
    assert froc(padded(only_hits, 6), boxes, 0, np.ones((1, 8)))[0] == 1


def test_an_image_without_boxes_and_detections_allows_more_false_positives() -> None:
    box, hit = np.array([[0, 0, 10, 10, 0.0]]), [0.0, 0, 10, 10]
    rows = np.array([[50.0, 50, 60, 60, 0.9, 0], [*hit, 0.5, 0]])
    names = np.array(["a"])
    alone = Predictions(names, names, {"detections": padded([rows], 6), "truth": padded([box], 5)}, {"classes": ("c",)})
    assert one(alone)["froc"] == pytest.approx(3 / 7)  # one false positive an image: the rates 2, 4 and 8 are not reached
    two = extended(alone, rows[:0], box[:0])
    assert one(two)["froc"] == pytest.approx(4 / 7)  # a half
    assert one(two)["map50"] == one(alone)["map50"]  # average precision knows no number of images


def test_a_second_hit_is_a_false_positive_of_average_precision_and_none_of_froc() -> None:
    box = np.array([[0, 0, 10, 10, 0.0], [30, 30, 40, 40, 0.0]])
    first = np.array([[0.0, 0, 10, 10, 0.9, 0], [0, 0, 10, 10, 0.8, 0], [30, 30, 40, 40, 0.7, 0]])
    names = np.array(["a"])
    arrays = {"detections": padded([first], 6), "truth": padded([box], 5)}
    twice = one(Predictions(names, names, arrays, {"classes": ("c",)}))
    once = one(Predictions(names, names, {**arrays, "detections": padded([first[[0, 2]]], 6)}, {"classes": ("c",)}))
    assert (once["map50"], once["froc"], twice["froc"]) == (1, 1, 1)
    assert twice["map50"] == pytest.approx((51 + 50 * 2 / 3) / 101)  # precision 2/3 beyond a recall of a half


def test_equal_scores_stand_or_fall_together() -> None:
    box, hit = np.array([[0, 0, 10, 10, 0.0]]), [0.0, 0, 10, 10, 0.5, 0]
    rows = np.array([hit, [50.0, 50, 60, 60, 0.5, 0]])
    for order in ([0, 1], [1, 0]):
        assert froc(padded([rows[order]], 6), padded([box], 5), 0, np.ones((1, 1)))[0] == pytest.approx(3 / 7)


# ------------------------------------------------------------------------------------------------ properties


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_no_score_depends_on_the_order_of_the_images(seed: int) -> None:
    predictions = random_predictions(seed, n=10, ties_within=False)
    detections = predictions.arrays["detections"].copy()
    detections[..., 4] += np.arange(10)[:, None] / 1e4  # COCO breaks ties across images by their order
    predictions = replace(predictions, arrays={**predictions.arrays, "detections": detections})
    shuffled = predictions.take(np.random.default_rng(seed).permutation(10))
    for name, value in one(predictions).items():
        np.testing.assert_allclose(one(shuffled)[name], value, atol=1e-12, err_msg=name)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_froc_of_tied_scores_does_not_depend_on_the_order_either(seed: int) -> None:
    predictions = random_predictions(seed, n=10)
    shuffled = predictions.take(np.random.default_rng(seed).permutation(10))
    np.testing.assert_allclose(one(shuffled)["froc"], one(predictions)["froc"], atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_scores_lie_between_0_and_1_and_do_not_change_with_the_scale_of_confidences(seed: int) -> None:
    predictions = random_predictions(seed, n=8)
    detections = predictions.arrays["detections"].copy()
    detections[..., 4] = detections[..., 4] / 10 + 0.9  # above MGCA's threshold as well
    before, after = (one(replace(predictions, arrays={**predictions.arrays, "detections": item})) for item in
                     (detections, np.where(np.arange(6) == 4, detections**3, detections)))  # fmt: skip
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, atol=1e-12, err_msg=name)
        assert np.isnan(value) or 0 <= value <= 1


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_a_false_alarm_never_helps_and_an_empty_image_never_hurts_froc(seed: int) -> None:
    predictions = random_predictions(seed, n=8)
    alarm = np.array([[200.0, 200, 210, 210, 0.95, 0]])
    worse, same = extended(predictions, alarm, np.empty((0, 5))), extended(predictions, alarm[:0], np.empty((0, 5)))
    assert not one(worse)["map40_75"] > one(predictions)["map40_75"]
    assert not one(worse)["froc"] > one(same)["froc"]
    assert not one(same)["froc"] < one(predictions)["froc"]
    np.testing.assert_allclose(one(same)["map40_75"], one(predictions)["map40_75"], atol=1e-12)


def test_one_patient_with_all_the_boxes_leaves_draws_without_that_patient_undefined() -> None:
    box, hit = np.array([[0, 0, 10, 10, 0.0]]), np.array([[0, 0, 10, 10, 0.5, 0.0]])
    arrays = {"detections": padded([hit] * 4, 6), "truth": padded([box, box[:0], box[:0], box[:0]], 5)}
    names = np.array(list("abcd"))
    predictions = Predictions(names, names, arrays, {"classes": ("c",)})
    weights = np.array([[1.0, 1, 1, 1], [0, 2, 1, 1]])
    for name, value in Detection().score(predictions, MGCA, weights).items():
        assert 0 < value[0] <= 1, name
        assert np.isnan(value[1]), name
    found = with_intervals(lambda weight: Detection().score(predictions, MGCA, weight), names, 200, 0)
    assert found["map40_75"].value == pytest.approx(1)  # all equal scores: COCO's order, the true one first
    assert found["map40_75"].low is not None


def test_one_image_alone_is_scored() -> None:
    scores = one(random_predictions(4, n=1))
    assert {name for name, value in scores.items() if 0 <= value <= 1} >= {"map", "map40_75", "froc"}
