"""Swin transformers as image towers: maps at strides 4 to 32, the last one normalized, at any input size."""

from __future__ import annotations

from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import Tensor

from methods.encoders import ConvTower, ImageTower


class SwinTower(ConvTower):
    """A timm SwinTransformer; its tokens equal `last_hidden_state` of transformers' SwinModel of the same weights."""

    def __init__(self, model: SwinTransformer) -> None:
        super().__init__(model)
        # sizes other than the model's own: pad to whole patches and windows, shift masks of the size at hand
        model.patch_embed.strict_img_size = False
        model.patch_embed.dynamic_img_pad = True
        for block in (item for item in model.modules() if isinstance(item, SwinTransformerBlock)):
            block.dynamic_mask = True
            block.register_buffer("attn_mask", None, persistent=False)

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Strides 4 to 32; the final norm is part of the last map."""
        found: list[Tensor] = self.model.forward_intermediates(images, indices=self.indices, norm=True, intermediates_only=True)
        return tuple(found)


def any_size(tower: ImageTower) -> ImageTower:
    """The tower itself, or the SwinTower of the same weights where it holds a Swin."""
    model = getattr(tower, "model", None)
    return SwinTower(model) if isinstance(model, SwinTransformer) else tower
