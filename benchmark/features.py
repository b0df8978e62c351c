"""Encoding of a split by a frozen method: once, in batches, metered; every task family asks here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from benchmark.data.transform import to_input
from benchmark.errors import UserError
from benchmark.types import Features, Record

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.data.dataset import Dataset

T = TypeVar("T")
MAP_BUDGET = 4 * 1024**3  # bytes of cached maps


def halving(n: int, context: Context, call: Callable[[range], T], description: str) -> Iterator[tuple[range, T]]:
    """Calls with ranges of rows, at most the batch size at once, behind a progress bar; gives each range and what came back.

    When the device's memory runs out, the batch size is halved, noted in the result, and the same rows are done again. One row
    that does not fit is the end (torch.OutOfMemoryError).
    """
    done = 0
    with context.progress_bar(n, description) as bar:
        while done < n:
            rows = range(done, min(n, done + context.batch_size))
            try:
                found = call(rows)
            except torch.OutOfMemoryError:
                if context.batch_size == 1:
                    raise
                context.batch_size //= 2
                context.notes["batch_size_after_out_of_memory"] = context.batch_size
                continue
            yield rows, found
            done = rows.stop
            bar.update(len(rows))


def in_batches(n: int, context: Context, call: Callable[[range], Tensor], description: str) -> Tensor:
    """Calls with ranges of rows, as `halving`, and joins what comes back, on the CPU; the meter notes the throughput.

    Args:
        call: rows -> (len(rows), ...) tensor.

    Raises:
        UserError: there are no rows.
    """
    if n == 0:
        raise UserError(
            f"nothing to {description}: no row of this split could be read; see skipped rows, or `list datasets --show`"
        )

    def timed(rows: range) -> tuple[Tensor, float]:
        begin = context.meter.clock()
        return call(rows).float().cpu(), context.meter.clock() - begin

    parts: list[Tensor] = []
    for rows, (part, seconds) in halving(n, context, timed, description):
        context.meter.batch(len(rows), seconds, warm_up=not parts)
        parts.append(part)
    return torch.cat(parts)


def pixels(method: Any, data: Dataset, records: Sequence[Record], context: Context) -> Tensor:
    """(B, C, h, w) float32 on the device, as the method wants them; no augmentation."""
    images = torch.from_numpy(data.pixels(method.input, context).take(records)).unsqueeze(1)
    return to_input(context.to_device(images), method.input)


def check_finite(values: Tensor, records: Sequence[Record], what: str) -> Tensor:
    """The values; raises UserError with the first uids where a row is NaN or infinite."""
    bad = (~torch.isfinite(values.flatten(1)).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        names = ", ".join(records[row].uid for row in bad[:3])
        raise UserError(f"{what} of {len(bad)} rows are not finite (first: {names}); the weights have diverged")
    return values


@torch.inference_mode()
def embed_images(method: Any, data: Dataset, records: Sequence[Record], context: Context) -> Features:
    """Pooled features (N, D) float32 on the CPU, L2-normalised; encoded once for the same rows of the same weights."""
    key = ("images", data.name, data.version, tuple(record.uid for record in records))

    def call(rows: range) -> Tensor:
        with context.autocast():
            pooled = method.encode_image(pixels(method, data, [records[row] for row in rows], context)).pooled
        return torch.as_tensor(pooled)

    def compute() -> Tensor:
        data.pixels(method.input, context)  # decoding is not encoding: it happens before the clock starts
        return check_finite(in_batches(len(records), context, call, "encode images"), records, "image features")

    return Features(_once(key, context, compute))


@torch.inference_mode()
def embed_towers(method: Any, data: Dataset, records: Sequence[Record], context: Context) -> Tensor:
    """What a probe reads, (N, W) float32 on the CPU: the tower's own features, or pooled ones where a method has no others."""
    if not hasattr(method, "tower_features"):
        return embed_images(method, data, records, context).pooled
    key = ("towers", data.name, data.version, tuple(record.uid for record in records))

    def call(rows: range) -> Tensor:
        with context.autocast():
            return torch.as_tensor(method.tower_features(pixels(method, data, [records[row] for row in rows], context)))

    def compute() -> Tensor:
        data.pixels(method.input, context)
        return check_finite(in_batches(len(records), context, call, "encode images"), records, "image features")

    return _once(key, context, compute)


