"""Segmentation: a U-Net decoder or a linear map on the frozen encoder, scored per image in original pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark import metrics
from benchmark.data.geometry import IGNORE, Geometry
from benchmark.errors import ImageError, Unsupported, UserError
from benchmark.features import FrozenMaps
from benchmark.repro import seeded
from benchmark.types import InputSpec, Predictions, Protocol, Record
from tasks.heads.fit import Maps, Schedule, cap_rows, fit, in_chunks, names_of, numbers
from tasks.protocols_dense import SEGMENTATION
from tasks.published import segmentation as published

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.data.dataset import Dataset

INTERSECTION, PREDICTED, TARGET, VALID = range(4)  # the columns of "counts"
Masks = Mapping[str, NDArray[np.uint8]]
Guess = Callable[[str, tuple[int, int]], NDArray[np.bool_]]  # (mask name, (height, width)) -> predicted foreground


class Segmentation:
    """Independent masks by name; rows are the records that have at least one. See `benchmark.types.Task`.

    Predictions.arrays: "counts" (N, M, 4) float64, pixels of the original image: intersection, predicted, target, valid.
    Intersection and target are nan where a row lacks that mask; pixels marked 255 (ignore) count nowhere.
    """

    name: ClassVar[str] = "segmentation"
    version: ClassVar[int] = 2  # 2: vision transformers give maps of five depths
    needs: ClassVar[frozenset[str]] = frozenset({"dense"})

    def protocols(self, preset: str) -> tuple[Protocol, ...]:
        """The literals of a preset, those of papers as "published". Raises UserError for an unknown one."""
        if preset == "published":
            return published.PROTOCOLS
        if preset not in SEGMENTATION:
            raise UserError(f"segmentation has no preset {preset!r}; use one of {', '.join(SEGMENTATION)}")
        return SEGMENTATION[preset]

    def check(self, data: Dataset, protocol: Protocol) -> None:
        """Raises Unsupported when train or test have no masks."""
        for split in ("train", "test"):
            if not _rows(data, split, protocol):
                raise Unsupported(f"dataset {data.name!r} has no masks in {split}; segmentation needs them in train and test")

    def run(self, method: Any, data: Dataset, protocol: Protocol, fraction: float, context: Context) -> Predictions:
        """Fits the decoder on train, selects on val where the protocol says so, and counts pixels on test."""
        chosen = _rows(data, "train", protocol, fraction, context.eval_seed)
        chosen = cap_rows(chosen, protocol.setting("train_rows"), context.eval_seed)
        train, targets = _canvases(chosen, method.input, data, context)
        if not train:
            raise UserError(f"dataset {data.name!r}: no training mask of {len(chosen)} could be read; run verify on it")
        context.notes["train_rows"] = len(train)
        head = self._fit(method, data, protocol, (train, targets), context)
        test, skipped = data.readable(_rows(data, "test", protocol), method.input, context)
        maps = FrozenMaps(method, data, test, context)
        with context.meter.phase("predict"):
            return _predict(head, maps, test, skipped, (method.input, data, context))

    def score(
        self, predictions: Predictions, protocol: Protocol, weights: NDArray[np.float64]
    ) -> Mapping[str, NDArray[np.float64]]:
        """Dice and IoU, means over images, by mask and over the masks that are defined.

        "_empty1": an image whose target and prediction are both empty counts 1, one with an empty target alone 0.
        "_nonempty": images with a target only.

        Args:
            weights: (R, N), how often each row counts.
        """
        del protocol
        made: dict[str, NDArray[np.float64]] = {}
        names = predictions.names["masks"]
        for metric, values in image_scores(predictions.arrays["counts"]).items():
            by_mask = [metrics.mean(values[:, column], weights) for column in range(len(names))]
            made[metric] = metrics.macro(by_mask)
            made.update({f"{metric}/{name}": one for name, one in zip(names, by_mask)})
        return made

    def references(self, predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
        """What an empty mask, the whole image, and the mean training mask (relative coordinates, >= 0.5) would score."""
        means = _mean_masks(data, protocol)
        side = int(protocol.setting("reference_size"))
        guesses: dict[str, Guess] = {
            "empty mask": lambda _name, shape: np.zeros(shape, bool),
            "all foreground": lambda _name, shape: np.ones(shape, bool),
            "mean training mask": lambda name, shape: Geometry(*shape, side, "stretch").map_to_original(means[name]) >= 0.5,
        }
        names = predictions.names["masks"]
        records = {record.uid: record for record in data.rows("test", protocol)}
        counts: dict[str, list[NDArray[np.float64]]] = {title: [] for title in guesses}
        for uid in predictions.uids:
            masks = _read(records[str(uid)], data)
            shape = next(iter(masks.values())).shape
            for title, guess in guesses.items():
                counts[title].append(_count({name: guess(name, shape) for name in names}, masks))
        made = {title: {"counts": _stack(rows, len(names))} for title, rows in counts.items()}
        return {title: replace(predictions, arrays=arrays) for title, arrays in made.items()}

    def degenerate(self, predictions: Predictions, protocol: Protocol) -> bool:
        """True where every mask of every image is predicted empty, or every one full."""
        counts = predictions.arrays["counts"]
        return bool((counts[..., PREDICTED] == 0).all() or (counts[..., PREDICTED] == counts[..., VALID]).all())

    @staticmethod
    def _fit(
        method: Any, data: Dataset, protocol: Protocol, train: tuple[Sequence[Record], Tensor], context: Context
    ) -> nn.Module:
        from tasks.heads.unet import mask_losses

        records, targets = train
        spec: InputSpec = method.input
        maps = FrozenMaps(method, data, records, context)
        schedule = Schedule.of(protocol)
        with seeded("unet head", context.eval_seed):
            head = _head(protocol, maps.info, len(data.source.mask_names))

        def loss(rows: Sequence[int]) -> dict[str, Tensor]:
            logits = head(maps.batch(rows), (spec.size, spec.size))
            return mask_losses(logits, context.to_device(targets[list(rows)]))

        evaluate = _evaluator(head, protocol, (method, data, context)) if schedule.evaluations else None
        with context.meter.phase("fit"):
            best = fit(head, loss, [record.uid for record in records], schedule, context, evaluate)
        if best == best:
            context.notes["val_score"] = best
        context.notes["head_params"] = sum(item.numel() for item in head.parameters())
        return head


def _head(protocol: Protocol, info: tuple[tuple[int, int], ...], masks: int) -> nn.Module:
    """The head that a protocol's settings state: "linear", or a U-Net where they name none."""
    from tasks.heads.linear import LinearHead
    from tasks.heads.unet import UnetHead

    if dict(protocol.settings).get("head") == "linear":
        return LinearHead(info, masks)
    strides, channels = (numbers(protocol, name) for name in ("pyramid_strides", "decoder_channels"))
    return UnetHead(info, strides, protocol.setting("pyramid_width"), channels, masks)


