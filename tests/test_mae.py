"""MAE: what is hidden does not reach the encoder, only hidden patches count, and the loss is what a loop over patches gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.contract import check
from benchmark.errors import UserError
from benchmark.types import PRESETS, Batch, Step, capabilities, reads_reports
from methods.encoders import sincos_positions
from methods.losses import hidden_mean
from methods.mae import MAE, MAEConfig, draw_mask, pixel_errors
from methods.masking import image_mask

TINY: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "image_width": 32, "image_depth": 2, "image_heads": 2, "decoder_width": 16,
}  # fmt: skip
STEP = Step(0, 0, 10)


def build(**options: Any) -> MAE:
    torch.manual_seed(0)
    return MAE.build(MAEConfig(**{**TINY, **options}), None)


def batch_of(images: Tensor) -> Batch:
    names = tuple(f"row {row}" for row in range(len(images)))
    return Batch(names, names, images, ("",) * len(images))


def images(n: int = 3, channels: int = 1, size: int = 32) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def step(method: MAE, batch: Batch, seed: int = 5) -> Tensor:
    torch.manual_seed(seed)
    (terms,) = method.loss(batch, STEP)
    assert set(terms) == {"image", "total"}
    return terms["total"]


def by_hand(method: MAE, pictures: Tensor, seed: int) -> float:
    """The same value, picture by picture and patch by patch, from timm's own blocks."""
    config, model, decoder = method.config, method.image_tower.model, method.image_decoder
    patch, side = config.patch_size, config.image_size // config.patch_size
    torch.manual_seed(seed)
    noise = torch.rand(len(pictures), side * side)
    visible, errors = int(side * side * (1 - config.image_mask_ratio)), []
    for picture, values in zip(pictures, noise, strict=True):
        order = sorted(range(side * side), key=lambda index: float(values[index]))
        kept, hidden = order[:visible], order[visible:]
        cells = [picture[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch] for r in range(side) for c in range(side)]
        tokens = [model.cls_token[0, 0] + model.pos_embed[0, 0]]
        tokens += [model.patch_embed.proj(cells[index][None]).flatten() + model.pos_embed[0, 1 + index] for index in kept]
        seen = decoder.embed(model.norm(model.blocks(torch.stack(tokens)[None])))[0]
        code = sincos_positions(side, side, config.decoder_width)
        place = {index: seen[1 + rank] for rank, index in enumerate(kept)}
        every = [seen[0], *(place.get(index, decoder.mask_token) + code[index] for index in range(side * side))]
        output = decoder.head(decoder.norm(decoder.blocks(torch.stack(every)[None])))[0]
        for index in hidden:
            target = cells[index].permute(1, 2, 0).flatten()
            if config.normalize_pixels:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            errors.append((output[1 + index] - target).square().mean().item())
    return sum(errors) / len(errors)


@pytest.mark.parametrize("options", [{}, {"image_channels": 3, "positions": "fixed"}, {"normalize_pixels": False}])
def test_the_loss_is_what_a_loop_over_patches_gives(options: dict[str, Any]) -> None:
    method = build(**options)
    pictures = images(channels=options.get("image_channels", 1))
    assert step(method, batch_of(pictures)).item() == pytest.approx(by_hand(method, pictures, 5), rel=1e-5)


