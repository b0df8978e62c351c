"""LoVT's losses: against recorded values, against plain loops, and on samples of every length."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from methods.lovt_losses import global_nce, local_intra_sample, near_positions
from tests.golden import Case, assert_gradient, assert_output, needs_golden


@needs_golden
def test_global_losses_equal_the_recorded_ones() -> None:
    case = Case("lovt/global_nce")
    image, text = case.leaf("in/zg_1"), case.leaf("in/zg_2")
    same = bool(case.arrays["hp/negatives_from_same_modality"])
    to_text, to_image = global_nce(image, text, case.number("hp/temperature"), same)
    assert_output(to_text, case["out/loss_1to2"])
    assert_output(to_image, case["out/loss_2to1"])
    loss = case.number("hp/weight_1to2") * to_text + case.number("hp/weight_2to1") * to_image
    assert_output(loss, case["out/weighted"])
    loss.backward()  # type: ignore[no-untyped-call]
    assert_gradient(image.grad, case["grad/zg_1"])
    assert_gradient(text.grad, case["grad/zg_2"])


@needs_golden
@pytest.mark.parametrize("kind", ["image", "text"])
def test_local_losses_equal_the_recorded_ones(kind: str) -> None:
    case = Case(f"lovt/local_intra_{kind}")
    one, other = case.leaf("in/zl_a"), case.leaf("in/zl_b")
    shape = tuple(case.arrays["hp/max_structure"].tolist()) if kind == "image" else int(case.number("hp/max_structure"))
    decay = case.number("hp/smooth_lambda") if bool(case.arrays["hp/smooth_weights"]) else None
    relative = str(case.arrays["hp/threshold_type"]) == "relative"
    near = near_positions(shape, case.number("hp/distance_threshold"), relative, decay)
    assert_output(near, case["out/pos_weights"].reshape(near.shape))
    mask = case["in/binary_mask"] > 0 if kind == "text" else None
    same, temperature = bool(case.arrays["hp/negatives_from_same_modality"]), case.number("hp/temperature")
    released, right = (
        local_intra_sample(one, other, near, case["in/weights"], mask, temperature, same, constant_everywhere=flag)
        for flag in (True, False)
    )
    assert_output(released[0], case["out/loss_ab"])
    assert_output(released[1], case["out/loss_ba"])
    sum(released).backward()  # type: ignore[union-attr]
    assert_gradient(one.grad, case["grad/zl_a"])
    assert_gradient(other.grad, case["grad/zl_b"])
    length = near.shape[0]
    lengths = torch.full((3,), length) if mask is None else mask.sum(dim=1)
    surplus = (length - 1) * (lengths / (2 * length)).log().mean()  # subtracted once in place of at every position
    assert_output(right[0], case["out/loss_ab"] + surplus)
    assert_output(right[1], case["out/loss_ba"] + surplus)


def nce_loop(image: Tensor, text: Tensor, temperature: float) -> Tensor:
    """Image to text with negatives of both modalities, row by row."""
    found = []
    for row, own in enumerate(image):
        others = [other for place, other in enumerate((*image, *text)) if place not in (row, row + len(image))]
        scores = torch.stack([F.cosine_similarity(own, other, dim=0) for other in (text[row], *others)]) / temperature
        found.append(scores.logsumexp(dim=0) - scores[0])
    return torch.stack(found).mean()


def test_negatives_of_the_same_modality_are_every_other_one() -> None:
    torch.manual_seed(0)
    image, text = torch.randn(5, 7), torch.randn(5, 7)
    to_text, to_image = global_nce(image, text, 0.3, same_modality=True)
    torch.testing.assert_close(to_text, nce_loop(image, text, 0.3))
    torch.testing.assert_close(to_image, nce_loop(text, image, 0.3))
    alone = global_nce(image, text, 0.3)
    assert alone[0] < to_text
    torch.testing.assert_close(alone[0], F.cross_entropy(F.normalize(image) @ F.normalize(text).T / 0.3, torch.arange(5)))


def local_loop(one: Tensor, other: Tensor, near: Tensor, weights: Tensor, same: bool, most: int) -> Tensor:
    """One sample without padding, position by position."""
    found, hats = torch.zeros(()), (F.normalize(one, dim=1), F.normalize(other, dim=1))
    for row, own in enumerate(hats[0]):
        scores = hats[1] @ own / 0.3
        every = [scores]
        if same:
            every.append((hats[0] @ own / 0.3)[near[row] == 0])
        error = torch.cat(every).logsumexp(dim=0) - (near[row] / near[row].sum() * scores).sum()
        found = found + weights[row] / weights.sum() * error
    return found - torch.tensor(len(one) * (2 if same else 1) / (2 * most)).log()


@pytest.mark.parametrize("same", [False, True])
def test_ragged_samples_equal_a_loop_over_them(same: bool) -> None:
    torch.manual_seed(0)
    lengths, near = (6, 1, 4), near_positions(6, 1.0, relative=False, decay=0.5)
    one, other, weights = torch.randn(3, 6, 5), torch.randn(3, 6, 5), torch.rand(3, 6)
    mask = torch.arange(6) < torch.tensor(lengths).unsqueeze(1)
    found = local_intra_sample(one, other, near, weights, mask, 0.3, same, most=6)
    for value, sides in zip(found, ((one, other), (other, one))):
        parts = [
            local_loop(sides[0][row, :n], sides[1][row, :n], near[:n, :n], weights[row, :n], same, 6)
            for row, n in enumerate(lengths)
        ]
        torch.testing.assert_close(value, torch.stack(parts).mean())


def test_samples_without_a_position_and_equal_ones_stay_finite() -> None:
    near = near_positions(4, 0.0)
    for one in (torch.randn(3, 4, 5), torch.ones(3, 4, 5), torch.zeros(3, 4, 5)):
        leaf = one.clone().requires_grad_()
        mask = torch.arange(4) < torch.tensor([[0], [1], [4]])
        found = local_intra_sample(leaf, torch.randn(3, 4, 5), near, None, mask, same_modality=True)
        sum(found).backward()  # type: ignore[union-attr]
        assert leaf.grad is not None
        assert bool(torch.isfinite(torch.stack([*found, leaf.grad.sum()]).detach()).all())
        assert not leaf.grad[~mask].any()


def test_near_positions_know_the_map_and_the_row() -> None:
    near = near_positions((2, 3), 1.0, relative=False)
    expected = [[1, 1, 0, 1, 0, 0], [1, 1, 1, 0, 1, 0]]  # right, left, below
    assert near[:2].tolist() == expected
    row = near_positions(4, 0.25, decay=2.0)
    torch.testing.assert_close(row[0], torch.tensor([1.0, (torch.tensor(-0.5)).exp(), 0, 0]))
    assert torch.equal(near_positions((7, 7), 0.0), torch.eye(49))


def test_half_precision_scores_in_single() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(2, 9, 8), torch.randn(2, 9, 8)
    near = near_positions((3, 3), 0.5)
    whole = local_intra_sample(one.bfloat16().float(), other.bfloat16().float(), near)
    with torch.autocast("cpu", torch.bfloat16):
        half = local_intra_sample(one.bfloat16(), other.bfloat16(), near)
    torch.testing.assert_close(torch.stack(half), torch.stack(whole))
