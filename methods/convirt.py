"""ConVIRT (Zhang et al. 2020, arXiv 2010.00747): one sentence of a report against the image, weighted by direction.

The paper's code was not released. The facts are those of its baselines in philip-mueller/lovt@f548985, MGCA@680fe4a and
yangzhou12/BenchX@b874fa6. MGCA's variant: --set embed_dim=128 --set temperature=0.07 --set to_text_weight=1
--set to_image_weight=1, with its encoders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.data.text import split_sentences
from benchmark.parts import ByParts, Part, Tensors
from benchmark.published import Layout
from benchmark.types import Batch, Features, MethodCard, Recipe, Step, TextBatch
from methods.aggregation import masked_mean
from methods.base import TowerConfig, VisionLanguage, check_choice, check_range, tower_preset, tower_recipe
from methods.losses import at_least_float32, directed_nce

POOLS = ("max", "mean", "cls", "pooler")
UNITS = ("sentence", "report")
BERT_NAMES = {"<s>": "[CLS]", "</s>": "[SEP]", "<pad>": "[PAD]", "<mask>": "[MASK]", "<unk>": "[UNK]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConVIRTConfig(TowerConfig):
    """What ConVIRT adds to the towers.

    temperature: fixed, not learned. text_unit: what of a report is trained on, "sentence" (one, drawn anew each time) or
    "report". text_pool: over all tokens but padding, "max" or "mean"; "cls", the first one; or "pooler", a further dense
    layer of that. frozen_text_layers: of the text tower from the embeddings on, which are frozen with the first; 0 for none.
    """

    temperature: float = 0.1
    to_text_weight: float = 0.75  # image to text
    to_image_weight: float = 0.25
    projection_width: int = 128  # of the hidden layer of both heads; the paper's is not known to us, 2048 is MGCA's
    text_unit: str = "sentence"
    text_pool: str = "max"
    frozen_text_layers: int = 0
    text_epsilon: float = 1e-12  # of the text tower's norms; RoBERTa has 1e-5

    def __post_init__(self) -> None:
        TowerConfig.__post_init__(self)
        check_choice(self, "text_unit", UNITS)
        check_choice(self, "text_pool", POOLS)
        for name in ("to_text_weight", "to_image_weight"):
            check_range(self, name, 0.0, 1e6)
        check_range(self, "projection_width", 1, 8192)
        check_range(self, "frozen_text_layers", 0, self.text_layers)
        check_range(self, "text_epsilon", 0.0, 1e-2)
        for name, only in (("alignment", "mba"), ("aggregator", "mean"), ("attention_query", "per-modality")):
            check_choice(self, name, (only,))  # ConVIRT pools first and maps then, in its own way


class ConVIRT(ByParts, VisionLanguage):
    """Mean of the image tokens, maximum of the text tokens, a head of two layers on each."""

    name: ClassVar[str] = "convirt"
    version: ClassVar[int] = 2  # 2: sentences of `split_sentences` keep the number of their list item, and more
    card: ClassVar[MethodCard] = MethodCard(
        title="ConVIRT",
        paper="https://arxiv.org/abs/2010.00747",
        year=2020,
        license="MIT (the re-trained weights of BenchX; the authors released none)",
        pretraining_data=("MIMIC-CXR",),
        protocol="benchx",
    )

    def __init__(self, config: ConVIRTConfig, tokenizer: Tokenizer | None) -> None:
        super().__init__(config, tokenizer if tokenizer is None else bert_named(tokenizer))
        del self.align  # the way to the common space is ConVIRT's own
        hidden, dim = config.projection_width, config.embed_dim
        widths = (self.image_tower.width, self.text_tower.width)
        self.image_head, self.text_head = (
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, dim)) for width in widths
        )
        self.pooler = nn.Linear(widths[1], widths[1]) if config.text_pool == "pooler" else None
        for module in self.text_tower.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = config.text_epsilon
        if config.frozen_text_layers:
            bert = self.text_tower.bert
            bert.embeddings.requires_grad_(False)
            bert.encoder.layer[: config.frozen_text_layers].requires_grad_(False)

    @classmethod
    def preset(cls, preset: str) -> tuple[ConVIRTConfig, Recipe]:
        """The configuration and recipe at "quick", "small" or "paper". Raises UserError for another."""
        towers, recipe = tower_preset(preset), tower_recipe(preset)
        if preset != "paper":
            return ConVIRTConfig(**towers, projection_width=towers.get("embed_dim", 128)), recipe
        towers |= {"image_encoder": "resnet50.tv_in1k"}
        # LoVT's: Adam, the rate halved on a plateau (patience 12), up to 500 epochs, stopped after 15 without a gain, and
        # crops, flips and blur. The shared loop has AdamW, a cosine, no flips; about 50 epochs of 220,000 pairs.
        recipe = Recipe(steps=340_000, batch_size=32, learning_rate=1e-4, weight_decay=1e-6, beta2=0.999, warmup=0.01)
        return ConVIRTConfig(**towers, projection_width=2048, frozen_text_layers=6), recipe

    @classmethod
    def published_layouts(cls) -> Sequence[Layout]:
        """The kinds of published files that hold a ConVIRT."""
        from methods.published.convirt import LAYOUTS

        return LAYOUTS

    def image_features(self, tokens: Tensor) -> Features:
        """Local tokens of the image tower (B, P, width) -> pooled (B, D) normalised; the tokens stay the tower's own."""
        pooled = self.image_head(at_least_float32(tokens).mean(dim=1))
        return Features(F.normalize(pooled.float(), dim=-1), tokens, None)

    def text_features(self, tokens: Tensor, text: TextBatch, hidden: Tensor | None = None) -> Features:
        """Tokens of the text tower (B, T, width) -> pooled (B, D) normalised; the tokens stay the tower's own."""
        mask = text.mask if hidden is None else text.mask & ~hidden
        pooled = pool_text(tokens, mask, self.config.text_pool)
        if self.pooler is not None:
            pooled = self.pooler(pooled).tanh()
        return Features(F.normalize(self.text_head(pooled).float(), dim=-1), tokens, mask)

    def parts(self, batch: Batch, step: Step) -> Iterator[Part]:
        """One part with the terms to_text, to_image and total."""
        texts = batch.own(one_sentence(batch.reports)) if self.config.text_unit == "sentence" else batch.texts
        yield Part((batch.images, self.prepare_text(texts).to(batch.images.device)), self._embed, self._compare)

    def _embed(self, images: Tensor, text: TextBatch) -> Tensors:
        return {"image": self.encode_image(images).pooled, "report": self.encode_text(text).pooled}

    def _compare(self, found: Tensors) -> Tensors:
        config: ConVIRTConfig = self.config
        to_text, to_image = directed_nce(found["image"], found["report"], 1 / config.temperature)
        total = config.to_text_weight * to_text + config.to_image_weight * to_image
        return {"to_text": to_text, "to_image": to_image, "total": total}


