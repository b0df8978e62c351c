"""MGCA: alignment of instances, of tokens and of prototypes (Wang et al., NeurIPS 2022, arXiv 2210.06044).

As HKU-MedAI/MGCA@680fe4a trains it. Where the released code is wrong, the default is right and a field brings the error back.
What differs from the paper: the shared loop's augmentation in place of a random crop of 224 from 256 pixels, no early stop; the
word embeddings keep BERT's embedding of the first segment, which the released code drops.
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

from benchmark.errors import UserError
from benchmark.parts import ByParts, Part, Tensors
from benchmark.published import Layout
from benchmark.types import Batch, Features, MethodCard, Recipe, Step, TextBatch
from methods.base import TowerConfig, VisionLanguage, check_choice, check_range, tower_preset, tower_recipe
from methods.encoders import ViTTower
from methods.losses import at_least_float32
from methods.mgca_attention import attention_weights, bert_attention, sum_words, vit_tokens, without_start
from methods.mgca_losses import instance_loss, prototype_loss, renormalize, token_loss

PIXEL_STATS = "0.5,0.5"  # mgca/datasets/transforms.py, after padding to a square
UPSAMPLE = 299  # mgca/models/backbones/encoder.py, resnet_forward


@dataclass(frozen=True, slots=True, kw_only=True)
class MGCAConfig(TowerConfig):
    """What MGCA adds to the towers; the last four are quirks of the released code, off by default. `temperature` is fixed.

    *_weight: 1 each from the released command line; 1, 0.7, 0.5 in the released class; instance_weight=0.5 is the paper's mean
    of both directions. upsample: pixels a side to which images are enlarged for a convolutional tower; 0: they are not.
    text_cleaning: "words" for lower-case words without punctuation, as published; "none" leaves reports as they stand.
    text_layers_kept: of text_layers, from the first on; 0 for all. frozen_epochs: in which prototypes stay as they are.
    shifted_attention: a word weighs what [CLS] gives to the tokens after its own. lost_last_word: a report of max_tokens loses
    its last word and [SEP]. padded_words: every report has max_tokens - 1 words, zeros that enter batch norm and are negatives.
    unnormalized_context: what a patch attends to is not brought to length 1 (released with a ViT).
    """

    head_width: int = 256
    prototypes: int = 64
    local_temperature: float = 0.1
    prototype_temperature: float = 0.2
    sinkhorn_iterations: int = 3
    sinkhorn_epsilon: float = 0.05
    frozen_epochs: int = 1
    instance_weight: float = 1.0
    token_weight: float = 1.0
    prototype_weight: float = 1.0
    upsample: int = 0
    text_cleaning: str = "none"
    text_layers_kept: int = 0
    shifted_attention: bool = False
    lost_last_word: bool = False
    padded_words: bool = False
    unnormalized_context: bool = False

    def __post_init__(self) -> None:
        TowerConfig.__post_init__(self)
        for name, only in (("alignment", "mba"), ("aggregator", "mean"), ("attention_query", "per-modality")):
            check_choice(self, name, (only,))  # it has heads of its own, and these have no part in it
        check_choice(self, "text_cleaning", ("words", "none"))
        for name in ("head_width", "prototypes"):
            check_range(self, name, 1, 65536)
        for name in ("local_temperature", "prototype_temperature", "sinkhorn_epsilon"):
            check_range(self, name, 0.001, 10.0)
        check_range(self, "sinkhorn_iterations", 1, 100)
        check_range(self, "frozen_epochs", 0, 10**6)
        check_range(self, "text_layers_kept", 0, self.text_layers)
        check_range(self, "upsample", 0, 4096)
        for name in ("instance_weight", "token_weight", "prototype_weight"):
            check_range(self, name, 0.0, 1e6)


class Head(nn.Sequential):
    """Linear, batch norm, ReLU, Linear, batch norm without scale and shift: (N, inputs) -> (N, outputs).

    In float32 always: features that are nearly alike in a batch, as at the start, are blown up to variance 1, and the
    rounding of half precision with them.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__(
            nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs),
            nn.BatchNorm1d(outputs, affine=False),
        )  # fmt: skip

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs) float32."""
        with torch.autocast(features.device.type, enabled=False):
            found: Tensor = super().forward(at_least_float32(features))  # type: ignore[no-untyped-call]
            return found


@dataclass(frozen=True, slots=True)
class View:
    """One modality in the common space, normalised.

    whole: (B, D). local: (B, N, D). mask: (B, N) bool, None where all are real. weights: (B, N), None where not asked for.
    """

    whole: Tensor
    local: Tensor
    mask: Tensor | None
    weights: Tensor | None


class MGCA(ByParts, VisionLanguage):
    """Towers, a head for each of their global and local features, and prototypes that both modalities share."""

    name: ClassVar[str] = "mgca"
    version: ClassVar[int] = 1
    card: ClassVar[MethodCard] = MethodCard(
        title="MGCA",
        paper="https://arxiv.org/abs/2210.06044",
        year=2022,
        license="not stated",
        pretraining_data=("MIMIC-CXR",),
        protocol="mgca",
    )

    def __init__(self, config: MGCAConfig, tokenizer: Tokenizer | None) -> None:
        super().__init__(config, tokenizer)
        del self.align  # heads in its place
        if config.text_layers_kept:
            self.text_tower.bert.encoder.layer = self.text_tower.bert.encoder.layer[: config.text_layers_kept]
            self.text_tower.bert.config.num_hidden_layers = config.text_layers_kept
        image, text = self.image_tower.width, self.text_tower.width
        local = image if isinstance(self.image_tower, ViTTower) else self.image_tower.info[-2:][0][0]
        self.image_global, self.image_local, self.text_global, self.text_local = (
            Head(width, config.head_width, config.embed_dim) for width in (image, local, text, text)
        )
        self.prototypes = nn.Parameter(torch.empty(config.prototypes, config.embed_dim).uniform_(-1, 1))
        renormalize(self.prototypes)

    @classmethod
    def preset(cls, preset: str) -> tuple[MGCAConfig, Recipe]:
        """The configuration and recipe at "quick", "small" or "paper". Raises UserError for another."""
        fields, recipe = tower_preset(preset), tower_recipe(preset)
        if preset == "small":
            fields |= {"head_width": 320, "prototypes": 128}
        if preset == "paper":
            fields |= {
                "image_encoder": "deit_base_patch16_224.fb_in1k", "pixel_stats": PIXEL_STATS, "embed_dim": 128,
                "head_width": 2048, "prototypes": 500, "upsample": UPSAMPLE, "text_cleaning": "words",
                "text_layers_kept": 6,
            }  # fmt: skip
            # about 50 epochs of a round 220,000 pairs (our figure), in single precision as the released command runs
            recipe = replace(
                recipe, steps=75_000, batch_size=144, learning_rate=2e-5, weight_decay=0.05, beta2=0.999, warmup=0.4,
                clip_norm=0.0, precision="fp32",
            )  # fmt: skip
        return MGCAConfig(**fields), recipe

    @classmethod
    def published_layouts(cls) -> tuple[Layout, ...]:
        """The two released models."""
        from methods.published.mgca import LAYOUTS

        return LAYOUTS

    def prepare_text(self, texts: Sequence[str]) -> TextBatch:
        """As VisionLanguage, of the words that `text_cleaning` leaves."""
        return super().prepare_text([plain_words(text) for text in texts] if self.config.text_cleaning == "words" else texts)

    def encode_image(self, images: Tensor) -> Features:
        """images: (B, C, h, w) float32 -> pooled (B, D) normalised, tokens (B, P, D) normalised."""
        view = self._image(self._see(images, weighted=False))
        return Features(view.whole, view.local, None)

    def encode_text(self, text: TextBatch) -> Features:
        """(B, T) tokens -> pooled (B, D) normalised, tokens (B, W, D) of W words with [SEP] as the last, mask (B, W)."""
        view = self._report(self._read(text, weighted=False))
        return Features(view.whole, view.local, view.mask)

    def parts(self, batch: Batch, step: Step) -> Iterator[Part]:
        """One part with the terms instance, token, prototype and total; batch norm of the heads sees all rows.

        Raises:
            UserError: a batch of one pair, of which batch norm knows no variance.
        """
        if self.training and len(batch.reports) < 2:
            raise UserError("batch_size=1: the heads of mgca have batch norm, which needs two pairs or more")
        text = self.prepare_text(batch.texts).to(batch.images.device)
        yield Part((batch.images, text), self._embed, lambda found: self._compare(found, step))

    def _embed(self, images: Tensor, text: TextBatch) -> Tensors:
        image, report = self._see(images, weighted=True), self._read(text, weighted=True)
        return {f"image {name}": item for name, item in image.items()} | {f"text {name}": item for name, item in report.items()}

    def _compare(self, found: Tensors, step: Step) -> Tensors:
        image = self._image({name[6:]: item for name, item in found.items() if name.startswith("image ")})
        text = self._report({name[5:]: item for name, item in found.items() if name.startswith("text ")})
        assert image.weights is not None
        assert text.weights is not None
        assert text.mask is not None
        config = self.config
        renormalize(self.prototypes)
        prototypes: Tensor = self.prototypes
        if step.epoch < config.frozen_epochs:
            prototypes = prototypes.detach() + 0 * prototypes  # a gradient of 0: several processes wait for one
        negatives = None if config.padded_words else text.mask
        terms = {
            "instance": instance_loss(image.whole, text.whole, config.temperature),
            "token": token_loss(text.local, image.local, text.weights, negatives, None, config.local_temperature)
            + token_loss(
                image.local, text.local, image.weights, None, text.mask, config.local_temperature,
                not config.unnormalized_context,
            ),
            "prototype": prototype_loss(
                image.whole, text.whole, prototypes, config.prototype_temperature, config.sinkhorn_iterations,
                config.sinkhorn_epsilon,
            ),
        }  # fmt: skip
        total = config.instance_weight * terms["instance"] + config.token_weight * terms["token"]
        total = total + config.prototype_weight * terms["prototype"]
        return {**terms, "total": total}

    def _see(self, images: Tensor, weighted: bool) -> dict[str, Tensor]:
        """Of a ViT the class token and the patches, weighed by its look at them; of another the last two maps, unweighed.

        whole (B, width), local (B, P, width) and, where weights are asked for, attention (B, P).
        """
        attention = None
        if isinstance(self.image_tower, ViTTower):
            tokens, attention = vit_tokens(self.image_tower, images, weighted)
            local = tokens[:, self.image_tower.prefix :]
            whole = local.mean(dim=1) if self.image_tower.model.cls_token is None else tokens[:, 0]
        else:
            size = self.config.upsample
            if size:
                images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=True)
            maps = self.image_tower.maps(images)
            whole, local = maps[-1].mean(dim=(2, 3)), maps[-2:][0].flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, hw, D)
        found = {"whole": whole, "local": local}
        if weighted:
            found["attention"] = local.new_ones(local.shape[:2]) if attention is None else attention
        return found

    def _image(self, seen: Tensors) -> View:
        """What `_see` gives, through the heads."""
        attention, weights = seen.get("attention"), None
        if attention is not None:
            weights = attention_weights(attention, torch.ones_like(attention, dtype=torch.bool))
        return View(_unit(self.image_global(seen["whole"])), _mapped(self.image_local, seen["local"]), None, weights)

    def _read(self, text: TextBatch, weighted: bool) -> dict[str, Tensor]:
        """[CLS], and the words weighed by its look at them: whole (B, width), local (B, W, width), mask (B, W), attention."""
        config = self.config
        attention = torch.zeros(text.ids.shape, device=text.ids.device)
        if weighted:
            states = self.text_tower.states(text.ids, text.mask)
            tokens = states[-1]
            attention = bert_attention(self.text_tower.bert, states[-2], text.mask)
        else:
            tokens = self.text_tower(text.ids, text.mask)
        words = sum_words(tokens, attention, text, config.shifted_attention, config.max_tokens * config.lost_last_word)
        padded = config.padded_words and self.training
        words = without_start(words, config.max_tokens - 1 if padded else 0)
        found = {"whole": tokens[:, 0], "local": words.tokens, "mask": words.mask}
        return found | ({"attention": words.attention} if weighted else {})

    def _report(self, read: Tensors) -> View:
        """What `_read` gives, through the heads."""
        padded, mask = self.config.padded_words and self.training, read["mask"]
        local = _mapped(self.text_local, read["local"], None if padded else mask)
        weights = attention_weights(read["attention"], mask) if "attention" in read else None
        return View(_unit(self.text_global(read["whole"])), local, mask, weights)


def _unit(features: Tensor) -> Tensor:
    return F.normalize(at_least_float32(features), dim=-1)


def _mapped(head: nn.Module, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """tokens (B, N, width) through a head where mask (B, N) is True -> (B, N, D) float, normalised, 0 elsewhere."""
    if mask is None:
        return _unit(head(tokens.flatten(0, 1))).reshape(*tokens.shape[:2], -1)
    found = _unit(head(tokens[mask]))  # (sum of mask, D): padding must not enter batch norm
    return found.new_zeros(*mask.shape, found.shape[-1]).masked_scatter(mask.unsqueeze(-1), found)


def plain_words(text: str) -> str:
    """Lower-case words without punctuation, sentences of one word left out where there are longer ones.

    As mgca/datasets/pretrain_dataset.py prepares reports; a text of nothing but single words, such as a prompt, keeps them.
    """
    parts = re.split(r"[0-9]+\.|\.", text.lower())
    sentences = [re.findall(r"\w+", part.encode("ascii", "ignore").decode()) for part in parts]
    kept = [words for words in sentences if len(words) > 1] or sentences
    return " ".join(word for words in kept for word in words)
