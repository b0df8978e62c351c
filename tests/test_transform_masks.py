"""Images and masks move together, by what (seed, epoch, uid) says, and half of them not at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmark.data.geometry import IGNORE
from benchmark.data.transform_masks import turn_and_zoom

SIDE = 64


def scene(rows: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """A bright square off the center on black, and its mask."""
    images = torch.zeros(rows, 1, SIDE, SIDE, dtype=torch.uint8)
    images[..., 12:28, 30:50] = 200
    return images, (images > 0).to(torch.uint8), [f"u{row}" for row in range(rows)]


def test_the_mask_stays_on_what_it_marks_and_only_the_border_is_ignored() -> None:
    images, masks, uids = scene(40)
    moved, marked = turn_and_zoom(images, masks, uids, 0, [0] * 40)
    assert (moved.shape, marked.shape, moved.dtype, marked.dtype) == (images.shape, masks.shape, torch.uint8, torch.uint8)
    assert set(marked.unique().tolist()) == {0, 1, IGNORE}
    bright = moved > 100
    same = ((marked == 1) & bright).sum().float() * 2 / ((marked == 1).sum() + bright.sum())
    assert same > 0.97
    ignored = (marked == IGNORE).any(dim=0)[0].nonzero() - SIDE / 2
    assert ignored.abs().amax(dim=1).min() > SIDE / 3  # far from the center
    assert (moved[marked == IGNORE] == 0).all()


def test_about_half_stays_and_the_others_turn_at_most_ten_degrees_and_zoom_at_most_a_tenth() -> None:
    images, masks, _ = scene(400)
    uids = [f"v{row}" for row in range(400)]
    _, marked = turn_and_zoom(images, masks, uids, 3, [0] * 400)
    stayed = [bool(torch.equal(one, two)) for one, two in zip(marked, masks)]
    assert 0.4 < np.mean(stayed) < 0.6
    areas = [(mask == 1).sum().item() / 320 for mask in marked]
    assert 0.9**2 - 0.05 < min(areas) < 0.9 < 1.1 < max(areas) < 1.1**2 + 0.05
    angles = []
    for mask in marked:
        row, column = (mask[0] == 1).nonzero().double().mean(dim=0) - (SIDE - 1) / 2
        angles.append(float(torch.rad2deg(torch.atan2(row, column))))
    start = np.rad2deg(np.arctan2(19.5 - 31.5, 39.5 - 31.5))
    turned = np.array(angles) - start
    assert np.abs(turned).max() < 11
    assert turned.min() < -8 < 8 < turned.max()


def test_what_is_drawn_depends_on_the_row_not_on_its_batch_and_the_global_generators_are_left_alone() -> None:
    images, masks, uids = scene(12)
    before = torch.random.get_rng_state()
    whole = turn_and_zoom(images, masks, uids, 0, [2] * 12)
    alone = turn_and_zoom(images[5:6], masks[5:6], uids[5:6], 0, [2])
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[5:6], two) for one, two in zip(whole, alone))
    for seed, epoch in ((1, 2), (0, 3)):
        other = turn_and_zoom(images, masks, uids, seed, [epoch] * 12)
        assert not torch.equal(other[0], whole[0])


def test_other_shapes_are_refused() -> None:
    images, masks, uids = scene(2)
    with pytest.raises(ValueError, match="2 uids"):
        turn_and_zoom(images.float(), masks, uids, 0, [0, 0])
    with pytest.raises(ValueError, match="2 uids"):
        turn_and_zoom(images, masks[..., :32], uids, 0, [0, 0])
