"""SimCLR: the loss against loops and another form of it, and views that are what they say."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from benchmark.contract import check
from benchmark.errors import UserError
from benchmark.types import PRESETS, Batch, Step, capabilities, reads_reports
from methods.simclr import SimCLR, SimCLRConfig, blurred, nt_xent, placement, view

TINY: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "image_width": 32, "image_depth": 2, "image_heads": 2, "projection_dim": 16,
}  # fmt: skip
STILL: dict[str, Any] = {"crop": 1.0, "rotation": 0.0, "intensity": 0.0, "blur": 0.0}
STEP = Step(0, 0, 10)


def build(**options: Any) -> SimCLR:
    torch.manual_seed(0)
    return SimCLR.build(SimCLRConfig(**{**TINY, **options}), None)


def batch_of(n: int = 6) -> Batch:
    names = tuple(f"row {row}" for row in range(n))
    images = torch.randn(n, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    return Batch(names, names, images, ("",) * n)


def total(method: SimCLR, batch: Batch, seed: int = 5) -> Tensor:
    torch.manual_seed(seed)
    (terms,) = method.loss(batch, STEP)
    assert set(terms) == {"contrast", "total"}
    return terms["total"]


# --------------------------------------------------------------------------------------------------- the loss


def test_nt_xent_equals_a_loop_over_views() -> None:
    torch.manual_seed(0)
    first, second, temperature = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64), 0.3
    views = [[value / math.sqrt(sum(item**2 for item in row)) for value in row] for row in torch.cat([first, second]).tolist()]
    logits = [[sum(a * b for a, b in zip(one, other)) / temperature for other in views] for one in views]
    expected = 0.0
    for i in range(8):
        others = sum(math.exp(logits[i][k]) for k in range(8) if k != i)
        expected -= math.log(math.exp(logits[i][(i + 4) % 8]) / others) / 8
    assert nt_xent(first, second, temperature).item() == pytest.approx(expected, abs=1e-12)


def test_nt_xent_equals_positives_against_blocks_without_diagonals() -> None:
    """As libraries write it: the block of the other views first, then the own block without its diagonal."""
    torch.manual_seed(1)
    first, second = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    expected = torch.tensor(0.0, dtype=torch.float64)
    for one, other in ((first, second), (second, first)):
        own = F.cosine_similarity(one[:, None], one[None], dim=-1)[~torch.eye(5, dtype=torch.bool)].reshape(5, 4)
        across = F.cosine_similarity(one[:, None], other[None], dim=-1)
        expected = expected + F.cross_entropy(torch.cat([across, own], dim=1) / 0.5, torch.arange(5)) / 2
    assert nt_xent(first, second, 0.5).item() == pytest.approx(expected.item(), abs=1e-12)


def test_nt_xent_at_its_ends() -> None:
    row = torch.randn(1, 8).expand(6, 8)
    assert nt_xent(row, row, 0.1).item() == pytest.approx(math.log(11), abs=1e-5)  # nothing tells them apart
    assert nt_xent(torch.eye(8), 3 * torch.eye(8), 0.05).item() == pytest.approx(0.0, abs=1e-6)
    one = torch.randn(1, 4, requires_grad=True)
    loss = nt_xent(one, torch.randn(1, 4), 0.1)
    loss.backward()
    assert loss.item() == 0.0
    assert one.grad is not None
    assert torch.isfinite(one.grad).all()
    assert torch.isfinite(nt_xent(torch.zeros(3, 4), torch.randn(3, 4), 0.1))


def test_gradients_match_finite_differences_and_half_precision_keeps_float32_logits() -> None:
    torch.manual_seed(2)
    pair = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda one, two: nt_xent(one, two, 0.4), pair)
    one, two = torch.randn(8, 16), torch.randn(8, 16)
    plain = nt_xent(one, two, 0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nt_xent(one, two, 0.01), plain)


WORKER = """
import json, sys, torch
from methods.simclr import nt_xent
rank, path = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method="file://" + path, rank=rank, world_size=2)
torch.manual_seed(0)
first, second = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
weight = torch.eye(4, dtype=torch.float64, requires_grad=True)
rows = slice(3 * rank, 3 * rank + 3)
loss = nt_xent(first[rows] @ weight, second[rows] @ weight, 0.5)
loss.backward()
both = torch.cat([loss.detach().reshape(1), weight.grad.flatten()])
torch.distributed.all_reduce(both)
if rank == 0:
    print(json.dumps((both / 2).tolist()))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_loss_and_gradient_of_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, env=environment, text=True)
        for rank in range(2)
    ]
    output = [worker.communicate(timeout=120)[0] for worker in workers]
    torch.manual_seed(0)
    first, second = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    weight = torch.eye(4, dtype=torch.float64, requires_grad=True)
    loss = nt_xent(first @ weight, second @ weight, 0.5)
    loss.backward()
    assert weight.grad is not None
    expected = [loss.item(), *weight.grad.flatten().tolist()]
    np.testing.assert_allclose(json.loads(output[0].splitlines()[-1]), expected, atol=1e-10)


