"""MIMIC-CXR-JPG 2.x as downloaded, with the reports of MIMIC-CXR where they are unpacked: `mimic-cxr`.

    ROOT/mimic-cxr-2.0.0-{metadata,split,chexpert}.csv[.gz], negbio too where it is there (2.1.0 keeps these names)
    ROOT/files/p10/p10000032/s50414267/02aa804e-....jpg
    reports, as mimic-cxr-reports.zip unpacks: files/p10/p10000032/s50414267.txt below ROOT, ROOT/mimic-cxr-reports or the
    folder above, or in mimic-cxr/2.x.0 two folders above (as wget mirrors PhysioNet)

Facts (Johnson et al., MIMIC-CXR-JPG 2.1.0, PhysioNet, doi 10.13026/jsn5-t979): 377,110 images; 227,827 studies with
labels, those no labeler could label have no row; labels are of studies, alphabetical in the table; train, validate, test.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmark.data.sections import report_sections
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.chexpert import CLASSES, read_labels, settle
from benchmark.data.sources.layout import (
    Layout,
    find_root,
    keep_where,
    list_files,
    partial_download,
    read_inside,
    stream_table,
    version_of,
)  # fmt: skip
from benchmark.data.sources.mimic_reports import place, read_reports, report_root
from benchmark.errors import ImageError, UserError
from benchmark.types import Record

PAGE = "https://physionet.org/content/mimic-cxr-jpg/"
LAYOUT = Layout(name="mimic-cxr", title="MIMIC-CXR-JPG", page=PAGE, files=(), folder="mimic-cxr-jpg")
HAND_LABELS = "mimic-cxr-2.1.0-test-set-labeled.csv"  # its presence tells 2.1.0 from 2.0.0
SPLITS = {"train": "train", "validate": "val", "test": "test"}
KNOWN_COUNTS = {  # Johnson et al., Scientific Data 6, 317 (2019); of train: https://huggingface.co/microsoft/rad-dino
    "images": 377_110, "patients": 65_379, "studies": 227_835, "images/train": 368_960,
}  # fmt: skip
_METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "StudyDate",
    "ViewCodeSequence_CodeMeaning",
)  # fmt: skip
_SPLIT = ("dicom_id", "study_id", "subject_id", "split")
# As in the field, frontal means that ViewPosition says PA or AP (MGCA, BenchX and others keep those). Decubitus, axial and
# oblique images and those without ViewPosition are OTHER, but for what ViewCodeSequence_CodeMeaning calls lateral.
_VIEWS = {"PA": "PA", "AP": "AP", "LATERAL": "LATERAL", "LL": "LATERAL", "RL": "LATERAL", "XTABLE LATERAL": "LATERAL"}
_CODED = dict.fromkeys(("lateral", "left lateral", "right lateral"), "LATERAL")


@dataclass(frozen=True, slots=True, kw_only=True)
class MimicCxr:
    """The checked tables, the reports and the images. A `benchmark.types.Source`, made by `open_source`.

    uid: dicom_id. Labels: of the CheXpert labeler; 1, 0, and nan for what is not mentioned, uncertain, or of a study without
    labels. Record.attributes: "uncertain" and "negbio_disagrees" (classes on which the two labelers differ) joined by ";",
    "ViewPosition" and "coded_view" as written, "StudyDate", "procedure", and "report": "missing", "empty" or "no sections"
    where reports are there but this one says nothing.
    flags: "no-reports" where no folder of reports was found, "partial-reports" where some are missing, "partial-download"
    where subjects of the tables have no folder of images, or folders are of no subject of the tables.
    """

    root: Path
    version: str
    records: tuple[Record, ...]
    flags: tuple[str, ...] = ()
    name: str = "mimic-cxr"
    classes: tuple[str, ...] = CLASSES
    mask_names: tuple[str, ...] = ()
    box_classes: tuple[str, ...] = ()
    known_counts: Mapping[str, int] = field(default_factory=dict)  # as layout.py says

    def image(self, record: Record) -> NDArray[np.uint8]:
        """(H, W) uint8. Raises ImageError."""
        return read_inside(self.root, record)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        """Raises ImageError: the set has no masks."""
        raise ImageError(record.uid, f"{self.name} has no mask {name!r}; use a set with masks")

    def with_policy(self, policy: str) -> Self:
        """The same set with the labels of a policy, which its version names. Raises UserError for an unknown one."""
        return replace(self, records=settle(self.records, policy), version=f"{self.version}+{policy}")


def open_source(location: str, options: SourceOptions) -> MimicCxr:
    """Reads and checks the tables and reads the reports; opens no image. `--where` takes the columns of metadata and split.

    Raises:
        UserError: one sentence naming the table, row or folder and the way out.
    """
    root = _find(location, options)
    tables = {kind: _table(root, kind) for kind in ("metadata", "split", "chexpert", "negbio")}
    files = {path.name: path for path in tables.values() if path is not None}
    rows = _rows(_need(tables, "metadata", root), _need(tables, "split", root))
    listed = frozenset(row["subject_id"] for row in rows)
    there = _subjects(root, listed)
    rows = keep_where(rows, options.where, Path("metadata and split"))
    studies = {row["study_id"]: row["subject_id"] for row in rows}
    labels = _labels(_need(tables, "chexpert", root))
    negbio = _labels(tables["negbio"]) if tables["negbio"] is not None else {}
    folder = report_root(root, studies)
    texts = {} if folder is None else read_reports(folder, studies)
    missing = sum(text is None for text in texts.values())
    release = "2.1.0" if (root / HAND_LABELS).is_file() else "2.0.0"
    return MimicCxr(
        root=root,
        version=_version(release, files, options, texts),
        records=tuple(_records(rows, labels, negbio, texts)),
        flags=(
            *(("no-reports",) if folder is None else ("partial-reports",) if missing else ()),
            *partial_download((row["subject_id"] for row in rows), listed, there),
        ),
        known_counts={} if options.where else KNOWN_COUNTS,
    )


def _find(location: str, options: SourceOptions) -> Path:
    """The root, its tables packed or not, in any mixture."""
    refused: UserError | None = None
    for endings in product((".csv.gz", ".csv"), repeat=2):
        tables = tuple(f"mimic-cxr-2.0.0-{kind}{ending}" for kind, ending in zip(("metadata", "split"), endings))
        try:
            return find_root(replace(LAYOUT, files=(*tables, "files")), location, options)
        except UserError as error:
            refused = refused or error
    raise refused or UserError(f"--data {LAYOUT.name}: no folder was tried; name one")


def _subjects(root: Path, listed: frozenset[str]) -> frozenset[str]:
    """Subjects with a folder of images. Raises UserError for none listed, or a folder out of reach or out of the root."""
    groups = sorted(name for name in list_files(root, "files") if re.fullmatch(r"p\d\d", name))
    found = (name for group in groups for name in list_files(root, f"files/{group}"))
    subjects = frozenset(name[1:] for name in found if re.fullmatch(r"p\d+", name))
    if subjects.isdisjoint(listed):
        raise UserError(f"{root} has images of none of {len(listed):,} subjects in files/p10 to p19; download them from {PAGE}")
    return subjects


def _table(root: Path, kind: str) -> Path | None:
    paths = [root / f"mimic-cxr-2.0.0-{kind}{ending}" for ending in (".csv.gz", ".csv")]
    return next((path for path in paths if path.is_file()), None)


def _need(tables: Mapping[str, Path | None], kind: str, root: Path) -> Path:
    path = tables[kind]
    if path is None:
        raise UserError(f"{root} lacks mimic-cxr-2.0.0-{kind}.csv.gz; download it from {PAGE}")
    return path


def _rows(metadata: Path, split: Path) -> list[dict[str, str]]:
    """The rows of metadata with their split, each image once and each study of one subject."""
    again = f"take both tables from one release ({PAGE})"
    splits: dict[str, dict[str, str]] = {}
    for row in stream_table(split, _SPLIT, LAYOUT):
        if row["split"] not in SPLITS:
            raise UserError(f"{split} has the split {row['split']!r}, not one of {', '.join(SPLITS)}; {again}")
        if splits.setdefault(row["dicom_id"], row) is not row:
            raise UserError(f"{split} has the image {row['dicom_id']} twice; {again}")
    rows = []
    subjects: dict[str, str] = {}
    for row in stream_table(metadata, _METADATA, LAYOUT):
        image, study, subject = row["dicom_id"], row["study_id"], row["subject_id"]
        other = splits.pop(image, None)
        if other is None:
            raise UserError(f"{metadata} has the image {image} twice, or {split.name} lacks it; {again}")
        if not (subject.isdigit() and study.isdigit() and image.replace("-", "").isalnum()):
            raise UserError(f"{metadata} names subject {subject!r}, study {study!r}, image {image!r}, not two numbers and an "
                            f"identifier; {again}")  # fmt: skip
        if (other["study_id"], other["subject_id"]) != (study, subject) or subjects.setdefault(study, subject) != subject:
            raise UserError(f"image {image} or its study {study} is of another study or subject elsewhere in {metadata.name} "
                            f"or {split.name}; {again}")  # fmt: skip
        rows.append(row | {"split": other["split"]})
    if splits or not rows:
        raise UserError(
            f"{split} has {len(splits)} images that {metadata} lacks, such as {next(iter(splits), 'all')!r}; {again}"
        )
    return rows


def _labels(path: Path) -> dict[str, tuple[tuple[float, ...], str]]:
    """Study -> labels (K,) and the uncertain classes."""
    found: dict[str, tuple[tuple[float, ...], str]] = {}
    for row in stream_table(path, ("subject_id", "study_id", *CLASSES), LAYOUT):
        try:
            value = read_labels(row)
        except KeyError as error:
            raise UserError(f"{path} has the label {error.args[0]!r} for study {row['study_id']}, not 1.0, 0.0, -1.0 or blank; "
                            f"download it again from {PAGE}") from error  # fmt: skip
        kept = found.setdefault(row["study_id"], value)
        if kept is not value and _differ(kept, value):
            raise UserError(f"{path} has study {row['study_id']} twice with other labels; download it again from {PAGE}")
    return found


def _version(release: str, files: Mapping[str, Path], options: SourceOptions, texts: Mapping[str, str | None]) -> str:
    """The version of the tables, with a digest of the reports where there are any."""
    version = version_of(release, files, options)
    if not texts:
        return version
    found = sha256()
    for study, text in sorted(texts.items()):
        found.update(f"\n{study} {-1 if text is None else len(text)} {text or ''}".encode())
    return f"{version}-{found.hexdigest()[:8]}"


def _records(
    rows: Iterable[Mapping[str, str]],
    labels: Mapping[str, tuple[tuple[float, ...], str]],
    negbio: Mapping[str, tuple[tuple[float, ...], str]],
    texts: Mapping[str, str | None],
) -> Iterable[Record]:
    unlabelled = ((math.nan,) * len(CLASSES), "")
    sections: dict[str, dict[str, str]] = {}
    for row in rows:
        study, subject = row["study_id"], row["subject_id"]
        if study not in sections:
            sections[study] = report_sections(texts.get(study) or "")
        values, uncertain = labels.get(study, unlabelled)
        position, coded = row["ViewPosition"].upper(), row["ViewCodeSequence_CodeMeaning"]
        attributes = {
            "uncertain": uncertain,
            "negbio_disagrees": _differ((values, uncertain), negbio[study]) if study in negbio else "",
            "ViewPosition": row["ViewPosition"],
            "coded_view": coded,
            "StudyDate": row["StudyDate"],
            "procedure": row["PerformedProcedureStepDescription"],
            "report": _silence(texts.get(study, ""), sections[study]) if texts else "",
        }
        yield Record(
            uid=row["dicom_id"],
            patient=subject,
            study=study,
            split=SPLITS[row["split"]],
            image=f"{place(subject, study)}/{row['dicom_id']}.jpg",
            view=_VIEWS.get(position, "OTHER") if position else _CODED.get(coded.lower(), "OTHER"),
            sections=sections[study],
            labels=values,
            attributes={name: value for name, value in attributes.items() if value},
        )


@lru_cache(maxsize=65_536)
def _differ(one: tuple[tuple[float, ...], str], other: tuple[tuple[float, ...], str]) -> str:
    """The classes to which two labelers give another of: 1, 0, uncertain, not mentioned."""
    states = [
        [("uncertain" if name in uncertain.split(";") else str(value)) for name, value in zip(CLASSES, values)]
        for values, uncertain in (one, other)
    ]
    return ";".join(name for name, first, second in zip(CLASSES, *states) if first != second)


def _silence(text: str | None, sections: Mapping[str, str]) -> str:
    """Why a report says nothing; empty where it says something."""
    if text is None:
        return "missing"
    if not text.strip():
        return "empty"
    return "" if sections.keys() & {"findings", "impression", "report"} else "no sections"
