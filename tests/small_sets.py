"""Small data sets on a disk, whole and without a defect, for tests that plant one and look for it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.data.images import image_shape, read_image, read_mask
from benchmark.data.sources import SOURCES, SourceOptions, csv_folder
from benchmark.types import Record, Source
from tests import test_chexpert
from tests.replicas import REPLICAS

SIDE = 48
CLASSES = ("Edema", "Fracture")


def picture(number: int, side: int = SIDE) -> NDArray[np.uint8]:
    """(side, side) uint8 of smooth blobs, another one for every number."""
    coarse = np.random.default_rng(number).integers(20, 235, (10, 10), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Records given by hand, with files below a root; not checked by anything but verify."""

    root: Path
    records: tuple[Record, ...]
    name: str = "rows"
    version: str = "1"
    classes: tuple[str, ...] = CLASSES
    mask_names: tuple[str, ...] = ("lung",)
    box_classes: tuple[str, ...] = ("lung",)
    flags: tuple[str, ...] = ()
    known_counts: Mapping[str, int] = field(default_factory=dict)

    def image(self, record: Record) -> NDArray[np.uint8]:
        return read_image(self.root / record.image, record.uid)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        shape = image_shape(self.root / record.image, record.uid)
        return read_mask(self.root / record.masks[name], record.uid, shape)

    def change(self, uid: str, **values: Any) -> Rows:
        """The same rows with fields of one changed."""
        assert any(record.uid == uid for record in self.records)
        return replace(
            self, records=tuple(replace(record, **values) if record.uid == uid else record for record in self.records)
        )

    def __getitem__(self, uid: str) -> Record:
        return next(record for record in self.records if record.uid == uid)


def table() -> list[dict[str, str]]:
    """Two patients a split with two images each: every class has both labels in every split; masks, boxes, reports."""
    rows = []
    for number in range(12):
        patient = number // 2
        box = {"label": "lung", "x": 8, "y": 8, "w": 24, "h": 32}
        rows.append(
            {
                "id": f"i{number:02}", "patient_id": f"p{patient}", "study_id": f"s{number}",
                "split": ("train", "val", "test")[patient // 2], "view": "PA", "image": f"images/i{number:02}.png",
                "labels": ("Edema", "Fracture")[number % 2], "findings": f"Finding number {number} is seen. No effusion.",
                "impression": f"Impression {number}.", "mask": f"masks/i{number:02}.png", "mask_label": "lung",
                "boxes": json.dumps([box]), "sex": "FM"[patient % 2], "age": str(40 + patient),
            }
        )  # fmt: skip
    return rows


def write_csv(root: Path, rows: list[dict[str, str]] | None = None, first: int = 0) -> Path:
    """The folder of `csv:DIR`; pictures are numbered from `first`."""
    rows = table() if rows is None else rows
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[8:40, 8:32] = 255
    for number, row in enumerate(rows, first):
        Image.fromarray(picture(number)).save(root / row["image"])
        Image.fromarray(mask).save(root / row["mask"])
    with (root / "records.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


def by_hand(root: Path, first: int = 0, name: str = "rows") -> Rows:
    """The same folder as rows that can be changed."""
    source = csv_folder.open_source(str(write_csv(root, first=first)), SourceOptions())
    return Rows(root=root, records=source.records, name=name)


def csv_source(root: Path) -> Source:
    return csv_folder.open_source(str(write_csv(root / "mine")), SourceOptions())


def chexpert_source(root: Path) -> Source:
    folder = test_chexpert.write(root / "CheXpert-v1.0-small")
    source = test_chexpert.opened(folder)
    for number, record in enumerate(source.records):
        Image.fromarray(picture(number)).save(folder / record.image, quality=95)
    return test_chexpert.opened(folder)


def replica(name: str, root: Path) -> Source:
    """A set in its official layout, opened as `--data NAME --data-root ROOT` does."""
    REPLICAS[name](root)
    return SOURCES.load(name)("", SourceOptions(root=root))


SETS: dict[str, Callable[[Path], Source]] = {
    "csv": csv_source, "chexpert, its pictures alone": chexpert_source, **{name: partial(replica, name) for name in REPLICAS},
}  # fmt: skip
