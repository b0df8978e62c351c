"""CheXpert v1.0 and v1.0-small as downloaded, with the reports of CheXpert Plus where their table lies beside: `chexpert`.

    CheXpert-v1.0[-small]/{train,valid}.csv, {train,valid}/patient00001/study1/view1_frontal.jpg
    chexpertchestxrays-u20210408/CheXpert-v1.0 batch 1 (validate & csv)/{train.csv,valid.csv,valid/...}   (as v1.0 unpacks)
    chexpertchestxrays-u20210408/CheXpert-v1.0 batch 2 (train 1)/patient00001/...                         (no folder "train")
    df_chexpert_plus_240401.csv                                                                           (beside the tables)

Facts (Irvin et al. 2019, arXiv:1901.07031; Chambon et al. 2024, arXiv:2405.19538): train.csv 223,414 images of 64,540
patients, labels by a labeler of reports; valid.csv 234 images (202 frontal) of 200 studies, labels by radiologists.
`Path` begins with the name of the release, in either table, wherever the set lies.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmark.data.sections import report_sections
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.layout import (
    Layout,
    find_root,
    inside,
    keep_where,
    partial_download,
    read_inside,
    read_table,
    stream_table,
    version_of,
)  # fmt: skip
from benchmark.errors import ImageError, UserError
from benchmark.registry import unknown
from benchmark.types import Record, digest

CLASSES = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
PAGE = "https://aimi.stanford.edu/datasets/chexpert-chest-x-rays"
LAYOUT = Layout(name="chexpert", title="CheXpert", page=PAGE, files=("train.csv", "valid.csv"), folder="CheXpert-v1.0")
PLUS = replace(LAYOUT, title="CheXpert Plus", page="https://aimi.stanford.edu/datasets/chexpert-plus")
KNOWN_COUNTS = {  # of v1.0 and v1.0-small alike; patients: 64,540 and, by Irvin et al. 2019 as remembered, 200 of valid
    "images": 223_648, "patients": 64_740, "official/train": 223_414, "official/valid": 234, "images/test": 234,
}  # fmt: skip
VALIDATION = 5_000 / 223_414  # of the patients of train.csv: about the 5,000 images that GLoRIA and MGCA set apart
_BATCH = "CheXpert-v1.0 batch 1 (validate & csv)"
_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CLASSES)
_PATH = re.compile(
    r"(?:(?P<release>[^/\\]+)/)?(?P<file>(?P<part>train|valid)/(?P<patient>patient\d+)/study\d+/view\d+_\w+\.jpg)"
)
_VALUES = {"": math.nan, "1.0": 1.0, "1": 1.0, "0.0": 0.0, "0": 0.0, "-1.0": math.nan, "-1": math.nan}
_SEXES = {"Male": "M", "Female": "F", "Unknown": "", "": ""}
_AGES = {"": None} | {f"{years}{zero}": float(years) or None for years in range(121) for zero in ("", ".0")}
_KNOWN: Mapping[str, Collection[str]] = {"Sex": _SEXES, "Age": _AGES, "Frontal/Lateral": ("Frontal", "Lateral"),
                                         **dict.fromkeys(CLASSES, _VALUES)}  # fmt: skip
_SECTIONS = {
    "findings": "section_findings", "impression": "section_impression", "history": "section_clinical_history",
    "comparison": "section_comparison", "technique": "section_technique",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CheXpert:
    """The checked tables and the images below them. A `benchmark.types.Source`, made by `open_source`.

    Labels: 1, 0, and nan for what the report does not mention and for what it calls uncertain; the latter are named in
    Record.attributes["uncertain"], joined by ";". `with_policy` settles both as a paper does.
    Splits: test is valid.csv, as in published comparisons (202 images with the frontal views of a protocol); train and val are
    train.csv, val being VALIDATION of its patients in an order that depends on a patient's name alone.
    Record.attributes["official_split"] keeps "train" or "valid" for rules of papers. Decubitus views (LL, RL) are frontal.
    Age 0 is taken as unknown.
    flags: "partial-download" where patients of the tables have no folder, or folders are of no patient of the tables.
    """

    root: Path
    version: str
    records: tuple[Record, ...]
    flags: tuple[str, ...] = ()
    name: str = "chexpert"
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


def open_source(location: str, options: SourceOptions) -> CheXpert:
    """Reads and checks the tables; opens no image. `--where` takes every column, and `split` with train, val, test.

    With --data-root, CheXpert-v1.0 is taken before CheXpert-v1.0-small; name the folder to take the other. Raises UserError,
    one sentence naming the table, row or folder and the way out.
    """
    root, tables = _find(location, options)
    files = {name: tables / name for name in ("train.csv", "valid.csv")}
    rows: list[dict[str, str]] = []
    for path in tuple(files.values()):
        rows += [_row(row, path, number) for number, row in enumerate(read_table(path, _COLUMNS, LAYOUT), 2)]
    release = _release(rows, tables)
    chosen = _validation({row["patient"] for row in rows if row["part"] == "train"})
    for row in rows:
        row["split"] = "test" if row["part"] == "valid" else "val" if row["patient"] in chosen else "train"
    listed = {(row["part"], row["patient"]) for row in rows}
    rows = keep_where(rows, options.where, Path("train.csv and valid.csv"))
    homes = _homes(root, tables, rows)
    kept = {(row["part"], row["patient"]) for row in rows}
    texts: Mapping[str, Mapping[str, str]] = {}
    for plus in _plus_table(root, tables):
        files[plus.name], texts, release = plus, _reports(plus), f"{release}+plus"
    return CheXpert(
        root=root,
        version=version_of(release, files, options),
        records=tuple(_record(row, homes, texts) for row in rows),
        flags=partial_download(map("/".join, kept), map("/".join, listed), set(map("/".join, homes))),
        known_counts={} if options.where else KNOWN_COUNTS,
    )


def _find(location: str, options: SourceOptions) -> tuple[Path, Path]:
    """The root of the images and the folder of the tables, which is another one where v1.0 lies as its archives unpack."""
    batches = replace(LAYOUT, files=(f"{_BATCH}/train.csv", f"{_BATCH}/valid.csv"), folder="chexpertchestxrays-u20210408")
    refused: UserError | None = None
    for layout in (LAYOUT, batches, replace(LAYOUT, folder="CheXpert-v1.0-small")):
        try:
            root = find_root(layout, location, options)
        except UserError as error:
            refused = refused or error
            continue
        if layout is batches:
            return root, root / _BATCH
        return (root.parent, root) if root.name == _BATCH else (root, root)
    raise refused or UserError(f"--data {LAYOUT.name}: no folder was tried; name one")


def _row(row: dict[str, str], path: Path, number: int) -> dict[str, str]:
    """The row with what its path says: release, file, part, patient."""
    match = _PATH.fullmatch(row["Path"])
    strange = next((name for name, values in _KNOWN.items() if row[name] not in values), "")
    if match is None or match["part"] != path.stem or strange:
        strange = strange or "Path"
        raise UserError(f"{path} entry {number} has {strange} {row[strange]!r}, which CheXpert does not have there (paths are "
                        f"RELEASE/{path.stem}/patientN/studyN/viewN_frontal.jpg); download it again from {PAGE}")  # fmt: skip
    row |= match.groupdict(default="")
    return row


def _release(rows: list[dict[str, str]], tables: Path) -> str:
    found = sorted({row["release"] for row in rows})
    if len(found) > 1:
        raise UserError(f"the tables in {tables} mix the releases {found[0]!r} and {found[1]!r}; take both from one ({PAGE})")
    return found[0].removeprefix("CheXpert-") or "v1.0"


def _validation(patients: set[str]) -> set[str]:
    """The patients of val: the first VALIDATION of them, at least one, in the order of a digest of their names."""
    order = sorted(patients, key=lambda patient: digest(["chexpert-validation", patient], 32))
    return set(order[: max(1, round(VALIDATION * len(order)))])


def _homes(root: Path, tables: Path, rows: list[dict[str, str]]) -> dict[tuple[str, str], str]:
    """(part, patient) -> folder below the root, for every patient found."""
    folders = [("train", "train"), ("valid", "valid")]
    if tables != root:
        batches = sorted(path.name for path in root.glob("CheXpert-v1.0 batch *(train *)"))
        folders = [*(("train", name) for name in batches), ("valid", f"{tables.name}/valid")]
    homes: dict[tuple[str, str], str] = {}
    for part, folder in folders:
        path = root / inside(root, folder, f"{tables}/{part}.csv")
        try:
            homes |= {(part, name): f"{folder}/{name}" for name in os.listdir(path) if name.startswith("patient")}
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"{path} is no folder that can be read ({error.strerror}); unpack {part} there again") from error
    wanted = {(row["part"], row["patient"]) for row in rows}
    if not wanted & homes.keys():
        shown = " or ".join(folder for _, folder in folders)
        raise UserError(f"{root} has a folder of none of {len(wanted)} patients in {shown}; unpack the images there ({PAGE})")
    return homes


def _record(row: dict[str, str], homes: Mapping[tuple[str, str], str], texts: Mapping[str, Mapping[str, str]]) -> Record:
    _, patient, study, view = row["file"].split("/")
    home = homes.get((row["part"], patient), f"{row['part']}/{patient}")
    labels, uncertain = read_labels(row)
    attributes = {"official_split": row["part"], "projection": row["AP/PA"], "uncertain": uncertain}
    return Record(
        uid=row["file"],
        patient=patient,
        study=f"{patient}/{study}",
        split=row["split"],
        image=f"{home}/{study}/{view}",
        view="LATERAL" if row["Frontal/Lateral"] == "Lateral" else row["AP/PA"] if row["AP/PA"] in ("AP", "PA") else "FRONTAL",
        sections=texts.get(row["file"].removesuffix(".jpg"), {}),
        labels=labels,
        age=_AGES[row["Age"]],
        sex=_SEXES[row["Sex"]],
        attributes={name: value for name, value in attributes.items() if value},
    )


@dataclass(frozen=True, slots=True)
class LabelPolicy:
    """What a paper makes of classes not mentioned (blank) and called uncertain (-1), but for those `named`. MIMIC-CXR too."""

    blank: float = math.nan
    uncertain: float = math.nan
    named: Mapping[str, float] = field(default_factory=dict)


_FIVE = {"Atelectasis": 1.0, "Cardiomegaly": 0.0, "Consolidation": 0.0, "Edema": 1.0, "Pleural Effusion": 1.0}
POLICIES = {
    "unknown": LabelPolicy(),  # as the source gives them
    "ignore": LabelPolicy(blank=0.0),  # U-Ignore, U-Zeros and U-Ones of Irvin et al. 2019
    "zeros": LabelPolicy(blank=0.0, uncertain=0.0),
    "ones": LabelPolicy(blank=0.0, uncertain=1.0),
    "mgca": LabelPolicy(blank=0.0, named=_FIVE),  # the five competition classes of GLoRIA and MGCA
}


def read_labels(row: Mapping[str, str]) -> tuple[tuple[float, ...], str]:
    """(K,) 1, 0 or nan by the names of columns; and the names of the uncertain ones joined by ";". KeyError: another value."""
    return _read_cells(tuple(row[name] for name in CLASSES))


@lru_cache(maxsize=65_536)  # a few thousand combinations occur; their records share one object
def _read_cells(cells: tuple[str, ...]) -> tuple[tuple[float, ...], str]:
    unsure = (name for name, cell in zip(CLASSES, cells) if cell.startswith("-"))
    return tuple(_VALUES[cell] for cell in cells), ";".join(unsure)


def settle(records: Iterable[Record], policy: str) -> tuple[Record, ...]:
    """The records with POLICIES[policy] in place of labels that are nan. Raises UserError for an unknown policy."""
    if policy not in POLICIES:
        raise unknown("label policy", policy, list(POLICIES))
    rule = POLICIES[policy]

    def settled(record: Record) -> tuple[float, ...]:
        unsure = record.attributes.get("uncertain", "").split(";")
        empty = (rule.named.get(name, rule.uncertain) if name in unsure else rule.blank for name in CLASSES)
        return tuple(other if value != value else value for value, other in zip(record.labels, empty))

    return tuple(replace(record, labels=settled(record)) for record in records)


def _plus_table(root: Path, tables: Path) -> list[Path]:
    found = sorted({path for folder in (root, tables) for path in folder.glob("df_chexpert_plus*.csv")})
    if len(found) > 1:
        raise UserError(f"{root} holds several tables of CheXpert Plus ({', '.join(path.name for path in found)}); keep one")
    return found


def _reports(path: Path) -> dict[str, dict[str, str]]:
    """Image without its ending -> sections. Those its authors cut out; the whole report is parsed where they found neither."""
    texts: dict[str, dict[str, str]] = {}
    shared: dict[str, dict[str, str]] = {}  # one object for the images of a report
    for row in stream_table(path, ("path_to_image", "report", *_SECTIONS.values()), PLUS):
        sections = {name: " ".join(row[column].split()) for name, column in _SECTIONS.items() if row[column]}
        if not sections.keys() & {"findings", "impression"}:
            sections = sections | report_sections(row["report"])
        image = row["path_to_image"].rpartition(".")[0]
        texts[image] = shared.setdefault(f"{image.rpartition('/')[0]}\n{row['report']}", sections)
    return texts
