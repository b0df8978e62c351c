"""CXR-CLIP: contrast over two views of each image and of each report (You et al., MICCAI 2023, arXiv 2310.13292).

Facts from Soombit-ai/cxr-clip@3118885. What differs from the paper: the second image of a pair is always another crop of the
first, where the paper takes another image of the study if there is one; the second text is the report with its sentences in
another order, where the paper takes another section or a back-translation (the released code shuffles sentences too, but drops
the result; that is text_view=same); no prompts from labels; no CLAHE; the loop's augmentation for the first view.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.data.text import split_sentences
from benchmark.parts import ByParts, Part, Tensors, take_rows
from benchmark.published import Layout
from benchmark.types import Batch, Features, InputSpec, MethodCard, Recipe, Step, TextBatch
from methods.aggregation import masked_mean
from methods.base import TowerConfig, VisionLanguage, check_choice, check_range, local_tokens, tower_preset, tower_recipe
from methods.losses import LogitScale, info_nce

AREA = 0.2  # a crop keeps 1 - AREA to all of an image
ASPECT = math.log(4 / 3)
BRIGHTNESS, CONTRAST = 0.1, 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class CXRCLIPConfig(TowerConfig):
    """image_pooling: the "mean" of the local tokens, or the "first" token, which the released code takes of a Swin as
    if it were a class token. text_pooling: the token of the "end" ([SEP]), of the "start" ([CLS]), or the "mean".
    """

    image_pooling: str = "mean"
    text_pooling: str = "end"
    text_view: str = "shuffled"  # or "same"
    view_strength: float = 1.0  # of the second image's crop and tone
    image_weight: float = 1.0  # of the contrast between two images
    text_weight: float = 0.5  # of the contrast between two texts

    def __post_init__(self) -> None:
        TowerConfig.__post_init__(self)
        check_choice(self, "image_pooling", ("first", "mean"))
        check_choice(self, "text_pooling", ("end", "mean", "start"))
        check_choice(self, "text_view", ("same", "shuffled"))
        check_range(self, "view_strength", 0.0, 2.0)
        check_range(self, "image_weight", 0.0, 1e3)
        check_range(self, "text_weight", 0.0, 1e3)
        for name, only in (("alignment", "mba"), ("aggregator", "mean"), ("attention_query", "per-modality")):
            check_choice(self, name, (only,))  # single tokens or means are mapped, and these have no part in it


class CXRCLIP(ByParts, VisionLanguage):
    """Image and text towers, a linear map of each, and contrast between all views of a pair."""

    name: ClassVar[str] = "cxr_clip"
    version: ClassVar[int] = 2  # 2: sentences of `split_sentences` keep the number of their list item, and more
    card: ClassVar[MethodCard] = MethodCard(
        title="CXR-CLIP",
        paper="https://arxiv.org/abs/2310.13292",
        year=2023,
        license="CC-BY-NC-SA-4.0",
        pretraining_data=("MIMIC-CXR", "CheXpert", "ChestX-ray14"),
        protocol="cxr-clip",
    )

    def __init__(self, config: CXRCLIPConfig, tokenizer: Tokenizer | None) -> None:
        super().__init__(config, tokenizer)
        del self.align  # linear maps without a norm in its place
        self.image_projection = nn.Linear(self.image_tower.width, config.embed_dim)
        self.text_projection = nn.Linear(self.text_tower.width, config.embed_dim)
        self.logit_scale = LogitScale(config.temperature)

    @classmethod
    def preset(cls, preset: str) -> tuple[CXRCLIPConfig, Recipe]:
        """The configuration and recipe at "quick", "small" or "paper". Raises UserError for another."""
        fields, recipe = tower_preset(preset), tower_recipe(preset)
        if preset == "paper":
            # 15 epochs, the first a warm-up, of 220,000 pairs in batches of 128
            fields |= {"image_encoder": "resnet50.tv_in1k", "pixel_stats": "0.5,0.5", "max_tokens": 256}
            recipe = replace(
                recipe, steps=25_800, batch_size=128, learning_rate=5e-5, weight_decay=1e-4, beta2=0.999, warmup=1 / 15
            )
        return CXRCLIPConfig(**fields), recipe

    @classmethod
    def published_layouts(cls) -> tuple[Layout, ...]:
        """The released models with a ResNet and with a Swin."""
        from methods.published.cxr_clip import LAYOUTS

        return LAYOUTS

    def encode_image(self, images: Tensor) -> Features:
        """images: (B, C, h, w) float32 -> pooled (B, D) normalised, tokens (B, P, D) in the common space."""
        tokens = self.image_tower.forward_tokens(images)
        local = self.image_projection(tokens[:, self.image_tower.prefix :])
        first = self.config.image_pooling == "first"
        pooled = self.image_projection(tokens[:, 0]) if first else local.mean(dim=1)
        return Features(F.normalize(pooled.float(), dim=-1), local, None)

    def encode_text(self, text: TextBatch) -> Features:
        """(B, T) tokens -> pooled (B, D) normalised, tokens (B, T, D), mask (B, T) of local tokens."""
        tokens = self.text_projection(self.text_tower(text.ids, text.mask))
        pooled = pool_text(tokens, text.mask, self.config.text_pooling)
        return Features(F.normalize(pooled.float(), dim=-1), tokens, local_tokens(text))

    def parts(self, batch: Batch, step: Step) -> Iterator[Part]:
        """One part with the terms cross, images, texts and total."""
        n = len(batch.texts)
        view = second_view(batch.images, self.input, self.config.view_strength, batch)
        other = batch.texts if self.config.text_view == "same" else batch.own([*map(shuffled, batch.reports)])
        both = self.prepare_text((*batch.texts, *other)).to(batch.images.device)
        texts = take_rows(both, slice(n)), take_rows(both, slice(n, None))
        yield Part((batch.images, view, texts), self._embed, self._compare)

    def _embed(self, images: Tensor, view: Tensor, texts: tuple[TextBatch, TextBatch]) -> Tensors:
        pooled_images = self.encode_image(torch.cat([images, view])).pooled
        pooled_texts = self.encode_text(join(*texts)).pooled
        names = ("image", "view", "text", "other")
        return dict(zip(names, (*pooled_images.chunk(2), *pooled_texts.chunk(2))))

    def _compare(self, found: Tensors) -> Tensors:
        images, texts = (found["image"], found["view"]), (found["text"], found["other"])
        return multi_view_loss(images, texts, self.logit_scale(), (self.config.image_weight, self.config.text_weight))


def multi_view_loss(
    images: tuple[Tensor, Tensor], texts: tuple[Tensor, Tensor], scale: Tensor, weights: tuple[float, float]
) -> dict[str, Tensor]:
    """cross: the mean of InfoNCE over the four pairs of an image and a text; images, texts: InfoNCE of two views of one kind.

    Soombit-ai/cxr-clip@3118885, cxrclip/loss/cxr_clip.py, without label smoothing, which its configurations leave at 0.

    Args:
        images, texts: two views each, (B, D) float, L2-normalised. scale: () positive. weights: of images and of texts.

    Returns:
        cross, images, texts (before their weights) and total.
    """
    cross = torch.stack([info_nce(image, text, scale) for image in images for text in texts]).mean()
    between_images, between_texts = info_nce(*images, scale), info_nce(*texts, scale)
    total = cross + weights[0] * between_images + weights[1] * between_texts
    return {"cross": cross, "images": between_images, "texts": between_texts, "total": total}


def join(first: TextBatch, second: TextBatch) -> TextBatch:
    """The texts of both, which have one length."""
    names = ("ids", "mask", "special", "sentences", "words")
    parts: dict[str, Any] = {name: torch.cat([getattr(text, name) for text in (first, second)]) for name in names}
    return TextBatch(**parts, truncated=first.truncated)


def pool_text(tokens: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """(B, T, D) -> (B, D): the first token, the last that mask (B, T) bool does not leave out, or the mean of those."""
    if pooling == "start":
        return tokens[:, 0]
    if pooling == "end":
        return tokens[torch.arange(len(tokens), device=tokens.device), mask.sum(dim=1) - 1]
    return masked_mean(tokens, mask)


def second_view(images: Tensor, spec: InputSpec, strength: float = 1.0, batch: Batch | None = None) -> Tensor:
    """Another crop and another tone of normalised images, drawn from the global generator; no flips: reports name sides.

    Args:
        images: (B, C, h, w) float32, normalised as spec says.
        strength: scales every range; 0 returns the images as they are.
        batch: what they are the images of, if they are some of those of several processes.

    Returns:
        (B, C, h, w) float32.
    """
    if strength == 0:
        return images
    drawn = torch.rand(6, len(images) if batch is None else len(batch.reports)).to(images.device)
    drawn = drawn if batch is None else batch.own(drawn.T).T
    area, aspect = 1 - AREA * strength * drawn[0], ((2 * drawn[1] - 1) * ASPECT * strength).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    right, down = (1 - width) * (2 * drawn[2] - 1), (1 - height) * (2 * drawn[3] - 1)
    zero = torch.zeros_like(width)
    rows = torch.stack([width, zero, right, zero, height, down], dim=1).view(-1, 2, 3)  # from output to input in [-1, 1]
    grid = F.affine_grid(rows, list(images.shape), align_corners=False).to(images.dtype)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    bright, contrast = (
        (1 + span * strength * (2 * item - 1)).to(images.dtype).view(-1, 1, 1, 1)
        for span, item in ((BRIGHTNESS, drawn[4]), (CONTRAST, drawn[5]))
    )
    mean, std = (
        torch.tensor(item, dtype=images.dtype, device=images.device).view(1, -1, 1, 1) for item in (spec.mean, spec.std)
    )
    black = -mean / std  # what a pixel of 0 is after normalisation
    center = moved.mean(dim=(1, 2, 3), keepdim=True)
    return (bright * (contrast * (moved - center) + center - black)) + black


def shuffled(text: str) -> str:
    """The sentences in an order drawn from the global generator."""
    sentences = split_sentences(text)
    return " ".join(sentences[index] for index in torch.randperm(len(sentences)).tolist())
