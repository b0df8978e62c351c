"""Dice in all its definitions: the golden arrays of MGCA's code, plain loops over pixels, and what holds for any counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.geometry import IGNORE
from tasks.segmentation_masks import count_pixels
from tasks.segmentation_scores import image_scores, pooled_scores, scores
from tests.golden import Case, needs_golden


def pixels(seed: int, n: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and masks (N, 12, 10) of every kind: empty, full, ignored in part, right, wrong."""
    draw = np.random.default_rng(seed)
    share = draw.choice([0.0, 0.2, 0.7, 1.0], (2, n, 1, 1))
    predicted, target = draw.random((2, n, 12, 10)) < share
    masks = target.astype(np.uint8)
    masks[draw.random(masks.shape) < draw.choice([0.0, 0.3], (n, 1, 1))] = IGNORE
    return predicted, masks


def counted(predicted: np.ndarray, masks: np.ndarray) -> np.ndarray:
    rows = [count_pixels({"x": found}, {"x": mask}) for found, mask in zip(predicted, masks)]
    return np.stack(rows)  # (N, 1, 4)


@needs_golden
def test_dice_of_each_image_is_that_of_mgca() -> None:
    case = Case("mgca_metrics/dice_a")
    chance = 1 / (1 + np.exp(-case.arrays["in/logits"].astype(float)))
    counts = counted(chance > case.number("hp/threshold"), case.arrays["in/mask"])
    found = image_scores(counts)["dice_empty1"][:, 0]
    np.testing.assert_allclose(found, case.arrays["out/dice_per_image"], rtol=1e-6)
    assert scores(counts, np.ones((1, 8)), ["x"])["dice_empty1"][0] == pytest.approx(case.number("out/dice"), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_every_metric_equals_a_loop_over_pixels(seed: int) -> None:
    predicted, masks = pixels(seed)
    found = scores(counted(predicted, masks), np.ones((1, len(masks))), ["x"])
    dice, background, positives, iou = [], [], [], []
    for image, mask in zip(predicted, masks):
        one, two = image[mask != IGNORE], mask[mask != IGNORE] == 1
        both, either = int((one & two).sum()), int((one | two).sum())
        dice.append(2 * both / (both + either) if either else 1.0)
        iou.append(both / either if either else 1.0)
        both, either = int((~one & ~two).sum()), int((~one | ~two).sum())
        background.append(2 * both / (both + either) if either else 1.0)
        if two.any():
            positives.append(dice[-1])
    everything, truth = predicted[masks != IGNORE], masks[masks != IGNORE] == 1
    micro = 2 * (everything & truth).sum() / (everything.sum() + truth.sum())
    expected = {
        "dice_empty1": np.mean(dice),
        "iou_empty1": np.mean(iou),
        "dice_nonempty": np.mean(positives),
        "mdice": (np.mean(dice) + np.mean(background)) / 2,
        "dice_micro": micro,
        "iou_micro": micro / (2 - micro),
    }
    assert set(found) == {*expected, *(f"{name}/x" for name in expected)}
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value), name


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_what_holds_for_any_pixels(seed: int) -> None:
    predicted, masks = pixels(seed)
    counts = counted(predicted, masks)
    by_image, ones = image_scores(counts), np.ones((1, len(masks)))
    for values in by_image.values():
        assert ((values[~np.isnan(values)] >= 0) & (values[~np.isnan(values)] <= 1)).all()
    np.testing.assert_allclose(by_image["iou_empty1"], by_image["dice_empty1"] / (2 - by_image["dice_empty1"]))
    assert (by_image["mdice"] >= by_image["dice_empty1"] / 2 - 1e-12).all()
    order = np.random.default_rng(seed).permutation(len(masks))
    for name, value in scores(counts, ones, ["x"]).items():
        np.testing.assert_allclose(value, scores(counts[order], ones, ["x"])[name], rtol=1e-12)
    # pooled Dice is the mean of Dice weighted by the pixels of target and prediction
    weight = counts[:, 0, 1] + counts[:, 0, 2]
    if weight.sum():
        expected = (by_image["dice_empty1"][:, 0] * weight).sum() / weight.sum()
        assert pooled_scores(counts, ones)["dice_micro"][0, 0] == pytest.approx(expected)
    swapped = counts[..., [0, 2, 1, 3]]
    np.testing.assert_allclose(pooled_scores(swapped, ones)["dice_micro"], pooled_scores(counts, ones)["dice_micro"])


def test_masks_that_are_all_empty_have_no_dice_over_positives_and_none_over_pixels() -> None:
    counts = np.array([[[0.0, 0, 0, 100]], [[0.0, 0, 0, 100]]])
    found = scores(counts, np.ones((1, 2)), ["x"])
    assert found["dice_empty1"][0] == found["iou_empty1"][0] == found["mdice"][0] == 1
    assert np.isnan(found["dice_nonempty"][0])
    assert np.isnan(found["dice_micro"][0])
    counts[0, 0, 1] = 5  # five pixels on nothing
    found = scores(counts, np.ones((1, 2)), ["x"])
    assert (found["dice_empty1"][0], found["dice_micro"][0]) == (0.5, 0.0)


def test_one_positive_that_a_draw_leaves_out_leaves_its_metrics_undefined_in_that_draw_alone() -> None:
    counts = np.array([[[40.0, 50, 50, 100]], [[0.0, 0, 0, 100]], [[0.0, 0, 0, 100]]])
    found = scores(counts, np.array([[1.0, 1, 1], [0, 2, 1], [3, 0, 0]]), ["x"])
    np.testing.assert_allclose(found["dice_nonempty"], [0.8, np.nan, 0.8])
    np.testing.assert_allclose(found["dice_micro"], [0.8, np.nan, 0.8])
    np.testing.assert_allclose(found["dice_empty1"], [(0.8 + 2) / 3, 1.0, 0.8])