def image_scores(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Dice and IoU of each image and mask.

    Args:
        counts: (N, M, 4) intersection, predicted, target, valid.

    Returns:
        "dice_empty1", "iou_empty1", "dice_nonempty": (N, M) float64, nan where a mask is unknown, has no valid pixel,
        or (nonempty) is empty.
    """
    overlap, predicted, target = counts[..., INTERSECTION], counts[..., PREDICTED], counts[..., TARGET]
    unknown = np.isnan(target) | (counts[..., VALID] == 0)
    total = predicted + target
    dice = np.divide(2 * overlap, total, out=np.ones_like(total), where=total > 0)
    iou = np.divide(overlap, total - overlap, out=np.ones_like(total), where=total > 0)
    dice[unknown] = iou[unknown] = np.nan
    return {"dice_empty1": dice, "iou_empty1": iou, "dice_nonempty": np.where(target > 0, dice, np.nan)}


def _rows(data: Dataset, split: str, protocol: Protocol, fraction: float = 1.0, seed: int = 0) -> tuple[Record, ...]:
    names = set(data.source.mask_names)
    return tuple(record for record in data.rows(split, protocol, fraction, seed) if names & set(record.masks))


def _read(record: Record, data: Dataset) -> Masks:
    """The masks that a record has, all of one shape. Raises ImageError."""
    masks = {name: data.source.mask(record, name) for name in data.source.mask_names if name in record.masks}
    shapes = {mask.shape for mask in masks.values()}
    if len(shapes) != 1:
        raise ImageError(record.uid, f"its masks have different sizes {sorted(shapes)}; give them the size of the image")
    return masks


def _read_over(record: Record, data: Dataset, geometry: Geometry) -> Masks:
    """The masks of an image with this geometry. Raises ImageError."""
    masks = _read(record, data)
    shape = next(iter(masks.values())).shape
    if shape != (geometry.height, geometry.width):
        raise ImageError(record.uid, f"mask of {shape} over an image of {(geometry.height, geometry.width)}; make them equal")
    return masks


def _canvases(records: Sequence[Record], spec: InputSpec, data: Dataset, context: Context) -> tuple[tuple[Record, ...], Tensor]:
    """Rows whose image and masks could be read, and their masks (N, M, S, S) uint8 on the canvas, 255 where unknown."""
    readable, failed = data.readable(records, spec, context)
    kept, canvases = [], []
    for record in context.bar(readable, "read masks", len(readable)):
        geometry = data.geometry(record, spec, context)
        try:
            masks = _read_over(record, data, geometry)
        except ImageError:
            continue
        canvas = np.full((len(data.source.mask_names), spec.size, spec.size), IGNORE, np.uint8)
        for channel, name in enumerate(data.source.mask_names):
            if name in masks:
                canvas[channel] = geometry.mask_to_canvas(masks[name])
        kept.append(record)
        canvases.append(canvas)
    lost = len(failed) + len(readable) - len(kept)
    if lost:
        context.notes["fit_rows_unreadable"] = lost
    return tuple(kept), torch.from_numpy(np.stack(canvases)) if canvases else torch.empty(0, dtype=torch.uint8)


def _evaluator(head: nn.Module, protocol: Protocol, where: tuple[Any, Dataset, Context]) -> Callable[[], float] | None:
    """The primary metric on val, on the canvas; None where val has no masks."""
    method, data, context = where
    records, targets = _canvases(_rows(data, "val", protocol), method.input, data, context)
    if not records:
        return None
    maps = FrozenMaps(method, data, records, context)
    size = (method.input.size, method.input.size)

    def evaluate() -> float:
        parts = []
        for rows in in_chunks(len(maps), context.batch_size):
            valid = targets[list(rows)] != IGNORE  # (B, M, H, W)
            truth = targets[list(rows)] == 1
            found = (head(maps.batch(rows), size) >= 0).cpu() & valid
            columns = [(found & truth), found, truth, valid]
            parts.append(torch.stack([item.sum(dim=(2, 3)) for item in columns], dim=2))  # (B, M, 4)
        counts = torch.cat(parts).double().numpy()
        scores = image_scores(counts)[protocol.primary]
        return float(metrics.macro([metrics.mean(column, np.ones((1, len(column)))) for column in scores.T])[0])

    return evaluate


@torch.no_grad()
def _predict(
    head: nn.Module,
    maps: Maps,
    records: Sequence[Record],
    skipped: tuple[tuple[str, str], ...],
    where: tuple[InputSpec, Dataset, Context],
) -> Predictions:
    spec, data, context = where
    names = data.source.mask_names
    kept, counts, lost = [], [], list(skipped)
    chunks = list(in_chunks(len(records), context.batch_size))
    for rows in context.bar(chunks, "segment test", len(chunks)):
        chances = torch.sigmoid(head(maps.batch(rows), (spec.size, spec.size))).cpu().numpy()  # (B, M, S, S)
        for record, chance in zip([records[row] for row in rows], chances):
            geometry = data.geometry(record, spec, context)
            try:
                masks = _read_over(record, data, geometry)
            except ImageError as error:
                lost.append((record.uid, error.reason))
                continue
            found = {name: geometry.map_to_original(chance[channel]) >= 0.5 for channel, name in enumerate(names)}
            kept.append(record)
            counts.append(_count(found, masks))
    uids, patients = names_of(kept)
    return Predictions(uids, patients, {"counts": _stack(counts, len(names))}, {"masks": names}, tuple(lost))


def _count(found: Mapping[str, NDArray[np.bool_]], masks: Masks) -> NDArray[np.float64]:
    """(M, 4) pixels: intersection, predicted, target, valid."""
    counts = np.empty((len(found), 4))
    for row, (name, predicted) in enumerate(found.items()):
        if name not in masks:
            counts[row] = np.nan, predicted.sum(), np.nan, predicted.size
            continue
        valid, truth = masks[name] != IGNORE, masks[name] == 1
        counts[row] = (predicted & truth).sum(), (predicted & valid).sum(), truth.sum(), valid.sum()
    return counts


def _stack(counts: Sequence[NDArray[np.float64]], masks: int) -> NDArray[np.float64]:
    return np.stack(counts) if counts else np.empty((0, masks, 4))


def _mean_masks(data: Dataset, protocol: Protocol) -> dict[str, NDArray[np.float32]]:
    """The mean of the training masks by name, (S, S) float32 in relative coordinates; 0 where there is none."""
    side = int(protocol.setting("reference_size"))
    total = {name: np.zeros((side, side)) for name in data.source.mask_names}
    known = {name: np.zeros((side, side)) for name in data.source.mask_names}
    for record in _rows(data, "train", protocol):
        try:
            masks = _read(record, data)
        except ImageError:
            continue
        for name, mask in masks.items():
            canvas = Geometry(mask.shape[0], mask.shape[1], side, "stretch").mask_to_canvas(mask)
            total[name] += canvas == 1
            known[name] += canvas != IGNORE
    return {name: (total[name] / np.maximum(known[name], 1)).astype(np.float32) for name in total}
