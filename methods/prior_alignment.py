"""PRIOR's pooling and alignment: from tokens to sentences, from sentences to a report, and sentences against patches.

Formulas: arXiv 2307.12577 and QtacierP/PRIOR@086bf2e (models/prior.py, modules/{gather,sentence_pool,local_attention}.py,
encoders/image/resnet.py). Ragged reports are padded: (B, S, D) with a mask (B, S), True at a sentence.
"""

from __future__ import annotations

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from methods.aggregation import masked_mean
from methods.losses import at_least_float32


def projection(inputs: int, outputs: int) -> nn.Linear:
    """A linear map with weights drawn from N(0, 1 / inputs)."""
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=inputs**-0.5)
    return linear


class AttentionPool(nn.Module):
    """One vector of many: x0 = their mean, then attention of x0 over x0 and all of them, and a projection.

    Args:
        width: of the vectors. heads: of the attention. positions: of learned positions beside x0's; 0: none.
    """

    def __init__(self, width: int, heads: int, positions: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(positions + 1, width) / width**0.5) if positions else None
        self.k_proj, self.q_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.c_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, vectors: Tensor, mask: Tensor | None = None, grid: tuple[int, int] | None = None) -> Tensor:
        """vectors (B, N, width), mask (B, N) bool or None for all -> (B, width).

        Args:
            grid: rows and columns of the N vectors, to whose number the learned positions are interpolated.
        """
        every = torch.cat([masked_mean(vectors, mask).unsqueeze(1).to(vectors.dtype), vectors], dim=1)  # (B, N + 1, width)
        if self.positional_embedding is not None:
            every = every + self._positions(every.shape[1], grid).to(every.dtype)
        seen = None if mask is None else F.pad(mask, (1, 0), value=True)[:, None, None]  # (B, 1, 1, N + 1)
        query, key, value = self.q_proj(every[:, :1]), self.k_proj(every), self.v_proj(every)
        split = [item.unflatten(2, (self.heads, -1)).transpose(1, 2) for item in (query, key, value)]  # (B, H, 1 | N + 1, D)
        pooled = F.scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=seen)
        output: Tensor = self.c_proj(pooled.transpose(1, 2).flatten(1))
        return output

    def _positions(self, count: int, grid: tuple[int, int] | None) -> Tensor:
        learned = self.positional_embedding
        assert learned is not None
        if grid is None or count == len(learned):
            return learned[:count]
        resized: Tensor = resample_abs_pos_embed(learned.unsqueeze(0), list(grid), num_prefix_tokens=1)
        return resized[0]


def bare_view(tokens: Tensor) -> Tensor:
    """Released quirk: a (B, C, h, w) map read as (B, h * w, C) in place, so that a token is no place of the image.

    Args:
        tokens: (B, P, C), tokens by places. The same call the other way round is `bare_map`.
    """
    return tokens.transpose(1, 2).reshape(tokens.shape)


def token_map(tokens: Tensor, grid: tuple[int, int], bare: bool = False) -> Tensor:
    """tokens (B, P, D) -> (B, D, rows, columns); bare: the released quirk, values left where they lie in memory."""
    moved = tokens if bare else tokens.transpose(1, 2)
    return moved.reshape(len(tokens), tokens.shape[2], *grid)


