"""GLoRIA's words, its attention of words over image regions, and what it makes of both: as pure functions of tensors.

GLoRIA (Huang et al. 2021) as marshuang80/gloria@416466a has it, gloria/loss/gloria_loss.py and gloria/models.
Letters beyond the usual: A images, B texts, N words of all texts, P regions of an image, W slots for words of a text.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from benchmark.types import TextBatch
from methods.aggregation import masked_mean
from methods.losses import at_least_float32

EPSILON = 1e-8  # of the product of two lengths
BLOCK = 1 << 24  # values of an attention map that evaluation holds at a time


def word_slots(text: TextBatch) -> Tensor:
    """Where each token of a text belongs among its words: (B, T) int64.

    0 for [CLS], 1 to n for the n words (pieces of a word share one), n + 1 for [SEP], -1 for padding.
    """
    last = text.words.amax(dim=1, keepdim=True)  # (B, 1), -1 where there is no word
    slots = torch.where(text.words >= 0, text.words + 1, last + 2)
    slots = slots.masked_fill(~text.mask, -1)
    slots[:, 0] = 0
    return slots


def gather_words(tokens: Tensor, slots: Tensor, width: int) -> Tensor:
    """Sums the pieces of each word: tokens (B, T, D), slots (B, T) int64 -> (B, W, D) with W = width, zeros where no piece is.

    BertEncoder.aggregate_tokens; a product with a one-hot matrix, so that the sum has the same order on every device.
    """
    place = torch.arange(width, device=slots.device).view(1, -1, 1)
    return (slots.unsqueeze(1) == place).to(tokens.dtype) @ tokens  # (B, W, T) @ (B, T, D)


def word_mask(slots: Tensor, width: int) -> Tensor:
    """(B, W) bool: the slots that hold a word; [CLS] where a text has none."""
    last = slots.amax(dim=1, keepdim=True)  # [SEP]
    place = torch.arange(width, device=slots.device).unsqueeze(0)
    mask = (place > 0) & (place < last)
    mask[:, 0] = ~mask.any(dim=1)
    return mask


def sentence_vector(words: Tensor, mask: Tensor, positions: int = 0) -> Tensor:
    """The vector of a text from words (B, W, D) and mask (B, W) bool -> (B, D).

    The mean over the words of the mask; with positions above 0 the official one, the sum of every slot ([CLS], [SEP] and
    the zeros behind it) by that number of positions.
    """
    if positions:
        return words.sum(dim=1) / positions
    return masked_mean(words, mask)


def region_weights(scores: Tensor, owner: Tensor, texts: int, sharpness: float) -> Tensor:
    """How much each word looks at each region, (A, N, P), rows summing to 1.

    A softmax over the words of a text for each region, then one over the regions of `sharpness` times that
    (attention_fn).

    Args:
        scores: (A, N, P) products of words and regions. owner: (N,) int64, the text of each word. texts: B.
    """
    own = F.one_hot(owner, texts).to(scores.dtype)  # (N, B)
    fixed = scores.detach()
    top = fixed.new_full((len(scores), texts, scores.shape[2]), -torch.inf)
    top = top.scatter_reduce(1, owner.view(1, -1, 1).expand_as(fixed), fixed, "amax")  # (A, B, P)
    power = (scores - top.index_select(1, owner)).exp()
    share = power / (own @ (own.T @ power))  # (N, B) @ (B, N) @ (A, N, P): the sum over the words of the same text
    return (sharpness * share).softmax(dim=-1)


def _scores(regions: Tensor, words: Tensor, owner: Tensor, texts: int, sharpness: tuple[float, float], reduce: str) -> Tensor:
    scores = words @ regions.transpose(1, 2)  # (N, D) @ (A, D, P) -> (A, N, P)
    weights = region_weights(scores, owner, texts, sharpness[0])
    product = (weights * scores).sum(dim=-1)  # of word and context, (A, N), without another pass over D
    length = (weights @ regions).norm(dim=-1) * words.norm(dim=-1)  # (A, N, P) @ (A, P, D) -> (A, N)
    cosine = product / length.clamp(min=EPSILON)
    if reduce == "max":
        lowest = cosine.new_full((len(cosine), texts), -torch.inf)
        best: Tensor = lowest.scatter_reduce(1, owner.expand_as(cosine), cosine, "amax")
        return sharpness[1] * best
    total: Tensor = (sharpness[1] * cosine).exp() @ F.one_hot(owner, texts).to(cosine.dtype)
    return total.log()


def local_scores(
    regions: Tensor, words: Tensor, mask: Tensor, sharpness: tuple[float, float] = (4.0, 5.0), reduce: str = "sum",
    chunk: int = 0,
) -> Tensor:  # fmt: skip
    """How well each text fits each image by its words: (A, B) of at least float32.

    log sum_w exp(s2 cos(c_w, w)) (local_loss), or s2 max_w cos(c_w, w) as at zero-shot, where c_w is what word w sees.
    All images meet all texts in a few large products; the words of all texts lie behind one another, without padding.

    Args:
        regions: (A, P, D). words: (B, W, D). mask: (B, W) bool, every text with at least one word.
        sharpness: of the attention over regions, and s2. reduce: "sum" or "max".
        chunk: images at a time, 0 for all. Memory then holds the maps (chunk, N, P) of one chunk only, and training
            computes them a second time; values and gradients are the same. The tensors of a training step at 96 images,
            361 regions, 768 channels and 1163 words peak at 1706 MiB, with chunk=8 at 334 MiB; at 32 images and 390
            words at 214 and 106 MiB (281 MiB report by report). A device adds what its matrix products use inside.
    """
    with torch.autocast(regions.device.type, enabled=False):  # an exponential of products of up to some hundreds
        regions, packed = at_least_float32(regions), at_least_float32(words)[mask]  # (N, D)
        owner = mask.nonzero()[:, 0]
        found = []
        for part in torch.split(regions, chunk or len(regions)):
            inputs = (part, packed, owner, len(mask), sharpness, reduce)
            if chunk and torch.is_grad_enabled():
                found.append(checkpoint(_scores, *inputs, use_reentrant=False, preserve_rng_state=False))
            else:
                found.append(_scores(*inputs))
        return torch.cat(found)


def pair_losses(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of logits (B, B), images by texts, with the pairs on the diagonal: image to text, and text to image."""
    target = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits, target), F.cross_entropy(logits.T, target)


