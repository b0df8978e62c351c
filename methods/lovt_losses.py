"""The losses of LoVT (localized vision and text, arXiv 2112.02889) as pure functions of features.

Facts from philip-mueller/lovt@f548985, src/models/objectives/global_alignment.py (GlobalNceLoss) and local_alignment.py
(LocalIntraSampleContrastiveLoss). Published: 0.75 image to text and 0.25 text to image at temperature 0.1, and four local terms
of 0.375 at temperature 0.3.
"""

from __future__ import annotations

from math import hypot

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.collectives import gather
from methods.losses import at_least_float32


def global_nce(image: Tensor, text: Tensor, temperature: float = 0.1, same_modality: bool = False) -> tuple[Tensor, Tensor]:
    """Contrast of images with reports, and of reports with images, over the pairs of all processes.

    Args:
        image, text: (B, D) float, normalised here.
        same_modality: the other images are negatives of an image as well, and likewise for reports.

    Returns:
        Two () float: image to text, text to image.
    """
    with torch.autocast(image.device.type, enabled=False):
        image, text = (F.normalize(at_least_float32(item), dim=-1) for item in (image, text))
        (every_image, start), (every_text, _) = gather(image), gather(text)
        target = torch.arange(start, start + len(image), device=image.device)

        def contrast(own: Tensor, other: Tensor, same: Tensor) -> Tensor:
            logits = own @ other.T / temperature  # (B, N)
            if same_modality:
                alike = (own @ same.T / temperature).scatter(1, target.unsqueeze(1), -torch.inf)
                logits = torch.cat([logits, alike], dim=1)
            return F.cross_entropy(logits, target)

        return contrast(image, every_text, every_image), contrast(text, every_image, every_text)


def near_positions(shape: int | tuple[int, int], threshold: float, relative: bool = True, decay: float | None = None) -> Tensor:
    """How much each position counts as a positive of each other.

    Args:
        shape: sentences in a row, or rows and columns of a map. threshold: the farthest distance that counts.
        relative: distances as a share of the number of sentences or of the map's diagonal, else in positions.
        decay: weights exp(-decay * distance); None: 1.

    Returns:
        (N, N) float32, positions of a map by rows.
    """
    if isinstance(shape, int):
        places, longest = torch.arange(shape).float().unsqueeze(1), float(shape)
    else:
        places = torch.cartesian_prod(*(torch.arange(side).float() for side in shape))
        longest = hypot(*shape)
    places = places / longest if relative else places
    distance = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")  # exactly 0 to itself
    weight = torch.ones_like(distance) if decay is None else (-decay * distance).exp()
    return torch.where(distance <= threshold, weight, 0.0)


def _constant(mask: Tensor, most: int | None, sides: int) -> Tensor:
    """log(negatives / (2 * most)) of each sample, (B,) float32; 0 with most=0."""
    if most == 0:
        return mask.new_zeros(len(mask), dtype=torch.float32)
    return (mask.sum(dim=1).clamp(min=1) * sides / (2 * (most or mask.shape[1]))).log()


def local_intra_sample(  # noqa: PLR0913  (two sides, weights, mask, positives, and how to compare)
    one: Tensor, other: Tensor, near: Tensor, weights: Tensor | None = None, mask: Tensor | None = None,
    temperature: float = 0.3, same_modality: bool = False, most: int | None = None, constant_everywhere: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Contrast of the positions of one sample: each with those near it on the other side, against all there.

    Args:
        one, other: (B, N, D) float, normalised here; the same positions seen from two modalities.
        near: (N, N) float, weights of positives, of `near_positions`.
        weights: (B, N) float of the positions, at least 0; None for equal ones. mask: (B, N) bool, False at padding.
        same_modality: positions of the same side that are not near are negatives as well.
        most: N of the longest sample there may be; log(negatives / (2 * most)) is subtracted so that losses of samples of
            unlike lengths compare; 0: it is not; None: N.
        constant_everywhere: subtracts that constant once for every position, padding included, as the released code does,
            in place of once a sample. It has no gradient.

    Returns:
        Two () float: one to other, other to one. A sample without a position adds nothing.
    """
    with torch.autocast(one.device.type, enabled=False):
        one, other = (F.normalize(at_least_float32(item), dim=-1) for item in (one, other))
        mask = one.new_ones(one.shape[:2], dtype=torch.bool) if mask is None else mask
        weights = mask.to(one.dtype) if weights is None else weights.to(one.dtype) * mask
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
        positives = F.normalize(near.to(one) * mask.unsqueeze(1), p=1, dim=-1)  # (B, N, N)
        constant = _constant(mask, most, 2 if same_modality else 1) * (mask.shape[1] if constant_everywhere else 1)
        real = mask.any(dim=1)
        seen = mask | ~real.unsqueeze(1)  # keeps samples without a position finite

        def contrast(own: Tensor, opposite: Tensor) -> Tensor:
            scores = own @ opposite.transpose(1, 2) / temperature  # (B, N, N)
            every = scores.masked_fill(~seen.unsqueeze(1), -torch.inf)
            if same_modality:
                alike = own @ own.transpose(1, 2) / temperature
                hidden = ~seen.unsqueeze(1) | (near > 0)
                every = torch.cat([every, alike.masked_fill(hidden, -torch.inf)], dim=-1)
            error = every.logsumexp(dim=-1) - (positives * scores).sum(dim=-1)  # (B, N)
            return torch.where(real, (weights * error).sum(dim=1) - constant, 0.0).mean()

        return contrast(one, other), contrast(other, one)
