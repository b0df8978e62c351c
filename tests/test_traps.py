"""The traps in trusted libraries and habits of scoring, measured elsewhere: that each is one, and that no score falls into it.

TRAPS names for each of the fifteen the test that guards against it; those on decoding, random numbers and files lie elsewhere.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from benchmark import metrics
from benchmark.errors import UserError
from benchmark.statistics import with_intervals
from tasks.protocols import RETRIEVAL
from tasks.retrieval import Retrieval
from tests.test_ranks import predicted, records_of

HERE = "test_traps.py"
TRAPS = {
    1: (HERE, "test_trap_scores_at_or_below_zero_count_as_not_relevant"),
    2: (HERE, "test_trap_sigmoid_applied_batch_by_batch"),
    3: (HERE, "test_trap_sigmoid_saturates_in_single_precision"),
    4: (HERE, "test_trap_an_absent_class_counts_as_zero_in_the_macro"),
    5: (HERE, "test_trap_nan_predictions_are_accepted"),
    6: (HERE, "test_trap_binned_auroc_of_small_probabilities"),
    7: (HERE, "test_trap_rank_by_strictly_greater_rewards_a_collapsed_encoder"),
    8: (HERE, "test_trap_recall_within_batches_depends_on_the_batch_size"),
    9: (HERE, "test_trap_resampling_images_of_one_patient_narrows_the_interval"),
    10: ("test_images.py", "test_pillow_is_never_told_to_load_truncated_images"),
    11: ("test_images.py", "test_what_is_read_is_read_right"),
    12: ("test_pretrain.py", "test_stopped_at_any_step_it_goes_on_bit_for_bit"),
    13: ("test_store.py", "test_a_file_is_whole_after_each_of_twenty_kills"),
    14: (HERE, "test_trap_embeddings_that_differ_by_rounding_with_the_batch_size"),
    15: ("test_meter.py", "test_a_multiply_accumulate_counts_once"),
}
EXACT = next(protocol for protocol in RETRIEVAL if protocol.name == "retrieval-exact")


@pytest.mark.parametrize("number", TRAPS)
def test_each_trap_has_its_test(number: int) -> None:
    file, name = TRAPS[number]
    tree = ast.parse(Path(__file__).with_name(file).read_text())
    assert name in {item.name for item in ast.walk(tree) if isinstance(item, ast.FunctionDef)}


def retrieval(scores: NDArray[Any]) -> dict[str, float]:
    n = len(scores)
    found = Retrieval().score(predicted(records_of(n), scores, np.arange(n), EXACT), EXACT, np.ones((1, n)))
    return {name: float(value[0]) for name, value in found.items()}


def auroc(scores: NDArray[Any], targets: NDArray[Any]) -> float:
    return float(metrics.auroc(scores, targets, np.ones((1, len(scores))))[0])


def test_trap_scores_at_or_below_zero_count_as_not_relevant() -> None:
    scores = np.full((6, 6), -0.5) + 0.4 * np.eye(6)  # the right one at -0.1, every other at -0.5
    found = retrieval(scores)
    assert found["recall@1"] == found["i2t_mrr"] == 1.0
    assert retrieval(scores + 1) == found
    assert metrics.precision_at(1, scores, np.eye(6, dtype=bool)).tolist() == [1.0] * 6


def test_trap_sigmoid_applied_batch_by_batch() -> None:
    scores, targets = np.array([0.95, 0.9, 1.5, -0.5]), np.array([0.0, 0.0, 1.0, 0.0])
    streamed = np.r_[scores[:2], expit(scores[2:])]  # the second batch leaves [0, 1], the first does not
    assert roc_auc_score(targets, streamed) < 1
    assert auroc(scores, targets) == 1


def test_trap_sigmoid_saturates_in_single_precision() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random(4000) < 0.5).astype(float)
    scores = rng.normal(size=4000) * 30 + 30 * targets
    saturated = expit(scores.astype(np.float32))
    assert len(np.unique(saturated)) < len(np.unique(scores))
    assert roc_auc_score(targets, saturated) != pytest.approx(roc_auc_score(targets, scores), abs=1e-4)
    assert auroc(scores, targets) == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)


def test_trap_an_absent_class_counts_as_zero_in_the_macro() -> None:
    rng = np.random.default_rng(1)
    scores, targets = rng.normal(size=(60, 3)), (rng.random((60, 3)) < 0.4).astype(float)
    targets[:, 2] = 0
    found = metrics.multilabel(scores, scores > 0, targets, ("a", "b", "absent"), np.ones((1, 60)))
    defined = [roc_auc_score(targets[:, k], scores[:, k]) for k in range(2)]
    assert found["auroc"][0] == pytest.approx(np.mean(defined))
    assert found["auroc"][0] != pytest.approx(sum(defined) / 3)
    assert np.isnan(found["auroc/absent"][0])
    assert found["defined_classes"][0] == 2


def test_trap_nan_predictions_are_accepted() -> None:
    with pytest.raises(UserError, match="u1"):
        metrics.require_finite(np.array([[0.2], [np.nan], [0.7]]), np.array(["u0", "u1", "u2"]))


def test_trap_binned_auroc_of_small_probabilities() -> None:
    scores, targets = np.array([1e-4, 2e-4, 3e-4, 4e-4]), np.array([0.0, 0.0, 1.0, 1.0])
    assert roc_auc_score(targets, np.floor(scores * 100)) == 0.5
    assert auroc(scores, targets) == 1


def test_trap_rank_by_strictly_greater_rewards_a_collapsed_encoder() -> None:
    scores = np.zeros((50, 50))
    strictly = (scores > scores.diagonal()[:, None]).sum(axis=1)
    assert (strictly == 0).all()  # every right one would stand first
    assert retrieval(scores)["recall@1"] == pytest.approx(1 / 50)


def test_trap_recall_within_batches_depends_on_the_batch_size() -> None:
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(64, 64)) + 1.5 * np.eye(64)

    def within(size: int) -> float:
        parts = [scores[start : start + size, start : start + size] for start in range(0, 64, size)]
        return float(np.mean([part.argmax(axis=1) == np.arange(len(part)) for part in parts]))

    assert within(8) > within(64) + 0.1
    assert retrieval(scores)["i2t_recall@1"] == pytest.approx(within(64))


def test_trap_resampling_images_of_one_patient_narrows_the_interval() -> None:
    rng = np.random.default_rng(3)
    targets = np.repeat(rng.random(100) < 0.4, 4).astype(float)
    scores = targets + np.repeat(rng.normal(size=100), 4)

    def width(units: NDArray[np.str_]) -> float:
        found = with_intervals(lambda weights: {"auroc": metrics.auroc(scores, targets, weights)}, units, 300, 0)["auroc"]
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    images, patients = np.arange(400).astype(str), np.repeat(np.arange(100), 4).astype(str)
    assert width(patients) > 1.6 * width(images)  # twice, where the images of a patient are all alike


def test_trap_embeddings_that_differ_by_rounding_with_the_batch_size() -> None:
    rng = np.random.default_rng(4)
    scores = rng.normal(size=(80, 80)) + np.eye(80)
    moved = scores + rng.uniform(-1.7e-6, 1.7e-6, scores.shape)
    first, second = retrieval(scores), retrieval(moved)
    assert second == pytest.approx(first, abs=0.02)
    assert retrieval(np.zeros((80, 80)) + 1.7e-6 * np.eye(80))["recall@1"] == 1  # ties are of equal scores, never by tolerance
