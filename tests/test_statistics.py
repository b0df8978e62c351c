"""The patient bootstrap against a slow loop, its seeds and limits, and (slow) the coverage of its intervals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import bootstrap, norm
from sklearn.metrics import roc_auc_score

from benchmark import metrics, statistics
from benchmark.statistics import Resampled, Score, holm, p_value, patient_weights, resample, with_intervals
from benchmark.types import Metric

Floats = NDArray[np.float64]


def cohort(patients: int = 30, images: int = 3, seed: int = 0) -> tuple[NDArray[np.str_], Floats, Floats]:
    """Patients in a shuffled order of rows, targets (N,) and scores (N,)."""
    rng = np.random.default_rng(seed)
    names = np.repeat([f"p{index:03d}" for index in range(patients)], images)[rng.permutation(patients * images)]
    targets = (rng.random(len(names)) < 0.4).astype(float)
    return names, targets, rng.normal(size=len(names)) + targets


def auroc_of(scores: Floats, targets: Floats) -> Score:
    return lambda weights: {"auroc": metrics.auroc(scores, targets, weights), "mean": metrics.mean(scores, weights)}


def bounds(metric: Metric) -> tuple[float, float]:
    assert metric.low is not None
    assert metric.high is not None
    return metric.low, metric.high


def stacked(names: NDArray[np.str_], draws: int, seed: int) -> Floats:
    return np.concatenate(list(patient_weights(names, draws, seed)))


def test_a_draw_takes_whole_patients_with_replacement() -> None:
    names, _, _ = cohort()
    weights = stacked(names, 200, 0)
    assert weights.shape == (200, len(names))
    for name in np.unique(names):
        own = weights[:, names == name]
        assert (own == own[:, :1]).all()  # all images of a patient together
    first = weights[:, np.unique(names, return_index=True)[1]]  # one column a patient
    assert (first.sum(axis=1) == 30).all()
    assert first.mean() == 1
    assert first.var() == pytest.approx(1 - 1 / 30, abs=0.05)  # multinomial, not a subset or a shuffle


def test_intervals_equal_a_slow_loop_over_the_same_draws() -> None:
    names, targets, scores = cohort()
    found = with_intervals(auroc_of(scores, targets), names, 300, 7)
    values = []
    for counts in stacked(names, 300, 7).astype(int):
        rows = np.repeat(np.arange(len(names)), counts)
        values.append(roc_auc_score(targets[rows], scores[rows]))
    assert found["auroc"].value == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)
    assert bounds(found["auroc"]) == pytest.approx(bca_of(values, names, targets, scores), abs=1e-9)
    assert found["auroc"].n == 30


def bca_of(draws: list[float], names: NDArray[np.str_], targets: Floats, scores: Floats) -> tuple[float, float]:
    """SciPy's BCa interval of an AUROC from given draws, with its own jackknife over patients."""

    def area(patients: NDArray[np.str_]) -> float:
        rows = np.concatenate([np.flatnonzero(names == name) for name in patients])
        return float(roc_auc_score(targets[rows], scores[rows]))

    drawn: Any = SimpleNamespace(bootstrap_distribution=np.array(draws))
    found = bootstrap(
        (np.unique(names),), area, n_resamples=0, vectorized=False, method="BCa", bootstrap_result=drawn
    ).confidence_interval
    return float(found.low), float(found.high)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    names, targets, scores = cohort()
    score = auroc_of(scores, targets)
    first = with_intervals(score, names, 200, 3)
    np.random.default_rng().random()
    assert with_intervals(score, names, 200, 3) == first
    assert with_intervals(score, names, 200, 4)["auroc"].low != first["auroc"].low
    assert with_intervals(score, names, 200, 4)["auroc"].value == first["auroc"].value


def test_the_global_generator_neither_matters_nor_moves() -> None:
    names, targets, scores = cohort()
    before = str(np.random.get_state())
    first = with_intervals(auroc_of(scores, targets), names, 50, 0)
    assert str(np.random.get_state()) == before
    np.random.rand(3)
    assert with_intervals(auroc_of(scores, targets), names, 50, 0) == first


def test_the_order_of_rows_does_not_change_an_interval() -> None:
    names, targets, scores = cohort()
    order = np.random.default_rng(1).permutation(len(names))
    first = with_intervals(auroc_of(scores, targets), names, 200, 0)["auroc"]
    second = with_intervals(auroc_of(scores[order], targets[order]), names[order], 200, 0)["auroc"]
    assert bounds(second) == pytest.approx(bounds(first), abs=1e-12)


