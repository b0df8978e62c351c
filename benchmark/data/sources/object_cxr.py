"""Object-CXR, foreign objects on chest X-rays, as published: `--data object-cxr:DIR`.

    DIR/train.csv, dev.csv       image_name,annotation
    DIR/train/*.jpg, dev/*.jpg   8,000 and 1,000 images, half of each with objects

An annotation is "TYPE x1 y1 x2 y2;TYPE ...": type 0 a rectangle and 1 an ellipse, by their left-top and right-bottom corners, 2
a polygon by its corners; empty where there is no object. Facts: https://jfhealthcare.github.io/object-CXR/ (the challenge is
over; https://academictorrents.com/details/fdc91f11d7010f7259a05403fc9d00079a09f5d5 has the files). The challenge's test set was
not published: dev is the test split, as in earlier work. No patients are named; each image counts as
one, and the flag "patients-unknown" says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from benchmark.data.images import image_shape, read_image
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.layout import (
    Layout,
    draw,
    find_root,
    inside,
    keep_where,
    list_files,
    partial_download,
    read_table,
    version_of,
)
from benchmark.errors import ImageError, UserError
from benchmark.types import Box, Record

LAYOUT = Layout(
    name="object-cxr", title="Object-CXR", page="https://jfhealthcare.github.io/object-CXR/",
    files=("train.csv", "dev.csv", "train", "dev"), folder="object-CXR",
)  # fmt: skip
OBJECT = "Foreign Object"
VAL_RULE = (
    "object-cxr-val-fifth-0"  # the set has no val: a fifth of train by the hash of the file name, the share of earlier work
)
KNOWN_COUNTS = {  # the challenge's page: half of the images with objects
    "images": 9_000, "official/train": 8_000, "official/dev": 1_000, "images/test": 1_000, "positive/Foreign Object": 4_500,
}  # fmt: skip
RECTANGLE, ELLIPSE, POLYGON = "0", "1", "2"


@dataclass(frozen=True, slots=True)
class Shape:
    """One annotated object in pixels of the original image. points: (n, 2) float64 of x, y; two corners, or n of a polygon."""

    kind: str
    points: NDArray[np.float64]

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        (x0, y0), (x1, y1) = self.points.min(axis=0).tolist(), self.points.max(axis=0).tolist()
        return x0, y0, x1, y1

    @property
    def empty(self) -> bool:
        """No area: a click or a line."""
        x0, y0, x1, y1 = self.corners
        return x1 <= x0 or y1 <= y0


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectCxr:
    """The images on a disk, read as they are asked for. A `benchmark.types.Source`, made by `open_source`.

    A record's mask is named by its annotation, so that the digest of a split covers it.
    """

    root: Path
    version: str
    records: tuple[Record, ...]
    name: str = "object-cxr"
    classes: tuple[str, ...] = (OBJECT,)
    mask_names: tuple[str, ...] = (OBJECT,)
    box_classes: tuple[str, ...] = (OBJECT,)
    flags: tuple[str, ...] = ("patients-unknown",)
    known_counts: Mapping[str, int] = field(default_factory=dict)  # as layout.py says

    def image(self, record: Record) -> NDArray[np.uint8]:
        """(H, W) uint8. Raises ImageError."""
        return read_image(self.root / record.image, record.uid)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        """(H, W) uint8 of the image's size: 0 background, 1 object. Raises ImageError."""
        if name not in record.masks:
            raise ImageError(record.uid, f"it has no mask {name!r}; use one of {', '.join(record.masks) or 'none'}")
        shapes = parse_annotation(record.masks[name], f"the annotation of {record.uid}")
        return rasterize(shapes, image_shape(self.root / record.image, record.uid))


def open_source(location: str, options: SourceOptions) -> ObjectCxr:
    """Reads and checks both tables; opens no image. A missing image is skipped and named when it is read.

    Args:
        location: the folder, as it follows `object-cxr:`.
        options: `where` keeps rows of the tables by their columns.

    Raises:
        UserError: one sentence naming the file and the way out.
    """
    root = find_root(LAYOUT, location, options)
    tables = {name: root / name for name in ("train.csv", "dev.csv")}
    rows: list[dict[str, str]] = []
    for name, path in tables.items():
        split = name.removesuffix(".csv")
        rows += [row | {"official_split": split} for row in read_table(path, ("image_name", "annotation"), LAYOUT)]
    there = {f"{split}/{name}" for split in ("train", "dev") for name in list_files(root, split) if name.endswith(".jpg")}
    listed = {_uid(row) for row in rows}
    if there.isdisjoint(listed):
        raise UserError(
            f"{root} has none of the {len(listed)} images in train and dev; unpack train.zip and dev.zip of {LAYOUT.page} there"
        )
    records = _records(root, keep_where(rows, options.where, root / "train.csv"))
    return ObjectCxr(
        root=root,
        version=version_of(VAL_RULE, tables, options),
        records=records,
        flags=("patients-unknown", *partial_download((record.uid for record in records), listed, there)),
        known_counts={} if options.where else KNOWN_COUNTS,
    )


