"""TBX11K: folders health, sick and tb, boxes in COCO's form, lists beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.types import Record
from tests.replicas.common import SIZE, boxed, draw, named, picture, save, shows, studies

CATEGORIES = {"ActiveTuberculosis": 1, "ObsoletePulmonaryTuberculosis": 2, "PulmonaryTuberculosis": 3}
LESIONS = ("Consolidation", "Pneumonia", "Lung Opacity", "Lung Lesion")  # they stand for those of tuberculosis
KINDS: dict[str, Callable[[Record], bool]] = {  # folder -> what goes there
    "tb": lambda record: len(boxed(record, *LESIONS)) > 1,
    "health": lambda record: shows(record, "No Finding"),
    "sick": lambda record: not (shows(record, "No Finding") or boxed(record, *LESIONS)),
}
SCALE = 512 // SIZE


def write(root: Path, patients: int = 12) -> Path:
    """The set in ROOT/TBX11K: tuberculosis, healthy and sick otherwise in turn; boxes active and latent in turn."""
    home = root / "TBX11K"
    chosen = studies(tuple(KINDS.values()), patients)
    wanted = ["val" if split == "val" else "train" for _, split in chosen]
    files: dict[str, list[tuple[str, Record]]] = {"train": [], "val": []}
    counters = {folder: _names(folder) for folder in KINDS}
    for (record, split), drawn in zip(chosen, wanted):
        folder = next(folder for folder, kind in KINDS.items() if kind(record))
        (file,) = named(counters[folder], _split, [drawn])
        files["val" if split == "test" else "train"].append((file, record))
        save(home / "imgs" / file, np.kron(picture(record), np.ones((SCALE, SCALE), np.uint8)))
    for split, items in files.items():
        for name, text in (
            (f"annotations/json/TBX11K_{split}.json", json.dumps(_content(items))),
            (f"lists/TBX11K_{split}.txt", "".join(f"{file}\n" for file, _ in items)),
        ):
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(text.encode())
    return home


def _split(name: str) -> str:
    return "val" if draw("tbx11k-val-is-test-val-eighth-0", name) < 1 / 8 else "train"


def _names(folder: str) -> Iterator[str]:
    yield from (f"{folder}/{folder[0] if folder != 'tb' else 'tb'}{number:04d}.png" for number in range(1, 5_000))


def _content(items: list[tuple[str, Record]]) -> dict[str, Any]:
    images = [{"id": number, "file_name": file, "width": 512, "height": 512} for number, (file, _) in enumerate(items, 1)]
    annotations: list[dict[str, Any]] = []
    for number, (_, record) in enumerate(items, 1):
        for place, box in enumerate(boxed(record, *LESIONS)):
            values = [SCALE * value for value in (box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0)]
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": place % 2 + 1, "bbox": values,
                "area": values[2] * values[3], "iscrowd": 0,
            })  # fmt: skip
    kinds = [{"id": number, "name": name, "supercategory": "Tuberculosis"} for name, number in CATEGORIES.items()]
    return {"info": {}, "images": images, "annotations": annotations, "categories": kinds}