@pytest.mark.parametrize("chunk", [1, 1000, 10**9])
def test_the_size_of_the_pieces_does_not_change_an_interval(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names, targets, scores = cohort()
    expected = bounds(with_intervals(auroc_of(scores, targets), names, 60, 0)["auroc"])
    monkeypatch.setattr(statistics, "CHUNK", chunk)
    found = with_intervals(auroc_of(scores, targets), names, 60, 0)["auroc"]
    assert bounds(found) == pytest.approx(expected, abs=1e-12)


def test_no_draws_give_values_without_intervals() -> None:
    names, targets, scores = cohort()
    found = with_intervals(auroc_of(scores, targets), names, 0, 0)["auroc"]
    assert found.value == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)
    assert (found.low, found.high, found.n) == (None, None, 30)


def test_an_undefined_value_is_none_and_has_no_interval() -> None:
    names, _, scores = cohort()
    found = with_intervals(auroc_of(scores, np.zeros(len(names))), names, 50, 0)["auroc"]
    assert (found.value, found.low, found.high) == (None, None, None)


def test_a_metric_that_most_draws_lack_has_no_interval() -> None:
    names = np.array([f"p{index}" for index in range(100)])
    often, seldom = np.zeros(100), np.zeros(100)
    often[:10], seldom[0] = 1, 1  # the single positive is missing from 37 % of the draws of 100, the ten from almost none
    scores = np.arange(100.0)

    def score(weights: Floats) -> dict[str, Floats]:
        rare = np.where(weights[:, 0] >= 2, 1.0, np.nan)  # in 26 % of the draws
        return {"often": metrics.auroc(scores, often, weights), "seldom": metrics.auroc(scores, seldom, weights), "rare": rare}

    found = with_intervals(score, names, 400, 0)
    assert found["often"].low is not None
    assert found["seldom"].low is not None
    assert (found["rare"].low, found["rare"].high) == (None, None)


def test_a_method_differs_from_itself_by_exactly_nothing() -> None:
    names, targets, scores = cohort()
    drawn = resample(auroc_of(scores, targets), names, 200, 0)
    again = resample(auroc_of(scores.copy(), targets), names, 200, 0)
    for name, found in drawn.items():
        difference = found - again[name]
        assert (difference.metric.value, difference.metric.low, difference.metric.high) == (0.0, 0.0, 0.0)
        assert p_value(difference) == 1.0


def test_a_paired_difference_uses_the_same_patients_for_both() -> None:
    names, targets, scores = cohort(60)
    better = scores + 0.2 * targets
    first, second = (resample(auroc_of(item, targets), names, 300, 5)["auroc"] for item in (better, scores))
    found = (first - second).metric
    draws = stacked(names, 300, 5)
    values = metrics.auroc(better, targets, draws) - metrics.auroc(scores, targets, draws)
    middle = np.quantile(values, [0.025, 0.975])
    assert bounds(found) == pytest.approx(middle, abs=0.2 * np.diff(middle)[0])  # BCa moves percentiles, a little here
    assert found.value == pytest.approx(roc_auc_score(targets, better) - roc_auc_score(targets, scores), abs=1e-12)
    single = with_intervals(auroc_of(scores, targets), names, 300, 5)["auroc"]
    assert np.diff(bounds(found)) < 0.5 * np.diff(bounds(single))  # what pairing is for


@pytest.mark.parametrize("seed", range(20))
def test_p_is_below_5_percent_where_the_interval_excludes_0_and_nowhere_else(seed: int) -> None:
    generator = np.random.default_rng(seed)
    draws = generator.gamma(3, 1, 400) * generator.choice([-1, 1]) + generator.normal(0, 3)
    left_out = generator.exponential(1, 50) / 50
    found = Resampled(float(draws.mean()), draws, left_out, 50)
    low, high = bounds(found.metric)
    p = p_value(found)
    assert p is not None
    assert (p < 0.05) == (low > 0 or high < 0)


def tied_difference(seed: int, sign: int = 1) -> Resampled:
    """Of two accuracies that differ in a tenth of 20 to 150 patients: many draws are exactly 0."""
    generator = np.random.default_rng(seed)
    answers = sign * generator.choice([-1.0, 0.0, 1.0], size=int(generator.choice([20, 60, 150])), p=[0.05, 0.9, 0.05])
    names = np.arange(len(answers)).astype(str)
    return resample(lambda weights: {"accuracy": weights @ answers / weights.sum(axis=1)}, names, 1000, 0)["accuracy"]


