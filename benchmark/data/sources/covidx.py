"""COVIDx CXR, as published: `--data covidx:DIR`, or `covidx:DIR/train_NAME.txt` where a folder has several lists.

    DIR/train.txt, test.txt, val.txt       lists of Kaggle's releases: positive, negative; val since CXR-4
    DIR/train_COVIDx9A.txt, test_...       or lists of the COVID-Net repository: A normal, pneumonia, COVID-19; B as above
    DIR/train/, test/, val/                images, PNG and JPEG

A line is "PATIENT FILE CLASS SOURCE" (older ones lack SOURCE), with spaces between and no header: the first line is an image.
Some lines stand twice. CXR-3 has 29,986 and 400 images, its A lists 29,634 and 400, CXR-4 84,818 in all. Facts: docs/COVIDx.md
of https://github.com/lindawangg/COVID-Net, arXiv:2206.03671, arXiv:2311.17677. Images come from other sets, RSNA Pneumonia (and
so NIH ChestX-ray14) among them. Patient numbers of different sources are different patients.
For images of RSNA the lists repeat the name of the file as the patient: then the flag "patients-unknown" stands.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from benchmark.data.images import read_image
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.layout import Layout, draw, find_root, keep_where, list_files, partial_download, version_of
from benchmark.errors import ImageError, UserError
from benchmark.types import SPLITS, Record

LAYOUT = Layout(
    name="covidx", title="COVIDx CXR", page="https://www.kaggle.com/datasets/andyczhao/covidx-cxr2", files=("train", "test"),
    folder="covidx-cxr2",
)  # fmt: skip
COVID = "COVID-19"
CLASSES: dict[tuple[str, ...], dict[str, tuple[float, ...]]] = {  # classes of a set of words: what each word means
    (COVID,): {"positive": (1.0,), "negative": (0.0,)},
    ("Normal", "Pneumonia", COVID): {"normal": (1.0, 0.0, 0.0), "pneumonia": (0.0, 1.0, 0.0), COVID: (0.0, 0.0, 1.0)},
}
KNOWN_COUNTS = {"CXR-2-3": {"images/test": 400}, "COVIDx9A": {"images/test": 400}}  # more would count lines that stand twice
VAL_RULE = "covidx-val-tenth-0"  # where a release has no val: a tenth of the patients of train, by their own hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Covidx:
    """The images on a disk, read as they are asked for. A `benchmark.types.Source`, made by `open_source`."""

    root: Path
    version: str
    records: tuple[Record, ...]
    classes: tuple[str, ...]
    name: str = "covidx"
    mask_names: tuple[str, ...] = ()
    box_classes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    known_counts: Mapping[str, int] = field(default_factory=dict)  # as layout.py says

    def image(self, record: Record) -> NDArray[np.uint8]:
        """(H, W) uint8. Raises ImageError."""
        return read_image(self.root / record.image, record.uid)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        """Raises ImageError: the set has no masks."""
        raise ImageError(record.uid, f"{LAYOUT.title} has no mask {name!r}; use another set")


def open_source(location: str, options: SourceOptions) -> Covidx:
    """Reads and checks the lists; opens no image. A missing image is skipped and named when it is read.

    Args:
        location: the folder, or a train list in it, as it follows `covidx:`.
        options: `where` keeps lines by patient, filename, class, source or list.

    Raises:
        UserError: one sentence naming the list and the way out.
    """
    chosen = Path(location).name if location.endswith(".txt") else ""
    root = find_root(LAYOUT, str(Path(location).parent) if chosen else location, options)
    release, lists = _lists(root, chosen)
    rows = [row for split, path in lists.items() for row in read_list(path, split)]
    words = {row["class"] for row in rows}
    classes = next((classes for classes, known in CLASSES.items() if words <= set(known)), None)
    if classes is None:
        raise UserError(
            f"{', '.join(path.name for path in lists.values())} of {root} have the classes {', '.join(sorted(words))}, which "
            f"are not of one release; download the lists again from {LAYOUT.page}"
        )
    rows = keep_where(rows, options.where, lists["train"])
    records = _records(root, rows, CLASSES[classes], "val" not in lists)
    there = _images(root, lists)
    if there.isdisjoint(record.image for record in records):
        raise UserError(
            f"{root} has none of the {len(records)} images in {', '.join(lists)}; unpack the archive of {LAYOUT.page} there"
        )
    rule = release if "val" in lists else f"{release}-{VAL_RULE}"
    tables = {path.name: path for path in lists.values()}
    return Covidx(
        root=root,
        version=version_of(rule, tables, options),
        records=records,
        classes=classes,
        flags=(*_unnamed(records), *partial_download((record.image for record in records), there, there)),
        known_counts={} if options.where else KNOWN_COUNTS.get(release, {}),
    )


def _lists(root: Path, chosen: str) -> tuple[str, dict[str, Path]]:
    """The release and its lists by split. Raises UserError where there is none, or more than one and none was chosen."""
    found = sorted(path.name for path in root.glob("train*.txt") if (root / path.name.replace("train", "test", 1)).exists())
    if not found:
        raise UserError(f"{root} lacks train.txt and test.txt, or lists like train_COVIDx9A.txt; get them from {LAYOUT.page}")
    if chosen and chosen not in found:
        raise UserError(f"{root} has no {chosen} with its test list; use one of {', '.join(found)}")
    if not chosen and len(found) > 1:
        ways = " or ".join(f"{LAYOUT.name}:{root / name}" for name in found)
        raise UserError(f"{root} has the lists of {len(found)} releases; choose one, --data {ways}")
    train = chosen or found[0]
    paths = {split: root / train.replace("train", split, 1) for split in SPLITS}
    if train == "train.txt" and (root / "val").is_dir() and not paths["val"].exists():
        raise UserError(f"{root} has a folder val and no val.txt; download it from {LAYOUT.page}")
    release = train.removesuffix(".txt").removeprefix("train").strip("_") or ("CXR-4" if paths["val"].exists() else "CXR-2-3")
    return release, {split: path for split, path in paths.items() if path.exists()}


def _images(root: Path, folders: Iterable[str]) -> frozenset[str]:
    """Folder and file of every image there. Raises UserError for a folder or an image that is a link out of the root."""
    there = [folder for folder in folders if (root / folder).is_dir()]
    return frozenset(f"{folder}/{name}" for folder in there for name in list_files(root, folder))


def _unnamed(records: Iterable[Record]) -> tuple[str, ...]:
    """The flag "patients-unknown" where lines lack a source or repeat the name of the file as the patient."""
    for record in records:
        source, _, patient = record.patient.partition(":")
        if not source or patient == PurePosixPath(record.image).stem:
            return ("patients-unknown",)
    return ()


def read_list(path: Path, split: str) -> list[dict[str, str]]:
    """The lines of a list as rows of patient, filename, class, source and list.

    Raises:
        UserError: it cannot be read, is empty, or has a line of another form.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); download it again from {LAYOUT.page}") from error
    rows: list[dict[str, str]] = []
    for number, line in enumerate(lines, 1):
        cells = line.split()
        if cells and len(cells) not in (3, 4):
            raise UserError(f"{path} line {number} is not PATIENT FILE CLASS SOURCE; download it again from {LAYOUT.page}")
        if cells and (PurePosixPath(cells[1]).name != cells[1] or "\\" in cells[1]):
            raise UserError(
                f"{path} line {number} names {cells[1]!r}, which is not a plain file name; download it again from {LAYOUT.page}"
            )
        if cells:
            patient, name, word, source = (*cells, "")[:4]
            rows.append({"patient": patient, "filename": name, "class": word, "source": source, "list": split})
    if not rows:
        raise UserError(f"{path} is empty; download it again from {LAYOUT.page}")
    return rows


