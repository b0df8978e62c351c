"""What MGCA weighs its tokens by: the look of the class token in the last layer, summed over words and clipped.

The layer's queries and keys are computed once more from what enters it, so that the tower keeps its fused attention. Facts from
HKU-MedAI/MGCA@680fe4a, mgca/models/backbones/encoder.py (BertEncoder.aggregate_tokens) and mgca/models/mgca/mgca_module.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor
from torch.nn import functional as F

from benchmark.types import TextBatch
from methods.encoders import ViTTower
from methods.gloria_attention import gather_words, word_slots
from methods.losses import at_least_float32


def vit_tokens(tower: ViTTower, images: Tensor, weighted: bool) -> tuple[Tensor, Tensor | None]:
    """Tokens of images (B, C, h, w), and how much the class token looks at the patches in the last block.

    Returns:
        (B, prefix + P, width); (B, P) float32 without gradient, the mean over heads, None where it was not asked for, or the
        model has no class token or another kind of attention.
    """
    block: Any = tower.model.blocks[-1]
    if not weighted or tower.model.cls_token is None or not isinstance(block.attn, Attention):
        return tower.forward_tokens(images), None
    inputs: list[Tensor] = []
    hook = block.register_forward_pre_hook(lambda module, given: inputs.append(given[0].detach()))
    try:
        tokens = tower.forward_tokens(images)
    finally:
        hook.remove()
    with torch.no_grad():
        attention, width = block.attn, block.attn.attn_dim
        hidden, weight, bias = block.norm1(inputs[0]), attention.qkv.weight, attention.qkv.bias
        biases = [None, None] if bias is None else [bias[:width], bias[width : 2 * width]]
        query = F.linear(hidden[:, :1], weight[:width], biases[0])
        key = F.linear(hidden, weight[width : 2 * width], biases[1])
        query, key = (_by_head(item, attention.num_heads) for item in (query, key))
        found = class_attention(attention.q_norm(query), attention.k_norm(key), None)
    return tokens, found[:, tower.prefix :]


@torch.no_grad()
def bert_attention(bert: Any, hidden: Tensor, mask: Tensor) -> Tensor:
    """How much [CLS] looks at each token in the last layer.

    Args:
        bert: of transformers. hidden: (B, T, width), what enters its last layer. mask: (B, T) bool, False at padding.

    Returns:
        (B, T) float32 without gradient and without dropout, the mean over heads, 0 at padding.
    """
    layer = bert.encoder.layer[-1].attention.self
    query, key = (_by_head(item, layer.num_attention_heads) for item in (layer.query(hidden[:, :1]), layer.key(hidden)))
    return class_attention(query, key, mask)


def _by_head(tokens: Tensor, heads: int) -> Tensor:
    return tokens.reshape(*tokens.shape[:2], heads, -1).transpose(1, 2)  # (B, T, heads * d) -> (B, heads, T, d)


def class_attention(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """query (B, heads, 1, d), key (B, heads, T, d), mask (B, T) bool -> (B, T) float32, softmax by head, mean over heads."""
    scores = (query.float() @ key.float().transpose(2, 3)).squeeze(2) / query.shape[-1] ** 0.5  # (B, heads, T)
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(1), -torch.inf)
    found: Tensor = scores.softmax(dim=-1).mean(dim=1)
    return found


@dataclass(frozen=True, slots=True)
class Words:
    """Word pieces summed into words: [CLS] first, then the words of a report, its [SEP] last.

    tokens: (B, W, D) float, 0 at padding. attention: (B, W) float, how much [CLS] looks at a word. mask: (B, W) bool.
    """

    tokens: Tensor
    attention: Tensor
    mask: Tensor


def sum_words(tokens: Tensor, attention: Tensor, text: TextBatch, shifted: bool = False, cut_at: int = 0) -> Words:
    """Sums the tokens of every word, and what [CLS] gives to them.

    Args:
        tokens: (B, T, D) float, of the text. attention: (B, T) float, of [CLS] to each token.
        shifted: a token takes the attention to the token after it (the released code).
        cut_at: a report of this many tokens loses its last word and [SEP] (the released code, 112); 0: none does.
    """
    slots = word_slots(text)
    if shifted:
        attention = F.pad(attention[:, 1:], (0, 1))
    if cut_at:
        last = slots.amax(dim=1, keepdim=True)  # [SEP]
        full = (text.mask.sum(dim=1, keepdim=True) >= cut_at) & (last > 2)  # a report of one word keeps it
        slots = slots.masked_fill(full & (slots >= last - 1), -1)
    width = int(slots.max()) + 1
    columns = torch.stack([attention, torch.ones_like(attention)], dim=2)  # (B, T, 2)
    with torch.autocast(tokens.device.type, enabled=False):
        summed = gather_words(columns, slots, width)
        return Words(gather_words(at_least_float32(tokens), slots, width), summed[..., 0], summed[..., 1] > 0)


def clip_attention(attention: Tensor, mask: Tensor, low: float = 0.1, high: float = 0.9) -> Tensor:
    """Each row between its own percentiles.

    Args:
        attention: (B, N) float, at least 0. mask: (B, N) bool, the entries that count; a row may have none.
        low, high: percentiles in 0 to 1, linear between two entries as in torch.quantile.

    Returns:
        (B, N) float, 0 outside the mask.
    """
    ordered = attention.masked_fill(~mask, torch.inf).sort(dim=1).values
    last = (mask.sum(dim=1, keepdim=True) - 1).clamp(min=0)

    def percentile(share: float) -> Tensor:
        place = share * last.to(attention.dtype)
        below, above = (ordered.gather(1, index.long()) for index in (place.floor(), place.ceil()))
        return torch.lerp(below, above, place - place.floor())

    clipped = torch.maximum(torch.minimum(attention, percentile(high)), percentile(low))
    return torch.where(mask, clipped, 0.0)


def attention_weights(attention: Tensor, mask: Tensor) -> Tensor:
    """Clipped attention (B, N) as weights that sum to 1 in each row, and to 0 where nothing is looked at; no gradient."""
    attention = at_least_float32(attention.detach())
    clipped = clip_attention(attention, mask & (attention > 0))
    return clipped / clipped.sum(dim=1, keepdim=True).clamp(min=torch.finfo(clipped.dtype).tiny)


def without_start(words: Words, least: int) -> Words:
    """The words after [CLS], filled up with zeros to `least` of them."""
    more = max(0, least - words.mask.shape[1] + 1)
    return Words(
        F.pad(words.tokens[:, 1:], (0, 0, 0, more)),
        F.pad(words.attention[:, 1:], (0, more)),
        F.pad(words.mask[:, 1:], (0, more)),
    )
