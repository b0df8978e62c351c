"""VinDr-CXR 1.0.0 as PhysioNet gives it: `--data vindr-cxr:DIR`.

    DIR/train/ID.dicom, DIR/test/ID.dicom      15,000 and 3,000 images, all PA
    DIR/annotations/image_labels_train.csv     image_id, rad_id and 28 columns of 0 and 1: a row for each of 3 radiologists
    DIR/annotations/annotations_train.csv      image_id, rad_id, class_name, x_min, y_min, x_max, y_max; none for "No finding"
    DIR/annotations/image_labels_test.csv, annotations_test.csv      the same without radiologists: a consensus of 5

Facts: https://physionet.org/content/vindr-cxr/1.0.0/ and Nguyen et al., Scientific Data 9, 429 (2022). 22 findings have boxes,
6 diagnoses have none. The test tables say "Other disease" where those of train say "Other diseases".

How three radiologists become one answer, which the set leaves open (CXR-CLIP takes a finding that any of them named):
* a label is 1 if more than half of those who answered say so, 0 if not, unknown if none answered;
* boxes of a finding that holds by that vote are united: going through them by radiologist and place, a box joins the box
  of other radiologists that it overlaps most, from an intersection over union of 0.5 on, and corners are averaged. A box that
  one radiologist alone drew stays.

Patients are not published: each image counts as one, and the flag "patients-unknown" says so. Test is the official one;
VAL_RULE sets about a fifth of train apart by a hash of the image's own id (BenchX: 12,000/3,000/3,000, by a list of its own).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.data.dicom import read_dicom, require_pydicom
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.layout import (
    Layout,
    draw,
    find_root,
    keep_where,
    list_files,
    partial_download,
    read_table,
    version_of,
)
from benchmark.errors import ImageError, UserError
from benchmark.types import Box, Record

FOLDERS = ("train", "test")
TABLES = {
    name: f"annotations/{name}.csv" for kind in ("image_labels", "annotations") for name in (f"{kind}_train", f"{kind}_test")
}
LAYOUT = Layout(
    name="vindr-cxr",
    title="VinDr-CXR 1.0.0",
    page="https://physionet.org/content/vindr-cxr/1.0.0/",
    files=(*TABLES.values(), *FOLDERS),
    folder="vindr-cxr/1.0.0",
)
BOX_CLASSES = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation", "Edema",
    "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst", "Mediastinal shift",
    "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture",
    "Other lesion",
)  # fmt: skip
NO_FINDING = "No finding"
CLASSES = (*BOX_CLASSES, "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", NO_FINDING)
KNOWN_COUNTS = {"images": 18_000, "official/train": 15_000, "official/test": 3_000, "images/test": 3_000}  # Nguyen et al. 2022
VAL_RULE = "vindr-cxr-val-fifth-0"
SAME = 0.5  # intersection over union from which two radiologists mean the same
_ALIASES = {"Other disease": "Other diseases"}
_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_ID = re.compile(r"[0-9A-Za-z]+")
_ANSWERS = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0, "": math.nan}
Reading = tuple[str, Box]  # radiologist, box


@dataclass(frozen=True, slots=True, kw_only=True)
class VinDrCxr:
    """The images on a disk, read as they are asked for. A `benchmark.types.Source`, made by `open_source`."""

    root: Path
    version: str
    records: tuple[Record, ...]
    name: str = LAYOUT.name
    classes: tuple[str, ...] = CLASSES
    mask_names: tuple[str, ...] = ()
    box_classes: tuple[str, ...] = BOX_CLASSES
    flags: tuple[str, ...] = ("patients-unknown",)
    known_counts: Mapping[str, int] = field(default_factory=dict)  # as layout.py says

    def image(self, record: Record) -> NDArray[np.uint8]:
        """(H, W) uint8. Raises ImageError."""
        return read_dicom(self.root / record.image, record.uid)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        """Raises ImageError: the set has no masks."""
        raise ImageError(record.uid, f"{LAYOUT.title} has no mask {name!r}; use its boxes")


def open_source(location: str, options: SourceOptions) -> VinDrCxr:
    """Reads and checks the tables and lists the folders; opens no image.

    An image that is not there keeps its record and is skipped and named when it is read.

    Args:
        location: the folder, as it follows `vindr-cxr:`.
        options: `where` keeps images by image_id or official_split (train or test).

    Raises:
        UserError: one sentence naming the file and the way out.
    """
    require_pydicom("--data vindr-cxr")
    root = find_root(LAYOUT, location, options)
    labels, boxes, rows = {}, {}, []
    listed, there = set[str](), set[str]()
    for folder in FOLDERS:
        found = _labels(root / TABLES[f"image_labels_{folder}"])
        both = next((uid for uid in found if uid in labels), None)
        if both is not None:
            raise UserError(
                f"image {both!r} is in the tables of train and of test of {root}; download both again from {LAYOUT.page}"
            )
        labels.update({uid: vote(answers) for uid, answers in found.items()})
        boxes.update(_boxes(root / TABLES[f"annotations_{folder}"], labels))
        rows += [{"image_id": uid, "official_split": folder} for uid in found]
        listed |= {f"{folder}/{uid}" for uid in found}
        names = list_files(root, folder, ".dicom")
        there |= {f"{folder}/{name}" for name in names}
        if names.isdisjoint(found):
            raise UserError(f"{root / folder} has none of the {len(found):,} images ID.dicom; download them from {LAYOUT.page}")
    rows = keep_where(rows, options.where, root / TABLES["image_labels_train"])
    return VinDrCxr(
        root=root,
        version=version_of(f"1.0.0-{VAL_RULE}", {name: root / path for name, path in TABLES.items()}, options),
        records=tuple(_record(row, labels[row["image_id"]], boxes.get(row["image_id"], ())) for row in rows),
        flags=("patients-unknown", *partial_download(map(_name, rows), listed, there)),
        known_counts={} if options.where else KNOWN_COUNTS,
    )


def vote(answers: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """(K,) of (radiologists, K): 1 where more than half of the answers are 1, 0 elsewhere, nan where there is none."""
    table = np.array(answers, np.float64)
    given = (~np.isnan(table)).sum(0)
    positive = (table == 1).sum(0)
    return tuple(np.where(given == 0, np.nan, (2 * positive > given).astype(np.float64)).tolist())


def unite(readings: Sequence[Reading]) -> tuple[Box, ...]:
    """Boxes of one finding in one image by several radiologists, as one answer; in whatever order they come."""
    groups: list[list[Reading]] = []
    for reader, box in sorted(readings, key=lambda item: (item[0], item[1].x0, item[1].y0, item[1].x1, item[1].y1)):
        open_to = [group for group in groups if all(other != reader for other, _ in group)]
        best = max(open_to, key=lambda group: _overlap(_mean(group), box), default=None)
        if best is not None and _overlap(_mean(best), box) >= SAME:
            best.append((reader, box))
        else:
            groups.append([(reader, box)])
    return tuple(_mean(group) for group in groups)


def _mean(group: Sequence[Reading]) -> Box:
    boxes = [box for _, box in group]
    corners = np.mean([(box.x0, box.y0, box.x1, box.y1) for box in boxes], axis=0).tolist()
    return Box(boxes[0].label, *corners)


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box.x1 - box.x0) * (box.y1 - box.y0) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def _reader(row: Mapping[str, str]) -> str:
    """The radiologist of a row, "" in the tables of test; the column is spelled rad_id or rad_ID."""
    return next((value for name, value in row.items() if name.lower() == "rad_id"), "")


def _labels(path: Path) -> dict[str, list[tuple[float, ...]]]:
    """Image -> (K,) answers of each radiologist. Raises UserError for another value, or a radiologist twice."""
    found: dict[str, list[tuple[float, ...]]] = {}
    seen: set[tuple[str, str]] = set()
    aliases = {name: alias for alias, name in _ALIASES.items()}
    for row in read_table(path, ("image_id",), LAYOUT):
        uid = row["image_id"]
        cells = [row.get(name, row.get(aliases.get(name, ""), "missing")) for name in CLASSES]
        strange = next((f"{name} {cell!r}" for name, cell in zip(CLASSES, cells) if cell not in _ANSWERS), None)
        if strange or not _ID.fullmatch(uid):
            raise UserError(
                f"{path} gives image {uid!r} {strange or 'a name that no file has'}, where {LAYOUT.title} has 0 or 1 in "
                f"{len(CLASSES)} columns; download it again from {LAYOUT.page}"
            )
        if (uid, _reader(row)) in seen:
            raise UserError(
                f"{path} has image {uid!r} twice by radiologist {_reader(row)!r}; download it again from {LAYOUT.page}"
            )
        seen.add((uid, _reader(row)))
        found.setdefault(uid, []).append(tuple(_ANSWERS[cell] for cell in cells))
    return found


def _boxes(path: Path, labels: Mapping[str, tuple[float, ...]]) -> dict[str, tuple[Box, ...]]:
    """Image -> its boxes, as the docstring of this file says."""
    readings: dict[tuple[str, str], list[Reading]] = {}
    for row in read_table(path, ("image_id", "class_name", *_CORNERS), LAYOUT):
        uid, label = row["image_id"], _ALIASES.get(row["class_name"], row["class_name"])
        if uid not in labels:
            raise UserError(
                f"{path} names image {uid!r}, which the table of labels lacks; download both again from {LAYOUT.page}"
            )
        if label == NO_FINDING:
            continue
        box = _box(row, label)
        if box is None:
            raise UserError(
                f"{path} gives image {uid!r} of {label!r} the corners {[row[name] for name in _CORNERS]}, no box of a known "
                f"finding; download it again from {LAYOUT.page}"
            )
        readings.setdefault((uid, label), []).append((_reader(row), box))
    found: dict[str, tuple[Box, ...]] = {}
    for (uid, label), items in readings.items():
        if labels[uid][CLASSES.index(label)] == 1:
            single = all(not reader for reader, _ in items)  # a consensus: its boxes are the answer
            found[uid] = found.get(uid, ()) + (tuple(box for _, box in items) if single else unite(items))
    return found


def _box(row: Mapping[str, str], label: str) -> Box | None:
    try:
        x0, y0, x1, y1 = (float(row[name]) for name in _CORNERS)
    except ValueError:
        return None
    good = label in BOX_CLASSES and 0 <= x0 < x1 < math.inf and 0 <= y0 < y1 < math.inf
    return Box(label, x0, y0, x1, y1) if good else None


def _name(row: Mapping[str, str]) -> str:
    """Folder and image."""
    return f"{row['official_split']}/{row['image_id']}"


def _record(row: Mapping[str, str], labels: tuple[float, ...], boxes: tuple[Box, ...]) -> Record:
    uid, folder = row["image_id"], row["official_split"]
    val = folder == "train" and draw(VAL_RULE, uid) < 1 / 5
    return Record(
        uid=uid,
        patient=uid,
        study=uid,
        split="val" if val else folder,
        image=f"{_name(row)}.dicom",
        view="PA",
        labels=labels,
        boxes=boxes,
        attributes={"official_split": folder},
    )
