"""PRIOR, prototype representation joint learning (arXiv 2307.12577), as QtacierP/PRIOR@086bf2e trains it.

Three stages: alignment of reports, sentences and patches; the same through a bank of sentence prototypes; and with the
reconstruction of image and report. Where the released code is wrong, the default is right and a field brings the error back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.data.text import split_sentences
from benchmark.parts import ByParts, Part, Tensors
from benchmark.published import Layout
from benchmark.types import Batch, Features, MethodCard, Recipe, Step, TextBatch
from methods import prior_config
from methods.base import ImageConfig, Vision, VisionLanguage, image_preset
from methods.losses import info_nce
from methods.prior_alignment import (
    AttentionPool,
    LocalCrossAttention,
    SentenceGather,
    bare_view,
    image_local_loss,
    pack,
    pad,
    projection,
    resize_reports,
    text_local_loss,
    token_map,
    zero_shot_scores,
)  # fmt: skip
from methods.prior_config import PRIORConfig, check_divides
from methods.prior_prototypes import PrototypeBank, divergence, prototype_loss, temperature_at
from methods.prior_reconstruction import ImageDecoder, ReportDecoder, match, pixel_loss, reorder, sentence_loss

LAST_STAGE = 3


@dataclass(frozen=True, slots=True)
class View:
    """Pairs in the common space.

    patches: (B, P, D). image: (B, D). sentences: (B, S, D), 0 at padding. mask: (B, S) bool, True at a sentence.
    """

    patches: Tensor
    image: Tensor
    sentences: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Reports:
    """What the report decoder learns from.

    vectors: (B, Q, D) prototypes, 0 at padding. mask: (B, Q) bool. logits: (N, K) of the N sentences. pooled: (B, D).
    """

    vectors: Tensor
    mask: Tensor
    logits: Tensor
    pooled: Tensor


def shuffle_sentences(texts: Sequence[str]) -> list[str]:
    """The same reports with their sentences in a new order, drawn from the global generator; one a line, so that the
    borders survive, where the released code joins them without a separator.
    """
    found = []
    for text in texts:
        sentences = split_sentences(text)
        found.append("\n".join(sentences[place] for place in torch.randperm(len(sentences)).tolist()))
    return found


class PRIOR(ByParts, VisionLanguage):
    """Global, local and prototype alignment of images and reports, and the reconstruction of both."""

    name: ClassVar[str] = "prior"
    version: ClassVar[int] = 2  # 2: sentences of `split_sentences` keep the number of their list item, and more
    card: ClassVar[MethodCard] = MethodCard(
        title="PRIOR", paper="https://arxiv.org/abs/2307.12577", year=2023, license="Apache-2.0",
        pretraining_data=("MIMIC-CXR",), protocol="prior-5fold",
    )  # fmt: skip
    bank_since: Tensor

    def __init__(self, config: PRIORConfig, tokenizer: Tokenizer | None) -> None:
        super().__init__(config, tokenizer)
        del self.align  # the way to the common space is PRIOR's own
        width, dim = self.image_tower.width, config.embed_dim
        check_divides("pool_heads", config.pool_heads, "the image tower's width", width)
        self.stride = self.image_tower.info[-1][1]
        side = -(-config.image_size // self.stride)
        self.image_pool = AttentionPool(width, config.pool_heads, side * side)
        self.global_image_projection = projection(width, dim)
        self.local_image_projection = projection(width, dim)
        self.local_text_projection = projection(self.text_tower.width, dim)
        self.item_gather = SentenceGather(dim, config.sentence_pool)
        self.global_text_attention = AttentionPool(dim, config.pool_heads)
        self.local_cross_attention = LocalCrossAttention(dim)
        self.predictor = nn.Sequential(projection(dim, dim // 2), nn.ReLU(inplace=True), nn.Linear(dim // 2, dim))
        self.logit_scale = nn.Parameter(torch.tensor(log(1 / config.temperature)))  # not clamped, unlike CLIP's
        self.local_logit_scale = nn.Parameter(torch.tensor(log(1 / config.local_temperature)))
        self.sentence_bank = PrototypeBank(config.prototypes, dim)
        first = config.image_decoder_channels or dim
        self.image_decoder = ImageDecoder(2 * dim, first, self.stride, config.image_channels, config.channel_dropout)
        self.prototype_queries = nn.Parameter(torch.randn(1, config.max_sentences, dim))
        self.sentence_decoder = ReportDecoder(
            (dim, config.decoder_layers, config.decoder_heads, 4 * dim), config.decoder_positions or config.max_sentences,
            config.dropout, config.causal_decoder,
        )  # fmt: skip
        self.register_buffer("bank_since", torch.tensor(-1))  # the step from which the bank is in use; -1: not yet

    @classmethod
    def preset(cls, preset: str) -> tuple[PRIORConfig, Recipe]:
        """The configuration and recipe at "quick", "small" or "paper". Raises UserError for another."""
        return prior_config.preset(preset)

    @classmethod
    def published_layouts(cls) -> tuple[Layout, ...]:
        """The released files that `--checkpoint` reads."""
        from methods.published.prior import LAYOUTS

        return LAYOUTS

    # ------------------------------------------------------------------------------------------- evaluation

    def encode_image(self, images: Tensor) -> Features:
        """images (B, C, h, w) float32 -> pooled (B, D) normalised, tokens (B, P, D): the projected patches."""
        patches, image = self._project_image(*self._read_image(images))
        return Features(F.normalize(image.float(), dim=-1), patches, None)

    def encode_text(self, text: TextBatch) -> Features:
        """(B, T) tokens -> pooled (B, D) normalised; tokens (B, S, D), mask (B, S): sentences, or their prototypes.

        Prototypes from the second stage on, as in training, but without noise and at the last temperature.
        """
        words = self.text_tower(text.ids, text.mask)
        return self._report_features(*self._project_text(words, text.sentences, text.mask))

    def encode_prompts(self, text: TextBatch) -> Features:
        """As encode_text, a text being one sentence of all its tokens but [CLS], as in the released zero-shot code."""
        words = self.text_tower(text.ids, text.mask)
        return self.prompt_features(words, text.mask & (torch.arange(words.shape[1], device=words.device) > 0))

    def prompt_features(self, words: Tensor, kept: Tensor) -> Features:
        """Text tower's tokens (M, T, width), of which kept (M, T) bool make one sentence."""
        return self._report_features(*self._project_text(words, kept.long() - 1, kept))

    def zero_shot(self, image: Features, prompt: Features) -> tuple[Tensor, Tensor]:
        """(N, M) scaled cosines, and (N, M) mean weights of patches and prompt in the local attention.

        Args:
            image: of `encode_image`. prompt: of `encode_prompts`, with one sentence each.
        """
        assert image.tokens is not None
        assert prompt.tokens is not None
        scale = self.logit_scale if self.config.raw_logit_scale else self.logit_scale.exp()
        prompts = prompt.tokens[:, 0].expand(len(image.tokens), -1, -1)  # (M, D) -> (N, M, D)
        _, of_patches, _, of_prompts = self.local_cross_attention(image.tokens, prompts)  # (N, P, M), (N, M, P)
        return scale * image.pooled @ prompt.pooled.T, (of_patches.mean(dim=1) + of_prompts.mean(dim=2)) / 2

    def class_scores(self, image: Features, prompt: Features, classes: int) -> Tensor:
        """(N, K) float32, PRIOR's own zero-shot rule, `prior_alignment.zero_shot_scores`: the highest is the answer.

        Args:
            image, prompt: as in `zero_shot`, the prompts class after class, as many of each. classes: K.
        """
        overall, local = (torch.unflatten(item.float(), 1, (classes, -1)) for item in self.zero_shot(image, prompt))
        return zero_shot_scores(overall, local)

    def _report_features(self, sentences: Tensor, mask: Tensor) -> Features:
        if int(self.bank_since) >= 0:
            sentences = pad(self._mix(self.sentence_bank.logits(pack(sentences, mask)), 1.0), mask)
        pooled = self.global_text_attention(sentences, mask)
        return Features(F.normalize(pooled.float(), dim=-1), sentences, mask)

    # --------------------------------------------------------------------------------------------- training

    def parts(self, batch: Batch, step: Step) -> Iterator[Part]:
        """One part with the terms contrast, image_local and text_local, from stage 2 on prototype, and in stage 3 pixels,
        sentences, divergence and report; none weighted but in total. Sentences are shuffled at every step.
        """
        stage = min(step.stage, LAST_STAGE)
        since = int(self.bank_since)
        self.bank_since.fill_(-1 if stage == 1 else since if 0 <= since <= step.index else step.index)
        begin = max(0, int(self.bank_since))
        progress = (step.index - begin) / max(1, step.n_steps - begin)
        text = self.prepare_text(batch.own(shuffle_sentences(batch.reports))).to(batch.images.device)

        def compare(found: Tensors) -> Tensors:
            view = self.view((found["tokens"], found["pooled"]), found["words"], text.sentences, text.mask)
            return self.terms(view, batch.images, stage, progress)

        yield Part((batch.images, text), self._embed, compare)

    def _embed(self, images: Tensor, text: TextBatch) -> Tensors:
        tokens, pooled = self._read_image(images)
        return {"tokens": tokens, "pooled": pooled, "words": self.text_tower(text.ids, text.mask)}

    def view(self, image: tuple[Tensor, Tensor], words: Tensor, sentences: Tensor, mask: Tensor) -> View:
        """Tower outputs in the common space.

        Args:
            image: tokens (B, P, width) and their pool (B, width). words: (B, T, width) of the text tower.
            sentences: (B, T) int64, -1 at special tokens. mask: (B, T) bool, False at padding.
        """
        return View(*self._project_image(*image), *self._project_text(words, sentences, mask))

    def terms(self, view: View, images: Tensor, stage: int, progress: float = 0.0) -> dict[str, Tensor]:
        """The terms of a stage and their total.

        Args:
            images: (B, C, h, w), to be rebuilt in stage 3. stage: 1, 2 or 3. progress: 0 to 1 through the training with a bank.
        """
        config: PRIORConfig = self.config
        reports, mask, found = view.sentences, view.mask, {}
        if stage == LAST_STAGE:
            reports, mask = resize_reports(reports, mask, config.max_sentences)
        raw = pack(reports, mask)
        logits = self.sentence_bank.logits(raw)
        if stage > 1:
            prototypes = self._mix(logits, progress)
            reports = pad(prototypes, mask)
            found["prototype"] = prototype_loss(prototypes, raw)
        pooled = self.global_text_attention(reports, mask)
        found["contrast"] = self._contrast(view.image, pooled)
        of_patches, _, of_sentences, _ = self.local_cross_attention(view.patches, reports, mask)
        found["image_local"] = image_local_loss(view.patches, of_patches, self.predictor)
        found["text_local"] = text_local_loss(reports, of_sentences, mask, self.local_logit_scale.exp())
        if stage == LAST_STAGE:
            found["pixels"] = self._rebuild_image(view.patches, of_patches, images)
            found |= self._rebuild_report(view.patches, Reports(reports, mask, logits, pooled), progress)
        weights = {"prototype": config.prototype_weight, "sentences": config.sentence_weight}
        weights["contrast"] = config.global_weight if stage == LAST_STAGE else 1.0
        total = torch.stack([weights.get(name, 1.0) * term for name, term in found.items()]).sum()
        return {**found, "total": total}

    def _rebuild_image(self, patches: Tensor, of_patches: Tensor, images: Tensor) -> Tensor:
        """L1 error of the image rebuilt from half of the channels of its patches and what they read in the report."""
        rows, columns = self._grid(images)
        bare = self.config.patch_layout == "official"
        maps = [token_map(tokens, (rows, columns), bare) for tokens in (patches, of_patches)]
        return pixel_loss(self.image_decoder(maps[0], maps[1], (images.shape[2], images.shape[3])), images)

    def _rebuild_report(self, patches: Tensor, reports: Reports, progress: float) -> dict[str, Tensor]:
        """Prototypes of the report out of the patches: matched one by one, by their mixture, and as a whole."""
        predicted = self.sentence_decoder(self.prototype_queries.repeat(len(patches), 1, 1), patches)
        ordered = reorder(predicted, match(predicted, reports.vectors, self.config.inverse_permutation))
        logits = self.sentence_bank.logits(pack(ordered, reports.mask))
        again = pad(self._mix(logits, progress), reports.mask)
        return {
            "sentences": sentence_loss(ordered, reports.vectors),
            "divergence": divergence(reports.logits, logits),
            "report": self._contrast(self.global_text_attention(again, reports.mask), reports.pooled),
        }

    def _contrast(self, one: Tensor, other: Tensor) -> Tensor:
        return info_nce(F.normalize(one.float(), dim=-1), F.normalize(other.float(), dim=-1), self.logit_scale.exp())

    def _mix(self, logits: Tensor, progress: float) -> Tensor:
        temperature = temperature_at(self.config.bank_temperature, self.config.bank_schedule, progress)
        return self.sentence_bank.mix(logits, temperature, self.training or self.config.gumbel_at_evaluation)

    def _grid(self, images: Tensor) -> tuple[int, int]:
        return -(-images.shape[2] // self.stride), -(-images.shape[3] // self.stride)

    def _read_image(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> local tokens (B, P, width) in the layout of the configuration, and their pool (B, width)."""
        tokens = self.image_tower.forward_tokens(images)[:, self.image_tower.prefix :]
        pooled = self.image_pool(tokens, None, self._grid(images))
        return (bare_view(tokens) if self.config.patch_layout == "official" else tokens), pooled

    def _project_image(self, tokens: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        return self.local_image_projection(tokens), self.global_image_projection(pooled)

    def _project_text(self, words: Tensor, sentences: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.item_gather(self.local_text_projection(words), sentences, mask)
        return found


class PRIORImage(Vision):
    """The released image encoder alone; trains nothing and reads no report."""

    name: ClassVar[str] = "prior"
    version: ClassVar[int] = PRIOR.version
    card: ClassVar[MethodCard] = PRIOR.card

    @classmethod
    def preset(cls, preset: str) -> tuple[ImageConfig, Recipe]:
        """The image tower's fields of the preset; no steps. Raises UserError for an unknown preset."""
        return ImageConfig(**image_preset(preset)), Recipe(steps=0)
