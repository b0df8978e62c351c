"""Masks of records: read, laid on the canvas of a method, counted against predictions, and the rows nobody has to learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.geometry import IGNORE, Geometry
from benchmark.errors import ImageError
from benchmark.types import InputSpec, Predictions, Protocol, Record, digest

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.data.dataset import Dataset

LUNGS = ("lungs", "lung")  # names of a mask of both lungs
Masks = Mapping[str, NDArray[np.uint8]]
Guess = Callable[[str, Masks], NDArray[np.bool_]]  # (mask name, masks of the image) -> predicted foreground


def rows_with_masks(data: Dataset, split: str, protocol: Protocol, fraction: float = 1.0, seed: int = 0) -> tuple[Record, ...]:
    """The rows of a split that have at least one mask."""
    names = set(data.source.mask_names)
    return tuple(record for record in data.rows(split, protocol, fraction, seed) if names & set(record.masks))


def read_masks(record: Record, data: Dataset, geometry: Geometry | None = None) -> Masks:
    """The masks that a record has, all of one shape, that of the image where its geometry is given. Raises ImageError."""
    masks = {name: data.source.mask(record, name) for name in data.source.mask_names if name in record.masks}
    shapes = {mask.shape for mask in masks.values()}
    if len(shapes) != 1:
        raise ImageError(record.uid, f"its masks have different sizes {sorted(shapes)}; give them the size of the image")
    shape = shapes.pop()
    if geometry is not None and shape != (geometry.height, geometry.width):
        raise ImageError(record.uid, f"mask of {shape} over an image of {(geometry.height, geometry.width)}; make them equal")
    return masks


def canvases(records: Sequence[Record], spec: InputSpec, data: Dataset, context: Context) -> tuple[tuple[Record, ...], Tensor]:
    """Rows whose image and masks could be read, and their masks (N, M, S, S) uint8 on the canvas, 255 where unknown."""
    readable, failed = data.readable(records, spec, context)
    kept, made = [], []
    for record in context.bar(readable, "read masks", len(readable)):
        geometry = data.geometry(record, spec, context)
        try:
            masks = read_masks(record, data, geometry)
        except ImageError:
            continue
        canvas = np.full((len(data.source.mask_names), spec.size, spec.size), IGNORE, np.uint8)
        for channel, name in enumerate(data.source.mask_names):
            if name in masks:
                canvas[channel] = geometry.mask_to_canvas(masks[name])
        kept.append(record)
        made.append(canvas)
    lost = len(failed) + len(readable) - len(kept)
    if lost:
        context.notes["fit_rows_unreadable"] = int(context.notes.get("fit_rows_unreadable") or 0) + lost  # of train and val
    return tuple(kept), torch.from_numpy(np.stack(made)) if made else torch.empty(0, dtype=torch.uint8)


def as_many_negatives(records: Sequence[Record], targets: Tensor, seed: int) -> tuple[tuple[Record, ...], Tensor]:
    """Every row with a target pixel and at most as many without one, in a seeded order: SIIM as GLoRIA and MGCA train on it.

    Where no row has a target pixel, all are kept.

    Args:
        records: N rows. targets: (N, M, S, S) uint8 as `canvases` gives them, 255 where unknown.

    Returns:
        The rows kept, in their order, and their targets.
    """
    found = with_a_target(targets).tolist()
    if not any(found):
        return tuple(records), targets
    empty = sorted((row for row, one in enumerate(found) if not one), key=lambda row: digest([seed, records[row].uid], 32))
    kept = sorted([*empty[: sum(found)], *(row for row, one in enumerate(found) if one)])
    return tuple(records[row] for row in kept), targets[kept]


def with_a_target(targets: Tensor) -> Tensor:
    """targets (N, M, S, S) uint8 -> (N,) bool: whether any mask has a pixel."""
    return (targets == 1).flatten(1).any(dim=1)


def count_pixels(found: Mapping[str, NDArray[np.bool_]], masks: Masks) -> NDArray[np.float64]:
    """(M, 4) pixels: intersection, predicted, target, valid; nan where the image lacks that mask."""
    counts = np.empty((len(found), 4))
    for row, (name, predicted) in enumerate(found.items()):
        if name not in masks:
            counts[row] = np.nan, predicted.sum(), np.nan, predicted.size
            continue
        valid, truth = masks[name] != IGNORE, masks[name] == 1
        counts[row] = (predicted & truth).sum(), (predicted & valid).sum(), truth.sum(), valid.sum()
    return counts


def stack_counts(counts: Sequence[NDArray[np.float64]], masks: int) -> NDArray[np.float64]:
    """(N, M, 4), of no rows as well."""
    return np.stack(counts) if counts else np.empty((0, masks, 4))


def trivial_rows(predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
    """What an empty mask, the whole image, the mean training mask and, for masks in them, the whole lungs would score.

    The mean training mask is of relative coordinates, foreground from 0.5 on. The whole lungs stand in for every mask but that
    of the lungs itself, for which it is the mean training mask, where every image and another mask have one.
    """
    means = _mean_masks(data, protocol)
    side = int(protocol.setting("reference_size"))
    names = predictions.names["masks"]
    records = {record.uid: record for record in data.rows("test", protocol)}
    rows = [records[str(uid)] for uid in predictions.uids]

    def mean(name: str, masks: Masks) -> NDArray[np.bool_]:
        return Geometry(*_shape(masks), side, "stretch").map_to_original(means[name]) >= 0.5

    guesses: dict[str, Guess] = {
        "empty mask": lambda _name, masks: np.zeros(_shape(masks), bool),
        "all foreground": lambda _name, masks: np.ones(_shape(masks), bool),
        "mean training mask": mean,
    }
    lungs = next((name for name in LUNGS if all(name in record.masks for record in rows)), "")
    if lungs and set(names) - {lungs}:
        guesses["whole lungs"] = lambda name, masks: mean(name, masks) if name == lungs else masks[lungs] == 1
    counts: dict[str, list[NDArray[np.float64]]] = {title: [] for title in guesses}
    for record in rows:
        masks = read_masks(record, data)
        for title, guess in guesses.items():
            counts[title].append(count_pixels({name: guess(name, masks) for name in names}, masks))
    made = {title: {"counts": stack_counts(found, len(names))} for title, found in counts.items()}
    return {title: replace(predictions, arrays=arrays) for title, arrays in made.items()}


def _shape(masks: Masks) -> tuple[int, int]:
    height, width = next(iter(masks.values())).shape
    return height, width


def _mean_masks(data: Dataset, protocol: Protocol) -> dict[str, NDArray[np.float32]]:
    """The mean of the training masks by name, (S, S) float32 in relative coordinates; 0 where there is none."""
    side = int(protocol.setting("reference_size"))
    total = {name: np.zeros((side, side)) for name in data.source.mask_names}
    known = {name: np.zeros((side, side)) for name in data.source.mask_names}
    for record in rows_with_masks(data, "train", protocol):
        try:
            masks = read_masks(record, data)
        except ImageError:
            continue
        for name, mask in masks.items():
            canvas = Geometry(mask.shape[0], mask.shape[1], side, "stretch").mask_to_canvas(mask)
            total[name] += canvas == 1
            known[name] += canvas != IGNORE
    return {name: (total[name] / np.maximum(known[name], 1)).astype(np.float32) for name in total}