class SentenceGather(nn.Module):
    """Sentence vectors out of token vectors: the mean of a sentence's tokens, or attention among them.

    Args:
        width: of the tokens. pool: "mean", or "attention": softmax over a sentence's tokens of sum_j q_i k_j, with
            q and k linear to width / 8.
    """

    def __init__(self, width: int, pool: str = "mean") -> None:
        super().__init__()
        self.pool = pool
        if pool == "attention":
            self.query, self.key = nn.Linear(width, max(1, width // 8)), nn.Linear(width, max(1, width // 8))

    def forward(self, tokens: Tensor, sentences: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Sentences without tokens drop out and later ones move up; a text without any is one sentence of all its tokens.

        Args:
            tokens: (B, T, D). sentences: (B, T) int64, index of the token's sentence, -1 at special tokens and padding.
            mask: (B, T) bool, True for every token but padding.

        Returns:
            (B, S, D) vectors, 0 at padding, and (B, S) bool mask; S is the most sentences of a text, at least 1.
        """
        without = (sentences < 0).all(dim=1, keepdim=True)
        sentences = torch.where(mask & without, 0, sentences)
        number = max(1, int(sentences.max()) + 1)
        belongs = sentences.unsqueeze(1) == torch.arange(number, device=tokens.device).unsqueeze(1)  # (B, S, T)
        real = belongs.any(dim=2)
        order = (~real).to(torch.int8).argsort(dim=1, stable=True)[:, : int(real.sum(dim=1).max())]
        belongs = belongs.gather(1, order.unsqueeze(2).expand(-1, -1, belongs.shape[2]))
        real = real.gather(1, order)
        vectors = self._weights(tokens, belongs).to(tokens.dtype) @ tokens
        return vectors, real

    def _weights(self, tokens: Tensor, belongs: Tensor) -> Tensor:
        """(B, S, T) float32 weights of a sentence's tokens, 0 for a sentence without any."""
        if self.pool == "mean":
            inside = belongs.float()
            return inside / inside.sum(dim=2, keepdim=True).clamp(min=1)
        keys = belongs.to(tokens.dtype) @ self.key(tokens)  # (B, S, D / 8)
        scores = at_least_float32(keys @ self.query(tokens).transpose(1, 2))
        lowest = torch.finfo(scores.dtype).min
        return scores.masked_fill(~belongs, lowest).softmax(dim=2) * belongs


def pack(vectors: Tensor, mask: Tensor) -> Tensor:
    """(N, D) rows of (B, S, D) where mask (B, S) bool is True, report by report."""
    return vectors[mask]


def pad(rows: Tensor, mask: Tensor) -> Tensor:
    """The inverse of `pack`: rows (N, D) to (B, S, D), 0 where mask (B, S) is False."""
    empty = rows.new_zeros(*mask.shape, rows.shape[1])
    return empty.masked_scatter(mask.unsqueeze(2), rows)


def resize_reports(vectors: Tensor, mask: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """(B, S, D) and (B, S) cut or padded with 0 and False to (B, length, D) and (B, length)."""
    missing = length - vectors.shape[1]
    return F.pad(vectors, (0, 0, 0, missing)), F.pad(mask, (0, missing))  # a negative pad cuts


class LocalCrossAttention(nn.Module):
    """Sigmoid attention between patches (1) and sentences (2): weights of one pair do not depend on the others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query1, self.key1, self.value1 = (nn.Linear(width, width) for _ in range(3))
        self.query2, self.key2, self.value2 = (nn.Linear(width, width) for _ in range(3))

    def forward(
        self, patches: Tensor, sentences: Tensor, mask: Tensor | None = None, bias: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Contexts and weights of patches, then of sentences.

        Args:
            patches: (..., P, D). sentences: (..., S, D). mask: (B, S) bool, False at padding, which adds nothing to c_v; what
                comes back for it means nothing.
            bias: (..., S, P) and (..., P, S), added before the sigmoid.

        Returns:
            c_v (..., P, D) = W_v v(sentences), W_v (..., P, S); c_t (..., S, D) = W_t v(patches), W_t (..., S, P).
        """
        width, number = sentences.shape[-1], sentences.shape[-2]
        rows = sentences if mask is None else pack(sentences, mask)
        keys, asked = self.key2(rows), self.query2(rows)
        # (W p + b) k = p (W^T k) + b k, and sum_p w (W p + b) = W sum_p w p + b sum_p w: the many patches are never projected
        parts = [self.value2(rows), keys @ self.query1.weight, asked @ self.key1.weight]
        parts += [(keys @ self.query1.bias).unsqueeze(-1), (asked @ self.key1.bias).unsqueeze(-1)]
        joined = torch.cat(parts, dim=-1) if mask is None else pad(torch.cat(parts, dim=-1), mask)
        values, moved_keys, moved_asked, key_bias, asked_bias = torch.split(joined, [width, width, width, 1, 1], dim=-1)
        moved, constant = torch.cat([moved_keys, moved_asked], dim=-2), torch.cat([key_bias, asked_bias], dim=-2)
        logits = (patches @ moved.transpose(-1, -2) + constant.transpose(-1, -2)) * width**-0.5  # (..., P, 2 S)
        if bias is not None:
            logits = logits + torch.cat([bias[1], bias[0].transpose(-1, -2)], dim=-1)
        weights = logits.sigmoid()
        of_patches, of_sentences = weights[..., :number], weights[..., number:].transpose(-1, -2)
        contexts = F.linear(of_sentences @ patches, self.value1.weight)
        contexts = contexts + of_sentences.sum(dim=-1, keepdim=True) * self.value1.bias
        return of_patches @ values, of_patches, contexts, of_sentences


def image_local_loss(patches: Tensor, contexts: Tensor, predictor: nn.Module) -> Tensor:
    """SimSiam without negatives: -(cos(P(v), sg(c)) + cos(P(c), sg(v))) / 2, mean over patches (B, P, D) and reports."""
    patches, contexts = at_least_float32(patches), at_least_float32(contexts)
    forth = cosine(at_least_float32(predictor(patches)), contexts.detach())
    back = cosine(at_least_float32(predictor(contexts)), patches.detach())
    return -(forth.mean() + back.mean()) / 2


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """(..., D) and (..., D) -> (...) cosines; lengths below 1e-8 count as 1e-8."""
    lengths = one.norm(dim=-1).clamp(min=1e-8) * other.norm(dim=-1).clamp(min=1e-8)
    found: Tensor = (one * other).sum(dim=-1) / lengths
    return found


def text_local_loss(sentences: Tensor, contexts: Tensor, mask: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of sentences and their contexts, negatives from the same report only; mean over reports.

    Args:
        sentences, contexts: (B, S, D). mask: (B, S) bool, at least one True in a row. scale: () positive.
    """
    with torch.autocast(sentences.device.type, enabled=False):  # logits up to 100 need more than 8 bits
        one = F.normalize(at_least_float32(sentences), dim=-1)
        other = F.normalize(at_least_float32(contexts), dim=-1)
        logits = scale * other @ one.transpose(1, 2)  # (B, S, S)
        same = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(~(mask.unsqueeze(1) & mask.unsqueeze(2) | same), -torch.inf)  # padding keeps itself: loss 0
        own = torch.diagonal(logits, dim1=1, dim2=2)
        losses = logits.logsumexp(dim=2) + logits.logsumexp(dim=1) - 2 * own  # (B, S)
        return ((losses * mask).sum(dim=1) / mask.sum(dim=1)).mean() / 2


def zero_shot_scores(overall: Tensor, local: Tensor, local_weight: float = 0.5) -> Tensor:
    """(N, K) softmax(max over prompts of overall) + local_weight softmax(mean over prompts of local), over the classes.

    Args:
        overall, local: (N, K, R) of N images, K classes, R prompts each, as `PRIOR.zero_shot` gives them.
    """
    return overall.amax(dim=2).softmax(dim=1) + local_weight * local.mean(dim=2).softmax(dim=1)