def _records(root: Path, rows: list[dict[str, str]]) -> tuple[Record, ...]:
    records: dict[str, Record] = {}
    for row in rows:
        uid = _uid(row)
        table, name = root / f"{row['official_split']}.csv", uid.partition("/")[2]
        if not name or uid in records:
            raise UserError(
                f"{table} has the image {name!r} more than once or without a name; download it again from {LAYOUT.page}"
            )
        records[uid] = _record(uid, inside(root, uid, str(table)), row["annotation"], f"{table}, {name}")
    return tuple(records.values())


def _uid(row: Mapping[str, str]) -> str:
    """Folder and file; some copies of the tables name /path/NAME.jpg."""
    return f"{row['official_split']}/{PurePosixPath(row['image_name']).name}"


def _record(uid: str, image: str, annotation: str, where: str) -> Record:
    shapes = parse_annotation(annotation, where)
    drawn = tuple(shape for shape in shapes if not shape.empty)
    placed = bool(drawn) or not shapes  # a click without extent says that there is an object, but not where
    lost = len(shapes) - len(drawn)
    split = uid.partition("/")[0]
    return Record(
        uid=uid,
        patient=uid,
        study=uid,
        split="test" if split == "dev" else "val" if _is_val(uid) else "train",
        image=image,
        view="FRONTAL",
        labels=(float(bool(shapes)),),
        boxes=tuple(Box(OBJECT, *shape.corners) for shape in drawn) if placed else None,
        masks={OBJECT: annotation} if placed else {},
        attributes={"official_split": split} | ({"shapes_without_area": str(lost)} if lost else {}),
    )


def _is_val(uid: str) -> bool:
    return draw(VAL_RULE, uid) < 1 / 5


def parse_annotation(text: str, where: str) -> tuple[Shape, ...]:
    """The shapes of an annotation; none where it is empty.

    >>> [shape.corners for shape in parse_annotation("0 1 2 5 4;2 0 0 9 0 9 3", "here")]
    [(1.0, 2.0, 5.0, 4.0), (0.0, 0.0, 9.0, 3.0)]

    Raises:
        UserError: another type, another count of numbers, or what is no number.
    """
    shapes = []
    for part in text.split(";"):
        kind, *cells = part.split() or [""]
        if not kind:
            continue
        values = np.array([_number(cell) for cell in cells])
        counts = len(values) == 4 if kind in (RECTANGLE, ELLIPSE) else kind == POLYGON and len(values) > 0 == len(values) % 2
        if not counts or not np.isfinite(values).all():
            raise UserError(
                f"{where}: {part.strip()[:60]!r} is not a type 0, 1 or 2 and its corners; download it again from {LAYOUT.page}"
            )
        shapes.append(Shape(kind, values.reshape(-1, 2)))
    return tuple(shapes)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def rasterize(shapes: tuple[Shape, ...], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The union of shapes, filled: a pixel belongs to a shape if its center lies inside. Clipped to the image.

    Args:
        shapes: in pixels, pixel i covering [i, i + 1).
        size: (H, W).

    Returns:
        (H, W) uint8: 0 or 1.
    """
    mask = np.zeros(size, np.uint8)
    for shape in shapes:
        x0, y0, x1, y1 = shape.corners
        top, bottom = _clip(y0, size[0]), _clip(y1, size[0])
        left, right = _clip(x0, size[1]), _clip(x1, size[1])
        if top >= bottom or left >= right:
            continue
        x, y = np.arange(left, right, dtype=np.float64) + 0.5, np.arange(top, bottom, dtype=np.float64)[:, None] + 0.5
        part = mask[top:bottom, left:right]
        if shape.kind == RECTANGLE:
            part[:] = 1
        elif shape.kind == ELLIPSE:
            part |= ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1
        else:
            part |= _inside_polygon(shape.points, x, y[:, 0])
    return mask


def _clip(edge: float, limit: int) -> int:
    """The first pixel whose center is not before an edge, within 0..limit."""
    return min(max(math.ceil(edge - 0.5), 0), limit)


def _inside_polygon(points: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Even-odd rule at the centers (x, y). points: (n, 2); x: (w,) ascending by 1; y: (h,). Returns (h, w)."""
    flips = np.zeros((len(y), len(x) + 1), np.int64)
    for (xa, ya), (xb, yb) in zip(points, np.roll(points, -1, axis=0)):
        rows = np.flatnonzero((ya <= y) != (yb <= y))
        crossing = xa + (y[rows] - ya) * (xb - xa) / (yb - ya) if len(rows) else np.zeros(0)
        np.add.at(flips, (rows, np.searchsorted(x, crossing)), 1)  # every center from the crossing on changes sides
    inside_now: NDArray[np.bool_] = flips.cumsum(axis=1)[:, :-1] % 2 == 1
    return inside_now
