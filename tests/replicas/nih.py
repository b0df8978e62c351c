"""NIH ChestX-ray14, the table of 2020, images in the twelve folders of its archives."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np

from benchmark.types import Record
from tests.replicas.common import SIZE, boxed, draw, frontals, named, picture, save, shows, split_of, table

SAME = {  # NIH's finding -> the phantom's
    "Atelectasis": "Atelectasis", "Cardiomegaly": "Cardiomegaly", "Consolidation": "Consolidation", "Edema": "Edema",
    "Effusion": "Pleural Effusion", "Infiltration": "Lung Opacity", "Nodule": "Lung Lesion",
    "Pleural_Thickening": "Pleural Other", "Pneumonia": "Pneumonia", "Pneumothorax": "Pneumothorax",
}  # fmt: skip
BOXED = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Nodule", "Pneumonia", "Pneumothorax")
SCALE = 1024 // SIZE  # boxes refer to images of 1024 x 1024 pixels


def write(root: Path, patients: int = 12) -> Path:
    """The set in ROOT/ChestX-ray14; a box list for every other image that shows one of the boxed findings."""
    home = root / "ChestX-ray14"
    rows, lists, boxes = [], {"train_val": list[str](), "test": list[str]()}, ["Image Index,Finding Label,Bbox [x,y,w,h],,,"]
    people = named(_people(), lambda name: "val" if draw("nih-val-eighth-0", name) < 1 / 8 else "train",
                   ["val" if split_of(place) == "val" else "train" for place in range(patients)])  # fmt: skip
    follow = {person: count() for person in people}
    for number, (place, split, record) in enumerate(frontals(patients)):
        visit = next(follow[people[place]])
        name = f"{int(people[place]):08d}_{visit:03d}.png"
        rows.append(_row(name, visit, people[place], record))
        lists["test" if split == "test" else "train_val"].append(name)
        boxes += _boxes(name, record) if number % 2 == 0 else []
        save(home / f"images_{number % 12 + 1:03d}/images/{name}", np.kron(picture(record), np.ones((SCALE, SCALE), np.uint8)))
    table(home / "Data_Entry_2017_v2020.csv", rows)
    (home / "BBox_List_2017.csv").write_bytes("\n".join([*boxes, ""]).encode())
    for name, files in lists.items():
        (home / f"{name}_list.txt").write_bytes("\n".join(files).encode())
    return home


def _people() -> Iterator[str]:
    yield from map(str, range(1, 10_000))


def _row(name: str, visit: int, person: str, record: Record) -> dict[str, str]:
    findings = [finding for finding, ours in SAME.items() if shows(record, ours)]
    return {
        "Image Index": name, "Finding Labels": "|".join(findings) or "No Finding", "Follow-up #": str(visit),
        "Patient ID": person, "Patient Age": f"{record.age:.0f}", "Patient Sex": record.sex, "View Position": record.view,
        "OriginalImage[Width": "2682", "Height]": "2749", "OriginalImagePixelSpacing[x": "0.143", "y]": "0.143",
    }  # fmt: skip


def _boxes(name: str, record: Record) -> list[str]:
    """Rows of the list, whose word for Infiltration is another one."""
    lines = []
    for finding in BOXED:
        for box in boxed(record, SAME[finding]) if shows(record, SAME[finding]) else ():
            values = [SCALE * value for value in (box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0)]
            lines.append(",".join([name, {"Infiltration": "Infiltrate"}.get(finding, finding), *map(str, values)]))
    return lines
