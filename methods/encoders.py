"""Image towers: timm models behind one interface, built from configuration and shared by all methods."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.resnet import BasicBlock, ResNet
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmark.errors import Unavailable, UserError
from benchmark.hub import HUB_ERRORS, check_hub
from methods.masking import take

PAPER_NAMES = {"vit": "vit_base_patch16_224", "resnet": "resnet50.tv_in1k"}
PAPER_SHAPE = (768, 12, 12, 16)  # ViT-B/16: width, depth, heads, patch size
QUARTERS = 4  # of the depth, at which dense heads read


class ImageTower(nn.Module):
    """What a method may ask of an image encoder.

    width: channels of a token. prefix: tokens before the local ones (class token, registers). patch: pixels a side of
    a token that can be hidden, 0 where none can. info: (channels, stride) of each map.
    """

    width: int
    prefix: int
    patch: int
    info: tuple[tuple[int, int], ...]

    def forward_tokens(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """images (B, C, h, w), keep (B, V) int64 patch indices or None for all -> (B, prefix + V, width)."""
        raise NotImplementedError

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, C, h, w) -> maps (B, channels, ceil(h / stride), ceil(w / stride)), from fine to coarse."""
        raise NotImplementedError

    def freeze_patches(self) -> None:
        """Leaves the projection of patches as it is in training; where there are no patches, nothing."""


class ViTTower(ImageTower):
    """A timm VisionTransformer; positions are interpolated for other sizes than its own, square or not."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model
        self.width = int(model.embed_dim)
        self.prefix = int(model.num_prefix_tokens)
        self.patch = int(model.patch_embed.patch_size[0])
        depth = len(model.blocks)
        self.taps = sorted({-(-depth * quarter // QUARTERS) for quarter in range(QUARTERS + 1)})  # 0, 3, 6, 9, 12 of 12 blocks
        self.info = ((self.width * len(self.taps), self.patch),)

    def forward_tokens(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """As ImageTower; with `keep` the blocks see the visible patches and the prefix only."""
        tokens = self._embed(images)
        if keep is not None:
            tokens = torch.cat([tokens[:, : self.prefix], take(tokens[:, self.prefix :], keep)], dim=1)
        tokens = self.model.norm_pre(tokens)
        for block in self.model.blocks:
            tokens = block(tokens)
        output: Tensor = self.model.norm(tokens)
        return output

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """One map: local tokens before the first block and after each quarter of the depth, normalized, as channels.

        Trained blocks give up detail that dense heads need, so heads on vision transformers read several depths and, like a
        U-Net, the input itself (UNETR, Hatamizadeh et al. 2022, section 3.1: z0, z3, z6, z9, z12).
        """
        rows, columns = (-(-side // self.patch) for side in images.shape[-2:])
        tokens = self.model.norm_pre(self._embed(images))
        read = [nn.functional.layer_norm(tokens[:, self.prefix :], (self.width,))]
        for number, block in enumerate(self.model.blocks, start=1):
            tokens = block(tokens)
            if number in self.taps:
                read.append(nn.functional.layer_norm(tokens[:, self.prefix :], (self.width,)))
        stacked = torch.cat(read, dim=2).transpose(1, 2)  # taps of (B, P, D) -> (B, taps * D, P)
        return (stacked.reshape(len(images), -1, rows, columns),)

    def freeze_patches(self) -> None:
        """Keeps what dense heads need: trained on the phantom, the projection told 0.88 of the pixels' variance, drawn 0.95."""
        self.model.patch_embed.requires_grad_(False)

    def _embed(self, images: Tensor) -> Tensor:
        """images (B, C, h, w) -> (B, prefix + P, D) with positions."""
        tokens: Tensor = self.model._pos_embed(self.model.patch_embed(images))
        return tokens


