"""NIH ChestX-ray14 as published: `--data nih:DIR`.

    DIR/Data_Entry_2017_v2020.csv     or Data_Entry_2017.csv, in which some ages are wrong (up to 414)
    DIR/train_val_list.txt, test_list.txt      86,524 and 25,596 file names, disjoint in patients
    DIR/BBox_List_2017.csv            984 boxes of 8 findings in 880 images; may be missing
    DIR/images/*.png                  or DIR/images_001/images/*.png to images_012: 112,120 images of 1024 x 1024 pixels

Facts: https://nihcc.app.box.com/v/ChestXray-NIHCC and Wang et al., CVPR 2017 (arXiv:1705.02315). 30,805 patients, 14 findings
read from reports by a program; "No Finding" stands where none of them was found. Images of this set are inside RSNA Pneumonia
and COVIDx.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.data.images import image_shape, read_image
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.box_masks import DRAWN, filled
from benchmark.data.sources.layout import Layout, draw, find_root, inside, keep_where, partial_download, read_table, version_of
from benchmark.errors import ImageError, UserError
from benchmark.types import Box, Record

LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}
LAYOUT = Layout(
    name="nih", title="NIH ChestX-ray14", page="https://nihcc.app.box.com/v/ChestXray-NIHCC", files=tuple(LISTS),
    folder="ChestX-ray14",
)  # fmt: skip
CLASSES = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia", "Infiltration",
    "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
BOX_CLASSES = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax")
NO_FINDING = "No Finding"
TABLES = {"v2020": "Data_Entry_2017_v2020.csv", "v2017": "Data_Entry_2017.csv"}  # the newer first
BOXES = "BBox_List_2017.csv"
SIZE = 1024  # pixels of a side; boxes refer to it
KNOWN_COUNTS = {  # Wang et al. 2017 and the lists; classes as others report them of the table, not counted here
    "images": 112_120, "patients": 30_805, "official/train_val": 86_524, "official/test": 25_596, "images/test": 25_596,
    "boxes": 984, "images with boxes": 880,
    "positive/Atelectasis": 11_559, "positive/Cardiomegaly": 2_776, "positive/Consolidation": 4_667, "positive/Edema": 2_303,
    "positive/Effusion": 13_317, "positive/Emphysema": 2_516, "positive/Fibrosis": 1_686, "positive/Hernia": 227,
    "positive/Infiltration": 19_894, "positive/Mass": 5_782, "positive/Nodule": 6_331, "positive/Pleural_Thickening": 3_385,
    "positive/Pneumonia": 1_431, "positive/Pneumothorax": 5_302,
}  # fmt: skip
OLDEST = 120  # years; more is a mistake of the table
VAL_RULE = "nih-val-eighth-0"  # the set has no val: an eighth of the patients of train_val_list.txt, by their own hash
COLUMNS = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "View Position")


@dataclass(frozen=True, slots=True, kw_only=True)
class Nih:
    """The images on a disk, read as they are asked for. A `benchmark.types.Source`, made by `open_source`."""

    root: Path
    version: str
    records: tuple[Record, ...]
    box_classes: tuple[str, ...]
    name: str = "nih"
    classes: tuple[str, ...] = CLASSES
    mask_names: tuple[str, ...] = ()  # where there are boxes, their classes
    masks_from_boxes: bool = True
    flags: tuple[str, ...] = ()
    known_counts: Mapping[str, int] = field(default_factory=dict)  # as layout.py says

    def image(self, record: Record) -> NDArray[np.uint8]:
        """(H, W) uint8. Raises ImageError."""
        return read_image(self.root / record.image, record.uid)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        """(H, W) uint8: 1 in any box of the class, 0 elsewhere. Raises ImageError."""
        if name not in record.masks:
            raise ImageError(record.uid, f"{LAYOUT.title} has no mask {name!r} of this image; use its boxes")
        return filled(record.boxes or (), name, image_shape(self.root / record.image, record.uid))


def open_source(location: str, options: SourceOptions) -> Nih:
    """Reads and checks the tables and lists the image folders; opens one image, to see that boxes refer to its size.

    An image that is not there keeps its record and is skipped and named when it is read.

    Args:
        location: the folder, as it follows `nih:`.
        options: `where` keeps rows of Data_Entry by their columns.

    Raises:
        UserError: one sentence naming the file and the way out.
    """
    root = find_root(LAYOUT, location, options)
    release, table = _table(root)
    rows = read_table(table, COLUMNS, LAYOUT)
    names = [row["Image Index"] for row in rows]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{table} has image {twice[0]!r} more than once; download it again from {LAYOUT.page}")
    splits = _splits(root)
    boxes = _boxes(root / BOXES, set(names))
    places = _places(root, names)
    rows = keep_where(rows, options.where, table)
    kept = [row["Image Index"] for row in rows]
    records = tuple(_record(row, splits, boxes, places, table) for row in rows)
    _check_size(root, boxes, places)
    tables = {path.name: path for path in (table, root / BOXES, *(root / name for name in LISTS)) if path.exists()}
    return Nih(
        root=root, version=version_of(f"{release}-{VAL_RULE}", tables, options), records=records,
        box_classes=BOX_CLASSES if boxes else (), mask_names=BOX_CLASSES if boxes else (),
        flags=partial_download(kept, names, places) or partial_download((), names, splits),
        known_counts={} if options.where else KNOWN_COUNTS,
    )  # fmt: skip


def _table(root: Path) -> tuple[str, Path]:
    """The newest release of the table that is there."""
    for release, name in TABLES.items():
        if (root / name).exists():
            return release, root / name
    raise UserError(f"{root} lacks {' and '.join(TABLES.values())}; download one of them from {LAYOUT.page}")


def _splits(root: Path) -> dict[str, str]:
    """Image name -> "train" | "test". Raises UserError for a list that cannot be read, or a name in both."""
    splits: dict[str, str] = {}
    for name, split in LISTS.items():
        try:
            lines = (root / name).read_text(encoding="utf-8-sig").split()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{root / name} cannot be read ({error}); download it again from {LAYOUT.page}") from error
        for line in lines:
            if splits.setdefault(line, split) != split:
                raise UserError(
                    f"{root / name} names {line!r}, which train_val_list.txt names too; download both again from {LAYOUT.page}"
                )
    return splits


def _boxes(path: Path, names: set[str]) -> dict[str, list[Box]]:
    """Image name -> its boxes; empty where the list is missing.

    The header `Bbox [x,y,w,h],,,` is cut at its commas into more columns than its rows have: cells are taken by their place.
    """
    if not path.exists():
        return {}
    try:
        table = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); download it again from {LAYOUT.page}") from error
    found: dict[str, list[Box]] = {}
    if not table or [cell.strip() for cell in table[0][:2]] != ["Image Index", "Finding Label"]:
        raise UserError(
            f"{path} does not begin with Image Index,Finding Label,Bbox [x,y,w,h]; download it again from {LAYOUT.page}"
        )
    for line, cells in enumerate(table[1:], 2):
        if any(cells):
            name, box = _box(cells, f"{path} line {line}")
            if name not in names:
                raise UserError(
                    f"{path} line {line} names {name!r}, which the table lacks; download both again from {LAYOUT.page}"
                )
            found.setdefault(name, []).append(box)
    return found


def _box(cells: list[str], where: str) -> tuple[str, Box]:
    values = [_number(cell) for cell in cells[2:6]]
    if len(values) < 4 or not all(map(math.isfinite, values)) or any(cells[6:]):
        raise UserError(f"{where} is not an image, a finding and four numbers; download it again from {LAYOUT.page}")
    label = {"Infiltrate": "Infiltration"}.get(cells[1].strip(), cells[1].strip())
    x, y, width, height = values
    if label not in BOX_CLASSES:
        raise UserError(
            f"{where} has the finding {label!r}, which is not one of {', '.join(BOX_CLASSES)}; "
            f"download it again from {LAYOUT.page}"
        )
    if min(x, y) < 0 or min(width, height) <= 0 or max(x + width, y + height) > SIZE:
        raise UserError(
            f"{where} has a box without area or outside {SIZE} x {SIZE} pixels; download it again from {LAYOUT.page}"
        )
    return cells[0].strip(), Box(label, x, y, x + width, y + height)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _places(root: Path, names: list[str]) -> dict[str, str]:
    """Image name -> POSIX path inside the root, of every PNG that is there.

    Raises:
        UserError: none is there, one is there twice, or a link leads out of the root.
    """
    places: dict[str, str] = {}
    for folder in ("images", *(f"images_{part:03}/images" for part in range(1, 13))):
        if not (root / folder).is_dir():
            continue
        inside(root, folder, "the layout")
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = inside(root, f"{folder}/{entry.name}", folder) if entry.is_symlink() else f"{folder}/{entry.name}"
                if entry.name.endswith(".png") and places.setdefault(entry.name, path) != path:
                    raise UserError(f"{root} has {path} and {places[entry.name]}; keep one copy of the images")
    if places.keys().isdisjoint(names):
        raise UserError(
            f"{root} has none of the {len(names)} images in images or images_001/images to images_012/images; unpack the "
            f"archives images_001.tar.gz to images_012.tar.gz of {LAYOUT.page} there"
        )
    return places


def _check_size(root: Path, boxes: Mapping[str, list[Box]], places: Mapping[str, str]) -> None:
    """Raises UserError where boxes refer to another size than that of the images, as in resized copies of the set."""
    name = next((name for name in boxes if name in places), None)
    if name is None:
        return
    try:
        height, width = image_shape(root / places[name], name)
    except ImageError:
        return  # named when it is read
    if (height, width) != (SIZE, SIZE):
        raise UserError(
            f"{root / places[name]} is {width} x {height} pixels, but {BOXES} refers to the published {SIZE} x {SIZE}; use the "
            f"images of {LAYOUT.page}, or move {BOXES} away"
        )


def _record(
    row: Mapping[str, str], splits: Mapping[str, str], boxes: Mapping[str, list[Box]], places: Mapping[str, str], table: Path
) -> Record:
    name, patient, age = row["Image Index"], row["Patient ID"], row["Patient Age"]
    if not re.fullmatch(r"[\w-]+\.png", name, re.ASCII):
        raise UserError(
            f"{table} names {name!r}, which is not a file name like 00000001_000.png; download it again from {LAYOUT.page}"
        )
    if name not in splits:
        raise UserError(f"{' and '.join(LISTS)} lack {name!r} of {table.name}; download them again from {LAYOUT.page}")
    findings = set(row["Finding Labels"].split("|"))
    strange = sorted(findings - set(CLASSES) - {NO_FINDING})
    if strange or (NO_FINDING in findings and len(findings) > 1):
        raise UserError(f"{table} has the findings {row['Finding Labels']!r} for {name}; download it again from {LAYOUT.page}")
    outlined = {box.label for box in boxes.get(name, ())}
    known = age.isdecimal() and int(age) <= OLDEST
    sex, view = row.get("Patient Sex", row.get("Patient Gender", "")), row["View Position"]
    official = "train_val" if splits[name] == "train" else "test"
    attributes = {"official_split": official, "view": view, "sex": sex, "age": age, "follow_up": row["Follow-up #"]}
    return Record(
        uid=name.removesuffix(".png"),
        patient=patient,
        study=name.removesuffix(".png"),
        split="val" if splits[name] == "train" and _is_val(patient) else splits[name],
        image=places.get(name, f"images/{name}"),
        view=view if view in ("PA", "AP") else "",
        labels=tuple(float(label in findings) for label in CLASSES),
        boxes=tuple(boxes[name]) if name in boxes else None,
        # a finding that is there and has no box is unknown, not empty
        masks={label: DRAWN for label in BOX_CLASSES if outlined and (label in outlined or label not in findings)},
        age=float(age) if known else None,
        sex=sex if sex in ("F", "M") else "",
        attributes={column: value for column, value in attributes.items() if value} | ({} if known else {"age_unknown": "yes"}),
    )


def _is_val(patient: str) -> bool:
    return draw(VAL_RULE, patient) < 1 / 8
