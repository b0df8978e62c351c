"""Object-CXR: bright foreign objects painted on phantoms, annotated as rectangles, ellipses and polygons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tests.replicas.common import PLAN, cohort, draw, named, picture, save, table

RECTANGLE, ELLIPSE, POLYGON = range(3)


def write(root: Path, patients: int = 12) -> Path:
    """The set in ROOT/object-CXR; every other image has one object of each kind."""
    home = root / "object-CXR"
    chosen = [records[0] for records in cohort(patients)]
    wanted = [PLAN[place % len(PLAN)].replace("test", "dev") for place in range(patients)]
    names = named(_names(), lambda name: "val" if draw("object-cxr-val-fifth-0", f"train/{name}") < 0.2 else "train",
                  [split if split == "val" else "train" for split in wanted])  # fmt: skip
    rows: dict[str, list[dict[str, str]]] = {"train": [], "dev": []}
    for place, (name, split, record) in enumerate(zip(names, wanted, chosen)):
        folder = "dev" if split == "dev" else "train"
        shapes = _shapes(place) if place // len(PLAN) % 2 == 0 else []
        image = Image.fromarray(picture(record))
        for kind, points in shapes:
            paint = ImageDraw.Draw(image)
            draw_one = {RECTANGLE: paint.rectangle, ELLIPSE: paint.ellipse, POLYGON: paint.polygon}[kind]
            draw_one(points, fill=250)
        save(home / folder / name, np.asarray(image))
        text = ";".join(" ".join(map(str, (kind, *points))) for kind, points in shapes)
        rows[folder].append({"image_name": name, "annotation": text})
    for folder, items in rows.items():
        table(home / f"{folder}.csv", items)
    return home


def _names() -> Iterator[str]:
    yield from (f"{number:05d}.jpg" for number in range(1, 9_000))


def _shapes(place: int) -> list[tuple[int, tuple[int, ...]]]:
    """Type and corners: left, top, right, bottom, or the points of a polygon."""
    x, y = 8 + 3 * place, 10 + 2 * place
    return [
        (RECTANGLE, (x, y, x + 6, y + 4)), (ELLIPSE, (x + 9, y + 2, x + 15, y + 10)),
        (POLYGON, (x, y + 12, x + 8, y + 12, x + 2, y + 20)),
    ]  # fmt: skip
