"""MedCLIP: contrast with soft targets, as near as the findings of image and text (Wang et al., arXiv 2210.10163).

Facts from RyanWangZf/MedCLIP@9c3396f. It learns from labels as well as from reports; where a batch has none, its loss is
CLIP's, and so is the target of a study without a finding. What the loop does differently from the paper: the pairs are those
of the data set, with the study's labels for the text as well, where the paper draws images and single sentences apart, each
with labels of its own; no second, perturbed text; AdamW with the shared schedule. Labels are 1, else 0: neither a negative nor
an unknown finding makes two studies alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.collectives import gather
from benchmark.parts import ByParts, Part, Tensors
from benchmark.published import Layout
from benchmark.types import Batch, Features, MethodCard, Recipe, Step, TextBatch
from methods.aggregation import masked_mean
from methods.base import TowerConfig, VisionLanguage, check_choice, check_range, local_tokens, tower_preset, tower_recipe
from methods.losses import LogitScale, at_least_float32, info_nce

SWIN_TINY = "swin_tiny_patch4_window7_224"
PIXEL_STATS = "0.5862785803043838,0.27950088968644304"
SIMILARITIES = ("clamped", "cosine", "dot")
Similarity = Literal["clamped", "cosine", "dot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MedCLIPConfig(TowerConfig):
    """label_similarity: "cosine" of two label vectors (the paper), "dot" (the released code) or "clamped" to [-1, 1] (what the
    released code says of itself). text_pooling: over "tokens", or over "padded" positions too (the released code), which makes
    a text depend on its batch.
    """

    label_similarity: str = "cosine"
    label_temperature: float = 1.0  # of the soft targets; below 1 sharpens them
    text_pooling: str = "tokens"

    def __post_init__(self) -> None:
        TowerConfig.__post_init__(self)
        check_choice(self, "label_similarity", SIMILARITIES)
        check_choice(self, "text_pooling", ("padded", "tokens"))
        check_range(self, "label_temperature", 0.01, 100.0)
        for name, only in (("alignment", "mba"), ("aggregator", "mean"), ("attention_query", "per-modality")):
            check_choice(self, name, (only,))  # the means are linear, and these have no part in it


class MedCLIP(ByParts, VisionLanguage):
    """Image and text towers, a linear map of each, and the semantic matching loss."""

    name: ClassVar[str] = "medclip"
    version: ClassVar[int] = 2  # 2: rows without a finding are their own target
    learns_from_labels: ClassVar[bool] = True
    card: ClassVar[MethodCard] = MethodCard(
        title="MedCLIP",
        paper="https://arxiv.org/abs/2210.10163",
        year=2022,
        license="not stated",
        pretraining_data=("CheXpert", "MIMIC-CXR"),
        protocol="medclip",
    )

    def __init__(self, config: MedCLIPConfig, tokenizer: Tokenizer | None) -> None:
        super().__init__(config, tokenizer)
        del self.align  # linear maps without norm or bias in its place
        self.image_projection = nn.Linear(self.image_tower.width, config.embed_dim, bias=False)
        self.text_projection = nn.Linear(self.text_tower.width, config.embed_dim, bias=False)
        self.logit_scale = LogitScale(config.temperature)

    @classmethod
    def preset(cls, preset: str) -> tuple[MedCLIPConfig, Recipe]:
        """The configuration and recipe at "quick", "small" or "paper". Raises UserError for another."""
        fields, recipe = tower_preset(preset), tower_recipe(preset)
        if preset != "paper":
            # At 1, as published, targets of 64 rows are nearly even: 240 steps from scratch gave the scores of random towers
            # on the phantom (zero-shot AUROC 0.54); at 0.1 half of the steps gave 0.62.
            fields |= {"label_temperature": 0.1}
        else:
            # MedCLIP-ViT is a Swin; 10 epochs of 220,000 pairs in batches of 100
            fields |= {"image_encoder": SWIN_TINY, "pixel_stats": PIXEL_STATS, "max_tokens": 77}
            recipe = replace(recipe, steps=22_000, batch_size=100, learning_rate=2e-5, weight_decay=1e-4, beta2=0.999)
        return MedCLIPConfig(**fields), recipe

    @classmethod
    def published_layouts(cls) -> tuple[Layout, ...]:
        """The two released models."""
        from methods.published.medclip import LAYOUTS

        return LAYOUTS

    def image_features(self, tokens: Tensor) -> Features:
        """Local tokens of the image tower (B, P, width) to the common space; the mean of mapped tokens is the mapped mean."""
        local = self.image_projection(tokens)
        return Features(F.normalize(local.float().mean(dim=1), dim=-1), local, None)

    def encode_text(self, text: TextBatch) -> Features:
        """(B, T) tokens -> pooled (B, D) normalised, tokens (B, T, D), mask (B, T) of local tokens."""
        layers = mixed_layers(self.text_tower.states(text.ids, text.mask))
        pooled = masked_mean(layers, text.mask if self.config.text_pooling == "tokens" else None)
        return Features(
            F.normalize(self.text_projection(pooled).float(), dim=-1), self.text_projection(layers), local_tokens(text)
        )

    def parts(self, batch: Batch, step: Step) -> Iterator[Part]:
        """One part with the terms match and total, which are the same."""
        text = self.prepare_text(batch.texts).to(batch.images.device)
        labels = batch.targets.get("labels")
        yield Part((batch.images, text), self._embed, lambda found: self._compare(found, labels))

    def _embed(self, images: Tensor, text: TextBatch) -> Tensors:
        report = self.encode_text(text).pooled
        return {"image": self.encode_image(images).pooled, "report": report}

    def _compare(self, found: Tensors, labels: Tensor | None) -> Tensors:
        image, report, scale = found["image"], found["report"], self.logit_scale().clamp(min=1.0)
        if labels is None or not labels.shape[1]:
            match = info_nce(image, report, scale)
        else:
            known = labels.nan_to_num(0.0)
            kind: Any = self.config.label_similarity
            match = soft_label_loss(image, report, known, known, scale, kind, self.config.label_temperature)
        return {"match": match, "total": match}


def mixed_layers(states: tuple[Tensor, ...]) -> Tensor:
    """The mean of layers 1, 2 and the last.

    Args:
        states: the embeddings and the output of every layer, L + 1 times (B, T, width). Of a single layer, that one.
    """
    last = len(states) - 1
    return torch.stack([states[1], states[min(2, last)], states[last]]).mean(dim=0)


def label_similarity(image: Tensor, text: Tensor, kind: Similarity) -> Tensor:
    """How alike the findings of images and texts are.

    Args:
        image: (N, K) float labels, 0 = unknown. text: (M, K), same.
        kind: "dot" product; that "clamped" to [-1, 1]; or "cosine", 0 where a side has no finding.
    """
    if kind == "cosine":
        return F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    found = image @ text.T
    return found.clamp(-1.0, 1.0) if kind == "clamped" else found


def soft_label_loss(  # noqa: PLR0913  (two modalities, their labels, and how to compare them)
    image: Tensor, text: Tensor, image_labels: Tensor, text_labels: Tensor, scale: Tensor, kind: Similarity = "cosine",
    temperature: float = 1.0,
) -> Tensor:  # fmt: skip
    """(CE(s V T^T, softmax(L)) + CE(s T V^T, softmax(L^T))) / 2, L the similarity of labels, over the rows of all processes.

    RyanWangZf/MedCLIP@9c3396f, losses.py, with kind="dot"; but a row whose labels are all 0 has its own pair as target, as in
    CLIP: a softmax of nothing but zeros would draw it to all others alike.

    Args:
        image, text: (B, D) float, L2-normalised. image_labels, text_labels: (B, K) float, 0 = unknown. scale: () positive.
        temperature: of the targets.
    """
    with torch.autocast(image.device.type, enabled=False):
        image, text = at_least_float32(image), at_least_float32(text)
        image_labels, text_labels = image_labels.to(image.dtype), text_labels.to(image.dtype)
        (every_image, start), (every_text, _) = gather(image), gather(text)
        (every_image_labels, _), (every_text_labels, _) = gather(image_labels), gather(text_labels)
        pair = F.one_hot(torch.arange(start, start + len(image), device=image.device), len(every_image)).to(image.dtype)
        to_text, to_image = (
            torch.where(own.any(dim=1, keepdim=True), (label_similarity(own, every, kind) / temperature).softmax(dim=-1), pair)
            for own, every in ((image_labels, every_text_labels), (text_labels, every_image_labels))
        )
        forth = F.cross_entropy(scale * image @ every_text.T, to_text)
        back = F.cross_entropy(scale * text @ every_image.T, to_image)
        return (forth + back) / 2


def prompt_scores(logits: Tensor, classes: Tensor, ensemble: bool = False) -> Tensor:
    """The score of a class from those of its prompts, as the released zero-shot classifier takes it.

    Args:
        logits: (N, M) float, image by prompt. classes: (M,) int64 in 0 to K - 1, the class of each prompt.
        ensemble: the mean of a class's prompts, else the largest.

    Returns:
        (N, K) float.
    """
    found = logits.new_zeros(len(logits), int(classes.max()) + 1)
    reduce = "mean" if ensemble else "amax"
    return found.scatter_reduce(1, classes.expand(len(logits), -1), logits, reduce, include_self=False)
