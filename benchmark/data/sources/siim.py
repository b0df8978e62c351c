"""SIIM-ACR Pneumothorax Segmentation, as Kaggle gave it: `--data siim:DIR`.

    DIR/dicom-images-train/STUDY/SERIES/IMAGE.dcm      1024 x 1024 pixels, JPEG, MONOCHROME2
    DIR/train-rle.csv      ImageId, " EncodedPixels" (with that space); several rows an image, " -1" for no pneumothorax

12,047 annotated images, 2,669 with pneumothorax. Runs are pairs "start length" down the columns, and each start counts from
the end of the run before (the challenge's mask_functions.py); the rows of an image are united. Images without a row are not
annotated and left out, as are those of dicom-images-test. An image that the table names and the folder lacks keeps its record
and is skipped and named when it is read.

The images are of NIH ChestX-ray14, and nobody published which: each image counts as a patient, and the flag
"patients-unknown" says so. RULE is about 60/20/20 by a hash of the image's own id (the fractions of LoVT, whose lists lie in
its repository). MGCA and GLoRIA draw rows of the table, by which an image can be in two splits; PRIOR's folds are not public.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.data.dicom import dicom_shape, read_dicom, require_pydicom
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.layout import Layout, draw, find_root, inside, keep_where, partial_download, read_table, version_of
from benchmark.errors import ImageError, UserError
from benchmark.types import Record, digest

IMAGES, TABLE = "dicom-images-train", "train-rle.csv"
LAYOUT = Layout(
    name="siim",
    title="the SIIM-ACR Pneumothorax Segmentation challenge",
    page="https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation",
    files=(TABLE, IMAGES),
    folder="siim-acr-pneumothorax-segmentation",
)
RULE = "siim-image-60-20-20-0"
FINDING = "Pneumothorax"
# By LoVT's split, 7,229 + 2,409 + 2,409 images; of the positive ones PRIOR's author, issue #12 of HKU-MedAI/PRIOR.
KNOWN_COUNTS = {"images": 12_047, "positive/Pneumothorax": 2_669}
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]*")
_RUNS = re.compile(r"\d{1,9} \d{1,9}(?: \d{1,9} \d{1,9})*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Siim:
    """The images on a disk, read as they are asked for. A `benchmark.types.Source`, made by `open_source`.

    runs: image -> the text of each of its rows, () for no pneumothorax. Masks are decoded when they are asked for.
    """

    root: Path
    version: str
    records: tuple[Record, ...]
    runs: dict[str, tuple[str, ...]] = field(repr=False)
    name: str = LAYOUT.name
    classes: tuple[str, ...] = (FINDING,)
    mask_names: tuple[str, ...] = (FINDING,)
    box_classes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ("patients-unknown",)
    known_counts: Mapping[str, int] = field(default_factory=dict)  # as layout.py says

    def image(self, record: Record) -> NDArray[np.uint8]:
        """(H, W) uint8. Raises ImageError."""
        return read_dicom(self.root / record.image, record.uid)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        """(H, W) uint8: 1 pneumothorax, 0 elsewhere. Raises ImageError, also for runs that leave the image."""
        if name not in record.masks:
            raise ImageError(record.uid, f"{LAYOUT.title} has no mask {name!r}; use {FINDING}")
        height, width = dicom_shape(self.root / record.image, record.uid)
        united = np.zeros((height, width), np.uint8)
        for text in self.runs[record.uid]:
            try:
                united |= decode_runs(text, height, width)
            except ValueError as error:
                raise ImageError(record.uid, f"{TABLE} has {error}; download it again from {LAYOUT.page}") from error
        return united


def open_source(location: str, options: SourceOptions) -> Siim:
    """Reads and checks the table and lists the folders; opens no image and decodes no mask.

    Args:
        location: the folder, as it follows `siim:`.
        options: `where` keeps images by ImageId or positive (0 or 1).

    Raises:
        UserError: one sentence naming the file and the way out.
    """
    require_pydicom("--data siim")
    root = find_root(LAYOUT, location, options)
    runs = _runs(root / TABLE)
    places = _places(root)
    if not any(uid in places for uid in runs):
        raise UserError(f"{root / IMAGES} has none of the {len(runs):,} images of {TABLE}; unpack those of {LAYOUT.page} there")
    rows = [{"ImageId": uid, "positive": str(int(bool(texts)))} for uid, texts in runs.items()]
    rows = keep_where(rows, options.where, root / TABLE)
    return Siim(
        root=root,
        version=version_of(RULE, {TABLE: root / TABLE}, options),
        records=tuple(_record(row["ImageId"], runs[row["ImageId"]], places) for row in rows),
        runs=runs,
        flags=("patients-unknown", *partial_download((row["ImageId"] for row in rows), places, places)),
        known_counts={} if options.where else KNOWN_COUNTS,
    )


def decode_runs(text: str, height: int, width: int) -> NDArray[np.uint8]:
    """The mask of one row of the table.

    Args:
        text: "start length start length ...", starts from the end of the run before, from 0, down the columns.
        height: of the image in pixels.
        width: of the image in pixels.

    Returns:
        (H, W) uint8: 1 inside, 0 outside.

    Raises:
        ValueError: the runs end outside the image.
    """
    pairs = np.array(text.split(), np.int64).reshape(-1, 2)
    ends = pairs.sum(1).cumsum()
    if len(ends) and ends[-1] > height * width:
        raise ValueError(f"runs that end at pixel {ends[-1]:,} of an image of {height * width:,}")
    flat = np.zeros(height * width, np.uint8)
    for end, length in zip(ends.tolist(), pairs[:, 1].tolist()):
        flat[end - length : end] = 1
    return np.ascontiguousarray(flat.reshape(width, height).T)


def _runs(path: Path) -> dict[str, tuple[str, ...]]:
    """Image -> texts of its rows. Raises UserError for runs that are none, or an image that has some and " -1" as well."""
    found: dict[str, list[str]] = {}
    for row in read_table(path, ("ImageId", "EncodedPixels"), LAYOUT):
        uid, text = row["ImageId"], " ".join(row["EncodedPixels"].split())
        if not _ID.fullmatch(uid):
            raise UserError(f"{path} names image {uid!r}, which is no name of a file; download it again from {LAYOUT.page}")
        if text != "-1" and not _RUNS.fullmatch(text):
            raise UserError(
                f"{path} gives image {uid!r} the runs {text[:40]!r}, where pairs of start and length or -1 belong; download it "
                f"again from {LAYOUT.page}"
            )
        found.setdefault(uid, []).append(text)
    for uid, texts in found.items():
        if "-1" in texts and set(texts) != {"-1"}:
            raise UserError(f"{path} gives image {uid!r} runs and -1; download it again from {LAYOUT.page}")
    return {uid: tuple(text for text in texts if text != "-1") for uid, texts in found.items()}


def _places(root: Path) -> dict[str, str]:
    """Image -> its path inside the root. Linked folders are not entered, so that a circle of them ends.

    Raises:
        UserError: two files of one image, or a file that is a link out of the root.
    """
    inside(root, IMAGES, str(root))
    places: dict[str, str] = {}
    for folder, folders, files in os.walk(root / IMAGES):
        folders.sort()
        for name in files:
            if not name.endswith(".dcm"):
                continue
            path = (Path(folder) / name).relative_to(root).as_posix()
            if places.setdefault(name.removesuffix(".dcm"), path) != path:
                other = places[name.removesuffix(".dcm")]
                raise UserError(f"{root} has {path} and {other}, two files of one image; keep one of them")
            if os.path.islink(root / path):
                inside(root, path, str(root / IMAGES))
    return places


def _record(uid: str, texts: tuple[str, ...], places: dict[str, str]) -> Record:
    path = places.get(uid, f"{IMAGES}/{uid}.dcm")
    place = draw(RULE, uid)
    return Record(
        uid=uid,
        patient=uid,
        study=uid,
        split="test" if place < 0.2 else "val" if place < 0.4 else "train",
        image=path,
        view="FRONTAL",  # PA or AP; which of them stands in the DICOM header
        labels=(float(bool(texts)),),
        masks={FINDING: f"runs:{digest(list(texts), 8)}" if texts else "empty"},
    )
