"""From cached pixels to what a method encodes: scaling, normalisation and a mild augmentation, batched on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from benchmark.types import InputSpec, digest

ROTATION = 5.0  # degrees, each way; this and the following at strength 1
TRANSLATION = 0.05  # of the side, each way
ZOOM = 0.1  # 0.9 to 1.1
GAIN = 0.2  # brightness 0.8 to 1.2
GAMMA = 0.2  # contrast: exponent 1 / 1.2 to 1.2


def to_input(images: Tensor, spec: InputSpec) -> Tensor:
    """What a method encodes.

    Args:
        images: (B, 1, S, S) uint8, S = spec.size.
        spec: mean and std refer to pixels in [0, 1].

    Returns:
        (B, C, S, S) float32, the gray channel repeated and normalised: (pixel / 255 - mean) / std.

    Raises:
        ValueError: another shape or dtype, or mean and std that fit neither one channel nor all.
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1:] != (1, spec.size, spec.size):
        raise ValueError(f"images {tuple(images.shape)} {images.dtype}; (B, 1, {spec.size}, {spec.size}) uint8 expected")
    if {len(spec.mean), len(spec.std)} - {1, spec.channels}:
        raise ValueError(f"mean {spec.mean} and std {spec.std} fit neither 1 nor {spec.channels} channels")
    mean, std = (
        torch.tensor(item, dtype=torch.float32, device=images.device).view(1, -1, 1, 1) for item in (spec.mean, spec.std)
    )
    scaled = images.to(torch.float32) / 255
    # (B, 1, S, S) -> (B, C, S, S), a view until it is normalised by channel
    return ((scaled.expand(-1, spec.channels, -1, -1) - mean) / std).contiguous()


def augment(images: Tensor, uids: Sequence[str], seed: int, epoch: int, strength: float = 1.0) -> Tensor:
    """Mild rotation, translation, zoom, brightness and contrast; never a flip, since reports name sides.

    What is drawn for an image depends on (seed, epoch, uid) alone: neither on its place in the batch nor on the others,
    nor on any global random state. Black stays black, so that padding looks as it does at evaluation.

    Args:
        images: (B, 1, S, S) uint8.
        uids: B names.
        seed: of the run.
        epoch: another one draws anew.
        strength: scales every range; 0 returns the images as they are.

    Returns:
        (B, 1, S, S) uint8 on the same device.

    Raises:
        ValueError: another shape or dtype, or a strength that is not in [0, 2].
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[:2] != (len(uids), 1):
        raise ValueError(f"images {tuple(images.shape)} {images.dtype} for {len(uids)} uids; (B, 1, S, S) uint8 expected")
    if not 0 <= strength <= 2:
        raise ValueError(f"augmentation strength {strength} is not in [0, 2]")
    if strength == 0 or not uids:
        return images
    drawn = [_draw(uid, seed, epoch, strength) for uid in uids]
    curves = torch.from_numpy(np.stack([curve for _, curve in drawn])).to(images.device)
    affines = torch.from_numpy(np.stack([affine for affine, _ in drawn])).to(images.device)
    # gray values through a table of (B, 256): exact and the same for every place in the batch, unlike a vectorised power
    toned = curves.gather(1, images.flatten(1).long()).view(images.shape)
    grid = affine_grid(affines, list(images.shape), align_corners=False)
    moved = grid_sample(toned, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.round_().clamp_(0, 255).to(torch.uint8)


def _draw(uid: str, seed: int, epoch: int, strength: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(2, 3) affine from output to input in [-1, 1] coordinates, and (256,) gray values in [0, 255]."""
    generator = np.random.default_rng(int(digest([seed, epoch, uid], 32), 16))
    turn, right, down, zoom, gain, gamma = generator.uniform(-strength, strength, 6)
    angle = np.deg2rad(ROTATION * turn)
    scale = 1 / (1 + ZOOM * zoom)
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    # the side spans 2 in these coordinates
    affine = np.array([[cosine, -sine, 2 * TRANSLATION * right], [sine, cosine, 2 * TRANSLATION * down]], np.float32)
    curve = (1 + GAIN * gain) * np.linspace(0, 1, 256) ** ((1 + GAMMA) ** gamma)
    return affine, np.clip(255 * curve, 0, 255).astype(np.float32)
