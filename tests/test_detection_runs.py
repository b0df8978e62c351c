"""Detection end to end: every published literal by name, bad input, and what marks a detector that has collapsed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.errors import Unsupported, UserError
from benchmark.types import Box, Protocol, Record
from tasks.detection import Detection
from tasks.published import detection as published
from tests.conftest import Command
from tests.test_detection import Drawn, OneMap, protocol
from tests.test_detection_heads import LITERALS, small
from tests.toy import ToySource

TOY = 12  # patients, 8 of them in train


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(device=torch.device("cpu"), cache=tmp_path, batch_size=4, progress=False)


def moment(literal: Protocol) -> Protocol:
    lengths = {"steps": 2, "evaluations": 1, "epochs": 1, "frozen_steps": 1, "train_rows": 8}
    return small(literal, batch_size=4, **{name: lengths[name] for name, _ in literal.settings if name in lengths})


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published literals with narrow heads that learn for a moment only."""
    monkeypatch.setattr(published, "PROTOCOLS", tuple(map(moment, LITERALS.values())))


@pytest.mark.usefixtures("short")
def test_every_literal_runs_when_it_is_named(command: Command) -> None:
    names = ",".join(LITERALS)
    assert command.run("random", "detection", "--protocol", names, "--labels", "1", data="toy:30") == 0, command.error
    found = {result.spec.protocol: result for result in command.results()}
    assert set(found) == set(LITERALS)
    for name, result in found.items():
        assert result.status == "ok", result.error
        literal = LITERALS[name]
        assert result.primary == literal.primary
        assert {"map", "map50", "map75", "map40_75", "froc"} <= set(result.metrics)
        assert ("map40_75_mgca_filtered" in result.metrics) == name.startswith("yolov3-mgca")
        assert ("encoder_params_trained" in result.notes) == ("finetune" in name)
        assert ("split_differs" in result.notes) == name.startswith("yolov3")
        assert isinstance(result.notes["val_score"], float)
        value = result.metrics[literal.primary].value
        assert value is not None
        assert 0 <= value <= 1
    titles = {result.title for result in command.results("reference")}
    assert titles == {"no box", "center box", "mean training box"}


# ------------------------------------------------------------------------------------------------ bad input


class Changed(ToySource):
    """The toy with other boxes: uid -> boxes, of all other images as `others` says."""

    def __init__(self, boxes: Mapping[str, tuple[Box, ...]], others: tuple[Box, ...] | None = ()) -> None:
        super().__init__(TOY)
        self.records = tuple(replace(record, boxes=boxes.get(record.uid, others)) for record in self.records)


def only(source: ToySource, splits: tuple[str, ...], uids: int) -> tuple[Record, ...]:
    """Records of the splits, and no more than so many of the test."""
    test = [record for record in source.records if record.split == "test"][:uids]
    return tuple(record for record in source.records if record.split in splits) + tuple(test)


def brief(**changes: object) -> Protocol:
    return protocol(steps=3, batch_size=4, pyramid_width=8, neck_channels="8,8,8", **changes)


BOX = Box("Lung Lesion", 20.0, 20.0, 36.0, 36.0)


def test_all_training_boxes_of_one_patient_are_enough(context: Context) -> None:
    data = Dataset(Changed({"p000-0": (BOX,), "p004-0": (BOX,)}))
    made = Detection().run(OneMap(), data, brief(), 1.0, context)
    np.testing.assert_allclose(made.arrays["prior"][:, 0, :4], [[20, 20, 36, 36]] * len(made.uids))
    assert 0 <= Detection().score(made, brief(), np.ones((1, len(made.uids))))["map50"][0] <= 1


def test_a_fraction_without_a_box_is_refused_with_the_way_out(context: Context) -> None:
    task, boxes = Detection(), {"p002-0": (BOX,), "p004-0": (BOX,)}
    drawn = {record.patient for record in Dataset(Changed(boxes)).rows("train", brief(), 0.5, 0)}
    assert "p002" not in drawn
    with pytest.raises(
        Unsupported, match=r"none of the 8 training images of 'toy' at fraction 0\.5 has a box; use a larger one"
    ):
        task.run(OneMap(), Dataset(Changed(boxes)), brief(), 0.5, context)
    boxes[f"{min(drawn)}-0"] = (BOX,)
    assert len(task.run(OneMap(), Dataset(Changed(boxes)), brief(), 0.5, context).uids) == 4