# ------------------------------------------------------------------------------------------------------ views


def disk(size: int = 64) -> Tensor:
    """(8, 1, size, size) normalised: one bright spot left of the middle, on black."""
    place = torch.arange(size) - size / 2
    spot = ((place[:, None]) ** 2 + (place[None] + size / 8) ** 2 < (size / 16) ** 2).float()
    return ((spot - 0.5) / 0.25).expand(8, 1, size, size).clone()


def test_views_keep_shape_and_range_and_come_from_the_seed_alone() -> None:
    images, spec = disk(), build().input
    config = SimCLRConfig(**TINY)
    before = images.clone()
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(view(images, config, spec))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert found[0].shape == images.shape
    assert -2.0 - 1e-6 <= found[0].min() < found[0].max() <= 2.0 + 1e-6  # black to white, normalised by 0.5 and 0.25
    assert len({tuple(item.flatten().tolist()) for item in found[0]}) == 8  # each image its own
    assert torch.equal(images, before)


def test_views_of_three_channels_stay_gray() -> None:
    method = build(image_channels=3)
    mean, std = (torch.tensor(item).reshape(1, 3, 1, 1) for item in (method.input.mean, method.input.std))
    torch.manual_seed(0)
    pixels = view((torch.rand(4, 1, 32, 32).expand(4, 3, 32, 32) - mean) / std, method.config, method.input) * std + mean
    assert (pixels - pixels.mean(dim=1, keepdim=True)).abs().max() < 1e-5


def test_without_crop_turn_and_light_only_shift_and_zoom_are_left() -> None:
    drawn = torch.full((1, 9), 0.5)  # the middle of every range
    config = SimCLRConfig(**TINY, **STILL)
    assert torch.allclose(placement(drawn, config), torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]))
    mirrored = placement(drawn, replace(config, flip=1.0))
    assert torch.allclose(mirrored, torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]]))


def test_crops_stay_inside_and_have_the_area_they_say() -> None:
    torch.manual_seed(0)
    drawn = torch.rand(2000, 9)
    drawn[:, 4:8] = 0.5  # neither turn, zoom nor shift
    found = placement(drawn, SimCLRConfig(**TINY, crop=0.3))
    width, height = found[:, 0, 0], found[:, 1, 1]
    assert (found[:, 0, 2].abs() + width <= 1 + 1e-6).all()
    assert (found[:, 1, 2].abs() + height <= 1 + 1e-6).all()
    area, aspect = width * height, width / height
    assert 0.25 < area.min() < 0.35 < 0.9 < area.max() <= 1
    assert 0.75 - 1e-5 <= aspect.min() < 0.8 < 1.25 < aspect.max() <= 4 / 3 + 1e-5


def test_the_spot_stays_on_its_side_unless_flips_are_asked_for() -> None:
    spec = build().input
    sides = {}
    for flip in (0.0, 1.0):
        torch.manual_seed(0)
        found = view(disk(), SimCLRConfig(**{**TINY, **STILL, "flip": flip}), spec) + 2  # black is 0
        columns = torch.arange(64) - 31.5
        place = (found.sum(dim=(1, 2)) * columns).sum(dim=1) / found.sum(dim=(1, 2, 3))  # of the spot, per image
        sides[flip] = place.sign().unique().tolist()
    assert sides == {0.0: [-1.0], 1.0: [1.0]}


