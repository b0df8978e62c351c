"""SimCLR on chest radiographs: two views of an image, told from the views of all others (arXiv 2002.05709).

Views are made as ConVIRT's for radiographs (values of philip-mueller/lovt@f548985): crop, affine, brightness and contrast,
blur; there is no color to jitter, and no flip by default, since labels and reports name sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, log, pi
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.collectives import gather
from benchmark.parts import ByParts, Part, Tensors
from benchmark.types import Batch, InputSpec, MethodCard, Recipe, Step
from methods.base import ImageConfig, Vision, check_range, image_preset, tower_recipe
from methods.draws import uniform
from methods.losses import at_least_float32

ASPECT = 4 / 3  # of a crop, the other way round as well
SHIFT = 0.1  # of the side, each way
ZOOM = 0.05  # 0.95 to 1.05
DRAWN = 13  # numbers a view
BLUR = (0.1, 3.0)  # standard deviation in pixels of an image of 224


@dataclass(frozen=True, slots=True, kw_only=True)
class SimCLRConfig(ImageConfig):
    """What SimCLR adds to the image tower: its head, and how far two views of an image may differ."""

    temperature: float = 0.1
    projection_dim: int = 128
    crop: float = 0.6  # least area of a crop
    rotation: float = 20.0  # degrees, each way
    intensity: float = 0.4  # brightness and contrast, 1 - intensity to 1 + intensity
    blur: float = 0.5  # probability
    flip: float = 0.0  # probability of a horizontal flip; labels and reports name sides

    def __post_init__(self) -> None:
        ImageConfig.__post_init__(self)
        check_range(self, "temperature", 0.01, 10.0)
        check_range(self, "projection_dim", 1, 4096)
        check_range(self, "crop", 0.05, 1.0)
        check_range(self, "rotation", 0.0, 180.0)
        check_range(self, "intensity", 0.0, 0.9)
        for name in ("blur", "flip"):
            check_range(self, name, 0.0, 1.0)


class SimCLR(ByParts, Vision):
    """An image tower with a projection that is used in training only; features are means of the tower's tokens."""

    name: ClassVar[str] = "simclr"
    version: ClassVar[int] = 1
    card: ClassVar[MethodCard] = MethodCard(title="SimCLR (images only)", paper="https://arxiv.org/abs/2002.05709", year=2020)

    def __init__(self, config: SimCLRConfig) -> None:
        super().__init__(config)
        width = self.image_tower.width
        # google-research/simclr@244e712, model_util.py: both layers are batch-normalised, the last one to mean 0
        self.projection = nn.Sequential(
            nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, config.projection_dim, bias=False), (last := nn.BatchNorm1d(config.projection_dim)),
        )  # fmt: skip
        last.bias.requires_grad_(False)

    @classmethod
    def preset(cls, preset: str) -> tuple[SimCLRConfig, Recipe]:
        """The configuration and recipe at "quick", "small" or "paper". Raises UserError for another.

        paper: as LoVT's baseline on MIMIC-CXR (philip-mueller/lovt@f548985, configs/baseline/simclr_100.yaml): ResNet-50 from
        ImageNet, batch 128, 3e-4, weight decay 1e-4, one of 100 epochs warms up. SimCLR itself used LARS and batches of 4096.
        """
        config, recipe = SimCLRConfig(**image_preset(preset)), tower_recipe(preset)
        if preset == "paper":
            config = replace(config, image_encoder="resnet50.tv_in1k")
            recipe = replace(
                recipe, steps=172_000, batch_size=128, learning_rate=3e-4, weight_decay=1e-4, beta2=0.999, warmup=0.01,
                augment=0.0,
            )  # fmt: skip
        return config, recipe

    def parts(self, batch: Batch, step: Step) -> Iterator[Part]:
        """One part with the terms contrast and total, which are the same; batch norm of the head sees all rows."""
        views = [view(batch.images, self.config, self.input, uniform(batch, DRAWN).cpu()) for _ in range(2)]
        yield Part(tuple(views), self._embed, self._compare)

    def _embed(self, first: Tensor, second: Tensor) -> Tensors:
        tokens = self.image_tower.forward_tokens(torch.cat([first, second]))[:, self.image_tower.prefix :]  # (2B, P, width)
        return dict(zip(("first", "second"), tokens.mean(dim=1).chunk(2)))

    def _compare(self, found: Tensors) -> Tensors:
        first, second = self.projection(torch.cat([found["first"], found["second"]])).chunk(2)
        contrast = nt_xent(first, second, self.config.temperature)
        return {"contrast": contrast, "total": contrast}


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy over the views of all processes, () float32 (SimCLR, equation 1).

    The mean over all 2B views i of -log(exp(s_ij / t) / sum over k != i of exp(s_ik / t)): j is the other view of the image,
    s the cosine. The mean over processes is the value of the whole batch; 0 for one image alone.

    Args:
        first, second: (B, D) float, the two views of B images, of any length above 0. temperature: t, above 0.
    """
    with torch.autocast(first.device.type, enabled=False):  # logits of 1 / t need more than 8 bits
        first, second = (F.normalize(at_least_float32(item), dim=-1) for item in (first, second))
        every_first, start = gather(first)
        every_second, _ = gather(second)
        own = torch.arange(start, start + len(first), device=first.device)
        own = torch.cat([own, own + len(every_first)])  # (2B,) column of each view itself
        logits = torch.cat([first, second]) @ torch.cat([every_first, every_second]).T / temperature  # (2B, 2N)
        logits = logits.scatter(1, own.unsqueeze(1), -torch.inf)
        return F.cross_entropy(logits, own.roll(len(first)))  # the other view stands where its half of the rows does


def view(images: Tensor, config: SimCLRConfig, spec: InputSpec, drawn: Tensor | None = None) -> Tensor:
    """One random view of each image, drawn from the global generator on the CPU, so the same on every device.

    Args:
        images: (B, C, h, w) float32, normalised by `spec`, whose black fills what a rotation leaves empty.
        drawn: (B, 13) in [0, 1) on the CPU, if it was drawn before.

    Returns:
        (B, C, h, w) float32, normalised again; pixels stay in black to white.
    """
    drawn = torch.rand(len(images), DRAWN) if drawn is None else drawn
    with torch.autocast(images.device.type, enabled=False):  # half precision would cost gray levels
        mean, std = (
            torch.tensor(item, dtype=images.dtype, device=images.device).reshape(1, -1, 1, 1) for item in (spec.mean, spec.std)
        )
        grid = F.affine_grid(placement(drawn[:, :9], config).to(images), list(images.shape), align_corners=False)
        pixels = F.grid_sample(images * std + mean, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        brightness, contrast = (1 + config.intensity * _signed(drawn[:, 9:11])).T.to(images).reshape(2, -1, 1, 1, 1)
        pixels = pixels * brightness
        middle = pixels.mean(dim=(1, 2, 3), keepdim=True)
        pixels = (middle + (pixels - middle) * contrast).clamp(0, 1)
        soft = blurred(pixels, BLUR[0] + (BLUR[1] - BLUR[0]) * drawn[:, 11])
        chosen = (drawn[:, 12] < config.blur).to(images.device).reshape(-1, 1, 1, 1)
        return (torch.where(chosen, soft, pixels) - mean) / std


def placement(drawn: Tensor, config: SimCLRConfig) -> Tensor:
    """Crop, turn, shift, zoom and flip as (B, 2, 3) affines from output to input in [-1, 1]. drawn: (B, 9) in [0, 1)."""
    area = config.crop + (1 - config.crop) * drawn[:, 0]
    aspect = torch.exp(log(ASPECT) / 2 * _signed(drawn[:, 1]))
    width, height = (area.sqrt() * aspect).clamp(max=1), (area.sqrt() / aspect).clamp(max=1)  # of the crop
    right = (1 - width) * _signed(drawn[:, 2]) + 2 * SHIFT * _signed(drawn[:, 6])  # the side spans 2 in these coordinates
    down = (1 - height) * _signed(drawn[:, 3]) + 2 * SHIFT * _signed(drawn[:, 7])
    angle = config.rotation * pi / 180 * _signed(drawn[:, 4])
    zoom = 1 / (1 + ZOOM * _signed(drawn[:, 5]))
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    mirror = torch.where(drawn[:, 8] < config.flip, -1.0, 1.0)
    first = torch.stack([cosine * width * mirror, -sine * height, right], dim=1)
    second = torch.stack([sine * width * mirror, cosine * height, down], dim=1)
    return torch.stack([first, second], dim=1)


def blurred(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Each image (B, C, h, w) under a Gaussian of its own; sigma (B,) in pixels of an image of 224 a side."""
    batch, channels, height, width = pixels.shape
    radius = min(ceil(3 * BLUR[1] * width / 224), height - 1, width - 1)
    offsets = torch.arange(-radius, radius + 1).to(pixels)
    weights = torch.exp(-((offsets / (sigma.to(pixels) * width / 224).unsqueeze(1)) ** 2) / 2)
    kernel = (weights / weights.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)  # (B * C, 2 * radius + 1)
    framed = F.pad(pixels, (radius, radius, radius, radius), mode="reflect")
    rows = framed.reshape(1, batch * channels, *framed.shape[2:])  # (B, C, ...) -> (1, B * C, ...): a group an image
    rows = F.conv2d(rows, kernel[:, None, None, :], groups=batch * channels)
    return F.conv2d(rows, kernel[:, None, :, None], groups=batch * channels).reshape(pixels.shape)


def _signed(drawn: Tensor) -> Tensor:
    """[0, 1) to [-1, 1)."""
    return 2 * drawn - 1
