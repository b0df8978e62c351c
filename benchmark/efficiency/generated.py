"""Input that costs what real input costs, drawn from a seed: noise images, reports of a given length, labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from benchmark.data.text import SPECIAL
from benchmark.data.transform import to_input
from benchmark.types import Batch

SENTENCE = 8  # words
LABELS = 14  # classes, as CheXpert has


def word_tokenizer(vocabulary: int) -> Tokenizer:
    """A tokenizer of the given size whose words are w5, w6, ...: the cost of a vocabulary without a text."""
    ids = {word: index for index, word in enumerate([*SPECIAL, *(f"w{index}" for index in range(len(SPECIAL), vocabulary))])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(".", "")])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return tokenizer


def generated_batch(method: Any, size: int, tokens: int, vocabulary: int, device: torch.device) -> Batch:
    """A batch of noise images, reports `tokens` long in sentences of eight words, as reports have them, and random labels."""
    generator = np.random.default_rng(0)
    side = method.input.size
    pixels = torch.from_numpy(generator.integers(0, 256, (size, 1, side, side), dtype=np.uint8)).to(device)
    words = generator.integers(len(SPECIAL), vocabulary, (size, tokens - 2))
    uids = tuple(f"generated-{row}" for row in range(size))
    texts = tuple(" ".join(_word(place, word) for place, word in enumerate(row)) for row in words)
    labels = torch.from_numpy(generator.integers(0, 2, (size, LABELS)).astype(np.float32)).to(device)
    return Batch(uids=uids, patients=uids, images=to_input(pixels, method.input), texts=texts, targets={"labels": labels})


def _word(place: int, word: int) -> str:
    """A word at its place in a report: a sentence begins with a capital and ends with a period, each one token all the same."""
    return f"W{word}" if place % SENTENCE == 0 else f"w{word}." if place % SENTENCE == SENTENCE - 1 else f"w{word}"