def test_p_of_tied_draws_agrees_with_the_interval() -> None:
    both = [(found.metric, p_value(found)) for found in map(tied_difference, range(300))]
    kept = [(bounds(metric), p) for metric, p in both if metric.low is not None and p is not None]
    held = [(p, low, high) for (low, high), p in kept if low <= 0 <= high]
    outside = [p for (low, high), p in kept if not low <= 0 <= high]
    assert len(held) > 200
    assert len(outside) > 10
    assert min(held)[0] >= 0.05 - 2 / 1000, min(held)  # 1,000 draws tell no less apart
    assert max(outside) < 0.05 + 2 / 1000


def test_p_of_tied_draws_does_not_depend_on_the_order_of_the_methods() -> None:
    for seed in range(30):
        assert p_value(tied_difference(seed)) == pytest.approx(p_value(tied_difference(seed, -1)))


def test_one_patient_has_neither_an_interval_nor_a_p() -> None:
    scores = np.random.default_rng(0).random(50)
    found = resample(lambda weights: {"mean": metrics.mean(scores, weights)}, np.full(50, "unknown"), 200, 0)["mean"]
    assert (found.metric.value, found.metric.low, found.metric.high) == (pytest.approx(scores.mean()), None, None)
    assert p_value(found) is None


def test_rounding_is_no_difference() -> None:
    constant = Resampled(1e-17, np.full(1000, 1.2e-17), np.zeros(200), 200)
    assert p_value(constant) == 1.0
    draws = np.random.default_rng(0).random(1000)
    first, second = Resampled(0.3, draws, draws[:200], 200), Resampled(0.1 + 0.2, draws * (1 + 2e-16), draws[:200], 200)
    difference = second - first
    assert second.value != first.value
    assert (difference.metric.value, difference.metric.low, difference.metric.high) == (0.0, 0.0, 0.0)
    assert p_value(difference) == 1.0
    noise = np.where(draws < 0.3, np.where(draws < 0.15, -1e-17, 1e-17), draws)  # ties but for rounding
    tied = np.where(draws < 0.3, 0.0, draws)
    found = [p_value(Resampled(0.3, item, np.linspace(0.2, 0.4, 200), 200)) for item in (noise, tied)]
    assert found[0] == found[1]


def test_p_goes_on_where_the_draws_end_and_is_symmetric() -> None:
    draws = np.random.default_rng(0).normal(0, 1, 500)
    left_out = np.linspace(-1, 1, 50)
    values = [p_value(Resampled(shift, draws + shift, left_out, 50)) for shift in (0.0, 2.0, 4.0, 30.0)]
    known = [item for item in values if item is not None]
    assert known[0] > 0.9
    assert 0.01 < known[1] < 0.1
    assert 1e-6 < known[2] < 1e-3
    assert known[3] == 1e-6
    mirrored = p_value(Resampled(-4.0, -draws - 4.0, -left_out, 50))
    assert mirrored == pytest.approx(known[2])
    assert p_value(Resampled(np.nan, draws, left_out, 50)) is None
    assert p_value(Resampled(1.0, np.zeros(0), left_out, 50)) is None


def test_holm_against_its_definition() -> None:
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02, 0.02, 0.001]) == pytest.approx([0.04, 0.04, 0.003])


def test_a_jackknife_of_many_patients_leaves_out_groups_of_them() -> None:
    names = np.array([f"p{index:04d}" for index in range(1000)])
    found = resample(lambda weights: {"n": weights.sum(axis=1)}, names, 3, 0)["n"]
    assert found.left_out.tolist() == [995.0] * 200


def simulated(rng: np.random.Generator, patients: int = 150, images: int = 4) -> tuple[Floats, Floats]:
    """Targets and scores (patients, images): label and most of the noise are the patient's. AUROC = Phi(1 / sqrt(2 * 1.1))."""
    targets = np.repeat((rng.random((patients, 1)) < 0.4).astype(float), images, axis=1)
    noise = rng.normal(size=(patients, 1)) + np.sqrt(0.1) * rng.normal(size=(patients, images))
    return targets, targets + noise


@pytest.mark.slow
def test_intervals_by_patient_cover_and_intervals_by_image_do_not() -> None:
    truth = norm.cdf(1 / np.sqrt(2 * 1.1))
    rng, repetitions = np.random.default_rng(0), 300
    by_patient = np.repeat([f"p{index:03d}" for index in range(150)], 4)
    by_image = np.array([f"i{index:03d}" for index in range(600)])
    hits = dict.fromkeys(("patient", "image"), 0)
    for repetition in range(repetitions):
        targets, scores = (item.ravel() for item in simulated(rng))
        for name, units in (("patient", by_patient), ("image", by_image)):
            low, high = bounds(with_intervals(auroc_of(scores, targets), units, 300, repetition)["auroc"])
            hits[name] += low <= truth <= high
    assert 0.88 <= hits["patient"] / repetitions <= 0.99, hits
    assert hits["image"] / repetitions < 0.8, hits
