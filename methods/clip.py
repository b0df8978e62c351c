"""CLIP on the same towers: unmasked pairs, the contrastive loss and nothing else (arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tokenizers import Tokenizer
from torch import Tensor

from benchmark.parts import ByParts, Part, Tensors
from benchmark.types import Batch, MethodCard, Recipe, Step, TextBatch
from methods.base import TowerConfig, VisionLanguage, tower_preset, tower_recipe
from methods.losses import LogitScale, info_nce


class CLIP(ByParts, VisionLanguage):
    """The baseline that MCR's masking and reconstruction are measured against."""

    name: ClassVar[str] = "clip"
    version: ClassVar[int] = 1
    card: ClassVar[MethodCard] = MethodCard(
        title="CLIP (same encoders, unmasked)", paper="https://arxiv.org/abs/2103.00020", year=2021
    )

    def __init__(self, config: TowerConfig, tokenizer: Tokenizer | None) -> None:
        super().__init__(config, tokenizer)
        self.logit_scale = LogitScale(config.temperature)

    @classmethod
    def preset(cls, preset: str) -> tuple[TowerConfig, Recipe]:
        """The configuration and recipe at "quick", "small" or "paper". Raises UserError for another."""
        return TowerConfig(**tower_preset(preset)), tower_recipe(preset)

    def parts(self, batch: Batch, step: Step) -> Iterator[Part]:
        """One part with the terms contrast and total, which are the same."""
        text = self.prepare_text(batch.texts).to(batch.images.device)
        yield Part((batch.images, text), self._embed, self._compare)

    def _embed(self, images: Tensor, text: TextBatch) -> Tensors:
        return {"image": self.encode_image(images).pooled, "report": self.encode_text(text).pooled}

    def _compare(self, found: Tensors) -> Tensors:
        contrast = info_nce(found["image"], found["report"], self.logit_scale())
        return {"contrast": contrast, "total": contrast}
