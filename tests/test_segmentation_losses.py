"""The losses of segmentation protocols: the golden values of MGCA's code, the library LoVT calls, loops, and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segmentation_models_pytorch.losses import DiceLoss

from benchmark.errors import UserError
from tasks.heads.losses import LOSSES, dice_loss, focal_dice_loss, loss_of
from tests.golden import Case, assert_gradient, assert_output, needs_golden

IGNORE = 255


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (3, 2, 4, 5) float64 and targets with ignored pixels; the first image lacks the second mask."""
    draw = np.random.default_rng(seed)
    target = draw.choice([0, 1, IGNORE], (3, 2, 4, 5), p=[0.5, 0.3, 0.2]).astype(np.uint8)
    target[0, 1] = IGNORE
    return torch.tensor(draw.normal(0, 2, target.shape)), torch.tensor(target)


def known(logits: torch.Tensor, target: torch.Tensor, mask: int) -> tuple[np.ndarray, np.ndarray]:
    """Chances and truth of the pixels of a mask that count."""
    counts = (target[:, mask] != IGNORE).numpy()
    return 1 / (1 + np.exp(-logits[:, mask].numpy()[counts])), target[:, mask].numpy()[counts].astype(float)


@needs_golden
def test_ten_focal_minus_log_dice_is_that_of_mgca_with_its_gradient() -> None:
    case = Case("mgca_metrics/dice_a")
    logits = case.leaf("in/logits")
    terms = focal_dice_loss(logits.unsqueeze(1), case["in/mask"].unsqueeze(1))
    assert_output(terms["focal"], case.number("hp/alpha") * case["out/focal"])
    assert_output(torch.exp(-terms["log_dice"]), case["out/soft_dice"])
    total = terms["focal"] + terms["log_dice"]
    assert_output(total, case["out/mixed_loss"])
    total.backward()
    assert_gradient(logits.grad, case["grad/logits"])


def test_ten_focal_minus_log_dice_equals_a_loop() -> None:
    logits, target = drawn()
    focals, dices = [], []
    for mask in range(2):
        chance, truth = known(logits, target, mask)
        right = np.where(truth == 1, chance, 1 - chance)
        focals.append(np.mean([(1 - one) ** 2 * -np.log(one) for one in right]))
        dices.append(-np.log((2 * (chance * truth).sum() + 1) / (chance.sum() + truth.sum() + 1)))
    terms = focal_dice_loss(logits, target)
    assert float(terms["focal"]) == pytest.approx(10 * np.mean(focals))
    assert float(terms["log_dice"]) == pytest.approx(np.mean(dices))


def test_dice_equals_a_loop_and_the_library_that_lovt_calls() -> None:
    logits, target = drawn()
    dices = []
    for mask in range(2):
        chance, truth = known(logits, target, mask)
        dices.append(1 - 2 * (chance * truth).sum() / (chance.sum() + truth.sum()))
    assert float(dice_loss(logits, target)["dice"]) == pytest.approx(np.mean(dices))
    theirs = DiceLoss("binary", ignore_index=IGNORE)(logits[:, :1], target[:, :1].double())
    assert float(dice_loss(logits[:, :1], target[:, :1])["dice"]) == pytest.approx(float(theirs))


def test_a_batch_without_a_target_pixel_costs_nothing_under_dice_and_pulls_down_under_focal() -> None:
    logits = torch.full((2, 1, 4, 4), 1.0, requires_grad=True)
    empty = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    theirs = DiceLoss("binary")(logits, empty.float())
    assert dice_loss(logits, empty)["dice"].item() == theirs.item() == 0
    terms = focal_dice_loss(logits, empty)
    sum(terms.values()).backward()
    assert all(torch.isfinite(term) and term > 0 for term in terms.values())
    assert logits.grad is not None
    assert (logits.grad > 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_the_loss(name: str) -> None:
    logits, target = drawn(1)
    logits = logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda item: torch.stack(list(loss_of(name)(item, target).values())).sum(), (logits,))


@pytest.mark.parametrize("name", LOSSES)
def test_a_mask_that_nobody_has_costs_nothing_and_logits_may_be_huge(name: str) -> None:
    logits, target = drawn(2)
    target[:, 1] = IGNORE
    for key, value in loss_of(name)(logits, target).items():
        torch.testing.assert_close(value, loss_of(name)(logits[:, :1], target[:, :1])[key])
    assert all(float(value) == 0 for value in loss_of(name)(logits, torch.full_like(target, IGNORE)).values())
    wide = (1e4 * logits).float().requires_grad_()
    total = torch.stack(list(loss_of(name)(wide, target).values())).sum()
    total.backward()
    assert torch.isfinite(total)
    assert wide.grad is not None
    assert torch.isfinite(wide.grad).all()


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(UserError, match="no loss 'hinge'; use one of bce"):
        loss_of("hinge")