def combined_similarity(
    image: tuple[Tensor, Tensor], text: tuple[Tensor, Tensor], mask: Tensor, sharpness: tuple[float, float] = (4.0, 5.0)
) -> Tensor:
    """(local + global) / 2, of every image with every text, as at zero-shot (GLoRIA.get_similarities): (A, B).

    Each value depends on its image and text alone.

    Args:
        image: regions (A, P, D), global vectors (A, D). text: words (B, W, D), sentence vectors (B, D).
        mask: (B, W) bool, words that count. The official code counts characters in place of words, so that [SEP] and zero
            padding count too, and at retrieval it leaves out the first word: give the mask that says so.
    """
    regions, words = image[0], text[0]
    chunk = max(1, BLOCK // max(1, int(mask.sum()) * regions.shape[1]))
    local = local_scores(regions, words, mask, sharpness, "max", chunk)
    return (local + F.normalize(image[1], dim=-1) @ F.normalize(text[1], dim=-1).T) / 2


def standardize(scores: Tensor, dim: int = 0) -> Tensor:
    """Each column less its mean, by its standard deviation over `dim` (divided by the number, not by one less).

    What the official code does to class scores over all images and to both similarities over all candidates; the result
    depends on which they are, so that only the protocol zeroshot-5x200-gloria does it, with the flag "transductive".
    """
    return (scores - scores.mean(dim=dim, keepdim=True)) / scores.std(dim=dim, keepdim=True, correction=0)