def test_blur_is_a_gaussian_of_each_images_own_width() -> None:
    pixels = torch.rand(3, 1, 224, 224, generator=torch.Generator().manual_seed(3))
    sigma = torch.tensor([0.1, 1.0, 3.0])
    found = blurred(pixels, sigma)
    for row in range(3):
        expected = gaussian_filter(pixels[row, 0].double().numpy(), float(sigma[row]), mode="mirror", radius=9)
        np.testing.assert_allclose(found[row, 0].numpy(), expected, atol=1e-5)
    assert torch.allclose(blurred(torch.ones(2, 3, 16, 8), torch.tensor([3.0, 0.1])), torch.ones(2, 3, 16, 8), atol=1e-6)


def test_light_changes_without_places_changing() -> None:
    spec, images = build().input, torch.full((64, 1, 32, 32), -0.4)  # 0.4 everywhere
    torch.manual_seed(0)
    config = SimCLRConfig(**{**TINY, **STILL, "intensity": 0.4})
    middle = view(images, config, spec)[:, 0, 12:20, 12:20] * 0.25 + 0.5
    assert (middle.amax(dim=(1, 2)) - middle.amin(dim=(1, 2))).max() < 1e-5
    assert middle.min() < 0.32
    assert middle.max() > 0.48


# ------------------------------------------------------------------------------------------------- the method


def test_the_loss_is_nt_xent_of_projected_means_of_two_views() -> None:
    method, batch = build(), batch_of()
    found = total(method, batch)
    torch.manual_seed(5)
    views = torch.cat([view(batch.images, method.config, method.input) for _ in range(2)])
    projected = method.projection(method.image_tower.forward_tokens(views)[:, 1:].mean(dim=1))
    assert found.item() == pytest.approx(nt_xent(projected[:6], projected[6:], 0.1).item(), rel=1e-5)


@pytest.mark.parametrize("encoder", ["vit", "resnet"])
def test_every_parameter_trains(encoder: str) -> None:
    method = build(image_encoder=encoder)
    optimizer = torch.optim.SGD([item for item in method.parameters() if item.requires_grad], lr=0.1)
    for seed in range(2):  # a residual branch starts at 0, so that its inside learns from the second step on
        optimizer.zero_grad()
        total(method, batch_of(), seed).backward()
        optimizer.step()
    silent = [name for name, item in method.named_parameters() if item.grad is None or not item.grad.abs().sum() > 0]
    assert silent == ["projection.4.bias"]  # the last layer is centered


def test_one_image_and_equal_images_are_finite() -> None:
    for batch in (batch_of(1), replace(batch_of(4), images=torch.zeros(4, 1, 32, 32))):
        method = build()
        loss = total(method, batch)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(
            item.grad is not None and torch.isfinite(item.grad).all() for item in method.parameters() if item.requires_grad
        )


def test_it_learns_to_tell_images_apart() -> None:
    method = build()
    coarse = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(4))
    batch = replace(batch_of(16), images=F.interpolate(coarse, size=(32, 32), mode="bilinear"))
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    found = []
    for seed in range(80):
        optimizer.zero_grad()
        loss = total(method, batch, seed)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert sum(found[-10:]) < 0.6 * sum(found[:10])


@pytest.mark.parametrize("encoder", ["vit", "resnet"])
def test_it_keeps_the_contract_with_images_alone(encoder: str) -> None:
    config = SimCLRConfig(**TINY, image_encoder=encoder)
    assert [item for item in check(SimCLR, config=config) if not item.ok] == []
    method = build(image_encoder=encoder)
    assert capabilities(method) == {"dense", "trainable"}
    assert not reads_reports(method)


def test_features_are_the_mean_of_tokens_before_the_projection() -> None:
    method, images = build().eval(), batch_of().images
    with torch.no_grad():
        tokens = method.image_tower.forward_tokens(images)[:, 1:]
        assert torch.allclose(method.encode_image(images).pooled, F.normalize(tokens.mean(dim=1), dim=-1), atol=1e-6)
    assert method.encode_image(images).pooled.shape == (6, 32)


def test_presets_share_the_tower_and_paper_is_a_resnet() -> None:
    for preset in PRESETS:
        SimCLR.preset(preset)
    config, recipe = SimCLR.preset("paper")
    assert config.image_encoder == "resnet50.tv_in1k"
    assert (config.image_size, config.projection_dim, config.temperature) == (224, 128, 0.1)
    assert (recipe.batch_size, recipe.learning_rate, recipe.weight_decay) == (128, 3e-4, 1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temperature": 0.0}, r"temperature=0\.0 must lie"), ({"crop": 1.5}, r"crop=1\.5"), ({"flip": -0.1}, r"flip=-0\.1")],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**options)
