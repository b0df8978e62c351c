"""MCR, Masked Contrastive Reconstruction (arXiv 2312.15840), our reading of its abstract.

Stated there: masked data is the only input of both proxy tasks, and tokens are mapped to the common space before they are
aggregated. Every size, ratio, weight and decoder is our choice, after the public code of masked siblings (docs say which).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor

from benchmark.errors import UserError
from benchmark.parts import ByParts, Part, Tensors
from benchmark.types import Batch, MethodCard, Recipe, Step, TextBatch
from methods.base import TowerConfig, VisionLanguage, check_choice, check_range, tower_preset, tower_recipe
from methods.decoders import ImageDecoder, TextHead
from methods.draws import token_noise, uniform
from methods.losses import LogitScale, hidden_mean, info_nce, patch_error, patchify, spread_out, standardize
from methods.masking import ImageMask, TextMask, image_mask, text_mask


@dataclass(frozen=True, slots=True, kw_only=True)
class MCRConfig(TowerConfig):
    """What MCR adds to the towers.

    stream: "single", one masked pass for both tasks; "dual", an unmasked pass for contrast and a masked one for
    reconstruction, with the same weights and heads. backward: of "dual", "joint" in one graph or "sequential" in two.
    """

    stream: str = "single"
    backward: str = "joint"
    image_mask_ratio: float = 0.75
    text_mask_ratio: float = 0.5
    contrast_weight: float = 1.0
    image_loss_weight: float = 1.0
    text_loss_weight: float = 1.0
    decoder_width: int = 64
    decoder_depth: int = 1
    decoder_heads: int = 2

    def __post_init__(self) -> None:
        TowerConfig.__post_init__(self)
        check_choice(self, "stream", ("single", "dual"))
        check_choice(self, "backward", ("joint", "sequential"))
        if self.backward == "sequential" and self.stream == "single":
            raise UserError("backward=sequential needs stream=dual: a single stream has one graph; use backward=joint")
        check_range(self, "image_mask_ratio", 0.0, 0.99)
        check_range(self, "text_mask_ratio", 0.0, 1.0)
        for name in ("contrast_weight", "image_loss_weight", "text_loss_weight"):
            check_range(self, name, 0.0, 1e6)
        for name in ("decoder_width", "decoder_depth", "decoder_heads"):
            check_range(self, name, 1, 4096)
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            width, heads = self.decoder_width, self.decoder_heads
            raise UserError(f"decoder_width={width} must be a multiple of 4 and of decoder_heads={heads}")


class MCR(ByParts, VisionLanguage):
    """Contrast and reconstruction from the same masked image and the same masked report; unmasked at evaluation."""

    name: ClassVar[str] = "mcr"
    version: ClassVar[int] = 1
    card: ClassVar[MethodCard] = MethodCard(
        title="MCR (our reading of the abstract)", paper="https://arxiv.org/abs/2312.15840", year=2023
    )

    def __init__(self, config: MCRConfig, tokenizer: Tokenizer | None) -> None:
        super().__init__(config, tokenizer)
        tower = self.image_tower
        if not tower.patch or config.image_size % tower.patch:
            raise UserError(
                f"image_encoder={config.image_encoder!r}: MCR encodes visible patches only, so it needs a vision transformer "
                "whose patch size divides image_size; use image_encoder=vit"
            )
        side = config.image_size // tower.patch
        shape = (config.decoder_width, config.decoder_depth, config.decoder_heads)
        self.image_decoder = ImageDecoder(tower.width, shape, (side, side), tower.patch**2 * config.image_channels)
        self.text_head = TextHead(self.text_tower.width, len(self.text_tower.words))
        self.logit_scale = LogitScale(config.temperature)

    @classmethod
    def preset(cls, preset: str) -> tuple[MCRConfig, Recipe]:
        """The configuration and recipe at "quick", "small" or "paper". Raises UserError for another."""
        decoder: dict[str, dict[str, Any]] = {
            "small": {"decoder_width": 96, "decoder_depth": 2, "decoder_heads": 3},
            "paper": {"decoder_width": 768, "decoder_depth": 4, "decoder_heads": 6},
        }
        return MCRConfig(**tower_preset(preset), **decoder.get(preset, {})), tower_recipe(preset)

    def parts(self, batch: Batch, step: Step) -> Iterator[Part]:
        """One part with the terms contrast, image, text and total; two with stream=dual and backward=sequential.

        The masks are drawn first of all, so that every corner of the ablation sees the same ones from the same seed.
        """
        config: MCRConfig = self.config
        text = self.prepare_text(batch.texts).to(batch.images.device)
        masks = self._draw(batch, text)
        rows = (batch.images, text, masks)
        hidden = {"image": masks[0].hidden, "text": masks[1].hidden}
        if config.backward == "sequential":
            yield Part(rows[:2], self._whole, self._compare(hidden))
            yield Part(rows, self._rebuilt, self._compare(hidden), additive=True)
            return
        yield Part(rows, self._single if config.stream == "single" else self._dual, self._compare(hidden))

    def _draw(self, batch: Batch, text: TextBatch) -> tuple[ImageMask, TextMask]:
        """One mask a sample and modality."""
        patches = (batch.images.shape[2] // self.image_tower.patch) * (batch.images.shape[3] // self.image_tower.patch)
        image_noise, text_noise = uniform(batch, patches), token_noise(batch, text)
        return (
            image_mask(image_noise, self.config.image_mask_ratio),
            text_mask(text, text_noise, self.config.text_mask_ratio, self.text_tower.mask_id),
        )

    def _single(self, images: Tensor, text: TextBatch, masks: tuple[ImageMask, TextMask]) -> dict[str, Tensor]:
        tokens = self._masked(images, text, masks)
        return self._pooled(*tokens, text, masks[1].hidden) | self._rebuild(tokens, images, text, masks)

    def _dual(self, images: Tensor, text: TextBatch, masks: tuple[ImageMask, TextMask]) -> dict[str, Tensor]:
        return self._whole(images, text) | self._rebuilt(images, text, masks)

    def _whole(self, images: Tensor, text: TextBatch) -> dict[str, Tensor]:
        tokens = self.image_tower.forward_tokens(images)[:, self.image_tower.prefix :]
        return self._pooled(tokens, self.text_tower(text.ids, text.mask), text)

    def _rebuilt(self, images: Tensor, text: TextBatch, masks: tuple[ImageMask, TextMask]) -> dict[str, Tensor]:
        return self._rebuild(self._masked(images, text, masks), images, text, masks)

    def _masked(self, images: Tensor, text: TextBatch, masks: tuple[ImageMask, TextMask]) -> tuple[Tensor, Tensor]:
        """Visible image tokens (B, V, width), and text tokens (B, T, width) of the masked report."""
        image, words = masks
        tokens = self.image_tower.forward_tokens(images, image.keep)[:, self.image_tower.prefix :]
        return tokens, self.text_tower(words.ids, text.mask)

    def _pooled(
        self, image_tokens: Tensor, text_tokens: Tensor, text: TextBatch, hidden: Tensor | None = None
    ) -> dict[str, Tensor]:
        image, report = self.image_features(image_tokens), self.text_features(text_tokens, text, hidden)
        return {"pooled image": image.pooled, "pooled text": report.pooled}

    def _rebuild(
        self, tokens: tuple[Tensor, Tensor], images: Tensor, text: TextBatch, masks: tuple[ImageMask, TextMask]
    ) -> dict[str, Tensor]:
        """Errors of each patch (B, P) and of each hidden token (B, T); the vocabulary is looked at where a token is hidden."""
        (image_tokens, text_tokens), (image, words) = tokens, masks
        target = standardize(patchify(images, self.image_tower.patch))
        pixels = self.image_decoder(image_tokens, image)
        hidden = words.hidden
        error = self.text_head.error(text_tokens[hidden], self.text_tower.words, text.ids[hidden])
        return {"image": patch_error(pixels, target), "text": spread_out(error, hidden)}

    def _compare(self, hidden: Tensors) -> Callable[[Tensors], Tensors]:
        """Of the embedded rows the terms that they allow: contrast of pooled vectors, image and text of errors."""
        config: MCRConfig = self.config
        weights = {"contrast": config.contrast_weight, "image": config.image_loss_weight, "text": config.text_loss_weight}

        def compare(found: Tensors) -> Tensors:
            terms = {}
            if "pooled image" in found:
                terms["contrast"] = info_nce(found["pooled image"], found["pooled text"], self.logit_scale())
            terms |= {name: hidden_mean(found[name], hidden[name]) for name in ("image", "text") if name in found}
            total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
            return {**terms, "total": total}

        return compare