def pool_text(tokens: Tensor, mask: Tensor, pool: str) -> Tensor:
    """tokens (B, T, D), mask (B, T) bool, True for each token but padding -> (B, D) of at least float32."""
    if pool == "mean":
        return masked_mean(tokens, mask)
    tokens = at_least_float32(tokens)
    return tokens.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(dim=1) if pool == "max" else tokens[:, 0]


def one_sentence(reports: Sequence[str], least: int = 1) -> list[str]:
    """One sentence of each report, drawn from the global torch generator; a report without sentences as it is.

    Args:
        least: words that a sentence needs to be drawn, where the report has such a one.
    """
    place = torch.rand(len(reports)).tolist()
    found = []
    for report, where in zip(reports, place):
        sentences = split_sentences(report) or (report,)
        long = [sentence for sentence in sentences if len(sentence.split()) >= least] or sentences
        found.append(long[int(where * len(long))])
    return found


def bert_named(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer with RoBERTa's special tokens under BERT's names, which the text tower asks for, if it has such."""
    vocabulary = tokenizer.get_vocab()
    if "[PAD]" in vocabulary or "<pad>" not in vocabulary:
        return tokenizer
    text = tokenizer.to_str()
    for theirs, ours in BERT_NAMES.items():
        text = text.replace(f'"{theirs}"', f'"{ours}"')
    renamed: Tokenizer = Tokenizer.from_str(text)
    return renamed