class ConvTower(ImageTower):
    """A timm convolutional network; tokens are the positions of its last map."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        stages = [(index, item["num_chs"], item["reduction"]) for index, item in enumerate(model.feature_info)]
        stages = [stage for stage in stages if stage[2] >= 4]
        self.indices = [index for index, _, _ in stages]
        self.info = tuple((channels, stride) for _, channels, stride in stages)
        self.width = self.info[-1][0]
        self.prefix = 0
        self.patch = 0

    def forward_tokens(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """As ImageTower. Raises ValueError for `keep`: a convolution cannot leave patches out."""
        if keep is not None:
            raise ValueError("a convolutional tower cannot encode visible patches only")
        return self.maps(images)[-1].flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, hw, D)

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Strides 4 to 32."""
        found: list[Tensor] = self.model.forward_intermediates(images, indices=self.indices, intermediates_only=True)
        return tuple(found)


class SwinTower(ConvTower):
    """A timm SwinTransformer at any input size; its tokens equal `last_hidden_state` of transformers' SwinModel."""

    def __init__(self, model: SwinTransformer) -> None:
        super().__init__(model)
        # pad to whole patches and windows, with shift masks of the size at hand
        model.patch_embed.strict_img_size = False
        model.patch_embed.dynamic_img_pad = True
        for block in (item for item in model.modules() if isinstance(item, SwinTransformerBlock)):
            block.dynamic_mask = True
            block.register_buffer("attn_mask", None, persistent=False)

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Strides 4 to 32; the final norm is part of the last map."""
        found: list[Tensor] = self.model.forward_intermediates(images, indices=self.indices, norm=True, intermediates_only=True)
        return tuple(found)


def build_image_tower(
    encoder: str, weights: str, size: int, channels: int, shape: tuple[int, int, int, int] = PAPER_SHAPE,
    field: str = "image_weights",
) -> ImageTower:  # fmt: skip
    """An image tower.

    Args:
        encoder: "vit", "resnet", or a timm model name.
        weights: "none", "timm" (the hub) or a local file.
        size: of the input in pixels. channels: of the input.
        shape: width, depth, heads and patch size of "vit"; "resnet" follows the width, and is ResNet-50 from 768 on.
        field: the option that holds `weights`, for messages.

    Raises:
        UserError: an unknown model, or weights that do not fit.
        Unavailable: weights that cannot be had.
    """
    model = build_model(encoder, weights, size, channels, shape, field)
    if weights not in ("none", "timm"):
        load_local(model, Path(weights), field)
    tower: ImageTower
    if isinstance(model, VisionTransformer):
        tower = ViTTower(model)
    else:
        tower = SwinTower(model) if isinstance(model, SwinTransformer) else ConvTower(model)
    check_size(tower, encoder, size, channels)
    return tower


def build_model(encoder: str, weights: str, size: int, channels: int, shape: tuple[int, int, int, int], field: str) -> Any:
    """The timm model of `build_image_tower`, with the hub's weights or drawn at random. Raises as that does."""
    width, depth, heads, patch = shape
    if encoder == "vit" and weights == "timm" and shape != PAPER_SHAPE:
        raise UserError(
            f"{field}=timm: the hub's vit is a ViT-B/16, and this one has width, depth, heads and patch {shape}; add "
            "--set image_width=768 --set image_depth=12 --set image_heads=12 --set patch_size=16"
        )
    if encoder == "vit" and weights != "timm":
        model = VisionTransformer(
            img_size=size, patch_size=patch, in_chans=channels, embed_dim=width, depth=depth, num_heads=heads,
            num_classes=0, global_pool="", dynamic_img_size=True, dynamic_img_pad=True,
        )  # fmt: skip
        set_sincos(model)
        return model
    if encoder == "resnet" and width < PAPER_SHAPE[0]:
        if weights == "timm":
            raise UserError(f"{field}=timm: the small resnet has no published weights; use image_encoder=resnet50.tv_in1k")
        return ResNet(
            BasicBlock, (1, 1, 1, 1), num_classes=0, in_chans=channels, global_pool="", stem_type="deep",
            stem_width=max(8, width // 16), channels=(width // 4, width // 2, width, width * 2),
        )  # fmt: skip
    return create(PAPER_NAMES.get(encoder, encoder), size, channels, field if weights == "timm" else "")


def check_size(tower: Any, encoder: str, size: int, channels: int) -> None:
    """Tries one image where timm calls a model's size fixed and it is another. Raises UserError where it cannot be read."""
    known = getattr(tower.model, "pretrained_cfg", None) or {}
    own = known.get("input_size", (channels, size, size))[-1]
    if own == size or not known.get("fixed_input_size") or getattr(tower.model, "dynamic_img_size", False):
        return
    try:
        with torch.no_grad():
            tower.eval().forward_tokens(torch.zeros(1, channels, size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"image encoder {encoder!r} reads images of {own} pixels a side and cannot read image_size={size}; "
            f"add --set image_size={own}"
        ) from error
    tower.train()


def create(name: str, size: int, channels: int, hub_field: str = "") -> Any:
    """A timm model by name, without its head.

    Args:
        hub_field: the option that asked for the hub's weights; "" draws them at random.

    Raises:
        UserError: an unknown name, or a model that is not of this size. Unavailable: weights that cannot be fetched.
    """
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name}*")[:3]) or "vit, resnet or any name of timm.list_models()"
        raise UserError(f"image encoder {name!r} is no timm model; try {near}")
    options: dict[str, Any] = {"in_chans": channels, "num_classes": 0}
    if timm.models.model_entrypoint(name).__module__.endswith(("vision_transformer", "deit")):
        options |= {"img_size": size, "dynamic_img_size": True, "dynamic_img_pad": True}
    if hub_field:
        repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
        check_hub(f"weights of {name}", repository, "model.safetensors", local_remedy(hub_field))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the hub's client warns about a missing account
            return timm.create_model(name, pretrained=bool(hub_field), **options)
    except HUB_ERRORS as error:
        if not hub_field:
            raise UserError(f"image encoder {name!r} cannot be built at {size} pixels: {error}") from error
        reason = f"weights of {name} cannot be fetched from the Hugging Face hub ({type(error).__name__})"
        raise Unavailable(reason, local_remedy(hub_field)) from error


def local_remedy(field: str) -> str:
    """Both ways to weights, in the words of the option."""
    ways = f"give --set {field}=FILE with a local safetensors file, or run where huggingface.co can be reached"
    return ways if field != "image_weights" else f"{ways}; --set image_weights=none starts from random weights"


def load_local(model: Any, path: Path, field: str) -> None:
    """Loads timm's weights from a file into a model without head. Raises Unavailable or UserError."""
    from benchmark import weights

    if not path.is_file():
        raise Unavailable(f"weights file {str(path)!r} is not there", f"{local_remedy(field)} with {field}=timm")
    state = weights.load(path)
    own = model.state_dict()
    left_out = ("head.", "fc.", "decoder", "mask_token")
    state = {name: item for name, item in state.items() if name in own or not name.startswith(left_out)}
    for name, item in state.items():
        if name in own and item.ndim == 4 and item.shape[1] == 3 and own[name].shape[1] == 1:
            state[name] = item.sum(dim=1, keepdim=True)  # a gray image copied to three channels gives the same sum
    if "pos_embed" in state and "pos_embed" in own and state["pos_embed"].shape != own["pos_embed"].shape:
        grid = list(model.patch_embed.grid_size)
        state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], grid, num_prefix_tokens=model.num_prefix_tokens)
    wrong = sorted(set(own) ^ set(state)) + [name for name in own if name in state and own[name].shape != state[name].shape]
    if wrong:
        raise UserError(f"weights {str(path)!r} are of another model: {len(wrong)} names or shapes differ, first {wrong[0]!r}")
    model.load_state_dict(state)


def set_sincos(model: VisionTransformer) -> None:
    """Starts learned positions at the sine-cosine code, which small data could hardly find by itself."""
    rows, columns = model.patch_embed.grid_size
    code = sincos_positions(rows, columns, model.embed_dim)
    with torch.no_grad():
        model.pos_embed[:, model.num_prefix_tokens :] = code


def sincos_positions(rows: int, columns: int, width: int) -> Tensor:
    """(rows * columns, width) float32 sine-cosine code of a grid, rows in the first half of the channels.

    Frequencies 10000^(-i / (width / 4)), as MAE (facebookresearch/mae@efb2a80, util/pos_embed.py); width a multiple of 4.
    """
    frequency = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [axis.reshape(-1, 1).double() * frequency for axis in (row, column)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()
