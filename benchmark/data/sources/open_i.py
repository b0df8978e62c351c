"""Open-i, the Indiana University chest X-ray collection (IU X-ray), as published: `--data open-i:DIR`.

    DIR/ecgen-radiology/*.xml    3,955 reports, from NLMCXR_reports.tgz
    DIR/NLMCXR_png/*.png         7,470 images, from NLMCXR_png.tgz, which unpacks without a folder: DIR/images or DIR serve too
    DIR/indiana_projections.csv  may be missing: uid,filename,projection of a later copy, the one table that states views

Facts: https://openi.nlm.nih.gov/faq and Demner-Fushman et al., JAMIA 2016 (doi 10.1093/jamia/ocv080); counts were read from the
files. One report a patient; 104 reports have no image. Names were replaced by XXXX, which stays. Findings are the headings that
two coders gave (MeSH major), so that a heading that was not given means absent, except in reports that were not coded. There is
no official split: SPLIT_RULE draws 70, 10 and 20 % of the patients by their own hash.

Without the table of projections no view is known: lateral images, about half of the set, then stand among the frontal ones,
and the flag "views-unknown" says so. With it, an image that it lacks is neither.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.data.images import read_image
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
from benchmark.types import Record

LAYOUT = Layout(
    name="open-i", title="Open-i (IU X-ray)", page="https://openi.nlm.nih.gov/faq", files=("ecgen-radiology",), folder="IU-XRay"
)
FOLDERS = ("NLMCXR_png", "images", "png", ".")  # where images are looked for, the first that has one
PROJECTIONS = "indiana_projections.csv"
SECTIONS = {"FINDINGS": "findings", "IMPRESSION": "impression", "INDICATION": "indication", "COMPARISON": "comparison"}
CLASSES = (
    "Airspace Disease", "Calcified Granuloma", "Cardiomegaly", "Consolidation", "Emphysema", "Fractures, Bone",
    "Hernia, Hiatal", "Infiltrate", "Mass", "Nodule", "Opacity", "Pleural Effusion", "Pneumonia", "Pneumothorax",
    "Pulmonary Atelectasis", "Pulmonary Congestion", "Pulmonary Edema", "Pulmonary Fibrosis",
)  # fmt: skip
SAME = {"pulmonary emphysema": "emphysema", "bullous emphysema": "emphysema", "hydropneumothorax": "pneumothorax",
        "hemopneumothorax": "pneumothorax"}  # fmt: skip  # headings that imply one of CLASSES
UNCODED = {"no indexing", "technical quality of image unsatisfactory"}
KNOWN_COUNTS = {"images": 7_470, "patients": 3_851, "studies": 3_851}  # counted in the published files, as above
SPLIT_RULE = "open-i-70-10-20-0"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenI:
    """The images on a disk, read as they are asked for. A `benchmark.types.Source`, made by `open_source`."""

    root: Path
    version: str
    records: tuple[Record, ...]
    name: str = "open-i"
    classes: tuple[str, ...] = CLASSES
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


@dataclass(frozen=True, slots=True)
class Report:
    """One XML file. images: ids of parentImage. headings: MeSH major, as written, with what stands behind their slashes."""

    uid: str
    sections: Mapping[str, str]
    headings: tuple[str, ...]
    images: tuple[str, ...]


def open_source(location: str, options: SourceOptions) -> OpenI:
    """Reads and checks every report; opens no image. A missing image is skipped and named when it is read.

    Args:
        location: the folder, as it follows `open-i:`.
        options: `where` keeps images by report, image, view (FRONTAL, LATERAL, OTHER or empty) or mesh.

    Raises:
        UserError: one sentence naming the file and the way out.
    """
    root = find_root(LAYOUT, location, options)
    files = sorted((root / "ecgen-radiology").glob("*.xml"))
    if not files:
        raise UserError(f"{root / 'ecgen-radiology'} has no *.xml; unpack NLMCXR_reports.tgz of {LAYOUT.page} in {root}")
    reports = {report.uid: report for report in map(read_report, files)}
    if len(reports) < len(files):
        raise UserError(f"{root / 'ecgen-radiology'} has {len(files)} files of {len(reports)} reports; keep one copy of each")
    views = _views(root / PROJECTIONS)
    rows = [row for report in reports.values() for row in _rows(report, views)]
    if not rows:
        raise UserError(f"no report of {root / 'ecgen-radiology'} names an image; download it again from {LAYOUT.page}")
    listed = {row["image"]: None for row in rows}
    folder = _folder(root, listed)
    there = {name for name in list_files(root, folder, ".png") if folder != "." or name in listed}
    rows = keep_where(rows, options.where, root / "ecgen-radiology")
    records = tuple(_record(root, folder, row, reports[row["report"]]) for row in rows)
    tables = {path.name: path for path in (*files, root / PROJECTIONS) if path.exists()}
    partial = partial_download((record.uid for record in records), listed, there)
    return OpenI(
        root=root,
        version=version_of(SPLIT_RULE, tables, options),
        records=records,
        flags=(*(() if views else ("views-unknown",)), *(partial or partial_download((), map(_key, listed), views))),
        known_counts={} if options.where else KNOWN_COUNTS,
    )


def _rows(report: Report, views: Mapping[str, str]) -> list[dict[str, str]]:
    """A row for each image of a report."""
    view, mesh = "OTHER" if views else "", "; ".join(report.headings)
    return [
        {"report": report.uid, "image": image, "view": views.get(_key(image), view), "mesh": mesh} for image in report.images
    ]


def read_report(path: Path) -> Report:
    """A report as ecgen-radiology has it; texts keep their XXXX, and empty ones are left out.

    Raises:
        UserError: it cannot be read, is not such XML, or names no report.
    """
    try:
        raw = path.read_bytes()
        if b"<!DOCTYPE" in raw or b"<!ENTITY" in raw:  # published files have none; entities could grow without end
            raise UserError(f"{path} declares entities, which published reports do not; download it again from {LAYOUT.page}")
        tree = ElementTree.fromstring(raw)  # noqa: S314  (no entities, see above)
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path} is not a report in XML ({error}); download it again from {LAYOUT.page}") from error
    name = tree.find("uId")
    uid = name.get("id", "") if name is not None else ""
    images = tuple(image.get("id", "") for image in tree.iter("parentImage"))
    if not uid or not all(re.fullmatch(r"[\w-]+", image, re.ASCII) for image in images) or len(set(images)) < len(images):
        raise UserError(
            f"{path} has no uId, or a parentImage twice or without a plain id; download it again from {LAYOUT.page}"
        )
    texts: dict[str, list[str]] = {}
    for item in tree.iter("AbstractText"):
        text = " ".join("".join(item.itertext()).split())
        if text and item.get("Label", "") in SECTIONS:
            texts.setdefault(SECTIONS[item.get("Label", "")], []).append(text)
    headings = tuple(" ".join((item.text or "").split()) for item in tree.iterfind(".//MeSH/major"))
    sections = {section: " ".join(parts) for section, parts in texts.items()}
    return Report(uid, sections, tuple(heading for heading in headings if heading), images)


def _views(path: Path) -> dict[str, str]:
    """Key of an image -> "FRONTAL" | "LATERAL"; empty where the table is missing."""
    if not path.exists():
        return {}
    rows = read_table(path, ("filename", "projection"), LAYOUT)
    strange = sorted({row["projection"] for row in rows} - {"Frontal", "Lateral"})
    if strange:
        raise UserError(
            f"{path} has the projection {strange[0]!r} beside Frontal and Lateral; download it again from {LAYOUT.page}"
        )
    return {_key(row["filename"].removesuffix(".png").removesuffix(".dcm")): row["projection"].upper() for row in rows}


def _key(image: str) -> str:
    """An image as both tables name it: CXR1_1_IM-0001-3001 and 1_IM-0001-3001 are one, as are CXR2_IM-... and 2_IM-...

    >>> _key("CXR1_1_IM-0001-3001"), _key("CXR10_IM-0002-1001"), _key("1_IM-0001-3001")
    ('1_IM-0001-3001', '10_IM-0002-1001', '1_IM-0001-3001')
    """
    return re.sub(r"^(\d+)_\1_", r"\1_", image.removeprefix("CXR"))


def _folder(root: Path, images: Collection[str]) -> str:
    """The folder that holds the images. Raises UserError where none does."""
    for folder in FOLDERS:
        if any((root / folder / f"{image}.png").exists() for image in images):
            return folder
    raise UserError(
        f"{root} has none of the {len(images)} images in NLMCXR_png or images; unpack NLMCXR_png.tgz of {LAYOUT.page} in "
        f"{root / FOLDERS[0]}"
    )


def _record(root: Path, folder: str, row: Mapping[str, str], report: Report) -> Record:
    heads = {heading.partition("/")[0].strip().lower() for heading in report.headings}
    heads |= {SAME[head] for head in heads if head in SAME}
    coded = bool(heads) and not heads & UNCODED
    labels = tuple(1.0 if name.lower() in heads else 0.0 if coded else math.nan for name in CLASSES)
    return Record(
        uid=row["image"],
        patient=report.uid,
        study=report.uid,
        split=_split(report.uid),
        image=inside(root, f"{folder}/{row['image']}.png", f"report {report.uid}"),
        view=row["view"],
        sections=report.sections,
        labels=labels,
        attributes={column: value for column, value in (("mesh", row["mesh"]), ("view", row["view"])) if value},
    )


def _split(patient: str) -> str:
    share = draw(SPLIT_RULE, patient)
    return "train" if share < 0.7 else "val" if share < 0.8 else "test"
