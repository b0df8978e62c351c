"""Heads of detection: MGCA's recorded losses, boxes and gradients, a head's settings, and every head on a planted disc."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.types import InputSpec, Protocol
from tasks.detection import Detection
from tasks.heads.box_head import BoxHead
from tasks.heads.detectors import build_head
from tasks.heads.yolo import ANCHORS, NativeLevels, YoloHead, YoloOptions
from tasks.heads.yolo_by_scale import BACKGROUND, decode, scale_losses, suppress
from tasks.protocols_dense import DETECTION
from tasks.published.detection import PROTOCOLS
from tests.golden import Case, assert_gradient, assert_output, needs_golden
from tests.test_detection_metrics import corners
from tests.test_heads import RESNET, VIT, native
from tests.toy import ToySource

LITERALS = {protocol.name: protocol for protocol in PROTOCOLS}
SMALL = {"pyramid_width": 16, "neck_channels": "32,16,16", "convolutions": 1, "hidden": 32}


def small(protocol: Protocol, **changes: object) -> Protocol:
    """A literal with a narrow head and other settings changed."""
    stated = dict(protocol.settings)
    merged = stated | {name: value for name, value in SMALL.items() if name in stated} | changes
    return replace(protocol, settings=tuple(sorted(merged.items())))


def drawn_head(protocol: Protocol, info: tuple[tuple[int, int], ...], classes: int = 2, size: int = 64) -> BoxHead:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_head(protocol, info, classes, size)


# ------------------------------------------------------------------------------------- MGCA's losses and boxes


@needs_golden
def test_losses_decoding_and_suppression_equal_the_recorded_ones() -> None:
    case, scales = Case("mgca_metrics/yolo_decode_nms_map"), ((7, 32), (14, 16), (28, 8))
    options = YoloOptions.of(LITERALS["yolov3-mgca"])
    anchors = np.array(options.sizes(224))
    np.testing.assert_allclose(anchors, case.arrays["hp/anchors"], rtol=1e-6)
    assert (options.confidence, options.nms_iou) == (case.number("hp/conf_thres"), case.number("hp/nms_thres"))
    boxes = [corners(labels) for labels in case.arrays["in/labels"]]
    leaves = [case.leaf(f"in/head{side}") for side, _ in scales]
    parts = [
        scale_losses(leaf, boxes, anchors[level], stride, options.ignore)
        for level, (leaf, (_, stride)) in enumerate(zip(leaves, scales))
    ]
    for part, (_, x, y, w, h, conf, cls) in zip(parts, case.arrays["out/loss_parts_per_head"]):
        for name, value in (("xy", x + y), ("wh", w + h), ("conf", conf), ("cls", cls)):
            assert_output(part[name], torch.tensor(value))
    weights = {name: getattr(options, f"loss_{name}") for name in parts[0]}
    total = sum(weights[name] * part[name] for part in parts for name in part)
    assert isinstance(total, Tensor)
    assert_output(total, case["out/loss"])
    total.backward()
    for leaf, (side, _) in zip(leaves, scales):
        assert_gradient(leaf.grad, case[f"grad/head{side}"])
    found = torch.cat([decode(leaf.detach(), anchors[level], scales[level][1]) for level, leaf in enumerate(leaves)], 1)
    torch.testing.assert_close(found, case["out/decoded"], atol=1e-4, rtol=1e-5)
    rows = [suppress(row, options.confidence, options.nms_iou) for row in found]
    assert [len(row) for row in rows] == case.arrays["out/nms_count"].tolist()
    np.testing.assert_allclose(np.concatenate(rows)[:, :5], case.arrays["out/nms_boxes"][:, :5], atol=1e-4)


def test_every_scale_has_to_find_every_box_and_background_counts_half() -> None:
    level = torch.zeros(1, 3 * 7, 2, 2)  # two classes
    anchors = np.array([[10.0, 10], [30, 30], [60, 60]])
    terms = scale_losses(level, [np.array([[36.0, 4, 60, 28, 1]])], anchors, 32, 0.5)  # centered in cell (0, 1), 24 x 24
    cells, log2 = 12, np.log(2)
    assert float(terms["xy"]) == pytest.approx(2 * log2 / cells)
    assert float(terms["wh"]) == pytest.approx(2 * np.log(24 / 30) ** 2 / cells)  # the anchor of 30
    assert float(terms["cls"]) == pytest.approx(log2 / cells)
    ignored = 2  # of the cell's anchors, those that overlap the box by more than a half, in cells of 32 pixels plus one
    assert float(terms["conf"]) == pytest.approx(log2 * (1 + BACKGROUND * (cells - ignored)) / cells)


def test_suppression_keeps_classes_apart_and_the_best_first() -> None:
    rows = torch.tensor([
        [20.0, 20, 10, 10, 0.7, 0.9, 0.1],
        [21.0, 20, 10, 10, 0.9, 0.9, 0.1],
        [20.0, 20, 10, 10, 0.8, 0.1, 0.9],
        [50.0, 50, 10, 10, 0.1, 0.9, 0.1],
    ])  # fmt: skip
    found = suppress(rows, confidence=0.2, overlap=0.4)
    np.testing.assert_allclose(found, [[16, 15, 26, 25, 0.9, 0], [15, 15, 25, 25, 0.8, 1]], rtol=1e-6)
    assert suppress(rows[:0], confidence=0.2, overlap=0.4).shape == (0, 6)


# ------------------------------------------------------------------------------------------------- settings


def test_defaults_are_mmdets_and_literals_state_their_own() -> None:
    assert YoloOptions.of(DETECTION["paper"][0]) == YoloOptions()
    mgca, lovt = (YoloOptions.of(LITERALS[name]) for name in ("yolov3-mgca", "yolov3-lovt"))
    assert (mgca.confidence, mgca.nms_iou, mgca.loss_xy, mgca.loss_wh, mgca.loss_conf, mgca.loss_cls) == (
        0.5,
        0.5,
        2.5,
        2.5,
        1,
        1,
    )
    assert (lovt.confidence, lovt.nms_iou, lovt.loss_xy, lovt.loss_wh) == (0.2, 0.4, 2.5, 2.5)
    assert mgca.sizes(416)[0][0] == (116, 90)
    assert mgca.sizes(224)[1][2] == pytest.approx((59 * 224 / 416, 119 * 224 / 416))
    assert lovt.sizes(224)[0] == [(64.64, 48.6), (84.24, 106.92), (201.42, 176.04)]
    assert lovt.sizes(448)[2][0] == pytest.approx((10.8, 14.04))
    assert ANCHORS["lovt"][0][2][2] == (17.82, 12.42)


def test_weights_and_thresholds_reach_the_head_of_mmdet() -> None:
    options = YoloOptions(loss_xy=2.5, loss_cls=3.0, confidence=0.4, nms_iou=0.3, ignore=0.6)
    head = YoloHead(VIT, 8, (16, 8, 8), classes=1, size=64, options=options).head
    assert (head.loss_xy.loss_weight, head.loss_cls.loss_weight) == (2.5, 3.0)
    assert (head.test_cfg.conf_thr, head.test_cfg.nms.iou_threshold) == (0.4, 0.3)
    assert head.train_cfg.assigner.neg_iou_thr == 0.6


def test_stages_go_straight_into_the_neck_where_the_encoder_has_them() -> None:
    literal = small(LITERALS["yolov3-mgca"])
    straight, built = drawn_head(literal, RESNET), drawn_head(literal, VIT)
    assert isinstance(straight, YoloHead)
    assert isinstance(built, YoloHead)
    assert isinstance(straight.pyramid, NativeLevels)
    assert not isinstance(built.pyramid, NativeLevels)
    maps = native(RESNET, (64, 64))
    for given, wanted in zip(straight.pyramid(maps, (64, 64)), maps[1:]):
        assert torch.equal(given, wanted)


def test_an_unknown_head_is_named() -> None:
    with pytest.raises(ValueError, match="names head 'ssd'"):
        build_head(small(LITERALS["fcos-frozen"], head="ssd"), VIT, 1, 64)


@pytest.mark.parametrize("size", [64, 75])
@pytest.mark.parametrize("info", [VIT, RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("name", ["yolov3-lovt", "fcos-frozen", "retinanet-frozen", "faster-rcnn-frozen"])
def test_heads_train_on_images_with_and_without_boxes_and_predict_finite_boxes(
    name: str, info: tuple[tuple[int, int], ...], size: int, capfd: pytest.CaptureFixture[str]
) -> None:
    head, maps = drawn_head(small(LITERALS[name]), info, size=size), native(info, (size, size))
    losses = head.losses(maps, [np.array([[3.0, 4, 30, 40, 1]]), np.empty((0, 5))])
    total = sum(losses.values())
    assert isinstance(total, Tensor)
    total.backward()
    assert all(item.grad is not None and bool(torch.isfinite(item.grad).all()) for item in head.parameters())
    nothing = head.losses(maps, [np.empty((0, 5))] * 2)
    assert all(bool(torch.isfinite(term)) for term in nothing.values())
    found = head.eval().predict(maps)
    assert [rows.shape[1] for rows in found] == [6, 6]
    assert all(np.isfinite(rows).all() and (np.diff(rows[:, 4]) <= 0).all() and len(rows) <= 100 for rows in found)
    assert capfd.readouterr().out == ""  # mmengine prints every initialized parameter


@pytest.mark.parametrize("name", ["yolov3-mgca", "fcos-frozen", "retinanet-frozen", "faster-rcnn-frozen"])
def test_the_loss_of_a_batch_falls_to_less_than_half(name: str) -> None:
    head, maps = drawn_head(small(LITERALS[name]), VIT), native(VIT, (64, 64))
    boxes = [np.array([[3.0, 4, 30, 40, 1]]), np.array([[20.0, 30, 50, 60, 0], [2, 2, 14, 20, 1]])]
    optimizer, seen = torch.optim.AdamW(head.parameters(), lr=1e-2), []
    with torch.random.fork_rng():
        for _ in range(25):
            optimizer.zero_grad()
            total = sum(head.losses(maps, boxes).values())
            assert isinstance(total, Tensor)
            total.backward()
            optimizer.step()
            seen.append(total.item())
    assert seen[-1] < seen[0] / 2


def test_a_vit_of_another_size_than_it_was_made_for_gives_boxes_all_over_the_canvas() -> None:
    """The one map of stride 14 at 70 pixels: five positions, a pyramid of 9, 5 and 3."""
    head = drawn_head(small(LITERALS["yolov3-lovt"], confidence=0.0), ((12, 14),), size=70)
    found = np.concatenate(head.eval().predict(native(((12, 14),), (70, 70))))
    centers = (found[:, :2] + found[:, 2:4]) / 2
    assert centers.min() < 10
    assert centers.max() > 60


# ------------------------------------------------------------------------------------------------ learning


class Patches(nn.Module):
    """One map of stride 8: the pixels of each patch, by 2 x 2."""

    input = InputSpec(size=64)
    feature_info = ((16, 8),)

    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        return (nn.functional.pixel_unshuffle(nn.functional.avg_pool2d(images, 2), 4),)


LEARNING = {
    "yolov3-lovt": {"epochs": 17, "learning_rate": 1e-2, "stop_patience": None},
    "fcos-frozen": {"evaluations": 0, "steps": 150, "learning_rate": 5e-3},
    "retinanet-frozen": {"evaluations": 0, "steps": 150, "learning_rate": 5e-3},
    "faster-rcnn-frozen": {"evaluations": 0, "steps": 80, "learning_rate": 3e-3},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNING)
def test_a_planted_disc_is_found_better_than_by_the_mean_box(name: str, tmp_path: Path) -> None:
    context = Context(device=torch.device("cpu"), cache=tmp_path, progress=False)
    literal = small(LITERALS[name], batch_size=8, **LEARNING[name])
    task, data = Detection(), Dataset(ToySource(60))
    made = task.run(Patches(), data, literal, 1.0, context)
    ones = np.ones((1, len(made.uids)))
    reached = task.score(made, literal, ones)["map50"][0]
    trivial = {
        title: task.score(rows, literal, ones)["map50"][0] for title, rows in task.references(made, data, literal).items()
    }
    assert reached > 0.4
    assert reached > max(trivial.values()) + 0.3
    assert not task.degenerate(made, literal)


@pytest.mark.slow
@pytest.mark.parametrize("info", [((768, 16),), ((256, 4), (512, 8), (1024, 16), (2048, 32))], ids=["ViT-B/16", "ResNet-50"])
@pytest.mark.parametrize("name", ["yolov3-mgca", "yolov3-lovt", "fcos-frozen", "retinanet-frozen", "faster-rcnn-frozen"])
def test_literals_go_forward_and_backward_at_224(name: str, info: tuple[tuple[int, int], ...]) -> None:
    head, maps = build_head(LITERALS[name], info, 1, 224), native(info, (224, 224))
    total = sum(head.losses(maps, [np.array([[20.0, 30, 90, 120, 0]]), np.empty((0, 5))]).values())
    assert isinstance(total, Tensor)
    total.backward()
    assert all(item.grad is not None and bool(torch.isfinite(item.grad).all()) for item in head.parameters())
    assert all(np.isfinite(rows).all() for rows in head.eval().predict(maps))
