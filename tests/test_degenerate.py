"""Planted constant predictors in every family are flagged, almost constant ones too, and those that see the images are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.flags import trivial_row, with_trivial_flag
from benchmark.types import Metric, Predictions, Protocol, RunResult
from methods import METHODS
from tasks import TASKS
from tasks.degenerate import REFERENCE_KINDS
from tests.conftest import Command
from tests.finished import finish, predictions_of
from tests.test_runner import REFERENCES, Constant

N = 200
GENERATOR = np.random.default_rng(0)


def rows(names: tuple[str, ...] = ("a", "b"), **arrays: NDArray[Any]) -> Predictions:
    uids = np.array([f"u{row}" for row in range(N)])
    return Predictions(uids, uids, arrays, {"classes": names, "masks": names})


def constant(shape: tuple[int, ...], differing: int, value: float = 0.3) -> NDArray[Any]:
    """The same value in all rows but the given number, somewhere in the middle."""
    found = np.full((N, *shape), value)
    found[20 : 20 + differing] += GENERATOR.random((differing, *shape))
    return found


def labels(differing: int) -> Predictions:
    targets = (GENERATOR.random((N, 2)) < 0.3).astype(float)
    return rows(scores=constant((2,), differing), predicted=np.ones((N, 2)), targets=targets)


def one_class(differing: int) -> Predictions:
    predicted = np.zeros((N, 2))
    predicted[:, 0] = 1
    predicted[20 : 20 + differing] = (0, 1)
    return rows(scores=predicted, predicted=predicted, targets=np.arange(N) % 2)


def retrieval(differing: int) -> Predictions:
    """Everything ties but for the given number of queries."""
    counts = np.tile([0, N - 1, 1], (N, 1))
    counts[20 : 20 + differing] = (3, 0, 1)
    return rows(i2t=counts, t2i=counts, t2i_share=np.ones(N))


def segmentation(differing: int) -> Predictions:
    counts = np.tile([0.0, 0.0, 50.0, 4096.0], (N, 2, 1))
    counts[20 : 20 + differing, :, 1] = 40
    return rows(counts=counts)


def full_masks(differing: int) -> Predictions:
    counts = np.tile([50.0, 4096.0, 50.0, 4096.0], (N, 2, 1))
    counts[20 : 20 + differing, :, 1] = 40
    return rows(counts=counts)


def detection(differing: int) -> Predictions:
    found = np.tile([10.0, 10.0, 30.0, 30.0, 0.9, 0.0], (N, 1, 1))
    found[20 : 20 + differing, 0, 0] = 5.0
    return rows(detections=found, sizes=np.full((N, 2), 64.0), truth=np.full((N, 1, 5), np.nan))


def no_boxes(differing: int) -> Predictions:
    found = np.full((N, 1, 6), np.nan)
    found[20 : 20 + differing] = [10.0, 10.0, 30.0, 30.0, 0.9, 0.0]
    found[20 : 20 + differing, 0, 0] = np.arange(differing) / 4
    return rows(detections=found, sizes=np.full((N, 2), 64.0), truth=np.full((N, 1, 5), np.nan))


PLANTED: dict[str, tuple[str, str, Callable[[int], Predictions]]] = {
    "classification": ("classification", "classification-linear-probe", labels),
    "zero-shot": ("zeroshot", "zeroshot-prompt-pairs", labels),
    "zero-shot into one class": ("zeroshot", "zeroshot-5x200-gloria", one_class),
    "retrieval": ("retrieval", "retrieval-exact", retrieval),
    "segmentation, empty": ("segmentation", "", segmentation),
    "segmentation, full": ("segmentation", "", full_masks),
    "detection, same box": ("detection", "", detection),
    "detection, no box": ("detection", "", no_boxes),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_constant_predictor_is_degenerate_and_so_is_an_almost_constant_one(name: str) -> None:
    family, literal, make = PLANTED[name]
    task = TASKS.load(family)()
    literals: list[Protocol] = [item for preset in ("quick", "published") for item in task.protocols(preset)]
    protocol = next((item for item in literals if item.name == literal), literals[0])
    assert task.degenerate(make(0), protocol)
    assert task.degenerate(make(2), protocol)  # 1 % of the rows
    assert not task.degenerate(make(120), protocol)


def test_rounding_noise_is_no_answer() -> None:
    task = TASKS.load("classification")()
    flat = labels(0)
    noisy = replace(flat, arrays={**flat.arrays, "scores": flat.arrays["scores"] + 1e-9 * GENERATOR.normal(size=(N, 2))})
    assert task.degenerate(noisy, task.protocols("quick")[0])


@pytest.mark.parametrize("size", [1e-30, 1e-7, 1.0, 1e7])
def test_the_size_of_scores_does_not_tell_whether_they_are_flat(size: float) -> None:
    task, seen, flat = TASKS.load("classification")(), labels(180), labels(2)
    for predictions, expected in ((seen, False), (flat, True)):
        scores = size * predictions.arrays["scores"]
        scaled = replace(predictions, arrays={**predictions.arrays, "scores": scores})
        assert task.degenerate(scaled, task.protocols("quick")[0]) is expected


def test_one_outlier_does_not_make_the_other_scores_equal() -> None:
    task, seen = TASKS.load("classification")(), labels(0)
    scores = GENERATOR.normal(size=(N, 2))
    scores[0] = 1e8
    assert not task.degenerate(replace(seen, arrays={**seen.arrays, "scores": scores}), task.protocols("quick")[0])


def test_masks_that_are_truly_empty_may_be_predicted_empty() -> None:
    counts = np.tile([0.0, 0.0, 0.0, 4096.0], (N, 1, 1))
    counts[:1] = (40.0, 45.0, 50.0, 4096.0)
    task = TASKS.load("segmentation")()
    assert not task.degenerate(rows(("a",), counts=counts), task.protocols("quick")[0])


def test_every_reference_says_what_it_knows() -> None:
    for family, titles in REFERENCES.items():
        kinds = TASKS.load(family)().reference_kinds
        assert titles <= set(kinds), family
    assert set(REFERENCE_KINDS.values()) == {"constant", "prevalence", "random", "anatomy", "oracle"}


# ------------------------------------------------------------------------------ no better than the trivial row


def scored(tmp_path: Any, metric: Metric, **changes: Any) -> RunResult:
    result = finish(tmp_path, "m", predictions_of(0.5, 6))
    return replace(result, metrics={"auroc": metric}, **changes)


@pytest.mark.parametrize(
    ("low", "high", "higher", "title"),
    [
        (0.45, 0.7, True, "majority class"),
        (0.5, 0.7, True, "majority class"),
        (0.51, 0.7, True, ""),
        (0.2, 0.4, True, "majority class"),
        (0.2, 0.4, False, ""),
        (0.2, 0.5, False, "majority class"),
        (None, None, True, ""),
    ],
)
def test_the_interval_decides_whether_a_method_is_better_than_the_trivial_row(
    tmp_path: Any, low: float | None, high: float | None, higher: bool, title: str
) -> None:
    made = scored(tmp_path, Metric(0.6, low, high, 6), higher_is_better=higher)
    beside = [
        scored(tmp_path, Metric(0.5), title="majority class", notes={"kind": "constant"}),
        scored(tmp_path, Metric(0.9 if higher else 0.1), title="oracle", notes={"kind": "oracle"}),
        scored(tmp_path, Metric(None), title="undefined", notes={"kind": "random"}),
    ]
    assert trivial_row(made, beside) == title
    flagged = with_trivial_flag(made, beside)
    assert ("trivial" in flagged.flags) == bool(title)
    assert flagged.notes.get("no_better_than", "") == title
    assert with_trivial_flag(flagged, beside) == flagged
    assert with_trivial_flag(flagged, []) == made


def test_a_collapsed_encoder_is_no_better_than_its_trivial_rows(
    command: Command, register: Callable[[Any, str, Any], None]
) -> None:
    register(METHODS, "constant", Constant)
    assert command.run("constant", "retrieval,zeroshot", "--draws", "20") == 0, command.output
    for result in command.results():
        assert {"trivial", "degenerate"} <= set(result.flags)
        assert result.notes["no_better_than"] in REFERENCES[result.spec.task]
    before = command.results()
    assert command.run("constant", "retrieval,zeroshot", "--draws", "20") == 0
    assert command.results() == before
    assert {row.notes["kind"] for row in command.results("reference")} <= set(REFERENCE_KINDS.values())
