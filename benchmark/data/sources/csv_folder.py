"""A folder with a records.csv in the documented format (docs/own-data.md): `--data csv:DIR`."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from benchmark.data.images import image_shape, read_image, read_mask
from benchmark.data.sources import SourceOptions
from benchmark.errors import UserError
from benchmark.registry import unknown
from benchmark.types import SPLITS, Box, Record, digest

REQUIRED = ("id", "patient_id", "split", "image")
SECTIONS = {"findings": "findings", "impression": "impression", "report_text": "report"}  # column -> section
ATTRIBUTES = ("source", "view", "sex", "age")
VIEWS = ("", "PA", "AP", "FRONTAL", "LATERAL", "OTHER")
SEXES = {"f": "F", "female": "F", "m": "M", "male": "M"}
NAME = "records.csv"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. number: as a spreadsheet counts, the header being row 1."""

    number: int
    cells: Mapping[str, str]

    def get(self, column: str) -> str:
        """The cell without surrounding space, empty where the column is missing."""
        return self.cells.get(column, "").strip()

    def refuse(self, problem: str) -> NoReturn:
        """Raises UserError that names this row."""
        raise UserError(f"{NAME} row {self.number} (id {self.get('id')!r}): {problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvFolder:
    """A checked records.csv and the images beside it. A `benchmark.types.Source`, made by `open_source`."""

    root: Path
    name: str
    version: str
    classes: tuple[str, ...]
    mask_names: tuple[str, ...]
    box_classes: tuple[str, ...]
    records: tuple[Record, ...]
    flags: tuple[str, ...] = ("own-data",)

    def image(self, record: Record) -> NDArray[np.uint8]:
        """(H, W) uint8. Raises ImageError."""
        return read_image(self.root / record.image, record.uid)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        """(H, W) uint8 of the image's size: 0 background, 1 structure, 255 ignore. Raises ImageError."""
        shape = image_shape(self.root / record.image, record.uid)
        return read_mask(self.root / record.masks[name], record.uid, shape)


def open_source(location: str, options: SourceOptions) -> CsvFolder:
    """Reads and checks DIR/records.csv; opens no image.

    The version covers the bytes of records.csv, the filter, and size and modification time of every image and mask kept.

    Args:
        location: the folder, as it follows `csv:`.
        options: `where` keeps rows in which every named column has the given value.

    Raises:
        UserError: one sentence naming the row, column or file and the way out.
    """
    root = _find(location)
    raw = _read(root / NAME)
    rows = _filter(_parse(raw), options.where)
    _check_identity(rows)
    files = {path for row in rows for path in (row.get("image"), row.get("mask")) if path}
    stamps = _stamps(root, rows, files)
    classes = tuple(sorted({name for row in rows for name in _names(row)}))
    records = tuple(_record(row, classes) for row in rows)
    return CsvFolder(
        root=root,
        name=f"csv:{root.name}",
        version=digest([sha256(raw).hexdigest(), sorted(options.where), sorted(stamps.items())]),
        classes=classes,
        mask_names=tuple(sorted({name for record in records for name in record.masks})),
        box_classes=tuple(sorted({box.label for record in records for box in record.boxes or ()})),
        records=records,
    )


def _find(location: str) -> Path:
    if not location:
        raise UserError("--data csv needs the folder that holds records.csv; write --data csv:DIR")
    root = Path(os.path.abspath(Path(location).expanduser()))
    if root.is_file():
        raise UserError(f"--data csv:{location} is a file; name the folder that holds {NAME}, for example csv:{root.parent}")
    if not root.is_dir():
        raise UserError(f"--data csv:{location}: there is no folder {root}; check the path")
    try:
        children = sorted(root.iterdir())
        near = [folder for folder in (*children, root.parent) if folder.is_dir() and (folder / NAME).is_file()]
    except OSError as error:
        raise UserError(f"folder {root} cannot be read ({error.strerror}); check its permissions") from error
    if (root / NAME).is_file():
        return root
    if not children:
        raise UserError(f"folder {root} is empty; put {NAME} and the images there (docs/own-data.md has the format)")
    if near:
        raise UserError(f"folder {root} has no {NAME}, but {near[0]} has one; use --data csv:{near[0]}")
    raise UserError(f"folder {root} has no {NAME}; write one as docs/own-data.md says")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions") from error


def _parse(raw: bytes) -> list[Row]:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{NAME} is not UTF-8 (byte {error.start}); save it as 'CSV UTF-8'") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        table = [(number, cells) for number, cells in enumerate(reader, 1) if any(cells)]
    except csv.Error as error:
        raise UserError(f"{NAME} line {reader.line_num} is not valid CSV ({error}); check its quotes") from error
    if not table:
        raise UserError(f"{NAME} is empty; write a header and rows as docs/own-data.md says")
    header = [name.strip() for name in table[0][1]]
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        hint = "; it looks separated by ';' or tabs, use commas" if len(header) == 1 and re.search("[;\t]", header[0]) else ""
        raise UserError(f"{NAME} lacks the columns {', '.join(missing)}; add them, see docs/own-data.md{hint}")
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise UserError(f"{NAME} has the column {twice[0]!r} more than once; rename one")
    for number, cells in table[1:]:
        if len(cells) != len(header):
            raise UserError(
                f"{NAME} row {number} has {len(cells)} cells and the header {len(header)}; put quotes around texts with commas"
            )
    if len(table) == 1:
        raise UserError(f"{NAME} has a header and no rows; add a row for each image")
    return [Row(number, dict(zip(header, cells))) for number, cells in table[1:]]


def _filter(rows: list[Row], where: Iterable[tuple[str, str]]) -> list[Row]:
    for column, value in where:
        if column not in rows[0].cells:
            raise unknown(f"column in --where (of {NAME})", column, list(rows[0].cells))
        kept = [row for row in rows if row.get(column) == value]
        if not kept:
            there = sorted({row.get(column) for row in rows})
            shown = ", ".join(repr(item) for item in there[:5]) + (", ..." if len(there) > 5 else "")
            raise UserError(f"--where {column}={value} leaves no row; values of {column!r} are {shown}")
        rows = kept
    return rows


def _check_identity(rows: list[Row]) -> None:
    """Ids unique; each patient in one split; each study of one patient."""
    first: dict[str, int] = {}
    splits: dict[str, Row] = {}
    studies: dict[str, Row] = {}
    for row in rows:
        for column in REQUIRED:
            if not row.get(column):
                row.refuse(f"column {column!r} is empty; fill it or leave the row out")
        uid, patient, split = row.get("id"), row.get("patient_id"), row.get("split")
        if split not in SPLITS:
            row.refuse(f"split {split!r} is not one of train, val, test; correct it")
        if first.setdefault(uid, row.number) != row.number:
            row.refuse(f"row {first[uid]} has the same id; make ids unique")
        other = splits.setdefault(patient, row)
        if other.get("split") != split:
            row.refuse(f"patient {patient!r} is in {split} here and in {other.get('split')} in row {other.number}; "
                       "give all images of a patient the same split")  # fmt: skip
        study = row.get("study_id")
        if study and studies.setdefault(study, row).get("patient_id") != patient:
            row.refuse(f"study {study!r} is of patient {studies[study].get('patient_id')!r} in row {studies[study].number}; "
                       "make study ids unique over patients")  # fmt: skip


def _stamps(root: Path, rows: list[Row], files: Iterable[str]) -> dict[str, tuple[int, int] | None]:
    """File -> (bytes, modification time in ns), None where it is missing; raises UserError if all images are."""
    real_root = os.path.realpath(root)
    folders: dict[str, str] = {}
    stamps: dict[str, tuple[int, int] | None] = {}
    for file in files:
        stamps[file] = _stamp(root, real_root, file, folders)
    missing = [row for row in rows if stamps[row.get("image")] is None]
    if len(missing) == len(rows):
        missing[0].refuse(f"image {missing[0].get('image')!r} is not in {root}, and none of the {len(rows)} images is; "
                          f"put them there or correct the column 'image'")  # fmt: skip
    return stamps


def _stamp(root: Path, real_root: str, file: str, folders: dict[str, str]) -> tuple[int, int] | None:
    pure = PurePosixPath(file)
    if pure.is_absolute() or ".." in pure.parts or "\\" in file or "\0" in file or re.match("[A-Za-z]:", file):
        raise UserError(f"{NAME} names {file!r}; write paths inside the folder, with '/' and without '..'")
    path = root / pure
    folder = str(path.parent)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    real = os.path.realpath(path) if path.is_symlink() else os.path.join(folders[folder], path.name)
    if os.path.commonpath((real_root, real)) != real_root:
        raise UserError(f"{NAME} names {file!r}, a link that leads out of {root}; copy the file into the folder")
    try:
        status = os.stat(real)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _record(row: Row, classes: tuple[str, ...]) -> Record:
    view = row.get("view").upper()
    if view not in VIEWS:
        row.refuse(f"view {row.get('view')!r} is not one of PA, AP, frontal, lateral, other; leave it empty if it is unknown")
    names = _names(row)
    sections = {section: row.get(column).replace("\r\n", "\n") for column, section in SECTIONS.items()}
    attributes = {column: row.get(column) for column in ATTRIBUTES}
    mask = row.get("mask")
    return Record(
        uid=row.get("id"),
        patient=row.get("patient_id"),
        study=row.get("study_id") or row.get("id"),
        split=row.get("split"),
        image=row.get("image"),
        view=view,
        sections={section: text for section, text in sections.items() if text},
        labels=tuple(float(name in names) if names else math.nan for name in classes),
        boxes=_boxes(row),
        masks={row.get("mask_label") or "mask": mask} if mask else {},
        age=_number(row, "age"),
        sex=SEXES.get(row.get("sex").lower(), ""),
        attributes={column: value for column, value in attributes.items() if value},
    )


def _names(row: Row) -> frozenset[str]:
    return frozenset(name.strip() for name in row.get("labels").split(";") if name.strip())


def _number(row: Row, column: str) -> float | None:
    text = row.get(column)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        row.refuse(f"{column} {text!r} is not a number; correct it or leave it empty")
    return value


def _boxes(row: Row) -> tuple[Box, ...] | None:
    text = row.get("boxes")
    if not text:
        return None
    try:
        items = json.loads(text)
        if not isinstance(items, list):
            row.refuse('boxes are not a list; write [{"label": ..., "x": ..., "y": ..., "w": ..., "h": ...}]')
        return tuple(_box(row, item) for item in items)
    except (ValueError, OverflowError, RecursionError) as error:
        row.refuse(f"boxes are not JSON ({error}); write a list of {{label, x, y, w, h}}")


def _box(row: Row, item: Any) -> Box:
    if not isinstance(item, dict) or not isinstance(item.get("label"), str) or not item["label"].strip():
        row.refuse(f"box {item!r} has no label; write {{label, x, y, w, h}}")
    values = [float(item[key]) for key in "xywh" if type(item.get(key)) in (int, float) and math.isfinite(item[key])]
    if len(values) != 4:
        row.refuse(f"box {item!r} lacks a number among x, y, w, h; write all four in pixels")
    x, y, width, height = values
    if width <= 0 or height <= 0:
        row.refuse(f"box {item!r} has no area; give w and h above 0, or leave it out")
    image_width, image_height = _number(row, "width"), _number(row, "height")
    if x < 0 or y < 0 or (image_width and x + width > image_width) or (image_height and y + height > image_height):
        row.refuse(f"box {item!r} leaves the image of {row.get('width')} x {row.get('height')} pixels; clip it")
    return Box(item["label"].strip(), x, y, x + width, y + height)
