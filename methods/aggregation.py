"""From local tokens of two modalities to one vector each in a common space, mapping before or after aggregation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.losses import at_least_float32

ALIGNMENTS = ("mba", "abm")
AGGREGATORS = ("mean", "attention")
QUERIES = ("per-modality", "shared")


class Mapping(nn.Sequential):
    """LayerNorm, Linear, GELU, Linear: (..., width) -> (..., dim).

    It has to be non-linear: a linear map commutes with the mean, and both orders would be the same function.
    `linear=True` leaves out norm and GELU, to show that.
    """

    def __init__(self, width: int, dim: int, linear: bool = False) -> None:
        norm, activation = (nn.Identity(), nn.Identity()) if linear else (nn.LayerNorm(width), nn.GELU())
        super().__init__(norm, nn.Linear(width, dim), activation, nn.Linear(dim, dim))


def masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of tokens (B, T, D) over T where mask (B, T) bool is True; every row needs one. -> (B, D)."""
    tokens = at_least_float32(tokens)
    if mask is None:
        return tokens.mean(dim=1)
    return tokens.masked_fill(~mask.unsqueeze(-1), 0).sum(dim=1) / mask.sum(dim=1, keepdim=True)


class Attention(nn.Module):
    """a = softmax(q z / sqrt(D)) over the tokens of the mask, g = sum a z.

    The query starts at 0, the plain mean: so it takes no random number, and all else starts as without it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(dim))

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """tokens (B, T, D), mask (B, T) bool or None -> (B, D)."""
        tokens = at_least_float32(tokens)
        score = tokens @ self.query.to(tokens.dtype) / tokens.shape[-1] ** 0.5  # (B, T)
        if mask is not None:
            score = score.masked_fill(~mask, -torch.inf)
            tokens = tokens.masked_fill(~mask.unsqueeze(-1), 0)
        return torch.einsum("bt,btd->bd", score.softmax(dim=1), tokens)


class Mean(nn.Module):
    """The masked mean as a module."""

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """tokens (B, T, D), mask (B, T) bool or None -> (B, D)."""
        return masked_mean(tokens, mask)


class Alignment(nn.Module):
    """Mapping before Aggregation ("mba") or the reverse ("abm"), with the same mapping networks and aggregators.

    Args:
        widths: of image and text tokens. dim: of the common space. order: "mba" or "abm".
        aggregator: "mean" or "attention". query: "per-modality", or "shared" with "mba" alone. linear: as Mapping.
    """

    def __init__(
        self, widths: tuple[int, int], dim: int, order: str, aggregator: str = "mean", query: str = "per-modality",
        linear: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.order = order
        self.map_image = Mapping(widths[0], dim, linear)
        self.map_text = Mapping(widths[1], dim, linear)
        sizes = (dim, dim) if order == "mba" else widths
        kinds = ("image",) if query == "shared" else ("image", "text")  # one module, so that a checkpoint holds it once
        attention = aggregator == "attention"
        self.pools = nn.ModuleDict({kind: Attention(size) if attention else Mean() for kind, size in zip(kinds, sizes)})

    def image(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """tokens (B, P, width), mask (B, P) bool or None -> aggregate (B, dim), local tokens (B, P, dim or width)."""
        return self._align(tokens, mask, self.map_image, self.pools["image"])

    def text(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """tokens (B, T, width), mask (B, T) bool or None -> aggregate (B, dim), local tokens (B, T, dim or width)."""
        return self._align(tokens, mask, self.map_text, self.pools["text" if "text" in self.pools else "image"])

    def _align(self, tokens: Tensor, mask: Tensor | None, mapping: nn.Module, pool: nn.Module) -> tuple[Tensor, Tensor]:
        if self.order == "mba":
            tokens = mapping(tokens)
            return pool(tokens, mask), tokens
        pooled: Tensor = mapping(pool(tokens, mask))
        return pooled, tokens
