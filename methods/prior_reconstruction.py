"""PRIOR's cross-modality conditional reconstruction: the image from patches and report, the report from patches.

Formulas: QtacierP/PRIOR@086bf2e decoders/{image,sentence}.py, models/prior.py (spg_loss, matching_label).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from methods.losses import at_least_float32
from methods.masking import take

SEGMENT_TYPES = 2  # as BERT has them; the queries are of the first


class _Convolution(nn.Sequential):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class _Block(nn.Module):
    """Nearest upsampling to a size, then two convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _Convolution(inputs, outputs), _Convolution(outputs, outputs)

    def forward(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, *size)."""
        output: Tensor = self.conv2(self.conv1(F.interpolate(maps, size=size, mode="nearest")))
        return output


class ImageDecoder(nn.Module):
    """Pixels out of two maps on the patch grid, each block twice the size and half the channels of the one before.

    Args:
        inputs: channels of both maps together. first: channels of the first block. stride: pixels a side of a place of the
            grid; ceil(log2(stride)) blocks. channels: of the image.
        drop: probability that a channel of the image's map is dropped in training: what PRIOR calls masking.
    """

    def __init__(self, inputs: int, first: int, stride: int, channels: int, drop: float) -> None:
        super().__init__()
        count = max(1, (stride - 1).bit_length())
        widths = [inputs, *(max(1, first >> number) for number in range(count))]
        self.drop = nn.Dropout2d(drop)
        self.blocks = nn.ModuleList(_Block(*pair) for pair in pairwise(widths))
        self.output_head = nn.Sequential(nn.Conv2d(widths[-1], channels, 3, padding=1))

    def forward(self, image: Tensor, text: Tensor, size: tuple[int, int]) -> Tensor:
        """image, text (B, D, rows, columns): patches, and what they read in the report -> (B, channels, *size)."""
        maps = torch.cat([self.drop(image), text.to(image.dtype)], dim=1)
        for number, block in enumerate(self.blocks, start=1):
            doubled = [min(2 * side, end) for side, end in zip(maps.shape[2:], size)]
            maps = block(maps, size if number == len(self.blocks) else (doubled[0], doubled[1]))
        output: Tensor = self.output_head(maps)
        return output


class ReportDecoder(nn.Module):
    """Learned queries that look at the patches and each other: a BERT decoder, drawn at random.

    Args:
        shape: width, layers, heads, inner width. positions: of queries it could take. dropout: while training.
        causal: released quirk: a query sees only the queries before it, though sentences have no order.
    """

    def __init__(self, shape: tuple[int, int, int, int], positions: int, dropout: float, causal: bool) -> None:
        super().__init__()
        width, layers, heads, inner = shape
        self.causal = causal
        config = BertConfig(
            vocab_size=1, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner,
            max_position_embeddings=positions, type_vocab_size=SEGMENT_TYPES, hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout, is_decoder=True, add_cross_attention=True, use_cache=False,
            attn_implementation="sdpa",
        )  # fmt: skip
        self.bert: Any = BertModel(config, add_pooling_layer=False)
        self.bert.embeddings.word_embeddings = nn.Identity()  # queries come as vectors

    def forward(self, queries: Tensor, patches: Tensor) -> Tensor:
        """queries (B, Q, D), patches (B, P, D) -> (B, Q, D)."""
        number = queries.shape[1]
        seen = torch.ones(len(queries), 1, number, number, dtype=torch.bool, device=queries.device)
        seen = seen.tril() if self.causal else seen
        output: Tensor = self.bert(inputs_embeds=queries, attention_mask=seen, encoder_hidden_states=patches).last_hidden_state
        return output


def match(predicted: Tensor, target: Tensor, inverse: bool = False) -> Tensor:
    """Order (B, Q) int64 in which the predictions meet their targets at the least L1 distance, report by report.

    Target n meets prediction order[n]: the one whose assigned column is n.

    Args:
        predicted, target: (B, Q, D).
        inverse: released quirk: the assigned columns themselves, the inverse of the order that is needed.
    """
    with torch.no_grad():
        cost = torch.cdist(at_least_float32(predicted), at_least_float32(target), p=1)
        table = cost.nan_to_num(nan=1e30, posinf=1e30).cpu().numpy()  # what diverged is for the loop to report
    columns = torch.stack([torch.as_tensor(linear_sum_assignment(rows)[1]) for rows in table])
    return (columns if inverse else columns.argsort(dim=1)).to(predicted.device)


def reorder(predicted: Tensor, order: Tensor) -> Tensor:
    """predicted (B, Q, D) with row n replaced by row order[n]."""
    return take(predicted, order)


def sentence_loss(ordered: Tensor, target: Tensor) -> Tensor:
    """mean |prediction - prototype| over all Q slots (B, Q, D), the empty ones, whose target is 0, included."""
    return (at_least_float32(ordered) - at_least_float32(target)).abs().mean()


def pixel_loss(predicted: Tensor, images: Tensor) -> Tensor:
    """mean |prediction - image| over (B, C, h, w), the image normalised as it is put in."""
    return (at_least_float32(predicted) - at_least_float32(images)).abs().mean()
