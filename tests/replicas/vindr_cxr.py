"""VinDr-CXR 1.0.0: three radiologists a training image, a consensus for test, DICOM of several kinds."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmark.types import Record
from tests.replicas.common import (
    JPEG_2000,
    PLAIN,
    RLE,
    Row,
    boxed,
    draw,
    frontals,
    named,
    picture,
    save_dicom,
    shows,
    table,
)  # fmt: skip

CLASSES = (  # the columns in their published order; the tables of test say "Other disease"
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation", "Edema",
    "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst", "Mediastinal shift",
    "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture",
    "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding",
)  # fmt: skip
SAME = {  # the phantom's name -> VinDr's
    "Atelectasis": "Atelectasis", "Cardiomegaly": "Cardiomegaly", "Consolidation": "Consolidation", "Edema": "Edema",
    "Lung Opacity": "Lung Opacity", "Lung Lesion": "Nodule/Mass", "Pleural Effusion": "Pleural effusion",
    "Pleural Other": "Pleural thickening", "Pneumothorax": "Pneumothorax", "Fracture": "Rib fracture", "Pneumonia": "Pneumonia",
    "No Finding": "No finding",
}  # fmt: skip
WITHOUT_BOXES = ("Pneumonia", "No Finding")
READERS = ("R8", "R9", "R10")
CORNERS = ("x_min", "y_min", "x_max", "y_max")
KINDS: tuple[dict[str, Any], ...] = (  # transfer syntax, bits and tags of images in turn
    {"syntax": PLAIN, "bits": 14, "PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 8192, "WindowWidth": 16384},
    {"syntax": JPEG_2000, "bits": 12},
    {"syntax": RLE, "bits": 16},
)


def write(root: Path, patients: int = 12) -> Path:
    """The set in ROOT/vindr-cxr/1.0.0; each image stands for itself, as the set names no patients."""
    home = root / "vindr-cxr/1.0.0"
    tables: dict[str, list[Row]] = {}
    chosen = [(split, record) for _, split, record in frontals(patients)]
    uids = named(_uids(), lambda uid: "val" if draw("vindr-cxr-val-fifth-0", uid) < 0.2 else "train",
                 ["val" if split == "val" else "train" for split, _ in chosen])  # fmt: skip
    for place, (uid, (split, record)) in enumerate(zip(uids, chosen)):
        folder = "test" if split == "test" else "train"
        for reader in READERS if folder == "train" else ("",):
            head = {"image_id": uid} | ({"rad_id": reader} if reader else {})
            tables.setdefault(f"image_labels_{folder}", []).append(head | _answers(record, reader))
            tables.setdefault(f"annotations_{folder}", []).extend(head | row for row in _boxes(record, reader))
        save_dicom(home / folder / f"{uid}.dicom", picture(record), **KINDS[place % len(KINDS)])
    for name, rows in tables.items():
        table(home / f"annotations/{name}.csv", rows)
    return home


def _uids() -> Iterator[str]:
    yield from (sha256(str(number).encode()).hexdigest()[:32] for number in range(10_000))


def _answers(record: Record, reader: str) -> dict[str, str]:
    """The last radiologist overlooks pleural thickening, so that a vote is needed."""
    found = {name for ours, name in SAME.items() if shows(record, ours) and (reader, ours) != (READERS[-1], "Pleural Other")}
    names = [name if reader else {"Other diseases": "Other disease"}.get(name, name) for name in CLASSES]
    return {name: str(int(name in found)) for name in names}


def _boxes(record: Record, reader: str) -> list[dict[str, str]]:
    """Boxes of the answers, a pixel apart from radiologist to radiologist."""
    shift = READERS.index(reader) if reader else 0
    rows = []
    for ours, name in SAME.items():
        for box in boxed(record, ours) if shows(record, ours) and ours not in WITHOUT_BOXES else ():
            corners = (box.x0, box.y0, box.x1 + shift, box.y1 + shift)
            rows.append({"class_name": name} | {column: f"{value:.2f}" for column, value in zip(CORNERS, corners)})
    return rows or [{"class_name": "No finding"} | dict.fromkeys(CORNERS, "")]
