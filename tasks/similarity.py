"""Scores of images and texts as a protocol wants them: of pooled vectors, or by a method's own rule, which may read tokens.

Tokens of images are never held: images are encoded batch by batch and compared with all texts before the next batch comes.
Tokens of texts are held, on the device, at paper size 0.3 MiB a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import metrics
from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.features import embed_images, embed_text_tokens, embed_texts, in_batches, pixels
from benchmark.types import Features, Record
from tasks.ranking import ROWS, PooledScores

Floats = NDArray[np.float32]
PROBED = 8  # images and texts by which it is seen whether a method's similarity reads tokens


def similarities(
    method: Any, data: Dataset, records: Sequence[Record], texts: Sequence[str], kind: str, context: Context
) -> Floats:
    """(N, M) float32, higher is nearer; equal texts in equal batches have equal scores.

    Args:
        records: N images that can be read, at least one. texts: M, each once.
        kind: "pooled", the inner product of the pooled vectors; "method", the method's similarity with all it encodes.

    Raises:
        UserError: features or similarities are not finite (uids named).
    """
    if kind == "method" and _reads_tokens(method, data, records, texts, context):
        parts = [_full(part) for part in embed_text_tokens(method, texts, context)]
        return _by_batch(
            method, data, records, context, lambda image: torch.cat([method.similarity(image, text) for text in parts], dim=1)
        )
    images, found = embed_images(method, data, records, context), embed_texts(method, texts, context)
    with context.meter.phase("predict"):
        scores = PooledScores(images.pooled.numpy(), found.pooled.numpy())
        parts_of_rows = (slice(start, start + ROWS) for start in range(0, len(records), ROWS))
        values = np.concatenate([scores.exact_block(rows, np.arange(len(texts))) for rows in parts_of_rows])
    return _finite(values, records)


def has_own_rule(method: Any) -> bool:
    """Whether a method has a zero-shot rule of its own, as PRIOR has."""
    return hasattr(method, "class_scores") and hasattr(method, "encode_prompts")


def own_class_scores(
    method: Any, data: Dataset, records: Sequence[Record], prompts: Sequence[Sequence[str]], context: Context
) -> Floats:
    """(N, K) float32 of a method's own zero-shot rule; prompts: of each of K classes, as many of each."""
    texts = [text for own in prompts for text in own]
    parts = [_full(part) for part in embed_text_tokens(method, texts, context, method.encode_prompts)]
    tokens = [part.tokens for part in parts if part.tokens is not None]
    joined = Features(torch.cat([part.pooled for part in parts]), torch.cat(tokens))  # one sentence each, so that widths agree
    return _by_batch(method, data, records, context, lambda image: method.class_scores(image, joined, len(prompts)))


def _by_batch(
    method: Any, data: Dataset, records: Sequence[Record], context: Context, compare: Callable[[Features], Tensor]
) -> Floats:
    data.pixels(method.input, context)  # decoding is not encoding: it happens before the clock starts

    @torch.inference_mode()
    def call(rows: range) -> Tensor:
        return compare(_encoded(method, data, [records[row] for row in rows], context))

    with context.meter.phase("features"):
        values = in_batches(len(records), context, call, "compare images and texts")
    return _finite(np.asarray(values.numpy(), np.float32), records)


def _encoded(method: Any, data: Dataset, records: Sequence[Record], context: Context) -> Features:
    with context.autocast():
        return _full(method.encode_image(pixels(method, data, records, context)))


def _full(features: Features) -> Features:
    """In float32: scores are compared outside of mixed precision."""
    tokens = None if features.tokens is None else features.tokens.float()
    return Features(features.pooled.float(), tokens, features.mask)


@torch.inference_mode()
def _reads_tokens(method: Any, data: Dataset, records: Sequence[Record], texts: Sequence[str], context: Context) -> bool:
    """Whether the method's similarity is another one with tokens than the inner product of pooled vectors."""
    data.pixels(method.input, context)
    image = _encoded(method, data, records[:PROBED], context)
    with context.autocast():
        text = _full(method.encode_text(method.prepare_text(list(texts[:PROBED])).to(context.device)))
    found = method.similarity(image, text)
    return not torch.allclose(found, image.pooled @ text.pooled.T, rtol=0, atol=1e-5)


def _finite(values: Floats, records: Sequence[Record]) -> Floats:
    metrics.require_finite(values, np.array([record.uid for record in records]))
    return values
