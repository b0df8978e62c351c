"""The operators under mmcv's names against torchvision: values, gradients, and what is not there."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torchvision import ops

from tasks.heads import mmcv_ops


def boxes(n: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 40, (n, 2), generator=draw).float()
    return torch.cat([corner, corner + torch.randint(0, 25, (n, 2), generator=draw)], 1)


def greedy(rows: Tensor, scores: Tensor, threshold: float, offset: int) -> list[int]:
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        x0, y0, x1, y1 = rows[index].tolist()
        for other in kept:
            u0, v0, u1, v1 = rows[other].tolist()
            across = max(0.0, min(x1, u1) - max(x0, u0) + offset) * max(0.0, min(y1, v1) - max(y0, v0) + offset)
            areas = (x1 - x0 + offset) * (y1 - y0 + offset) + (u1 - u0 + offset) * (v1 - v0 + offset)
            if across and across / (areas - across) > threshold:
                break
        else:
            kept.append(index)
    return kept


@pytest.mark.parametrize("offset", [0, 1])
def test_nms_is_greedy_with_the_offset_in_widths_and_heights(offset: int) -> None:
    rows, scores = boxes(80), torch.rand(80, generator=torch.Generator().manual_seed(1))
    kept = mmcv_ops.nms(rows, scores, iou_threshold=0.413, offset=offset)  # no ratio of small integers
    assert kept.tolist() == greedy(rows, scores, 0.413, offset)
    if offset == 0:
        assert torch.equal(kept, ops.nms(rows, scores, 0.413))
    assert 1 < len(kept) < 80


def test_the_offset_decides_between_two_boxes() -> None:
    rows, scores = torch.tensor([[0.0, 0, 2, 2], [1.0, 0, 3, 2]]), torch.tensor([0.9, 0.8])  # IoU 1/3; with offset 1/2
    assert len(mmcv_ops.nms(rows, scores, iou_threshold=0.4, offset=0)) == 2
    assert len(mmcv_ops.nms(rows, scores, iou_threshold=0.4, offset=1)) == 1


def test_nms_of_no_boxes_keeps_none() -> None:
    assert mmcv_ops.nms(torch.empty(0, 4), torch.empty(0), iou_threshold=0.5, offset=0).shape == (0,)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_has_the_values_and_gradients_of_torchvision(aligned: bool, ratio: int) -> None:
    features = torch.randn(2, 3, 12, 15, generator=torch.Generator().manual_seed(0), requires_grad=True)
    rois = torch.cat([torch.tensor([0.0, 1, 1, 0, 1])[:, None], boxes(5) * 0.5], 1)
    expected = ops.roi_align(features, rois, (4, 3), 0.5, ratio, aligned)
    upstream = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(expected, features, upstream)
    options = {"aligned_height": 4, "aligned_width": 3, "spatial_scale": 0.5, "sampling_ratio": ratio}
    options |= {"pool_mode": 1, "aligned": aligned}
    output, empty = torch.zeros_like(expected), torch.zeros(0)
    mmcv_ops.roi_align_forward(features.detach(), rois, output, empty, empty, **options)
    torch.testing.assert_close(output, expected.detach())
    written = torch.zeros_like(features)
    mmcv_ops.roi_align_backward(upstream, rois, empty, empty, written, **options)
    torch.testing.assert_close(written, gradient)
    with pytest.raises(NotImplementedError, match="pool_mode"):
        mmcv_ops.roi_align_forward(features.detach(), rois, output, empty, empty, **{**options, "pool_mode": 0})


def test_focal_loss_has_the_values_and_gradients_of_torchvision() -> None:
    logits = 4 * torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 3, 3, 0, 1, 2, 3])  # 3: background
    truth = torch.nn.functional.one_hot(target, 4)[:, :3].double()
    point = logits.clone().requires_grad_()
    expected = ops.sigmoid_focal_loss(point, truth, alpha=0.25, gamma=1.5)
    (gradient,) = torch.autograd.grad(expected.sum(), point)
    output, written, none = torch.zeros_like(logits), torch.zeros_like(logits), torch.zeros(0)
    mmcv_ops.sigmoid_focal_loss_forward(logits, target, none, output, gamma=1.5, alpha=0.25)
    mmcv_ops.sigmoid_focal_loss_backward(logits, target, none, written, gamma=1.5, alpha=0.25)
    torch.testing.assert_close(output, expected.detach())
    torch.testing.assert_close(written, gradient)
    with pytest.raises(NotImplementedError, match="weights"):
        mmcv_ops.sigmoid_focal_loss_forward(logits, target, torch.ones(3), output, gamma=2.0, alpha=0.25)


def test_another_operator_is_there_to_import_and_raises_when_called() -> None:
    module = mmcv_ops.OperatorModule()
    assert hasattr(module, "deform_conv_forward")
    with pytest.raises(NotImplementedError, match="'deform_conv_forward' needs a compiled mmcv"):
        module.deform_conv_forward(1, two=2)
    assert not hasattr(module, "__path__")


def test_a_compiled_module_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = ModuleType(mmcv_ops.NAME)
    monkeypatch.setitem(sys.modules, mmcv_ops.NAME, compiled)
    assert not mmcv_ops.install()
    assert sys.modules[mmcv_ops.NAME] is compiled


def test_install_lets_mmcv_call_its_operators_through_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, mmcv_ops.NAME, raising=False)
    if importlib.util.find_spec(mmcv_ops.NAME) is not None:
        pytest.skip("a compiled mmcv is installed here: its own operators are used")
    assert mmcv_ops.install()
    assert mmcv_ops.install()  # twice is once
    from mmcv.ops import nms, roi_align

    rows, scores = boxes(30), torch.rand(30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(nms(rows, scores, 0.5)[1], ops.nms(rows, scores, 0.5))
    features = torch.randn(1, 2, 8, 8, requires_grad=True)
    rois = torch.tensor([[0.0, 1, 1, 6, 5]])
    made = roi_align(features, rois, (2, 2), 1.0, 2, "avg", True)
    made.sum().backward()
    torch.testing.assert_close(made, ops.roi_align(features, rois, (2, 2), 1.0, 2, True))
    assert features.grad is not None
    assert features.grad.abs().sum() > 0
