"""What a tower wants its pixels to be: channels and their statistics."""

from __future__ import annotations

from math import isfinite
from typing import Literal

import timm

from benchmark.errors import UserError
from benchmark.types import InputSpec
from methods.encoders import PAPER_NAMES

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def pixel_stats(text: str, channels: int, encoder: str = "") -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and standard deviations of the channels. Raises UserError for a text that is not "MEAN,STD".

    Args:
        encoder: whose published weights want statistics of their own: timm's ViT-B/16 0.5 and 0.5, its ResNets ImageNet's.
    """
    if not text:
        if channels == 1:
            return (0.5,), (0.25,)
        known = timm.get_pretrained_cfg(PAPER_NAMES.get(encoder, encoder)) if encoder else None
        return (tuple(known.mean), tuple(known.std)) if known else (IMAGENET_MEAN, IMAGENET_STD)
    try:
        mean, std = map(float, text.split(","))
        if not (isfinite(mean) and 0 < std < 1e3):
            raise ValueError(text)
    except ValueError as error:
        raise UserError(f"pixel_stats={text!r} is not MEAN,STD with STD above 0; write 0.5,0.25") from error
    return (mean,) * channels, (std,) * channels


def input_spec(size: int, channels: int, encoder: str = "", stats: str = "", resize: str = "pad") -> InputSpec:
    """One gray channel around its middle, or three channels as the encoder's published weights want them, or by text."""
    mean, std = pixel_stats(stats, channels, encoder)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic" if channels == 3 else "bilinear"
    kept: Literal["pad", "stretch"] = "pad" if resize == "pad" else "stretch"
    return InputSpec(size=size, channels=channels, mean=mean, std=std, resize=kept, interpolation=interpolation)
