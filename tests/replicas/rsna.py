"""RSNA Pneumonia, stage 2, with the mapping to NIH's patients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from benchmark.types import Record
from tests.replicas.common import JPEG, Row, boxed, draw, frontals, named, picture, save_dicom, shows, split_of, table

NAMES = ("Pneumonia", "Consolidation", "Lung Opacity")  # the challenge's boxes are of opacities that may be pneumonia
BLANK = dict.fromkeys(("x", "y", "width", "height"), "")


def write(root: Path, patients: int = 12, mapping: bool = True) -> Path:
    """The set in ROOT/rsna-pneumonia-detection-challenge; several images a patient, one of several boxes."""
    home = root / "rsna-pneumonia-detection-challenge"
    labels: list[Row] = []
    kinds: list[Row] = []
    items = []
    people = named(_people(), _split, [split_of(place) for place in range(patients)])
    for count, (place, _, record) in enumerate(frontals(patients)):
        uid = _uid(count)
        rows = _rows(uid, record)
        labels += rows
        kinds += [{"patientId": uid, "class": _kind(record)}] * len(rows)  # the published table repeats rows as the labels do
        items.append({"subset_img_id": uid, "img_id": f"{people[place]}_{count:03d}.png", "SOPInstanceUID": f"1.2.{count}"})
        tags = {"PatientSex": record.sex, "PatientAge": f"{record.age:.0f}", "ViewPosition": record.view}
        save_dicom(home / f"stage_2_train_images/{uid}.dcm", picture(record), JPEG, **tags)
    table(home / "stage_2_train_labels.csv", labels)
    table(home / "stage_2_detailed_class_info.csv", kinds)
    if mapping:
        (home / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(items))
    return home


def _people() -> Iterator[str]:
    yield from (f"{number:08d}" for number in range(1, 10_000))


def _split(patient: str) -> str:
    place = draw("rsna-patient-60-20-20-0", patient)
    return "test" if place < 0.2 else "val" if place < 0.4 else "train"


def _uid(number: int) -> str:
    code = sha256(str(number).encode()).hexdigest()
    return "-".join(code[start:stop] for start, stop in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))


def _rows(uid: str, record: Record) -> list[Row]:
    boxes = boxed(record, *NAMES)
    if not boxes:
        return [{"patientId": uid, **BLANK, "Target": "0"}]
    cells = [(round(box.x0), round(box.y0), max(1, round(box.x1 - box.x0)), max(1, round(box.y1 - box.y0))) for box in boxes]
    return [
        {"patientId": uid, **dict(zip(BLANK, (f"{value:.1f}" for value in values))), "Target": "1"} for values in cells
    ]  # fmt: skip


def _kind(record: Record) -> str:
    if boxed(record, *NAMES):
        return "Lung Opacity"
    return "Normal" if shows(record, "No Finding") else "No Lung Opacity / Not Normal"