def test_images_without_boxes_in_train_or_test_are_said_before_anything_runs() -> None:
    for uid, split in (("p000-0", "test"), ("p004-0", "train")):
        with pytest.raises(Unsupported, match=f"'toy' has no boxes in {split}"):
            Detection().check(Dataset(Changed({uid: (BOX,)})), brief())


def test_images_that_nobody_annotated_are_no_rows(context: Context) -> None:
    data = Dataset(Changed({"p000-0": (BOX,), "p000-1": (), "p004-0": (BOX,)}, others=None))
    made = Detection().run(OneMap(), data, brief(), 1.0, context)
    assert list(made.uids) == ["p004-0"]
    assert context.notes["train_rows"] == 2


def test_one_test_image_is_scored(context: Context) -> None:
    source = Changed({"p000-0": (BOX,), "p004-0": (BOX,)})
    source.records = only(source, ("train", "val"), 1)
    made = Detection().run(OneMap(), Dataset(source), brief(), 1.0, context)
    assert list(made.uids) == ["p004-0"]
    scores = Detection().score(made, brief(), np.ones((1, 1)))
    assert all(np.isfinite(scores[name][0]) for name in ("map", "map40_75", "froc"))


def test_boxes_beyond_the_edge_are_clipped_and_counted_and_those_outside_left_out(context: Context) -> None:
    over, outside = Box("Lung Lesion", -10.0, 30.0, 20.0, 90.0), Box("Lung Lesion", 70.0, 70.0, 80.0, 80.0)
    data = Dataset(Changed({"p000-0": (over,), "p001-0": (outside,), "p004-0": (over, outside)}))
    made = Detection().run(OneMap(), data, brief(), 1.0, context)
    truth = made.arrays["truth"][0]
    np.testing.assert_allclose(truth[~np.isnan(truth[:, 0])], [[0, 30, 20, 64, 0]])
    np.testing.assert_allclose(made.arrays["prior"][0, 0, :4], [0, 30, 20, 64])
    assert context.notes["boxes_clipped"] == 4


def test_a_loss_that_is_not_finite_names_the_step_and_the_rows(context: Context) -> None:
    with pytest.raises(UserError, match=r"not finite at step \d \(rows p0"):
        Detection().run(OneMap(), Dataset(ToySource(TOY)), brief(learning_rate=1e30), 1.0, context)


# --------------------------------------------------------------------------------------------- collapsed rows


def test_no_box_and_the_same_boxes_everywhere_are_degenerate(context: Context) -> None:
    task, data, stated = Detection(), Dataset(Drawn()), brief()
    made = task.run(OneMap(), data, stated, 1.0, context)
    for title, rows in task.references(made, data, stated).items():
        assert task.degenerate(rows, stated), title
    sizes = made.arrays["sizes"]
    assert len(np.unique(sizes, axis=0)) > 1
    square = sizes.max(axis=1)
    left, top = (square - sizes[:, 0]) / 2, (square - sizes[:, 1]) / 2
    middle = np.stack([0.4 * square - left, 0.4 * square - top, 0.6 * square - left, 0.6 * square - top], axis=1)
    tail = np.broadcast_to([0.7, 0.0], (len(sizes), 2))
    constant = np.concatenate([middle, tail], axis=1)[:, None]  # (N, 1, 6), the same on the padded canvas
    assert task.degenerate(replace(made, arrays={**made.arrays, "detections": constant}), stated)
    moved = constant.copy()
    moved[0, 0, 0] -= 3
    assert not task.degenerate(replace(made, arrays={**made.arrays, "detections": moved}), stated)
    one = replace(made, arrays={**made.arrays, "detections": moved}).take(np.array([1]))
    assert not task.degenerate(one, stated)  # of one image nothing can be said
