"""MIMIC-CXR-JPG 2.0.0 with the reports of MIMIC-CXR beside it."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from benchmark.data.phantom import CLASSES as PHANTOM
from benchmark.types import Record
from tests.replicas.common import Row, cohort, picture, save, split_of

METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns", "StudyDate",
    "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
SPLIT = ("dicom_id", "study_id", "subject_id", "split")
LABELS = ("subject_id", "study_id", *sorted(PHANTOM))  # alphabetical here, unlike those of CheXpert
CODED = {"PA": "postero-anterior", "AP": "antero-posterior", "LATERAL": "lateral"}
SPLITS = {"train": "train", "val": "validate", "test": "test"}


def write(root: Path, patients: int = 12, reports: bool = True) -> Path:
    """The set in ROOT/mimic-cxr-jpg, its reports in ROOT/mimic-cxr-reports as the published archive unpacks."""
    home = root / "mimic-cxr-jpg"
    metadata: list[Row] = []
    split: list[Row] = []
    labels: dict[str, Row] = {}
    for place, records in enumerate(cohort(patients)):
        for record in records:
            keys = _keys(record, place)
            metadata.append(_metadata(record, keys))
            split.append(keys | {"split": SPLITS[split_of(place)]})
            labels[keys["study_id"]] = _labels(record, keys)
            folder = f"files/p{keys['subject_id'][:2]}/p{keys['subject_id']}/s{keys['study_id']}"
            save(home / folder / f"{keys['dicom_id']}.jpg", picture(record))
            if reports:
                path = root / "mimic-cxr-reports" / f"{folder}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_report(record).encode())
    for kind, header, rows in (
        ("metadata", METADATA, metadata), ("split", SPLIT, split), ("chexpert", LABELS, list(labels.values())),
        ("negbio", LABELS, list(labels.values())),
    ):  # fmt: skip
        _packed(home / f"mimic-cxr-2.0.0-{kind}.csv.gz", header, rows)
    return home


def _keys(record: Record, place: int) -> dict[str, str]:
    _, study, view = record.image.split("/")
    subject = 10_000_032 + 700_001 * place
    code = sha256(f"{subject}/{study}/{view}".encode()).hexdigest()[:40]
    dicom = "-".join(code[start : start + 8] for start in range(0, 40, 8))
    return {"dicom_id": dicom, "subject_id": str(subject), "study_id": str(50_000_000 + 10 * place + int(study))}


def _metadata(record: Record, keys: Row) -> Row:
    return dict(keys) | {
        "PerformedProcedureStepDescription": "CHEST (PA AND LAT)", "ViewPosition": record.view, "Rows": "64", "Columns": "64",
        "StudyDate": "21800506", "StudyTime": "213014.531", "ViewCodeSequence_CodeMeaning": CODED[record.view],
    }  # fmt: skip


def _labels(record: Record, keys: Row) -> Row:
    """What is absent is mentioned for every other class only."""
    cells = {}
    for index, (name, value) in enumerate(zip(PHANTOM, record.labels)):
        blank = value == 0 and (index + int(keys["study_id"])) % 3 == 0
        cells[name] = "" if blank else f"{value:.1f}" if value == value else "-1.0"
    return {"subject_id": keys["subject_id"], "study_id": keys["study_id"], **cells}


def _report(record: Record) -> str:
    """Lines of a report with the marks of de-identification, as the published files have them."""
    head = "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n"
    indication = f" INDICATION:  ___-year-old {'woman' if record.sex == 'F' else 'man'} with cough.\n \n"
    parts = [f" {name.upper()}: \n \n {text}\n \n" for name, text in record.sections.items()]
    return head + indication + "".join(parts)


def _packed(path: Path, header: Sequence[str], rows: Sequence[Row]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(gzip.compress(buffer.getvalue().encode(), mtime=0))
