"""Augmentation of images and their masks by one and the same movement, batched on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from benchmark.data.geometry import IGNORE
from benchmark.types import digest

ROTATION = 10.0  # degrees, each way
ZOOM = 0.1  # 0.9 to 1.1
CHANCE = 0.5  # of being moved at all


def turn_and_zoom(
    images: Tensor, masks: Tensor, uids: Sequence[str], seed: int, epochs: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Rotation and zoom about the center, of half of the images: ShiftScaleRotate of GLoRIA's and MGCA's segmentation.

    Facts from marshuang80/gloria@4bf09c7, gloria/datasets/image_dataset.py (scale 0.1, rotate 10, no shift, p 0.5, black
    border). Black stays black; what comes from outside the image is ignored in the masks, where there it is background.
    What is drawn depends on (seed, epoch, uid) alone.

    Args:
        images: (B, 1, S, S) uint8. masks: (B, M, S, S) uint8 on the same device, nearest neighbor, no new values.
        uids, epochs: B names, and how often each was drawn before.

    Returns:
        Both, moved, of the same shapes.

    Raises:
        ValueError: another shape or dtype.
    """
    side, rows = images.shape[-1], len(uids)
    known = images.dtype == masks.dtype == torch.uint8 and images.shape == (rows, 1, side, side)
    if not known or len(epochs) != rows or masks.shape != (rows, masks.shape[1], side, side):
        raise ValueError(f"images {tuple(images.shape)} {images.dtype}, masks {tuple(masks.shape)} {masks.dtype}, {rows} uids")
    affines = np.stack([_draw(uid, seed, epoch) for uid, epoch in zip(uids, epochs)])
    grid = affine_grid(torch.from_numpy(affines).to(images.device), list(images.shape), align_corners=False)
    moved = grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    # zeros outside stand for IGNORE
    marked = grid_sample(masks.float() - IGNORE, grid, mode="nearest", padding_mode="zeros", align_corners=False) + IGNORE
    return moved.round_().clamp_(0, 255).to(torch.uint8), marked.to(torch.uint8)


def _draw(uid: str, seed: int, epoch: int) -> NDArray[np.float32]:
    """(2, 3) float32 affine from output to input in [-1, 1] coordinates."""
    generator = np.random.default_rng(int(digest(["turn and zoom", seed, epoch, uid], 32), 16))
    chance, turn, zoom = generator.random(), generator.uniform(-1, 1), generator.uniform(-1, 1)
    if chance >= CHANCE:
        return np.eye(2, 3, dtype=np.float32)
    angle, scale = np.deg2rad(ROTATION * turn), 1 / (1 + ZOOM * zoom)
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cosine, -sine, 0], [sine, cosine, 0]], np.float32)
