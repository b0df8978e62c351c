"""What turns encoder tokens back into pixels and words."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from methods.encoders import sincos_positions
from methods.losses import word_error
from methods.masking import ImageMask, take


class ImageDecoder(nn.Module):
    """MAE's decoder: visible tokens and mask tokens, in the order of the image, to the pixels of every patch.

    Args:
        width: of the encoder's tokens. shape: width, depth, heads of the decoder. grid: rows and columns of patches.
        pixels: values of a patch.
    """

    positions: Tensor

    def __init__(self, width: int, shape: tuple[int, int, int], grid: tuple[int, int], pixels: int) -> None:
        super().__init__()
        inner, depth, heads = shape
        self.embed = nn.Linear(width, inner)
        self.mask_token = nn.Parameter(torch.zeros(inner))
        nn.init.normal_(self.mask_token, std=0.02)
        self.register_buffer("positions", sincos_positions(*grid, inner), persistent=False)
        self.blocks = nn.Sequential(*(Block(inner, heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(inner)
        self.head = nn.Linear(inner, pixels)

    def forward(self, tokens: Tensor, mask: ImageMask) -> Tensor:
        """tokens (B, V, width) in the order of mask.keep -> (B, P, pixels) in the order of the image."""
        visible = self.embed(tokens)
        batch, count, inner = visible.shape
        hidden = self.mask_token.to(visible.dtype).expand(batch, mask.restore.shape[1] - count, inner)
        every = take(torch.cat([visible, hidden], dim=1), mask.restore) + self.positions.to(visible.dtype)
        output: Tensor = self.head(self.norm(self.blocks(every)))
        return output


class TextHead(nn.Module):
    """BERT's masked-language-model head: Linear, GELU, LayerNorm, then the word embeddings themselves and a bias."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, tokens: Tensor, words: Tensor) -> Tensor:
        """tokens (M, width), words (V, width) the embedding matrix -> logits (M, V)."""
        return F.linear(self._states(tokens), words, self.bias)

    def error(self, tokens: Tensor, words: Tensor, ids: Tensor) -> Tensor:
        """(M,) cross-entropy of the logits of tokens (M, width) with ids (M,) int64, without holding all logits at once."""
        return word_error(self._states(tokens), words, self.bias, ids)

    def _states(self, tokens: Tensor) -> Tensor:
        states: Tensor = self.norm(F.gelu(self.transform(tokens)))
        return states
