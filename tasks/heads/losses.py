"""The losses of segmentation protocols by the name that stands in a literal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from benchmark.errors import UserError
from tasks.heads.unet import IGNORE, mask_losses

ALPHA = 10.0  # weight of the focal term
GAMMA = 2.0  # of the focal term
SMOOTH = 1.0  # pixels
EPSILON = 1e-7

Loss = Callable[[Tensor, Tensor], dict[str, Tensor]]


def loss_of(name: str) -> Loss:
    """logits (B, M, H, W) float32, target (B, M, H, W) uint8 as in `mask_losses` -> scalar terms. Raises UserError.

    "bce+dice": `mask_losses`. "dice": `dice_loss`. "10focal-logdice": `focal_dice_loss`.
    """
    if name not in LOSSES:
        raise UserError(f"segmentation has no loss {name!r}; use one of {', '.join(LOSSES)}")
    return LOSSES[name]


def dice_loss(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """One minus the soft Dice, pooled over the batch, mask by mask: LoVT's loss, which is that of segmentation-models-pytorch.

    A mask without a target pixel in the batch costs nothing there and pulls nothing (philip-mueller/lovt@87b9a30,
    src/models/downstream/segmentation.py: DiceLoss with its defaults). Pixels marked 255 count nowhere; the mean is over the
    masks that occur in the batch.

    Returns:
        {"dice"} scalar in [0, 1].
    """
    overlap, chance, truth, pixels = _pooled(logits, target)
    dice = 2 * overlap / (chance + truth).clamp(min=EPSILON)
    return {"dice": _mean((1 - dice) * (truth > 0), pixels)}


def focal_dice_loss(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Ten times the focal loss (Lin et al. 2017, gamma 2, no class weight) minus the log of the soft Dice: GLoRIA's, MGCA's.

    Dice is pooled over the batch and smoothed by one pixel, focal is a mean over pixels; both mask by mask, then the mean over
    the masks that occur in the batch. Facts: HKU-MedAI/MGCA@680fe4a, mgca/utils/segmentation_loss.py.

    Returns:
        {"focal", "log_dice"} scalars >= 0.
    """
    overlap, chance, truth, pixels = _pooled(logits, target)
    valid, known = (target != IGNORE).to(logits.dtype), (target == 1).to(logits.dtype)
    entropy = binary_cross_entropy_with_logits(logits, known, reduction="none")
    missed = torch.exp(GAMMA * logsigmoid(-logits * (2 * known - 1)))  # (1 - chance of the truth) ** gamma
    focal = (missed * entropy * valid).sum(dim=(0, 2, 3)) / pixels.clamp(min=1)
    dice = (2 * overlap + SMOOTH) / (chance + truth + SMOOTH)
    return {"focal": ALPHA * _mean(focal, pixels), "log_dice": _mean(-torch.log(dice), pixels)}


LOSSES: dict[str, Loss] = {"bce+dice": mask_losses, "dice": dice_loss, "10focal-logdice": focal_dice_loss}


def _pooled(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Soft intersection, chances, target pixels and valid pixels over the batch, (M,) each."""
    valid, truth = (target != IGNORE).to(logits.dtype), (target == 1).to(logits.dtype)
    chance = torch.sigmoid(logits) * valid
    return tuple(item.sum(dim=(0, 2, 3)) for item in (chance * truth, chance, truth, valid))  # type: ignore[return-value]


def _mean(values: Tensor, pixels: Tensor) -> Tensor:
    """Over the masks that have a valid pixel; zero where none has."""
    present = (pixels > 0).to(values.dtype)
    return (values * present).sum() / present.sum().clamp(min=1)
