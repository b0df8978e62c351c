"""Pyramid, U-Net head, YOLO head and the fit loop on drawn maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.context import Context
from benchmark.errors import UserError
from benchmark.types import Protocol, Record
from tasks.heads.fit import Schedule, cap_rows, numbers
from tasks.heads.loop import Problem, fit
from tasks.heads.pyramid import FeaturePyramid
from tasks.heads.unet import UnetHead, mask_losses
from tasks.heads.yolo import YoloHead
from tasks.protocols_dense import DETECTION, SEGMENTATION

VIT = ((12, 16),)
RESNET = ((8, 4), (16, 8), (24, 16), (32, 32))
SCHEDULE = Schedule(protocol="p", steps=30, batch_size=4, learning_rate=0.05, weight_decay=0.0, clip_norm=10.0)


def native(info: tuple[tuple[int, int], ...], size: tuple[int, int], batch: int = 2) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(batch, channels, ceil(size[0] / stride), ceil(size[1] / stride), generator=draw)
        for channels, stride in info
    )


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(device=torch.device("cpu"), cache=tmp_path, progress=False)


# --------------------------------------------------------------------------------------------------- pyramid


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (75, 101), (33, 47)])
@pytest.mark.parametrize("info", [VIT, RESNET, ((12, 14),), ((8, 4), (32, 32))], ids=["vit", "resnet", "stride 14", "gaps"])
def test_maps_have_exactly_the_wanted_strides(info: tuple[tuple[int, int], ...], size: tuple[int, int]) -> None:
    strides = (2, 4, 8, 16, 32)
    made = FeaturePyramid(info, strides, 6)(native(info, size), size)
    expected = [(2, 6, ceil(size[0] / stride), ceil(size[1] / stride)) for stride in strides]
    assert [tuple(level.shape) for level in made] == expected


def test_every_parameter_is_trained_and_every_native_map_that_is_needed_is_read() -> None:
    maps = tuple(item.requires_grad_() for item in native(RESNET, (64, 64)))
    pyramid = FeaturePyramid(RESNET, (4, 8, 16, 32), 6)
    levels = pyramid(maps, (64, 64))
    sum((level * torch.randn_like(level)).sum() for level in levels).backward()
    assert all(item.grad is not None for item in pyramid.parameters())
    assert all(item.grad is not None and item.grad.abs().sum() > 0 for item in maps)


@pytest.mark.parametrize("info", [VIT, RESNET], ids=["vit", "resnet"])
def test_a_level_looks_where_the_native_map_looks(info: tuple[tuple[int, int], ...]) -> None:
    pyramid = FeaturePyramid(info, (4, 8, 16, 32), 6).eval()
    base = native(info, (128, 128), 1)
    moved = tuple(item.clone() for item in base)
    for item, (_, stride) in zip(moved, info):
        item[..., 96 // stride :, : 32 // stride] += 5.0  # the lower left corner of the image
    for stride, one, other in zip((4, 8, 16, 32), pyramid(base, (128, 128)), pyramid(moved, (128, 128))):
        changed = (one - other).abs().amax(1)[0] > 1e-6  # (h, w)
        assert changed[-1, 0]
        assert not changed[: 64 // stride - 1].any()
        assert not changed[:, 64 // stride + 1 :].any()


def test_a_pyramid_refuses_other_maps_than_it_was_built_for() -> None:
    with pytest.raises(ValueError, match="2 maps for a pyramid over 1"):
        FeaturePyramid(VIT, (8,), 4)(native(RESNET[:2], (64, 64)), (64, 64))
    with pytest.raises(ValueError, match="must be positive"):
        FeaturePyramid((), (8,), 4)


# ----------------------------------------------------------------------------------------------------- U-Net


@pytest.mark.parametrize("size", [(64, 64), (75, 101)])
@pytest.mark.parametrize("info", [VIT, RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("strides", [(2, 4, 8, 16, 32), (2, 4, 8, 16), (4, 8, 16)])
def test_logits_have_the_size_of_the_image(
    info: tuple[tuple[int, int], ...], size: tuple[int, int], strides: tuple[int, ...]
) -> None:
    head = UnetHead(info, strides, 6, tuple(range(4 + len(strides), 4, -1)), masks=3)
    logits = head(native(info, size), size)
    assert logits.shape == (2, 3, *size)
    logits.sum().backward()
    assert all(item.grad is not None for item in head.parameters())


def test_a_unet_refuses_strides_that_do_not_double() -> None:
    with pytest.raises(ValueError, match="must double"):
        UnetHead(VIT, (4, 16), 6, (8, 4), masks=1)


def test_mask_losses_equal_a_loop_and_leave_ignored_pixels_out() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(3, 2, 4, 5))
    target = draw.choice([0, 1, 255], (3, 2, 4, 5)).astype(np.uint8)
    target[1, 0] = 255  # a row that lacks the first mask
    entropies, dices = [], []
    for mask in range(2):
        known = target[:, mask] != 255
        chance, truth = 1 / (1 + np.exp(-logits[:, mask][known])), target[:, mask][known]
        entropies.append(-np.mean(np.where(truth == 1, np.log(chance), np.log(1 - chance))))
        dices.append(1 - (2 * (chance * truth).sum() + 1) / (chance.sum() + truth.sum() + 1))
    losses = mask_losses(torch.tensor(logits), torch.tensor(target))
    assert float(losses["bce"]) == pytest.approx(np.mean(entropies))
    assert float(losses["dice"]) == pytest.approx(np.mean(dices))


def test_a_mask_that_nobody_has_costs_nothing_and_pulls_nothing() -> None:
    logits = torch.randn(2, 2, 4, 4, requires_grad=True)
    target = torch.full((2, 2, 4, 4), 255, dtype=torch.uint8)
    target[:, 0] = 1
    losses = mask_losses(logits, target)
    alone = mask_losses(logits[:, :1], target[:, :1])
    for name, value in losses.items():
        torch.testing.assert_close(value, alone[name])
    (losses["bce"] + losses["dice"]).backward()
    assert logits.grad is not None
    assert logits.grad[:, 1].abs().sum() == 0
    nothing = mask_losses(logits, torch.full_like(target, 255))
    assert all(value.item() == 0 for value in nothing.values())


# ------------------------------------------------------------------------------------------------------ YOLO


@pytest.mark.parametrize("size", [64, 75])
def test_yolo_trains_on_images_with_and_without_boxes_and_predicts_finite_boxes(size: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = YoloHead(VIT, 8, (16, 8, 8), classes=2, size=size)
    maps = native(VIT, (size, size))
    losses = head.losses(maps, [np.array([[3.0, 4, 30, 40, 1]]), np.empty((0, 5))])
    assert set(losses) == {"cls", "conf", "xy", "wh"}
    sum(losses.values()).backward()
    assert all(item.grad is not None for item in head.parameters())
    head.eval()
    found = head.predict(maps)
    assert [rows.shape[1] for rows in found] == [6, 6]
    assert all(np.isfinite(rows).all() and (np.diff(rows[:, 4]) <= 0).all() for rows in found)
    exploded = head.predict(tuple(1e9 * item for item in maps))
    assert all(np.isfinite(rows).all() for rows in exploded)


def test_predictions_are_those_of_mmdet_and_anchors_scale_with_the_image() -> None:
    from mmdet.structures import DetDataSample

    head = YoloHead(RESNET, 8, (16, 8, 8), classes=2, size=208).eval()
    assert head.head.prior_generator.base_sizes[0][0] == (58.0, 45.0)
    maps = native(RESNET, (208, 208))
    with torch.no_grad():
        sample = DetDataSample(metainfo={"img_shape": (208, 208), "scale_factor": (1.0, 1.0)})
        theirs = head.head.predict(head.levels(maps), [sample, sample], rescale=False)
    for rows, instances in zip(head.predict(maps), theirs):
        np.testing.assert_allclose(rows[:, :4], instances.bboxes.numpy(), rtol=1e-5)
        np.testing.assert_allclose(rows[:, 4], instances.scores.numpy(), rtol=1e-5)


# ------------------------------------------------------------------------------------------------------- fit


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))


def test_fit_finds_the_slope_and_is_the_same_twice(context: Context) -> None:
    x = torch.linspace(-1, 1, 9)
    seen: list[list[list[int]]] = []

    def once() -> float:
        line = Line()
        seen.append([])

        def loss(rows: Sequence[int], epochs: Sequence[int]) -> dict[str, Tensor]:
            seen[-1].append(list(rows))
            return {"square": ((line.slope * x[list(rows)] - 2 * x[list(rows)]) ** 2).mean()}

        fit(Problem(module=line, loss=loss, uids=[str(row) for row in range(9)]), replace(SCHEDULE, steps=300), context)
        assert not line.training
        return line.slope.item()

    first, second = once(), once()
    assert first == second == pytest.approx(2, abs=0.05)
    assert seen[0] == seen[1]
    assert sorted(row for rows in seen[0][:9] for row in rows) == sorted(list(range(9)) * 4)  # whole permutations
    context.eval_seed = 1
    once()
    assert seen[2] != seen[0]


def test_fit_keeps_the_best_evaluation_not_the_last(context: Context) -> None:
    line, scores = Line(), iter([0.1, 0.9, float("nan"), 0.3])
    slopes: list[float] = []

    def evaluate() -> float:
        assert not line.training
        slopes.append(line.slope.item())
        return next(scores)

    def loss(rows: Sequence[int], epochs: Sequence[int]) -> dict[str, Tensor]:
        return {"up": -line.slope}

    problem = Problem(module=line, loss=loss, uids=["a", "b"], evaluate=evaluate)
    found = fit(problem, replace(SCHEDULE, evaluations=4), context)
    assert (found.score, found.best, found.evaluations) == (0.9, 2, 4)
    assert line.slope.item() == slopes[1] != slopes[3]


def test_a_loss_that_is_not_finite_names_the_step_and_the_rows(context: Context) -> None:
    line, step = Line(), iter(range(10))

    def loss(rows: Sequence[int], epochs: Sequence[int]) -> dict[str, Tensor]:
        return {"fine": line.slope * 1, "bad": line.slope * (float("nan") if next(step) == 2 else 1.0)}

    with pytest.raises(UserError, match=r"not finite at step 3 \(rows only, only"):
        fit(Problem(module=line, loss=loss, uids=["only"]), SCHEDULE, context)


def test_caps_are_whole_patients_and_nest() -> None:
    records = [
        Record(uid=f"u{index:02d}", patient=f"p{index // 3}", study="s", split="train", image="x") for index in range(30)
    ]
    small, large = cap_rows(records, 7, 0), cap_rows(records, 20, 0)
    assert {record.uid for record in small} < {record.uid for record in large}
    assert len(small) == 6
    assert len(large) == 18
    assert cap_rows(records, None, 0) == tuple(records)
    assert len(cap_rows(records, 1, 0)) == 3  # at least one patient
    assert cap_rows(records, 7, 0) != cap_rows(records, 7, 1)


# ---------------------------------------------------------------------------------------------- paper shapes


def paper(protocol: Protocol, info: tuple[tuple[int, int], ...]) -> nn.Module:
    width = protocol.setting("pyramid_width")
    if protocol.task == "detection":
        return YoloHead(info, width, numbers(protocol, "neck_channels"), classes=1, size=224)
    return UnetHead(info, numbers(protocol, "pyramid_strides"), width, numbers(protocol, "decoder_channels"), masks=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "info",
    [((768, 16),), ((256, 4), (512, 8), (1024, 16), (2048, 32))],
    ids=["ViT-B/16", "ResNet-50"],
)
@pytest.mark.parametrize("protocol", [SEGMENTATION["paper"][0], DETECTION["paper"][0]], ids=["U-Net", "YOLOv3"])
def test_paper_heads_go_forward_and_backward_at_224(protocol: Protocol, info: tuple[tuple[int, int], ...]) -> None:
    head = paper(protocol, info)
    maps = native(info, (224, 224))
    if isinstance(head, YoloHead):
        losses = head.losses(maps, [np.array([[20.0, 30, 90, 120, 0]]), np.empty((0, 5))])
    else:
        losses = mask_losses(head(maps, (224, 224)), torch.ones(2, 1, 224, 224, dtype=torch.uint8))
    total = sum(losses.values())
    assert isinstance(total, Tensor)
    total.backward()
    assert all(item.grad is not None and bool(torch.isfinite(item.grad).all()) for item in head.parameters())
