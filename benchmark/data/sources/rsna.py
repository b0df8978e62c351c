"""RSNA Pneumonia Detection Challenge (stage 2), as Kaggle gives it: `--data rsna:DIR`.

Layout and counts: stage_2_train_images/ID.dcm, stage_2_train_labels.csv (one row a box, or one row without a box),
stage_2_detailed_class_info.csv; 26,684 images of 1024 x 1024, 6,012 with pneumonia, 9,555 boxes. The column patientId names an
image: the pictures are of NIH ChestX-ray14, several of a patient. Who the patient is stands in the mapping that RSNA publishes
(pneumonia-challenge-dataset-mappings_2018.json: subset_img_id, img_id); where that file lies in the folder, patients are NIH's,
otherwise each image stands for itself and the flag "patients-unknown" says so. The images of the challenge's test have no
labels and are not read.

There is no official split: RULE is about 60/20/20 by a hash of the patient's own id (the fractions of LoVT). Papers drew their
own, by image: `--split`, docs/splits.md.

A mask is the union of the filled boxes, as MGCA and LoVT make it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.data.dicom import dicom_shape, read_dicom, require_pydicom
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.box_masks import DRAWN, filled
from benchmark.data.sources.layout import Layout, find_root, keep_where, list_files, partial_download, read_table, version_of
from benchmark.errors import ImageError, UserError
from benchmark.types import Box, Record, digest

IMAGES, LABELS, CLASSES = "stage_2_train_images", "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
LAYOUT = Layout(
    name="rsna",
    title="the RSNA Pneumonia Detection Challenge",
    page="https://www.kaggle.com/c/rsna-pneumonia-detection-challenge",
    files=(LABELS, CLASSES, IMAGES),
    folder="rsna-pneumonia-detection-challenge",
)
RULE = "rsna-patient-60-20-20-0"
FINDING = "Pneumonia"
KNOWN_COUNTS = {  # of stage 2; by LoVT's split: 16,010 + 5,337 + 5,337 images, 3,584 + 1,210 + 1,218 positive ones
    "images": 26_684, "positive/Pneumonia": 6_012, "boxes": 9_555, "images with boxes": 6_012,
}  # fmt: skip
_KINDS = ("Lung Opacity", "No Lung Opacity / Not Normal", "Normal")  # the first: images with boxes
_CORNER = ("x", "y", "width", "height")
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]*")
_NIH = re.compile(r"(\d{8})_\d{3}\.png")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rsna:
    """The images on a disk, read as they are asked for. A `benchmark.types.Source`, made by `open_source`."""

    root: Path
    version: str
    flags: tuple[str, ...]
    records: tuple[Record, ...]
    name: str = LAYOUT.name
    classes: tuple[str, ...] = (FINDING,)
    mask_names: tuple[str, ...] = (FINDING,)
    box_classes: tuple[str, ...] = (FINDING,)
    known_counts: Mapping[str, int] = field(default_factory=dict)  # as layout.py says

    def image(self, record: Record) -> NDArray[np.uint8]:
        """(H, W) uint8. Raises ImageError."""
        return read_dicom(self.root / record.image, record.uid)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        """(H, W) uint8: 1 in any box, 0 elsewhere. Raises ImageError."""
        if name not in record.masks:
            raise ImageError(record.uid, f"{LAYOUT.title} has no mask {name!r}; use {FINDING}")
        return filled(record.boxes or (), name, dicom_shape(self.root / record.image, record.uid))


def open_source(location: str, options: SourceOptions) -> Rsna:
    """Reads and checks the tables and lists the images; opens none.

    An image that is not there keeps its record and is skipped and named when it is read.

    Args:
        location: the folder, as it follows `rsna:`.
        options: `where` keeps images by patientId, Target (0 or 1) or class (of the detailed table).

    Raises:
        UserError: one sentence naming the file and the way out.
    """
    require_pydicom("--data rsna")
    root = find_root(LAYOUT, location, options)
    rows, boxes = _labels(root / LABELS)
    _add_kinds(root / CLASSES, rows)
    found = _files(root, rows)
    mapping = root / MAPPING
    patients = _patients(mapping, rows) if mapping.is_file() else {}
    records = []
    kept = keep_where(list(rows.values()), options.where, root / LABELS)
    for row in kept:
        uid = row["patientId"]
        patient = patients.get(uid, uid)
        records.append(_record(row, boxes[uid], patient, split_of_patient(patient)))
    tables = {name: root / name for name in (LABELS, CLASSES, *([MAPPING] if patients else []))}
    return Rsna(
        root=root,
        version=version_of(f"stage2-{RULE}", tables, options),
        flags=(
            *(() if patients else ("patients-unknown",)),
            *partial_download((row["patientId"] for row in kept), rows, found),
        ),
        records=tuple(records),
        known_counts={} if options.where else KNOWN_COUNTS,
    )


def split_of_patient(patient: str) -> str:
    """The split of a patient, which depends on the patient alone, so that no other row moves it."""
    place = int(digest([RULE, patient], 8), 16) / 2**32
    return "test" if place < 0.2 else "val" if place < 0.4 else "train"


def _labels(path: Path) -> tuple[dict[str, dict[str, str]], dict[str, tuple[Box, ...]]]:
    """Image -> {patientId, Target} and image -> boxes, of the rows of all boxes."""
    rows: dict[str, dict[str, str]] = {}
    boxes: dict[str, tuple[Box, ...]] = {}
    for row in read_table(path, ("patientId", *_CORNER, "Target"), LAYOUT):
        uid, target = row["patientId"], row["Target"]
        if not _ID.fullmatch(uid) or target not in ("0", "1"):
            raise UserError(f"{path} has patientId {uid!r} with Target {target!r}; download it again from {LAYOUT.page}")
        if rows.setdefault(uid, {"patientId": uid, "Target": target})["Target"] != target:
            raise UserError(f"{path} gives image {uid!r} Target 0 and 1; download it again from {LAYOUT.page}")
        boxes[uid] = boxes.get(uid, ()) + _box(row, path)
    return rows, boxes


def _box(row: Mapping[str, str], path: Path) -> tuple[Box, ...]:
    """The box of a row in pixels, if its Target is 1. Raises UserError for one without numbers or area, or beyond the edge."""
    cells = [row[name] for name in _CORNER]
    if row["Target"] == "0" and not any(cells):
        return ()
    try:
        x, y, width, height = map(float, cells)
    except ValueError:
        x = y = width = height = math.nan
    if row["Target"] == "0" or not (x >= 0 and y >= 0 and width > 0 and height > 0 and x + width + y + height < math.inf):
        raise UserError(
            f"{path} gives image {row['patientId']!r} of Target {row['Target']} the box {cells}, where {LAYOUT.title} has "
            f"x, y, width, height in pixels for Target 1 alone; download it again from {LAYOUT.page}"
        )
    return (Box(FINDING, x, y, x + width, y + height),)


def _add_kinds(path: Path, rows: dict[str, dict[str, str]]) -> None:
    """Adds the class of the detailed table to each row. Raises UserError where the tables do not agree."""
    for row in read_table(path, ("patientId", "class"), LAYOUT):
        uid, kind = row["patientId"], row["class"]
        if uid not in rows:
            raise UserError(f"{path} names image {uid!r}, which {LABELS} lacks; download both again from {LAYOUT.page}")
        if kind not in _KINDS or rows[uid].setdefault("class", kind) != kind:
            raise UserError(
                f"{path} gives image {uid!r} the class {kind!r}, unknown or a second one; download it again from {LAYOUT.page}"
            )
        if (kind == _KINDS[0]) != (rows[uid]["Target"] == "1"):
            raise UserError(f"{path} gives image {uid!r} the class {kind!r} and {LABELS} Target {rows[uid]['Target']}; "
                            f"download both again from {LAYOUT.page}")  # fmt: skip
    missing = next((uid for uid, row in rows.items() if "class" not in row), None)
    if missing is not None:
        raise UserError(f"{path} lacks image {missing!r}, which {LABELS} has; download both again from {LAYOUT.page}")


def _files(root: Path, rows: Mapping[str, object]) -> frozenset[str]:
    """The images that are there. Raises UserError if none of the table is, or a link leads out of the folder."""
    found = list_files(root, IMAGES, ".dcm")
    if found.isdisjoint(rows):
        raise UserError(
            f"{root / IMAGES} has none of the {len(rows):,} images of {LABELS}; unpack {IMAGES}.zip of {LAYOUT.page} there"
        )
    return found


def _patients(path: Path, rows: Mapping[str, object]) -> dict[str, str]:
    """Image -> NIH's patient number. Raises UserError for another format, or an image without a patient."""
    try:
        items = json.loads(path.read_text(encoding="utf-8-sig"))
        found = {str(item["subset_img_id"]): _NIH.fullmatch(str(item["img_id"])) for item in items}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is not the list of subset_img_id and img_id that RSNA publishes ({type(error).__name__}); download it "
            "again or take it away"
        ) from error
    patients = {uid: match[1] for uid, match in found.items() if match and uid in rows}
    missing = next((uid for uid in rows if uid not in patients), None)
    if missing is not None:
        raise UserError(f"{path} gives image {missing!r} no NIH file NUMBER_NUMBER.png; download it again or take it away")
    return patients


def _record(row: Mapping[str, str], boxes: tuple[Box, ...], patient: str, split: str) -> Record:
    uid = row["patientId"]
    return Record(
        uid=uid,
        patient=patient,
        study=uid,
        split=split,
        image=f"{IMAGES}/{uid}.dcm",
        view="FRONTAL",  # PA or AP; which of them stands in the DICOM header
        labels=(float(row["Target"]),),
        boxes=boxes,
        masks={FINDING: DRAWN},
        attributes={"class": row["class"]},
    )
