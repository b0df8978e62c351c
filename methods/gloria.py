"""GLoRIA (Huang et al. 2021): a report's words against regions of the image, beside the global contrast.

After marshuang80/gloria@416466a. The default is the correct version; `start_word`, `sentence_mean` and `first_word` bring
back what the released code does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.parts import ByParts, Part, Tensors
from benchmark.published import Layout
from benchmark.types import Batch, Features, MethodCard, Recipe, Step, TextBatch
from methods.base import TowerConfig, VisionLanguage, check_choice, check_range, tower_preset, tower_recipe
from methods.convirt import UNITS, one_sentence
from methods.encoders import ConvTower
from methods.gloria_attention import (
    combined_similarity,
    gather_words,
    local_scores,
    pair_losses,
    sentence_vector,
    word_mask,
    word_slots,
)
from methods.losses import at_least_float32, directed_nce

PIXEL_STATS = "0.5,0.5"
UPSAMPLE = 299
WORDS = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class GLoRIAConfig(TowerConfig):
    """What GLoRIA adds to the towers.

    text_unit: what of a report is trained on, "sentence" (one, drawn anew each time) or "report". text_cleaning: "words"
    keeps words in lower case and drops punctuation, "none" leaves texts as they are. layer_sum: of the last layers of the text
    tower, "sum" or "mean". upsample: pixels a side that the image tower reads, 0 for as many as come.
    """

    word_sharpness: float = 4.0  # of the attention over regions, tau 1
    match_sharpness: float = 5.0  # of the sum over words, tau 2
    logit_scale: float = 10.0  # of both contrasts, tau 3
    local_weight: float = 1.0
    global_weight: float = 1.0
    local_chunk: int = 0  # images at a time in the local loss, computed twice to save memory; 0: all at once
    last_layers: int = 4  # fewer where the tower has fewer
    layer_sum: str = "sum"
    text_unit: str = "sentence"
    text_cleaning: str = "words"
    upsample: int = 0
    start_word: bool = False  # official: [CLS] is a word of the local loss
    sentence_mean: str = "words"  # official: "positions", which adds [CLS], [SEP] and zeros
    first_word: bool = True  # official: False at retrieval, where the first word is skipped

    def __post_init__(self) -> None:
        TowerConfig.__post_init__(self)
        for name in ("word_sharpness", "match_sharpness", "logit_scale"):
            check_range(self, name, 0.01, 100.0)
        for name in ("local_weight", "global_weight"):
            check_range(self, name, 0.0, 1e6)
        check_range(self, "local_chunk", 0, 1 << 20)
        check_range(self, "last_layers", 1, 64)
        check_range(self, "upsample", 0, 4096)
        check_choice(self, "layer_sum", ("sum", "mean"))
        check_choice(self, "text_unit", UNITS)
        check_choice(self, "text_cleaning", ("words", "none"))
        check_choice(self, "sentence_mean", ("words", "positions"))
        for name, only in (("alignment", "mba"), ("aggregator", "mean"), ("attention_query", "per-modality")):
            check_choice(self, name, (only,))  # GLoRIA aligns in its own way


class GLoRIA(ByParts, VisionLanguage):
    """Regions and words, and the mean of each, in the space of the text tower."""

    name: ClassVar[str] = "gloria"
    local_negatives: ClassVar[bool] = True  # of the local loss: the images and reports of the own process
    version: ClassVar[int] = 2  # 2: sentences of `split_sentences` keep the number of their list item, and more
    card: ClassVar[MethodCard] = MethodCard(
        title="GLoRIA",
        paper="https://openaccess.thecvf.com/content/ICCV2021/html/Huang_GLoRIA_A_Multimodal_Global-Local_Representation_"
        "Learning_Framework_for_Label-Efficient_Medical_ICCV_2021_paper.html",
        year=2021,
        license="Apache-2.0",
        pretraining_data=("CheXpert",),  # with its reports, then private; re-trainings by others read MIMIC-CXR
        protocol="gloria",
    )

    def __init__(self, config: GLoRIAConfig, tokenizer: Tokenizer | None) -> None:
        super().__init__(config, tokenizer)
        del self.align  # the way to the common space is GLoRIA's own
        tower, dim, width = self.image_tower, config.embed_dim, config.text_width
        self.fine = max(0, len(tower.info) - 2) if isinstance(tower, ConvTower) else -1  # layer3 of a ResNet
        self.global_embedder = nn.Linear(tower.width, dim)
        self.local_embedder = nn.Linear(tower.info[self.fine][0] if self.fine >= 0 else tower.width, dim, bias=False)
        # the released model compares in the text tower's own space, so that there is nothing to map
        self.text_embedder = nn.Identity() if dim == width else nn.Linear(width, dim, bias=False)

    @classmethod
    def preset(cls, preset: str) -> tuple[GLoRIAConfig, Recipe]:
        """The configuration and recipe at "quick", "small" or "paper". Raises UserError for another."""
        towers, recipe = tower_preset(preset), tower_recipe(preset)
        if preset != "paper":
            return GLoRIAConfig(**towers), recipe
        towers |= {
            "image_encoder": "resnet50.tv_in1k", "embed_dim": 768, "max_tokens": 97, "pixel_stats": PIXEL_STATS,
        }  # fmt: skip
        # 50 epochs of 191,229 pairs. Released: Adam with beta 1 of 0.5 and a rate that falls on a plateau, random crops of 224
        # from 256, flips; the shared loop has AdamW, a cosine, no flips, and shows the whole image at 224.
        recipe = Recipe(
            steps=199_200, batch_size=48, learning_rate=5e-5, weight_decay=1e-6, beta2=0.999, clip_norm=0.25, precision="fp16"
        )
        return GLoRIAConfig(**towers, upsample=UPSAMPLE), recipe

    @classmethod
    def published_layouts(cls) -> Sequence[Layout]:
        """The kinds of published files that hold a GLoRIA."""
        from methods.published.gloria import LAYOUTS

        return LAYOUTS

    def prepare_text(self, texts: Sequence[str]) -> TextBatch:
        """B texts -> tokens, padded to the longest; texts over `max_tokens` lose their end and are counted."""
        if self.config.text_cleaning == "words":
            texts = [" ".join(WORDS.findall(text.lower())) for text in texts]
        return self.text_tower.prepare(texts)

    def encode_image(self, images: Tensor) -> Features:
        """images: (B, C, h, w) float32 -> pooled (B, D) normalised, tokens (B, P, D), the regions."""
        size = self.config.upsample
        if size:
            images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=True)
        if self.fine >= 0:
            maps = self.image_tower.maps(images)
            fine, coarse = (maps[place].flatten(2).transpose(1, 2) for place in (self.fine, -1))  # (B, D, h, w) -> (B, hw, D)
        else:
            fine = coarse = self.image_tower.forward_tokens(images)[:, self.image_tower.prefix :]
        pooled = self.global_embedder(at_least_float32(coarse).mean(dim=1))
        return Features(F.normalize(pooled.float(), dim=-1), self.local_embedder(fine), None)

    def encode_text(self, text: TextBatch) -> Features:
        """(B, T) tokens -> pooled (B, D) normalised, tokens (B, W, D), the words, mask (B, W): those that count."""
        found = self._words(text)
        if self.config.first_word:
            return found
        assert found.mask is not None
        kept = found.mask.clone()
        kept[:, :2] = False  # neither [CLS] nor the first word, where another is left
        return replace(found, mask=torch.where(kept.any(dim=1, keepdim=True), kept, found.mask))

    def _words(self, text: TextBatch) -> Features:
        """Words of the last layers, whose slot 0 is [CLS], and their mean."""
        config: GLoRIAConfig = self.config
        last = min(config.last_layers, config.text_layers)
        layers = torch.stack(self.text_tower.states(text.ids, text.mask)[-last:])  # (L, B, T, width)
        slots = word_slots(text)
        width = int(slots.max()) + 1
        with torch.autocast(layers.device.type, enabled=False):  # sums of sums
            layers = at_least_float32(layers)
            tokens = layers.sum(dim=0) if config.layer_sum == "sum" else layers.mean(dim=0)
            words = self.text_embedder(gather_words(tokens, slots, width))
            mask = word_mask(slots, width)
            pooled = sentence_vector(words, mask, slots.shape[1] if config.sentence_mean == "positions" else 0)
        return Features(F.normalize(pooled.float(), dim=-1), words, mask)

    def similarity(self, image: Features, text: Features) -> Tensor:
        """(N, M) float32: cosine of the pooled vectors, or with words and regions the mean of that and the local one.

        Each value depends on its image and text alone; the released code then standardises over all of them.
        """
        if image.tokens is None or text.tokens is None or text.mask is None:
            return super().similarity(image, text)
        sharpness = (self.config.word_sharpness, self.config.match_sharpness)
        return combined_similarity((image.tokens, image.pooled), (text.tokens, text.pooled), text.mask, sharpness)

    def parts(self, batch: Batch, step: Step) -> Iterator[Part]:
        """One part with the terms local_to_text, local_to_image, global_to_text, global_to_image and total.

        Local negatives are those of this process, as in the released code, global ones those of all: so several processes
        have another local loss than one.
        """
        sentences = self.config.text_unit == "sentence"
        texts = batch.own(one_sentence(batch.reports, least=2)) if sentences else batch.texts
        yield Part((batch.images, self.prepare_text(texts).to(batch.images.device)), self._embed, self._compare)

    def _embed(self, images: Tensor, text: TextBatch) -> Tensors:
        image, report = self.encode_image(images), self._words(text)
        assert image.tokens is not None
        assert report.tokens is not None
        assert report.mask is not None
        mask = report.mask.clone()
        mask[:, 0] |= self.config.start_word
        return {
            "image": image.pooled, "regions": image.tokens, "report": report.pooled, "words": report.tokens, "mask": mask,
        }  # fmt: skip

    def _compare(self, found: Tensors) -> Tensors:
        config: GLoRIAConfig = self.config
        sharpness = (config.word_sharpness, config.match_sharpness)
        scores = local_scores(found["regions"], found["words"], found["mask"], sharpness, chunk=config.local_chunk)
        terms = pair_losses(config.logit_scale * scores) + directed_nce(found["image"], found["report"], config.logit_scale)
        weights = (config.local_weight, config.local_weight, config.global_weight, config.global_weight)
        names = ("local_to_text", "local_to_image", "global_to_text", "global_to_image")
        total = torch.stack([weight * term for weight, term in zip(weights, terms)]).sum()
        return {**dict(zip(names, terms)), "total": total}