def test_hidden_pixels_do_not_reach_the_encoder_and_visible_ones_are_no_target() -> None:
    method, pictures = build(), images()
    mask = image_mask(torch.rand(3, 16), 0.75)
    cells = mask.hidden.reshape(3, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    noise = torch.randn_like(pictures)
    before = method.image_tower.forward_tokens(pictures, mask.keep)
    assert torch.equal(method.image_tower.forward_tokens(torch.where(cells, noise, pictures), mask.keep), before)
    predicted = method.image_decoder(before, mask).detach().requires_grad_()

    def hidden_error(predicted: Tensor, pictures: Tensor) -> Tensor:
        return hidden_mean(pixel_errors(predicted, pictures, 8, True), mask.hidden)

    error = hidden_error(predicted, pictures)
    assert torch.equal(hidden_error(predicted, torch.where(cells, pictures, noise)), error)
    assert not torch.equal(hidden_error(predicted, torch.where(cells, noise, pictures)), error)
    error.backward()
    assert predicted.grad is not None
    assert torch.equal(predicted.grad.abs().sum(dim=2) > 0, mask.hidden)


def test_ratio_decides_how_many_patches_are_hidden_and_the_seed_which() -> None:
    torch.manual_seed(0)
    masks = [draw_mask(batch_of(images()), 16, ratio) for ratio in (0.0, 0.5, 0.75)]
    assert [int(mask.hidden.sum()) for mask in masks] == [0, 24, 36]
    assert step(build(image_mask_ratio=0.0), batch_of(images())).item() == 0.0
    method = build()
    assert step(method, batch_of(images()), 1) == step(method, batch_of(images()), 1) != step(method, batch_of(images()), 2)


def test_every_parameter_trains_and_fixed_positions_do_not() -> None:
    for positions in ("learned", "fixed"):
        method = build(positions=positions)
        step(method, batch_of(images())).backward()
        silent = {name for name, item in method.named_parameters() if item.grad is None or not item.grad.abs().sum() > 0}
        assert silent == (set() if positions == "learned" else {"image_tower.model.pos_embed"})
        assert method.image_tower.model.pos_embed.requires_grad == (positions == "learned")
    assert torch.equal(method.image_tower.model.pos_embed[0, 1:], sincos_positions(4, 4, 32))


def test_it_learns_to_predict_a_pattern() -> None:
    method = build(normalize_pixels=False)
    strengths = torch.tensor([-1.0, -0.5, 0.5, 1.0]).reshape(4, 1, 1, 1)
    rows = strengths * torch.linspace(-1, 1, 32).reshape(1, 1, 32, 1).expand(4, 1, 32, 32)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    found = []
    for seed in range(60):
        optimizer.zero_grad()
        total = step(method, batch_of(rows), seed)
        total.backward()
        optimizer.step()
        found.append(float(total.detach()))
    assert sum(found[-10:]) < 0.4 * sum(found[:10])


def test_it_keeps_the_contract_with_images_alone() -> None:
    assert [item for item in check(MAE, config=MAEConfig(**TINY)) if not item.ok] == []
    method = build()
    assert capabilities(method) == {"dense", "trainable"}
    assert not reads_reports(method)


def test_features_are_of_every_patch_whatever_the_random_state_is() -> None:
    method, pictures = build().eval(), images()
    with torch.no_grad():
        assert torch.equal(method.encode_image(pictures).pooled, method.encode_image(pictures).pooled)
        tokens = method.encode_image(pictures).tokens
    assert tokens is not None
    assert tokens.shape == (3, 16, 32)


def test_presets_share_the_tower_and_paper_is_mae() -> None:
    for preset in PRESETS:
        MAE.preset(preset)
    config, recipe = MAE.preset("paper")
    shape = (config.image_width, config.image_depth, config.patch_size, config.image_size)
    assert shape == (768, 12, 16, 224)
    assert (config.decoder_width, config.decoder_depth, config.decoder_heads, config.image_mask_ratio) == (512, 8, 16, 0.75)
    assert (recipe.learning_rate, recipe.batch_size, recipe.weight_decay, recipe.beta2) == (1.5e-4, 256, 0.05, 0.95)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_encoder": "resnet"}, "image_encoder='resnet': MAE encodes visible patches only"),
        ({"image_size": 36}, "whose patch size divides image_size"),
        ({"image_mask_ratio": 1.0}, r"image_mask_ratio=1\.0 must lie in"),
        ({"decoder_width": 18}, "decoder_width=18 must be a multiple of 4"),
        ({"positions": "none"}, "positions='none' is not one of"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**options)
