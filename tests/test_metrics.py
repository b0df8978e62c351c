"""Metrics against scikit-learn, under properties that they must have, and against recorded values of others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk

from benchmark import metrics
from benchmark.errors import UserError

REFERENCE = Path(os.environ.get("BENCHMARK_REFERENCE", "/nonexistent"))
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "clip_benchmark").is_dir(),
    reason="set BENCHMARK_REFERENCE to the folder of recorded reference arrays (with clip_benchmark/*.npz, cxr_clip/*.npz)",
)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
Floats = NDArray[np.float64]


def one(value: Floats) -> float:
    assert value.shape == (1,)
    assert value.dtype == np.float64
    return float(value[0])


def ones(n: int) -> Floats:
    return np.ones((1, n))


@st.composite
def scored(draw: st.DrawFn, ties: bool = True) -> tuple[Floats, Floats]:
    """Scores with many ties and targets that hold both values."""
    n = draw(st.integers(2, 30))
    element = st.integers(-3, 3) if ties else st.floats(-1.7e308, 1.7e308)
    scores = draw(st.lists(element, min_size=n, max_size=n))
    targets = draw(st.lists(st.integers(0, 1), min_size=n - 2, max_size=n - 2))
    return np.array(scores, float), np.array([0, 1, *targets], float)


@quick
@given(st.one_of(scored(), scored(ties=False)))
def test_auroc_and_average_precision_equal_scikit_learn(case: tuple[Floats, Floats]) -> None:
    scores, targets = case
    assert one(metrics.auroc(scores, targets, ones(len(scores)))) == pytest.approx(sk.roc_auc_score(targets, scores), abs=1e-12)
    found = one(metrics.average_precision(scores, targets, ones(len(scores))))
    assert found == pytest.approx(sk.average_precision_score(targets, scores), abs=1e-12)


@quick
@given(scored(), st.data())
def test_weights_equal_repeated_rows(case: tuple[Floats, Floats], data: st.DataObject) -> None:
    scores, targets = case
    counts = np.array(data.draw(st.lists(st.integers(0, 4), min_size=len(scores), max_size=len(scores))))
    weights, repeated = counts[None].astype(float), np.repeat(np.arange(len(scores)), counts)
    again = scores[repeated], targets[repeated], ones(len(repeated))
    for function in (metrics.auroc, metrics.average_precision):
        np.testing.assert_allclose(function(scores, targets, weights), function(*again), rtol=0, atol=1e-12)
    predicted = (scores > 0).astype(float)
    for cell, other in zip(
        metrics.confusion(predicted, targets, weights), metrics.confusion(predicted[repeated], *again[1:]), strict=True
    ):
        np.testing.assert_array_equal(cell, other)
    np.testing.assert_allclose(metrics.mean(scores, weights), metrics.mean(*again[::2]), rtol=0, atol=1e-12)
    expected = np.median(scores[repeated]) if len(repeated) else np.nan
    np.testing.assert_array_equal(metrics.median(scores, weights), [expected])


def test_weighted_areas_equal_scikit_learns_sample_weight() -> None:
    rng = np.random.default_rng(0)
    scores, targets = np.round(rng.normal(size=200), 1), (rng.random(200) < 0.3).astype(float)
    weights = rng.random((5, 200))
    areas, precisions = metrics.auroc(scores, targets, weights), metrics.average_precision(scores, targets, weights)
    for row, area, precision in zip(weights, areas, precisions, strict=True):
        assert area == pytest.approx(sk.roc_auc_score(targets, scores, sample_weight=row), abs=1e-12)
        assert precision == pytest.approx(sk.average_precision_score(targets, scores, sample_weight=row), abs=1e-12)


def test_an_absent_class_is_undefined_and_left_out_of_the_macro() -> None:
    rng = np.random.default_rng(1)
    scores, targets = rng.normal(size=(50, 3)), (rng.random((50, 3)) < 0.4).astype(float)
    targets[:, 1] = 0
    found = metrics.multilabel(scores, scores > 0, targets, ("a", "absent", "b"), ones(50))
    assert np.isnan(found["auroc/absent"]).all()
    assert np.isnan(found["average_precision/absent"]).all()
    expected = np.mean([sk.roc_auc_score(targets[:, k], scores[:, k]) for k in (0, 2)])
    assert one(found["auroc"]) == pytest.approx(expected, abs=1e-12)
    expected = np.mean([sk.average_precision_score(targets[:, k], scores[:, k]) for k in (0, 2)])
    assert one(found["average_precision"]) == pytest.approx(expected, abs=1e-12)
    assert one(found["defined_classes"]) == 2


def test_a_draw_without_a_class_leaves_the_others_defined() -> None:
    scores, targets = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.4]]), np.array([[0, 1.0], [1, 0], [0, 0]])
    weights = np.array([[1.0, 1, 1], [0, 1, 1]])  # the second draw has no positive of class b
    found = metrics.multilabel(scores, scores > 0.5, targets, ("a", "b"), weights)
    np.testing.assert_array_equal(found["auroc/b"], [1, np.nan])
    np.testing.assert_array_equal(found["auroc"], [1, 1])
    np.testing.assert_array_equal(found["defined_classes"], [2, 1])


def test_without_any_defined_class_the_macro_is_undefined_not_zero() -> None:
    found = metrics.multilabel(np.zeros((4, 1)), np.zeros((4, 1)), np.zeros((4, 1)), ("a",), ones(4))
    assert np.isnan(one(found["auroc"]))
    assert np.isnan(one(found["average_precision"]))
    assert np.isnan(one(found["f1"]))  # neither a positive nor a predicted one
    assert one(found["accuracy"]) == 1
    assert np.isnan(one(metrics.auroc(np.zeros(2), np.full(2, np.nan), ones(2))))


def test_multilabel_equals_scikit_learn_class_by_class() -> None:
    rng = np.random.default_rng(2)
    scores, targets = rng.normal(size=(80, 4)), (rng.random((80, 4)) < 0.3).astype(float)
    predicted = (scores > 0.4).astype(float)
    names = tuple("abcd")
    found = metrics.multilabel(scores, predicted, targets, names, ones(80))
    accuracy = np.mean([sk.accuracy_score(targets[:, k], predicted[:, k]) for k in range(4)])
    assert one(found["accuracy"]) == pytest.approx(accuracy, abs=1e-12)
    assert one(found["f1"]) == pytest.approx(sk.f1_score(targets, predicted, average="macro"), abs=1e-12)
    assert one(found["auroc"]) == pytest.approx(sk.roc_auc_score(targets, scores, average="macro"), abs=1e-12)
    for k, name in enumerate(names):
        assert one(found[f"auroc/{name}"]) == pytest.approx(sk.roc_auc_score(targets[:, k], scores[:, k]), abs=1e-12)


@quick
@given(scored(), st.integers(0, 5))
def test_unknown_targets_are_left_out(case: tuple[Floats, Floats], seed: int) -> None:
    scores, targets = case
    rng = np.random.default_rng(seed)
    noisy = np.concatenate([scores, rng.normal(size=5)]), np.concatenate([targets, np.full(5, np.nan)])
    weights = ones(len(scores))
    for function in (metrics.auroc, metrics.average_precision):
        np.testing.assert_array_equal(function(*noisy, ones(len(scores) + 5)), function(scores, targets, weights))
    with_unknown = metrics.multilabel(noisy[0][:, None], noisy[0][:, None] > 0, noisy[1][:, None], ("a",), ones(len(noisy[0])))
    without = metrics.multilabel(scores[:, None], scores[:, None] > 0, targets[:, None], ("a",), weights)
    assert with_unknown == without


@quick
@given(scored(), st.sampled_from([-1000.0, -1.0, 0.5, 1e6]))
def test_only_the_order_of_scores_counts(case: tuple[Floats, Floats], constant: float) -> None:
    scores, targets = case
    weights = ones(len(scores))
    for function in (metrics.auroc, metrics.average_precision):
        value = function(scores, targets, weights)
        for changed in (scores + constant, np.exp(scores), scores**3, np.arctan(scores), 7 * scores):
            np.testing.assert_array_equal(function(changed, targets, weights), value)
        shuffle = np.random.default_rng(0).permutation(len(scores))
        np.testing.assert_allclose(function(scores[shuffle], targets[shuffle], weights), value, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        metrics.auroc(-scores, targets, weights), 1 - metrics.auroc(scores, targets, weights), rtol=0, atol=1e-12
    )


def test_large_logits_do_not_saturate() -> None:
    rng = np.random.default_rng(3)
    targets = (rng.random(4000) < 0.5).astype(float)
    logits = rng.normal(size=4000) * 30 + 30 * targets
    exact = sk.roc_auc_score(targets, logits)
    assert one(metrics.auroc(logits, targets, ones(4000))) == pytest.approx(exact, abs=1e-12)
    assert one(metrics.auroc(logits.astype(np.float32), targets, ones(4000))) == pytest.approx(exact, abs=1e-6)
    saturated = 0.5 + 0.5 * np.tanh(logits.astype(np.float32) / 2)
    assert abs(sk.roc_auc_score(targets, saturated) - exact) > 1e-3  # what a sigmoid in between would have made of it


def test_scores_may_lie_anywhere_on_the_real_line() -> None:
    scores, targets = np.array([-1.7e308, 1.7e308, 5e-324, 0.0]), np.array([0.0, 1, 1, 0])
    assert one(metrics.auroc(scores, targets, ones(4))) == 1


def test_small_probabilities_are_not_binned() -> None:
    rng = np.random.default_rng(4)
    targets = (rng.random(2000) < 0.1).astype(float)
    scores = 1e-6 * rng.random(2000) * (1 + targets)
    exact = sk.roc_auc_score(targets, scores)
    assert one(metrics.auroc(scores, targets, ones(2000))) == pytest.approx(exact, abs=1e-12)
    assert exact > 0.6  # 100 bins of [0, 1] would give 0.5


def test_predictions_that_are_not_finite_are_refused_with_their_uids() -> None:
    scores = np.zeros((5, 2))
    uids = np.array(["u0", "u1", "u2", "u3", "u4"])
    metrics.require_finite(scores, uids)
    metrics.require_finite(np.zeros((0, 2)), uids[:0])
    scores[1, 0], scores[3, 1] = np.nan, np.inf
    with pytest.raises(UserError, match=r"^2 predictions are not finite \(first: u1, u3\)"):
        metrics.require_finite(scores, uids)
    with pytest.raises(UserError, match="first: u1"):
        metrics.require_finite(scores[:, 0], uids)


@quick
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9), st.data())
def test_weighted_median_is_that_of_the_repeated_rows(values: list[int], data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values)))
    repeated = np.repeat(values, counts)
    expected = np.median(repeated) if len(repeated) else np.nan
    np.testing.assert_array_equal(metrics.median(np.array(values, float), np.array([counts], float)), [expected])


@quick
@given(scored(), st.sampled_from([np.float32, np.float64]))
def test_no_threshold_has_a_better_f1_than_the_chosen_one(case: tuple[Floats, Floats], kind: type) -> None:
    scores: NDArray[Any] = (case[0] / 3).astype(kind)
    targets = case[1]
    chosen = one(metrics.f1_thresholds(scores[:, None], targets[:, None]))
    found = sk.f1_score(targets, scores >= chosen)
    candidates = [*np.unique(scores), np.inf, *(np.unique(scores) + 1e-3)]
    assert found >= max(sk.f1_score(targets, scores >= threshold, zero_division=0.0) for threshold in candidates) - 1e-12


def test_a_class_without_positives_gets_a_threshold_that_nothing_reaches() -> None:
    scores: Floats = np.random.default_rng(5).normal(size=(6, 3))
    targets = np.zeros((6, 3))
    targets[:, 1] = np.nan
    targets[2, 2] = 1
    chosen = metrics.f1_thresholds(scores, targets)
    assert np.isposinf(chosen[:2]).all()
    assert chosen[2] <= scores[2, 2]


@needs_reference
def test_average_precision_equals_the_recorded_one() -> None:
    with np.load(REFERENCE / "clip_benchmark" / "multilabel_ap.npz") as stored:
        scores, targets = stored["in/scores"], stored["in/targets"].astype(float)
        names = tuple(map(str, range(scores.shape[1])))
        found = metrics.multilabel(scores, scores > 0, targets, names, ones(len(scores)))
        per_class = [one(found[f"average_precision/{name}"]) for name in names]
        np.testing.assert_allclose(per_class, stored["out/ap_per_class"], atol=1e-6)
        assert one(found["average_precision"]) == pytest.approx(float(stored["out/mean_average_precision"]), abs=1e-6)


@needs_reference
def test_areas_and_rates_equal_the_recorded_ones() -> None:
    with np.load(REFERENCE / "cxr_clip" / "classification_metrics.npz") as stored:
        scores, targets = stored["in/scores"], stored["in/multilabel"].astype(float)
        names = tuple("ABC")
        found = metrics.multilabel(scores, scores > stored["hp/threshold"], targets, names, ones(len(scores)))
        for name in names:
            assert one(found[f"auroc/{name}"]) == pytest.approx(float(stored[f"out/multilabel/{name}/AUROC"]), abs=1e-6)
        for ours, theirs in (("auroc", "AUROC(Avg)"), ("f1", "F1(Avg)"), ("accuracy", "Accuracy(Avg)")):
            assert one(found[ours]) == pytest.approx(float(stored[f"out/multilabel/{theirs}"]), abs=1e-6)
