"""Normalisation, and an augmentation that depends on (seed, epoch, uid) alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.data.transform import augment, to_input
from benchmark.types import InputSpec

UIDS = tuple(f"row-{index}" for index in range(7))


def batch(size: int = 32, n: int = len(UIDS)) -> Tensor:
    return torch.randint(0, 256, (n, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def blob(x: int, y: int, size: int = 64) -> Tensor:
    image = torch.zeros(1, 1, size, size, dtype=torch.uint8)
    image[0, 0, y - 2 : y + 2, x - 2 : x + 2] = 255
    return image


def center(image: Tensor) -> tuple[float, float]:
    weights = image[0, 0].double() / image.sum()
    places = torch.arange(image.shape[-1]) + 0.5
    return float((weights.sum(0) * places).sum()), float((weights.sum(1) * places).sum())


def test_input_is_scaled_repeated_and_normalised() -> None:
    images = batch()
    spec = InputSpec(32, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    made = to_input(images, spec)
    assert made.shape == (7, 3, 32, 32)
    assert made.dtype == torch.float32
    for channel in range(3):
        expected = (images[:, 0].numpy() / 255 - spec.mean[channel]) / spec.std[channel]
        np.testing.assert_allclose(made[:, channel], expected, rtol=1e-5, atol=1e-6)
    assert to_input(images, InputSpec(32, channels=3)).shape == (7, 3, 32, 32)  # one mean for all channels


def test_input_of_another_size_dtype_or_mean_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        to_input(batch(16), InputSpec(32))
    with pytest.raises(ValueError, match="expected"):
        to_input(batch().float(), InputSpec(32))
    with pytest.raises(ValueError, match="channels"):
        to_input(batch(), InputSpec(32, channels=3, mean=(0.5, 0.5)))


def test_a_permuted_or_split_batch_gives_the_same_bytes() -> None:
    images = batch()
    order = [3, 0, 6, 1, 5, 2, 4]
    whole = augment(images, UIDS, seed=1, epoch=2)
    permuted = augment(images[order], [UIDS[row] for row in order], seed=1, epoch=2)
    assert torch.equal(permuted, whole[order])
    alone = torch.cat([augment(images[row : row + 1], UIDS[row : row + 1], seed=1, epoch=2) for row in range(7)])
    assert torch.equal(alone, whole)


def test_seed_epoch_and_uid_decide_and_global_state_does_not() -> None:
    images = batch()[:1].repeat(7, 1, 1, 1)
    base = augment(images, UIDS, seed=1, epoch=2)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(augment(images, UIDS, seed=1, epoch=2), base)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(augment(images, UIDS, seed=2, epoch=2), base)
    assert not torch.equal(augment(images, UIDS, seed=1, epoch=3), base)
    assert len({row.numpy().tobytes() for row in base}) == 7


def test_no_image_is_ever_mirrored_and_moves_stay_mild() -> None:
    for epoch in range(60):
        x, y = center(augment(blob(16, 20), ["a"], seed=0, epoch=epoch))
        # 5 % shift, 10 % zoom and 5 degrees about the middle of 64: at most 3.2 + 2 + 1.4 pixels along an axis
        assert abs(x - 16) < 7
        assert abs(y - 20) < 7


def test_draws_spread_over_their_ranges() -> None:
    moves = np.array([center(augment(blob(32, 32), [f"u{i}"], seed=0, epoch=0)) for i in range(150)]) - 32
    assert np.abs(moves.mean(0)).max() < 0.5
    assert (moves.std(0) > 1.2).all()
    assert np.abs(moves).max() < 4
    flat = torch.full((150, 1, 16, 16), 128, dtype=torch.uint8)
    middle = augment(flat, [f"u{i}" for i in range(150)], seed=0, epoch=0)[:, 0, 8, 8].float()
    assert 110 < middle.mean() < 146
    assert 8 < middle.std() < 40


def test_black_stays_black_and_strength_scales() -> None:
    assert int(augment(torch.zeros(7, 1, 16, 16, dtype=torch.uint8), UIDS, seed=0, epoch=0).max()) == 0
    images = batch()
    assert torch.equal(augment(images, UIDS, seed=0, epoch=0, strength=0.0), images)
    changes = [
        float((augment(blob(10, 10), ["a"], 0, 0, strength).float() - blob(10, 10).float()).abs().sum())
        for strength in (0.0, 0.2, 1.0)
    ]
    assert changes == sorted(changes)
    assert changes[1] < changes[2]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="uids"):
        augment(batch(), UIDS[:3], seed=0, epoch=0)
    with pytest.raises(ValueError, match="strength"):
        augment(batch(), UIDS, seed=0, epoch=0, strength=-1)
    assert augment(batch(n=0), [], seed=0, epoch=0).shape == (0, 1, 32, 32)
