"""CheXpert-v1.0-small, with the table of CheXpert Plus beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.data.phantom import CLASSES as PHANTOM
from benchmark.types import Record
from tests.replicas.common import Row, cohort, picture, save, split_of, table

# The published order of the columns, which is not that of MIMIC-CXR-JPG.
CLASSES = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
HEADER = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CLASSES)
PLUS = (
    "path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id", "patient_report_date_order", "report",
    "section_narrative", "section_clinical_history", "section_history", "section_comparison", "section_technique",
    "section_procedure_comments", "section_findings", "section_impression", "section_end_of_impression", "section_summary",
    "section_accession_number", "age", "sex", "race", "ethnicity", "interpreter_needed", "insurance_type", "recent_bmi",
    "deceased", "split",
)  # fmt: skip
NAME = "CheXpert-v1.0-small"


def write(root: Path, patients: int = 12, plus: bool = True) -> Path:
    """The set in ROOT/CheXpert-v1.0-small; the patients planned for test make valid.csv, the source draws val itself."""
    tables: dict[str, list[Row]] = {"train": [], "valid": []}
    reports: list[Row] = []
    for place, records in enumerate(cohort(patients)):
        part = "valid" if split_of(place) == "test" else "train"
        for record in records:
            row = _row(record, part, place)
            tables[part].append(row)
            reports.append(_report(record, row["Path"].removeprefix(f"{NAME}/"), place))
            save(root / row["Path"], picture(record))
    for part, rows in tables.items():
        table(root / NAME / f"{part}.csv", rows, HEADER)
    if plus:
        table(root / NAME / "df_chexpert_plus_240401.csv", reports, PLUS)
    return root / NAME


def write_queries(folder: Path, candidates: Sequence[str], images: Mapping[str, str], texts: Sequence[tuple[str, str]]) -> Path:
    """ConVIRT's lists of 8x200 as its repository has them; images: path -> class, texts: (class, text)."""
    rows = [{"Path": f"{NAME}/{path}", "Frontal/Lateral": "Frontal", **dict.fromkeys(CLASSES, "0.0")} for path in candidates]
    table(folder / "image-retrieval" / "candidate.csv", rows, HEADER)
    asked = [{"Variable": name, "Path": f"{NAME}/{path}"} for path, name in images.items()]
    table(folder / "image-retrieval" / "query.csv", asked, ("Variable", "Path"))
    table(folder / "text-retrieval" / "query.csv", [{"Variable": a, "Text": b} for a, b in texts], ("Variable", "Text"))
    return folder


def _row(record: Record, part: str, place: int) -> Row:
    """Labels of train name what the report mentions: an absent class is 0.0 or blank in turn. Valid is answered whole."""
    _, study, view = record.image.split("/")
    kind = "lateral" if record.view == "LATERAL" else "frontal"
    cells = {}
    for index, (name, value) in enumerate(zip(PHANTOM, record.labels)):
        blank = part == "train" and value == 0 and (index + place + int(study)) % 3 == 0
        cells[name] = "" if blank else f"{value:.1f}" if value == value else "-1.0" if part == "train" else "0.0"
    return {
        "Path": f"{NAME}/{part}/patient{place + 1:05d}/study{study}/view{view}_{kind}.jpg",
        "Sex": {"F": "Female", "M": "Male"}[record.sex],
        "Age": f"{record.age:.0f}",
        "Frontal/Lateral": kind.capitalize(),
        "AP/PA": "" if kind == "lateral" else record.view,
        **cells,
    }


def _report(record: Record, path: str, place: int) -> Row:
    text = "".join(f"{name.upper()}:\n{value}\n" for name, value in record.sections.items())
    return {
        "path_to_image": path, "frontal_lateral": "Lateral" if record.view == "LATERAL" else "Frontal",
        "deid_patient_id": f"patient{place + 1:05d}", "report": f"NARRATIVE:\nCHEST: 1-1-2001\n{text}",
        "split": path.split("/")[0],
        **{f"section_{name}": value for name, value in record.sections.items()},
    }  # fmt: skip
