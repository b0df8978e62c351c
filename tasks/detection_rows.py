"""Boxes as padded arrays: truth inside the image, trivial guesses, and what tells a collapsed detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmark.types import InputSpec, Protocol, Record
from tasks.degenerate import almost, commonest_share

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.data.dataset import Dataset

Array = NDArray[np.float64]
SMALLEST = 1e-3  # pixels of a side; a box below is none
SAME = 1e-3  # of a side of the image, or of a score: no difference


def rows_with_boxes(data: Dataset, split: str, protocol: Protocol, fraction: float = 1.0, seed: int = 0) -> tuple[Record, ...]:
    """The records of a split that were annotated with boxes, those without any included."""
    return tuple(record for record in data.rows(split, protocol, fraction, seed) if record.boxes is not None)


def has_area(boxes: Array) -> NDArray[np.bool_]:
    """(n, 4 or more) corners -> (n,) bool."""
    return np.asarray(np.min(boxes[:, 2:4] - boxes[:, :2], axis=1) > SMALLEST)


def true_boxes(record: Record, classes: Sequence[str], size: Array) -> Array:
    """(n, 5) float64 x0, y0, x1, y1, class in original pixels, clipped to the image; boxes outside of it are left out.

    Args:
        size: (2,) width and height of the image.
    """
    rows = [(box.x0, box.y0, box.x1, box.y1, classes.index(box.label)) for box in record.boxes or ()]
    truth = np.array(rows, float).reshape(-1, 5)
    truth[:, :4] = np.clip(truth[:, :4], 0.0, np.tile(size, 2))
    return truth[has_area(truth)]


def n_clipped(records: Sequence[Record], sizes: Array) -> int:
    """How many boxes leave their image. sizes: (N, 2) width and height."""
    return sum(
        min(box.x0, box.y0) < 0 or box.x1 > width or box.y1 > height
        for record, (width, height) in zip(records, sizes)
        for box in record.boxes or ()
    )


def image_sizes(records: Sequence[Record], spec: InputSpec, data: Dataset, context: Context) -> Array:
    """(N, 2) float64 width and height in original pixels."""
    found = [data.geometry(record, spec, context) for record in records]
    return np.array([(item.width, item.height) for item in found], float).reshape(-1, 2)


def padded(rows: Sequence[Array], columns: int) -> Array:
    """(N, longest, columns), nan where a row is shorter."""
    made = np.full((len(rows), max([len(row) for row in rows], default=0), columns), np.nan)
    for index, row in enumerate(rows):
        made[index, : len(row)] = row
    return made


def priors(boxes: Sequence[Array], box_sizes: Array, sizes: Array, classes: int) -> Array:
    """(N, K, 5): the mean training box of each class (relative coordinates) on each image, and the part of the training
    images that have it; nan for a class without training boxes.

    Args:
        boxes: of the training images, (n, 5). box_sizes: theirs, (M, 2). sizes: of the images to guess for, (N, 2).
    """
    relative = np.concatenate([truth[:, :4] / np.tile(size, 2) for truth, size in zip(boxes, box_sizes)])
    labels = np.concatenate([truth[:, 4] for truth in boxes])
    prior = np.full((len(sizes), classes, 5), np.nan)
    for label in np.unique(labels).astype(int):
        prior[:, label, :4] = relative[labels == label].mean(axis=0) * np.tile(sizes, (1, 2))
        prior[:, label, 4] = np.mean([bool((truth[:, 4] == label).any()) for truth in boxes])
    return prior


def guesses(prior: Array, sizes: Array) -> dict[str, Array]:
    """Trivial detections (N, D, 6) by title: no box; of each class a box of the mean training box's size in the middle of
    the image; the mean training box. Scores are the prevalence in training, so that the commonest class comes first.

    Args:
        prior: (N, K, 5), see `priors`. sizes: (N, 2) width and height.
    """
    half = (prior[..., 2:4] - prior[..., :2]) / 2
    middle = np.broadcast_to(sizes[:, None] / 2, half.shape)
    central = np.concatenate([middle - half, middle + half, prior[..., 4:]], axis=2)
    nothing = np.full((len(prior), 1, 6), np.nan)
    return {"no box": nothing, "center box": _as_detections(central), "mean training box": _as_detections(prior)}


def _as_detections(prior: Array) -> Array:
    labels = np.broadcast_to(np.arange(prior.shape[1], dtype=float)[None, :, None], (*prior.shape[:2], 1))
    always = np.concatenate([prior, np.where(np.isnan(prior[..., :1]), np.nan, labels)], axis=2)
    order = np.argsort(-always[..., 4], axis=1, kind="stable")  # nan last
    return np.take_along_axis(always, order[..., None], axis=1)


def collapsed(arrays: Mapping[str, Array]) -> bool:
    """True where all images but 1 % have no detection, or of two or more images all but 1 % have the same ones.

    The same: within a thousandth, relative to the image or to the square that it is padded to, which are the two ways in
    which an image reaches an encoder.

    Args:
        arrays: "detections" (N, D, 6), "sizes" (N, 2).
    """
    found, sizes = arrays["detections"], arrays["sizes"]
    if almost(np.isnan(found[..., 4]).all(axis=1).mean()):
        return True
    square = np.broadcast_to(sizes.max(axis=1, keepdims=True), sizes.shape)
    return len(found) > 1 and any(
        _equal_rows(found, offset, scale) for offset, scale in ((0 * sizes, sizes), ((square - sizes) / 2, square))
    )


def _equal_rows(found: Array, offset: Array, scale: Array) -> bool:
    corners = (found[..., :4] + np.tile(offset, (1, 2))[:, None]) / np.tile(scale, (1, 2))[:, None]
    rows = np.concatenate([corners, found[..., 4:]], axis=2)
    return almost(commonest_share(rows, SAME))
