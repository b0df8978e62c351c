"""Baselines that are not pretrained here: untrained towers, and ImageNet weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.errors import UserError
from benchmark.types import PRESETS, Features, MethodCard, Recipe
from methods.base import TowerConfig, VisionLanguage, check_range, tower_preset
from methods.encoders import build_image_tower
from methods.inputs import input_spec


class Random(VisionLanguage):
    """The towers as drawn, never trained: what the heads alone can do."""

    name: ClassVar[str] = "random"
    version: ClassVar[int] = 1
    card: ClassVar[MethodCard] = MethodCard(title="Random (untrained encoders)")

    @classmethod
    def preset(cls, preset: str) -> tuple[TowerConfig, Recipe]:
        """The towers of the preset, drawn at random at every size; no steps. Raises UserError for another preset."""
        config = TowerConfig(**tower_preset(preset))
        return replace(config, image_weights="none", text_weights="none"), Recipe(steps=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageNetConfig:
    """model: a timm model name. weights: "" or "timm" for the hub, else a local safetensors file of that model."""

    model: str = "resnet50.a1_in1k"
    weights: str = "timm"
    image_size: int = 224

    def __post_init__(self) -> None:
        check_range(self, "image_size", 32, 4096)
        if self.weights == "none":
            raise UserError("weights=none would be a random start; use --method random, or weights=timm (the hub) or a file")


class ImageNet(nn.Module):
    """ImageNet weights from timm; images only."""

    name: ClassVar[str] = "imagenet"
    version: ClassVar[int] = 3  # 3: probes read features before they are normalised
    card: ClassVar[MethodCard] = MethodCard(title="ImageNet (timm)", pretraining_data=("ImageNet-1k",))

    def __init__(self, config: ImageNetConfig) -> None:
        super().__init__()
        self.config: Any = config
        self.input = input_spec(config.image_size, 3, config.model)
        self.tower = build_image_tower(config.model, config.weights or "timm", config.image_size, 3, field="weights")
        self.feature_info = self.tower.info

    @classmethod
    def preset(cls, preset: str) -> tuple[ImageNetConfig, Recipe]:
        """The same at every preset; no steps. Raises UserError for an unknown preset."""
        if preset not in PRESETS:
            raise UserError(f"preset {preset!r} is not one of {', '.join(PRESETS)}")
        return ImageNetConfig(), Recipe(steps=0)

    @classmethod
    def build(cls, config: Any, tokenizer: Tokenizer | None) -> Self:
        """The pretrained encoder; the tokenizer is not used. Raises Unavailable if the weights cannot be had."""
        return cls(config)

    def encode_image(self, images: Tensor) -> Features:
        """images (B, 3, h, w) float32 -> pooled (B, D): the class token, or the mean of the positions; tokens (B, P, D)."""
        tokens = self.tower.forward_tokens(images)
        return Features(F.normalize(self._pooled(tokens), dim=-1), tokens[:, self.tower.prefix :], None)

    def tower_features(self, images: Tensor) -> Tensor:
        """images (B, 3, h, w) float32 -> (B, D) float32, what probes read: pooled and not normalised."""
        return self._pooled(self.tower.forward_tokens(images))

    def _pooled(self, tokens: Tensor) -> Tensor:
        return (tokens[:, 0] if self.tower.prefix else tokens.mean(dim=1)).float()

    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, 3, h, w) -> maps as `feature_info` says, strides 4 to 32 for a ResNet."""
        return self.tower.maps(images)

    def similarity(self, image: Features, text: Features) -> Tensor:
        """(N, M) float32 cosine of the pooled vectors."""
        return image.pooled @ text.pooled.T
