"""MRM, masked record modeling (Zhou et al., ICLR 2023, https://openreview.net/forum?id=w-x7U26GM7j; RL4M/MRM-pytorch@3730ba4).

A masked autoencoder that predicts an image of twice the size it reads, and whose visible patches help a light BERT to restore
a masked report. It learns from reports and encodes none: the report branch never sees a text without its image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.data.text import SPECIAL
from benchmark.errors import UserError
from benchmark.parts import ByParts, Part, Tensors
from benchmark.published import Layout
from benchmark.types import Batch, MethodCard, Recipe, Step, TextBatch
from methods.base import Vision, check_choice, check_heads, check_range, tower_preset, tower_recipe
from methods.decoders import TextHead
from methods.draws import token_noise
from methods.encoders import sincos_positions
from methods.losses import hidden_mean, spread_out
from methods.mae import DECODERS, MAEConfig, PrefixDecoder, draw_mask, patches_a_side, pixel_errors, place_positions
from methods.masking import ImageMask, TextMask
from methods.text_encoder import TextTower

LABELS = ("hidden", "real", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class MRMConfig(MAEConfig):
    """What MRM adds to a masked autoencoder.

    target_scale: how much larger the predicted image is than the encoder's; training then reads images of that size.
    antialias: of the bicubic halving; the torchvision 0.9.2 that the release pins has none.
    position_code: "mae", or "released", whose frequencies are divided by two once more and whose columns come first.
    report_labels: positions that count in the report's loss: "hidden" words; "real", all but padding; "all", padding up to
    max_tokens included, as released. word_head: the output words are "tied" to the word embeddings, or "separate" as released.
    text_vocabulary: words of a checkpoint that is evaluated without its tokenizer; 0, the tokenizer's.
    """

    target_scale: int = 2
    antialias: bool = True
    position_code: str = "mae"
    text_mask_ratio: float = 0.5  # of whole words
    report_labels: str = "hidden"
    word_head: str = "tied"
    image_loss_weight: float = 1.0
    text_loss_weight: float = 1.0
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    text_positions: int = 0  # 0: as many as max_tokens
    text_types: int = 1
    text_vocabulary: int = 0
    max_tokens: int = 96
    dropout: float = 0.0  # in the report branch

    def __post_init__(self) -> None:
        MAEConfig.__post_init__(self)
        check_choice(self, "target_scale", (1, 2, 4))
        check_choice(self, "position_code", ("mae", "released"))
        check_choice(self, "report_labels", LABELS)
        check_choice(self, "word_head", ("tied", "separate"))
        check_range(self, "text_mask_ratio", 0.0, 1.0)
        for name in ("image_loss_weight", "text_loss_weight"):
            check_range(self, name, 0.0, 1e6)
        for name in ("text_width", "text_layers", "text_heads"):
            check_range(self, name, 1, 4096)
        check_heads(self, "text_width", "text_heads")
        check_range(self, "text_positions", 0, 4096)
        check_range(self, "max_tokens", 3, self.text_positions or 512)
        check_range(self, "text_types", 1, 16)
        check_range(self, "dropout", 0.0, 0.9)
        if self.text_vocabulary:
            check_range(self, "text_vocabulary", len(SPECIAL), 1_000_000)


class MRM(ByParts, Vision):
    """Image encoder of a masked autoencoder with two decoders, for a larger image and for the report.

    `input` asks for the target's size in training mode and for the encoder's own size in evaluation mode, so that the
    encoder sees images of one size throughout and evaluation costs what it costs for every other method.
    """

    name: ClassVar[str] = "mrm"
    version: ClassVar[int] = 1
    card: ClassVar[MethodCard] = MethodCard(
        title="MRM", paper="https://openreview.net/forum?id=w-x7U26GM7j", year=2023, pretraining_data=("MIMIC-CXR",),
    )  # fmt: skip

    def __init__(self, config: MRMConfig, tokenizer: Tokenizer | None) -> None:
        super().__init__(config)
        tower = self.image_tower
        self.side = side = patches_a_side(config, tower, "MRM")
        place_positions(config, tower, position_code(config.position_code, side, tower.width))
        shape = (config.decoder_width, config.decoder_depth, config.decoder_heads)
        code = position_code(config.position_code, side, config.decoder_width)
        self.target_patch = tower.patch * config.target_scale
        pixels = self.target_patch**2 * config.image_channels
        self.image_decoder = PrefixDecoder((tower.width, tower.prefix), shape, code, pixels)
        if tokenizer is not None and config.text_vocabulary not in (0, tokenizer.get_vocab_size()):
            found = tokenizer.get_vocab_size()
            raise UserError(f"text_vocabulary={config.text_vocabulary}, and the tokenizer has {found} words; leave it 0")
        words = tokenizer if tokenizer is not None or not config.text_vocabulary else unnamed_words(config.text_vocabulary)
        self.text_tower = TextTower(
            (config.text_width, config.text_layers, config.text_heads), config.max_tokens, config.dropout, "none", words,
            (config.text_positions or config.max_tokens, config.text_types),
        )  # fmt: skip
        self.tokenizer = self.text_tower.tokenizer if tokenizer is not None else None
        self.to_report = nn.Linear(tower.width, config.text_width)
        self.text_head = TextHead(config.text_width, len(self.text_tower.words))
        self.text_head.norm.eps = 1e-12  # as BERT's
        self.word_head = nn.Parameter(self.text_tower.words.detach().clone()) if config.word_head == "separate" else None
        self._inputs = {True: replace(self.input, size=config.image_size * config.target_scale), False: self.input}
        self.train()

    @classmethod
    def build(cls, config: Any, tokenizer: Tokenizer | None) -> Self:
        """A method with weights drawn from the global torch generator. Raises UserError for neither tokenizer nor size."""
        return cls(config, tokenizer)

    @classmethod
    def published_layouts(cls) -> tuple[Layout, ...]:
        """The published checkpoints that `--checkpoint` reads."""
        from methods.published.mrm import LAYOUTS

        return LAYOUTS

    @classmethod
    def preset(cls, preset: str) -> tuple[MRMConfig, Recipe]:
        """The configuration and recipe at "quick", "small" or "paper". Raises UserError for another.

        paper: run.sh, model_mrm.py and bert_encoder.py: from MAE's ImageNet weights, 448 pixels to predict, a BERT of 6 layers,
        200 epochs at batch 256, of which 40 warm up, no clipping. It crops and flips at random; the shared loop does not flip,
        since reports name sides, and its vocabulary is that of the training reports.
        """
        names = {item.name for item in fields(MRMConfig)}
        config = MRMConfig(**{name: item for name, item in tower_preset(preset).items() if name in names})
        recipe = tower_recipe(preset)
        if preset != "paper":
            return replace(config, **DECODERS.get(preset, {})), recipe
        config = replace(
            config, image_encoder="vit_base_patch16_224.mae", positions="fixed", pixel_stats="0.4978,0.2449", resize="stretch",
            decoder_width=768, decoder_depth=4, decoder_heads=6, text_width=384, text_layers=6, text_heads=6,
            text_positions=100, max_tokens=100,
        )  # fmt: skip
        return config, replace(recipe, steps=172_000, warmup=0.2, clip_norm=0.0)

    def train(self, mode: bool = True) -> Self:
        """As any module; in training, images of the target's size are asked for."""
        self.input = self._inputs[mode]
        return super().train(mode)

    def prepare_text(self, texts: Sequence[str]) -> TextBatch:
        """B texts -> tokens, padded to the longest. Raises UserError where the checkpoint came without its vocabulary."""
        if self.tokenizer is None:
            raise UserError("this MRM was read from a published checkpoint without its vocabulary and reads no reports")
        return self.text_tower.prepare(texts)

    def parts(self, batch: Batch, step: Step) -> Iterator[Part]:
        """One part with the terms image, text and total. Images of another size than the target's are brought to it first."""
        config: MRMConfig = self.config
        text = self.prepare_text(batch.texts).to(batch.images.device)
        if config.report_labels == "all":
            text = pad(text, config.max_tokens, self.text_tower.pad_id)
        mask = draw_mask(batch, self.side**2, config.image_mask_ratio)
        words = word_mask(text, token_noise(batch, text), config.text_mask_ratio, self.text_tower.mask_id)
        counted = (mask.hidden, self.counted(text, words))
        yield Part((batch.images, mask, text, words), self.errors, lambda found: self.total(found, *counted), additive=True)

    def terms(self, images: Tensor, mask: ImageMask, text: TextBatch, words: TextMask) -> Tensors:
        """The losses of the image and of the report, () float32 each, and their weighted total (model_mrm.py, forward)."""
        return self.total(self.errors(images, mask, text, words), mask.hidden, self.counted(text, words))

    def total(self, found: Tensors, patches: Tensor, words: Tensor) -> Tensors:
        """Means of errors (B, P) and (B, T) where patches (B, P) and words (B, T) bool are True."""
        image, report = hidden_mean(found["image"], patches), hidden_mean(found["text"], words)
        total = self.config.image_loss_weight * image + self.config.text_loss_weight * report
        return {"image": image, "text": report, "total": total}

    def counted(self, text: TextBatch, words: TextMask) -> Tensor:
        """(B, T) bool, the positions that count in the report's loss."""
        every: Tensor = {"hidden": words.hidden, "real": text.mask}.get(self.config.report_labels, torch.ones_like(text.mask))
        return every

    def errors(self, images: Tensor, mask: ImageMask, text: TextBatch, words: TextMask) -> Tensors:
        """Of each patch (B, P), and of each position of a report (B, T), 0 where it does not count."""
        config: MRMConfig = self.config
        large = self.resized(images, config.image_size * config.target_scale)
        tokens = self.image_tower.forward_tokens(self.resized(large, config.image_size), mask.keep)
        predicted = self.image_decoder(tokens, mask)
        seen = self.to_report(tokens[:, self.image_tower.prefix :].mean(dim=1))
        counted = self.counted(text, words)
        states, vocabulary = self.states(words.ids, text.mask, seen, counted)
        error = self.text_head.error(states, vocabulary, text.ids[counted])
        return {
            "image": pixel_errors(predicted, large, self.target_patch, config.normalize_pixels),
            "text": spread_out(error, counted),
        }

    def resized(self, images: Tensor, side: int) -> Tensor:
        """images (B, C, h, w) -> (B, C, side, side), bicubic; the tensor itself where it has that size."""
        if images.shape[-2:] == (side, side):
            return images
        return F.interpolate(
            images, size=(side, side), mode="bicubic", align_corners=False, antialias=bool(self.config.antialias)
        )

    def logits(self, ids: Tensor, mask: Tensor, seen: Tensor, counted: Tensor) -> Tensor:
        """Words at the positions that count, (M, V), of the same arguments as `states`."""
        found: Tensor = self.text_head(*self.states(ids, mask, seen, counted))
        return found

    def states(self, ids: Tensor, mask: Tensor, seen: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        """Of the report branch at the positions that count, (M, width), and the words that they are compared with, (V, width).

        Args:
            ids: (B, T) int64, masked. mask: (B, T) bool, False at padding. counted: (B, T) bool, M of them True.
            seen: (B, width), what is added to every token after the norm of the embeddings.
        """
        bert = self.text_tower.bert
        states = bert.embeddings(input_ids=ids) + seen.unsqueeze(1)
        states = bert.encoder(states, attention_mask=mask[:, None, None, :]).last_hidden_state
        words = self.text_tower.words if self.word_head is None else self.word_head
        return states[counted], words


def position_code(code: str, side: int, width: int) -> Tensor:
    """(side * side, width) float32: MAE's sine-cosine code, or the released one (util/pos_embed.py).

    Released frequencies are 10000^(-(i / h) / 2) with h = width / 2, where MAE's are 10000^(-i / (h / 2)).
    """
    if code == "mae":
        return sincos_positions(side, side, width)
    half = width // 2
    frequency = 10000.0 ** (-torch.arange(half // 2, dtype=torch.float64) / half / 2)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [axis.reshape(-1, 1).double() * frequency for axis in (column, row)]  # (P, width / 4) each
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()


def word_mask(text: TextBatch, noise: Tensor, ratio: float, mask_id: int) -> TextMask:
    """Hides each whole word with a probability (util/pretrain_datasets.py).

    Args:
        text: B texts. noise: (B, T) float in [0, 1); that at place n decides on word n.
        ratio: 0 <= ratio <= 1. mask_id: of [MASK].
    """
    hidden = (noise.gather(1, text.words.clamp(min=0)) < ratio) & text.mask & ~text.special
    return TextMask(text.ids.masked_fill(hidden, mask_id), hidden)


def pad(text: TextBatch, length: int, pad_id: int) -> TextBatch:
    """The same texts with padding up to a length."""
    more = (0, length - text.ids.shape[1])
    return TextBatch(
        F.pad(text.ids, more, value=pad_id), F.pad(text.mask, more), F.pad(text.special, more, value=True),
        F.pad(text.sentences, more, value=-1), F.pad(text.words, more, value=-1), text.truncated,
    )  # fmt: skip


def unnamed_words(count: int) -> Tokenizer:
    """As many words as a checkpoint has, without their names: enough to build its layers, and to read nothing."""
    names = [*SPECIAL, *(f"[{index}]" for index in range(len(SPECIAL), count))]
    return Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))  # noqa: S106