def _records(
    root: Path, rows: Iterable[Mapping[str, str]], known: Mapping[str, tuple[float, ...]], draw_val: bool
) -> tuple[Record, ...]:
    """Records in the order of the lists, one an image. Raises UserError for an image of two patients."""
    records: dict[str, Record] = {}
    for row in rows:
        uid, patient = f"{row['list']}/{row['filename']}", f"{row['source']}:{row['patient']}"
        labels, other = known[row["class"]], records.get(uid)
        attributes = {"source": row["source"], "class": row["class"], "list": row["list"]}
        if other is not None and other.patient != patient:
            raise UserError(
                f"the {row['list']} list of {root} has {row['filename']} of {other.patient} and {patient}; "
                f"get it again from {LAYOUT.page}"
            )
        if other is not None and other.labels != labels:  # listed as both: unknown, and named for verify
            labels, attributes = (
                (math.nan,) * len(labels),
                attributes | {"class": f"{other.attributes['class']}, {row['class']}"},
            )
        val = draw_val and row["list"] == "train" and draw(VAL_RULE, patient) < 1 / 10
        records[uid] = Record(
            uid=uid,
            patient=patient,
            study=uid,
            split="val" if val else row["list"],
            image=uid,
            labels=labels,
            attributes={column: value for column, value in attributes.items() if value},
        )
    return tuple(records.values())
