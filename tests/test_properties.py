"""What must not matter, in the families that fit heads: batches at inference, the order of rows, an encoder that says nothing.

Those of ranks, of classes and of single metrics stand beside them: test_ranks.py, test_class_match.py, test_query_match.py,
test_multiclass.py, test_tasks_text.py, test_metrics.py, test_segmentation_scores.py, test_detection_metrics.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.types import Features, InputSpec, Predictions, Protocol
from tasks import TASKS
from tasks.multiclass import shares, standardised
from tests.conftest import small
from tests.test_fit_resume import QUICK, changed, named
from tests.toy import ToySource

PATIENTS = 20
DENSE = ("segmentation", "detection")


class Said(nn.Module):
    """Maps and features of the pixels, or, where it is collapsed, the same for every image."""

    name, version = "said", 1
    input = InputSpec(size=64)
    feature_info = ((16, 8),)

    def __init__(self, collapsed: bool = False) -> None:
        super().__init__()
        self.collapsed, self.scale = collapsed, nn.Parameter(torch.ones(()))

    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        seen = torch.ones_like(images) if self.collapsed else images
        return (self.scale * nn.functional.pixel_unshuffle(nn.functional.avg_pool2d(seen, 2), 4),)

    def tower_features(self, images: Tensor) -> Tensor:
        return self.feature_maps(images)[0].mean(dim=(2, 3))

    def encode_image(self, images: Tensor) -> Features:
        return Features(nn.functional.normalize(self.tower_features(images), dim=1))


def run(
    family: str, protocol: Protocol, cache: Path, method: Any, source: ToySource | None = None, size: int = 64
) -> Predictions:
    context = Context(device=torch.device("cpu"), cache=cache, batch_size=size, progress=False)
    found: Predictions = TASKS.load(family)().run(method, Dataset(source or ToySource(PATIENTS)), protocol, 1.0, context)
    return found


def values(family: str, protocol: Protocol, found: Predictions) -> dict[str, float]:
    scores = TASKS.load(family)().score(found, protocol, np.ones((1, len(found.uids))))
    return {name: float(value[0]) for name, value in scores.items()}


def dense(family: str) -> Protocol:
    return small(TASKS.load(family)().protocols("quick")[0])


@pytest.mark.parametrize("family", DENSE)
def test_dense_scores_depend_neither_on_the_batch_size_nor_on_the_order_of_records(family: str, tmp_path: Path) -> None:
    protocol = dense(family)
    first = values(family, protocol, run(family, protocol, tmp_path, Said()))
    assert values(family, protocol, run(family, protocol, tmp_path, Said(), size=3)) == pytest.approx(
        first, abs=1e-3, nan_ok=True
    )
    source = ToySource(PATIENTS)
    source.records = tuple(source.records[place] for place in np.random.default_rng(0).permutation(len(source.records)))
    found = values(family, protocol, run(family, protocol, tmp_path, Said(), source))
    assert found == pytest.approx(first, nan_ok=True)
    assert all(0 <= value <= 1 for value in found.values() if value == value)


HEADS = {
    "logistic": TASKS.load("classification")().protocols("quick")[0],
    "probe": changed(named("probe-mgca"), rounds=3),
    "neighbours": named("knn"),
    "fine-tuned": changed(named("finetune-linear"), **QUICK, augment=0.0),
}


@pytest.mark.parametrize("head", HEADS)
def test_a_collapsed_encoder_has_an_area_of_a_half_and_is_flagged(head: str, tmp_path: Path) -> None:
    found = run("classification", HEADS[head], tmp_path, Said(collapsed=True).eval())
    scores = values("classification", HEADS[head], found)
    assert scores["auroc"] == pytest.approx(0.5)
    assert TASKS.load("classification")().degenerate(found, HEADS[head])


@pytest.mark.parametrize("family", DENSE)
def test_a_collapsed_encoder_gives_every_image_the_same_answer(family: str, tmp_path: Path) -> None:
    protocol = dense(family)
    found = run(family, protocol, tmp_path, Said(collapsed=True).eval())
    answers = found.arrays["detections"] if family == "detection" else found.arrays["counts"][:, :, 1]
    assert (np.nan_to_num(answers) == np.nan_to_num(answers[:1])).all()
    if family == "detection":
        assert TASKS.load(family)().degenerate(found, protocol)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(-100, 100))
def test_answers_of_classes_ignore_a_constant_and_the_order_of_rows_and_classes(seed: int, constant: float) -> None:
    draw = np.random.default_rng(seed)
    scores = draw.integers(-3, 4, (8, 5)).astype(float)  # some tie
    rows, columns = draw.permutation(8), draw.permutation(5)
    first = shares(scores)
    np.testing.assert_array_equal(shares(scores + np.round(constant)), first)
    np.testing.assert_array_equal(shares(scores[rows][:, columns]), first[rows][:, columns])
    np.testing.assert_allclose(first.sum(axis=1), 1)
    moved = standardised(scores + constant)  # of the transductive rule: each class less its mean over the images
    np.testing.assert_allclose(moved, standardised(scores), atol=1e-6)
    np.testing.assert_allclose(standardised(scores[rows]), standardised(scores)[rows], atol=1e-12)
