"""MAE on images alone: most patches hidden, the rest encoded, the hidden pixels predicted (arXiv 2111.06377)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.parts import ByParts, Part, Tensors
from benchmark.types import Batch, MethodCard, Recipe, Step
from methods.base import ImageConfig, Vision, check_choice, check_range, image_preset, tower_recipe
from methods.decoders import ImageDecoder
from methods.draws import uniform
from methods.encoders import ImageTower, sincos_positions
from methods.losses import hidden_mean, patch_error, patchify, standardize
from methods.masking import ImageMask, image_mask, take

DECODERS: dict[str, dict[str, Any]] = {
    "small": {"decoder_width": 96, "decoder_depth": 2, "decoder_heads": 3},
    "paper": {"decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MAEConfig(ImageConfig):
    """What masked autoencoding adds to the image tower.

    positions: of the encoder's patches, "learned" from the sine-cosine code on, as in all towers here, or "fixed" as in MAE.
    """

    image_mask_ratio: float = 0.75
    normalize_pixels: bool = True  # each target patch to mean 0 and variance 1
    positions: str = "learned"
    decoder_width: int = 64
    decoder_depth: int = 1
    decoder_heads: int = 2

    def __post_init__(self) -> None:
        ImageConfig.__post_init__(self)
        check_choice(self, "positions", ("learned", "fixed"))
        check_range(self, "image_mask_ratio", 0.0, 0.99)
        for name in ("decoder_width", "decoder_depth", "decoder_heads"):
            check_range(self, name, 1, 4096)
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            width, heads = self.decoder_width, self.decoder_heads
            raise UserError(f"decoder_width={width} must be a multiple of 4 and of decoder_heads={heads}")


class MAE(ByParts, Vision):
    """Vision transformer and light decoder; the decoder is not used at evaluation, which sees every patch."""

    name: ClassVar[str] = "mae"
    version: ClassVar[int] = 1
    card: ClassVar[MethodCard] = MethodCard(title="MAE (images only)", paper="https://arxiv.org/abs/2111.06377", year=2021)

    def __init__(self, config: MAEConfig) -> None:
        super().__init__(config)
        self.side = side = patches_a_side(config, self.image_tower, "MAE")
        place_positions(config, self.image_tower, sincos_positions(side, side, self.image_tower.width))
        shape = (config.decoder_width, config.decoder_depth, config.decoder_heads)
        pixels = self.image_tower.patch**2 * config.image_channels
        self.image_decoder = PrefixDecoder(
            (self.image_tower.width, self.image_tower.prefix), shape, sincos_positions(side, side, config.decoder_width), pixels
        )

    @classmethod
    def preset(cls, preset: str) -> tuple[MAEConfig, Recipe]:
        """The configuration and recipe at "quick", "small" or "paper". Raises UserError for another.

        paper: facebookresearch/mae@efb2a80, rate 1.5e-4 at batch 256, 5 % warm-up and no clipping, from random weights, for
        200 epochs of 220,000 images. The shared loop's mild augmentation stands for its random resized crops and flips.
        """
        config = MAEConfig(**image_preset(preset), **DECODERS.get(preset, {}))
        recipe = tower_recipe(preset)
        if preset == "paper":
            config = replace(config, image_weights="none", positions="fixed")
            recipe = replace(recipe, steps=172_000, warmup=0.05, clip_norm=0.0)
        return config, recipe

    def parts(self, batch: Batch, step: Step) -> Iterator[Part]:
        """One part with the terms image and total, which are the same."""
        mask = draw_mask(batch, self.side**2, self.config.image_mask_ratio)
        yield Part((batch.images, mask), self._embed, lambda found: self._compare(found, mask), additive=True)

    def _embed(self, images: Tensor, mask: ImageMask) -> Tensors:
        predicted = self.image_decoder(self.image_tower.forward_tokens(images, mask.keep), mask)
        return {"image": pixel_errors(predicted, images, self.image_tower.patch, self.config.normalize_pixels)}

    def _compare(self, found: Tensors, mask: ImageMask) -> Tensors:
        error = hidden_mean(found["image"], mask.hidden)
        return {"image": error, "total": error}


class PrefixDecoder(ImageDecoder):
    """MAE's decoder to the letter: the class token takes part, without a position, and norms have epsilon 1e-6.

    Args:
        encoder: width of the encoder's tokens, and how many come before the patches. shape: width, depth, heads of the decoder.
        code: (P, width) float32, the fixed positions; kept with the weights. pixels: values of a patch to predict.
    """

    def __init__(self, encoder: tuple[int, int], shape: tuple[int, int, int], code: Tensor, pixels: int) -> None:
        width, self.prefix = encoder
        super().__init__(width, shape, (1, len(code)), pixels)
        self.register_buffer("positions", torch.cat([code.new_zeros(self.prefix, shape[0]), code]))
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6

    def forward(self, tokens: Tensor, mask: ImageMask) -> Tensor:
        """tokens (B, prefix + V, width), patches in the order of mask.keep -> (B, P, pixels) in the order of the image."""
        seen = self.embed(tokens)
        batch, count, inner = seen.shape
        hidden = self.mask_token.to(seen.dtype).expand(batch, mask.restore.shape[1] + self.prefix - count, inner)
        patches = take(torch.cat([seen[:, self.prefix :], hidden], dim=1), mask.restore)
        every = torch.cat([seen[:, : self.prefix], patches], dim=1) + self.positions.to(seen.dtype)
        output: Tensor = self.head(self.norm(self.blocks(every))[:, self.prefix :])
        return output


def patches_a_side(config: ImageConfig, tower: ImageTower, title: str) -> int:
    """Patches in a row of the input. Raises UserError for a tower that cannot leave patches out, or cuts them unevenly."""
    if not tower.patch or config.image_size % tower.patch:
        raise UserError(
            f"image_encoder={config.image_encoder!r}: {title} encodes visible patches only, so it needs a vision transformer "
            "whose patch size divides image_size; use image_encoder=vit"
        )
    return config.image_size // tower.patch


def place_positions(config: MAEConfig, tower: ImageTower, code: Tensor) -> None:
    """Writes the code (P, width) into a tower drawn at random, and leaves fixed positions as they are in training."""
    model: Any = tower.model
    if model.pos_embed is None:  # rotary, say: nothing to place
        return
    with torch.no_grad():
        if config.image_weights == "none":
            model.pos_embed[:, -len(code) :] = code
            if config.positions == "fixed":
                model.pos_embed[:, : -len(code)] = 0
    model.pos_embed.requires_grad_(config.positions == "learned")


def draw_mask(batch: Batch, patches: int, ratio: float) -> ImageMask:
    """Which patches of a batch's images to hide, 0 <= ratio < 1."""
    return image_mask(uniform(batch, patches), ratio)


def pixel_errors(predicted: Tensor, images: Tensor, patch: int, normalize: bool) -> Tensor:
    """(B, P) float32, the mean squared error of each patch; hidden ones count (MAE, section 3, reconstruction target).

    Args:
        predicted: (B, P, patch * patch * C). images: (B, C, h, w), what to predict. normalize: each target patch.
    """
    target = patchify(images, patch)
    return patch_error(predicted, standardize(target) if normalize else target)
