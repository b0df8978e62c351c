"""What the vision-language methods share: the configuration of the towers, its presets, and encoding for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.errors import UserError
from benchmark.types import PRESETS, Features, InputSpec, Recipe, TextBatch
from methods.aggregation import AGGREGATORS, ALIGNMENTS, QUERIES, Alignment
from methods.encoders import ImageTower, build_image_tower
from methods.inputs import input_spec, pixel_stats
from methods.text_encoder import TextTower


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """The image tower and its pixels; every field is a scalar that `--set name=value` may override.

    Raises:
        UserError: a value that no tower can be built from, naming the field and what it may be.
    """

    image_encoder: str = "vit"  # "vit": of the sizes below; "resnet": of the same scale; or any timm model name
    image_weights: str = "none"  # "none": drawn at random; "timm": from the hub; else a local safetensors file
    image_size: int = 128
    image_channels: int = 1
    image_width: int = 128
    image_depth: int = 4
    image_heads: int = 4
    patch_size: int = 16
    pixel_stats: str = ""  # "MEAN,STD" of every channel; "": 0.5,0.25 for gray, for three those of the encoder's weights
    resize: str = "pad"  # or "stretch", without regard to the aspect ratio
    patch_projection: str = "trained"  # or "frozen" as drawn or loaded (MoCo v3, Chen et al. 2021, section 4.2)

    def __post_init__(self) -> None:
        check_choice(self, "image_channels", (1, 3))
        check_choice(self, "patch_projection", ("frozen", "trained"))
        check_choice(self, "resize", ("pad", "stretch"))
        pixel_stats(self.pixel_stats, self.image_channels)
        for name in ("image_size", "image_width", "image_depth", "image_heads", "patch_size"):
            check_range(self, name, 1, 4096)
        check_heads(self, "image_width", "image_heads")
        check_range(self, "image_size", self.patch_size, 4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig(ImageConfig):
    """Both towers and the common space."""

    text_weights: str = "none"  # drawn at random; "hub": Bio_ClinicalBERT; OWNER/NAME there; a local folder in its layout
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    text_positions: int = 0  # 0: as many as max_tokens
    text_types: int = 1  # kinds of segments in the embedding; BERT's own has 2
    max_tokens: int = 96
    dropout: float = 0.0  # in the text tower
    embed_dim: int = 128
    alignment: str = "mba"  # "mba": map tokens, then aggregate; "abm": aggregate, then map
    aggregator: str = "mean"  # over local tokens: "mean" or "attention"
    attention_query: str = "per-modality"  # or "shared", which needs alignment=mba
    temperature: float = 0.07  # at the start; learned

    def __post_init__(self) -> None:
        ImageConfig.__post_init__(self)
        check_choice(self, "alignment", ALIGNMENTS)
        check_choice(self, "aggregator", AGGREGATORS)
        check_choice(self, "attention_query", QUERIES)
        for name in ("text_width", "text_layers", "text_heads", "embed_dim"):
            check_range(self, name, 1, 4096)
        check_heads(self, "text_width", "text_heads")
        check_range(self, "text_positions", 0, 4096)
        check_range(self, "max_tokens", 3, self.text_positions or 512)
        check_range(self, "text_types", 1, 16)
        check_range(self, "dropout", 0.0, 0.9)
        check_range(self, "temperature", 0.01, 10.0)
        if (self.alignment, self.aggregator, self.attention_query) == ("abm", "attention", "shared"):
            raise UserError(
                "attention_query=shared needs alignment=mba: before the mapping the two modalities have no common space; "
                "use attention_query=per-modality"
            )


def check_heads(config: object, width: str, heads: str) -> None:
    """Raises UserError unless the width is a multiple of 4 and of the number of heads."""
    if getattr(config, width) % getattr(config, heads) or getattr(config, width) % 4:
        raise UserError(f"{width}={getattr(config, width)} must be a multiple of 4 and of {heads}={getattr(config, heads)}")


def check_choice(config: object, name: str, allowed: Sequence[object]) -> None:
    """Raises UserError unless the field is one of the values."""
    value = getattr(config, name)
    if value not in allowed:
        raise UserError(f"{name}={value!r} is not one of {', '.join(str(item) for item in allowed)}")


def check_range(config: object, name: str, low: float, high: float) -> None:
    """Raises UserError unless low <= field <= high; nan is out of every range."""
    value = getattr(config, name)
    if not low <= value <= high:
        raise UserError(f"{name}={value!r} must lie in {low} to {high}")


def tower_preset(preset: str) -> dict[str, Any]:
    """The tower fields of a preset, the same for every method. Raises UserError for an unknown preset."""
    presets: dict[str, dict[str, Any]] = {
        "quick": {},
        "small": {
            "image_width": 160, "image_depth": 5, "image_heads": 5, "text_width": 160, "text_layers": 2, "text_heads": 5,
            "embed_dim": 160,
        },
        "paper": {
            "image_size": 224, "image_channels": 3, "image_width": 768, "image_depth": 12, "image_heads": 12,
            "image_weights": "timm", "text_weights": "hub", "text_width": 768, "text_layers": 12, "text_heads": 12,
            "text_positions": 512, "text_types": 2, "max_tokens": 112, "dropout": 0.1, "embed_dim": 512,
        },
    }  # fmt: skip
    if preset not in presets:
        raise UserError(f"preset {preset!r} is not one of {', '.join(PRESETS)}")
    return presets[preset]


def image_preset(preset: str) -> dict[str, Any]:
    """The fields of `tower_preset` that an image tower alone has. Raises UserError for an unknown preset."""
    names = {item.name for item in fields(ImageConfig)}
    return {name: value for name, value in tower_preset(preset).items() if name in names}


def tower_recipe(preset: str) -> Recipe:
    """The recipe of a preset for methods that train these towers from pairs. Raises UserError for an unknown preset."""
    recipes = {
        "quick": Recipe(steps=240, batch_size=64, learning_rate=2e-3),
        "small": Recipe(steps=2500, batch_size=64, learning_rate=1.5e-3),
        # 1.5e-4 * batch / 256, as the masked siblings scale it; 100 epochs of 220,000 pairs
        "paper": Recipe(steps=86_000, batch_size=256, learning_rate=1.5e-4, precision="bf16"),
    }
    if preset not in recipes:
        raise UserError(f"preset {preset!r} is not one of {', '.join(PRESETS)}")
    return recipes[preset]


def config_input(config: ImageConfig) -> InputSpec:
    """What the image tower of a configuration wants its pixels to be."""
    return input_spec(config.image_size, config.image_channels, config.image_encoder, config.pixel_stats, config.resize)


def image_tower(config: ImageConfig) -> ImageTower:
    """The image tower of a configuration. Raises Unavailable or UserError as `build_image_tower`."""
    tower = build_image_tower(
        config.image_encoder, config.image_weights, config.image_size, config.image_channels,
        (config.image_width, config.image_depth, config.image_heads, config.patch_size),
    )  # fmt: skip
    if config.patch_projection == "frozen":
        tower.freeze_patches()
    return tower


def tower_features(tower: ImageTower, images: Tensor) -> Tensor:
    """images (B, C, h, w) -> (B, width) float32, the mean of the tower's local tokens: before any projection or norm.

    Probes read this of every method alike; what a method maps into a common space is made for its own loss.
    """
    return tower.forward_tokens(images)[:, tower.prefix :].float().mean(dim=1)


class Vision(nn.Module):
    """An image tower alone: what methods without a common space for reports build on. Trains nothing.

    Raises:
        Unavailable: pretrained weights were asked for and cannot be had.
    """

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.config: Any = config
        self.input = config_input(config)
        self.image_tower = image_tower(config)
        self.feature_info = self.image_tower.info

    @classmethod
    def build(cls, config: Any, tokenizer: Tokenizer | None) -> Self:
        """A method with weights drawn from the global torch generator; the tokenizer is not used."""
        return cls(config)

    def encode_image(self, images: Tensor) -> Features:
        """images: (B, C, h, w) float32 -> pooled (B, width) normalised mean of the local tokens (B, P, width)."""
        tokens = self.image_tower.forward_tokens(images)[:, self.image_tower.prefix :]
        return Features(F.normalize(tokens.float().mean(dim=1), dim=-1), tokens, None)

    def tower_features(self, images: Tensor) -> Tensor:
        """images (B, C, h, w) -> (B, width) float32, what probes read: the tower's mean before any projection."""
        return tower_features(self.image_tower, images)

    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, C, h, w) -> maps as `feature_info` says."""
        return self.image_tower.maps(images)

    def similarity(self, image: Features, text: Features) -> Tensor:
        """(N, M) float32 cosine of the pooled vectors."""
        return image.pooled @ text.pooled.T


class VisionLanguage(nn.Module):
    """Image tower, text tower and the way to their common space; encodes both, trains nothing.

    Args:
        config: sizes and choices.
        tokenizer: of the training reports; pretrained text weights bring their own, which then stands in `tokenizer`.

    Raises:
        Unavailable: pretrained weights were asked for and cannot be had.
        UserError: no tokenizer.
    """

    image_tower: ImageTower

    def __init__(self, config: TowerConfig, tokenizer: Tokenizer | None) -> None:
        super().__init__()
        self.config: Any = config
        self.input = config_input(config)
        self.image_tower = image_tower(config)
        self.text_tower = TextTower(
            (config.text_width, config.text_layers, config.text_heads), config.max_tokens, config.dropout,
            config.text_weights, tokenizer, (config.text_positions or config.max_tokens, config.text_types),
        )  # fmt: skip
        self.tokenizer = self.text_tower.tokenizer
        self.align = Alignment(
            (self.image_tower.width, self.text_tower.width), config.embed_dim, config.alignment, config.aggregator,
            config.attention_query,
        )  # fmt: skip
        self.feature_info = self.image_tower.info

    @classmethod
    def build(cls, config: Any, tokenizer: Tokenizer | None) -> Self:
        """A method with weights drawn from the global torch generator. Raises Unavailable if weights cannot be had."""
        return cls(config, tokenizer)

    def encode_image(self, images: Tensor) -> Features:
        """images: (B, C, h, w) float32, never masked -> pooled (B, D) normalised, tokens (B, P, D) in the common space.

        With alignment=abm only the aggregate is mapped, so tokens are the tower's own (B, P, width).
        """
        tokens = self.image_tower.forward_tokens(images)[:, self.image_tower.prefix :]
        return self.image_features(tokens)

    def prepare_text(self, texts: Sequence[str]) -> TextBatch:
        """B texts -> tokens, padded to the longest; texts over `max_tokens` lose their end and are counted."""
        return self.text_tower.prepare(texts)

    def encode_text(self, text: TextBatch) -> Features:
        """(B, T) tokens, never masked -> pooled (B, D) normalised, tokens (B, T, D), mask (B, T) of local tokens."""
        return self.text_features(self.text_tower(text.ids, text.mask), text)

    def image_features(self, tokens: Tensor) -> Features:
        """Local tokens of the image tower (B, P, width) to the common space."""
        pooled, local = self.align.image(tokens, None)
        return Features(F.normalize(pooled.float(), dim=-1), local, None)

    def text_features(self, tokens: Tensor, text: TextBatch, hidden: Tensor | None = None) -> Features:
        """Tokens of the text tower (B, T, width) to the common space.

        [CLS], [SEP] and [PAD] are not local tokens, and hidden (B, T) bool ones are left out as hidden patches are.
        """
        mask = local_tokens(text, hidden)
        pooled, local = self.align.text(tokens, mask)
        return Features(F.normalize(pooled.float(), dim=-1), local, mask)

    def tower_features(self, images: Tensor) -> Tensor:
        """images (B, C, h, w) -> (B, width) float32, what probes read: the tower's mean before any projection."""
        return tower_features(self.image_tower, images)

    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, C, h, w) -> maps as `feature_info` says."""
        return self.image_tower.maps(images)

    def similarity(self, image: Features, text: Features) -> Tensor:
        """(N, M) float32 cosine of the pooled vectors."""
        return image.pooled @ text.pooled.T


def local_tokens(text: TextBatch, hidden: Tensor | None = None) -> Tensor:
    """(B, T) bool: the tokens that carry content; where a text has none, all of its tokens but padding."""
    local = text.mask & ~text.special
    if hidden is not None:
        local = local & ~hidden
    return local | (text.mask & ~local.any(dim=1, keepdim=True))