def embed_texts(method: Any, texts: Sequence[str], context: Context) -> Features:
    """Pooled features (N, D) float32 on the CPU, L2-normalised. Texts over the method's limit are counted in the notes."""
    return Features(_embed_texts(method.encode_text, method, texts, context, None))


def embed_text_tokens(method: Any, texts: Sequence[str], context: Context, encode: Any = None) -> list[Features]:
    """Features with tokens on the device, batch by batch, each as wide as its longest text; counts as `embed_texts`.

    Args:
        encode: tokens -> features; the method's `encode_text` where it is None.
    """
    parts: list[Features] = []
    _embed_texts(encode or method.encode_text, method, texts, context, parts)
    return parts


@torch.inference_mode()
def _embed_texts(encode: Any, method: Any, texts: Sequence[str], context: Context, parts: list[Features] | None) -> Tensor:
    truncated = 0

    def call(rows: range) -> Tensor:
        nonlocal truncated
        batch = method.prepare_text([texts[row] for row in rows])
        with context.autocast():
            found = encode(batch.to(context.device))
        truncated += batch.truncated  # not before: rows are encoded again when memory runs out
        if parts is not None:
            parts.append(found)
        return torch.as_tensor(found.pooled)

    rates = list(context.meter.rates)
    with context.meter.phase("features"):
        pooled = in_batches(len(texts), context, call, "encode texts")
    context.meter.rates = rates  # the throughput is of images
    context.notes["texts_truncated"] = int(context.notes.get("texts_truncated") or 0) + truncated
    return pooled


def _once(key: tuple[Any, ...], context: Context, compute: Callable[[], Tensor]) -> Tensor:
    """Features from the run's memory; a cell that reuses them reports what they cost when they were made."""
    known = context.features.get(key)
    if known is None:
        first, before = len(context.meter.rates), context.meter.seconds.get("features", 0.0)
        with context.meter.phase("features"):
            values = compute()
        spent = context.meter.seconds["features"] - before
        context.features[key] = known = (values, spent, context.meter.rates[first:], context.meter.cost())
    else:
        context.meter.seconds["features"] = context.meter.seconds.get("features", 0.0) + known[1]
        context.meter.rates.extend(known[2])
        context.meter.carried.append(known[3])
        context.notes["features_reused"] = True
    return known[0]


class FrozenMaps:
    """Native feature maps of a frozen encoder, row by row; kept in memory while they fit, computed again where not.

    Args:
        method: with the capability "dense". records: N rows.
    """

    def __init__(self, method: Any, data: Dataset, records: Sequence[Record], context: Context) -> None:
        self.info: tuple[tuple[int, int], ...] = method.feature_info
        self._method, self._data, self._records, self._context = method, data, tuple(records), context
        size = method.input.size
        row_bytes = sum(4 * channels * (-(-size // stride)) ** 2 for channels, stride in self.info)
        self._cached: list[Tensor] | None = None
        if row_bytes * len(self._records) <= MAP_BUDGET:
            data.pixels(method.input, context)
            with context.meter.phase("features"):
                self._cached = self._compute_all()

    def __len__(self) -> int:
        return len(self._records)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Maps (B, channels, h, w) float32 of the rows, on the device, from fine to coarse."""
        if self._cached is None:
            return self._compute(indices)
        chosen = torch.as_tensor(list(indices))
        return tuple(self._context.to_device(maps[chosen]) for maps in self._cached)

    @torch.no_grad()
    def _compute(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        rows = [self._records[index] for index in indices]
        with self._context.autocast():
            maps = self._method.feature_maps(pixels(self._method, self._data, rows, self._context))
        return tuple(check_finite(item.float(), rows, "feature maps") for item in maps)

    def _compute_all(self) -> list[Tensor]:
        shapes: list[tuple[int, ...]] = []

        def call(rows: range) -> Tensor:
            maps = self._compute(rows)
            shapes[:] = [tuple(item.shape[1:]) for item in maps]
            return torch.cat([item.flatten(1) for item in maps], dim=1)  # (B, sum of channels * h * w)

        flat = in_batches(len(self._records), self._context, call, "encode maps")
        widths = [prod(shape) for shape in shapes]
        parts = torch.split(flat, widths, dim=1)
        return [torch.unflatten(part, 1, shape) for part, shape in zip(parts, shapes, strict=True)]
