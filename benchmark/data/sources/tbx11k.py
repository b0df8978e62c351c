"""TBX11K, tuberculosis on chest X-rays, as published: `--data tbx11k:DIR`.

    DIR/imgs/{health,sick,tb}/*.png    512 x 512 pixels; imgs/test and imgs/extra are not used
    DIR/annotations/json/TBX11K_{train,val}.json    6,600 and 1,800 images, boxes in COCO's form
    DIR/lists/TBX11K_{train,val}.txt   the same images, one path below imgs a line; may be missing

Facts: https://github.com/yun-liu/Tuberculosis and Liu et al., CVPR 2020 and TPAMI 2023. Boxes are of active tuberculosis, of
latent (the files say "obsolete") and of an uncertain kind ("PulmonaryTuberculosis", which train and val do not use).
annotations/xml is in pixels of larger originals and is not read. The labels of the official test images are kept by a
challenge: official val is the test split here, and VAL_RULE sets a part of train apart. imgs/extra holds other sets
(Montgomery, Shenzhen, DA, DB). No patients are named; each image counts as one, and the flag "patients-unknown"
says so. imgs/tb/tb1199.png has no box.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data.images import image_shape, read_image
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.box_masks import DRAWN, filled
from benchmark.data.sources.layout import Layout, draw, find_root, inside, keep_where, list_files, partial_download, version_of
from benchmark.errors import ImageError, UserError
from benchmark.types import Box, Record

TABLES = {"train": "annotations/json/TBX11K_train.json", "val": "annotations/json/TBX11K_val.json"}
LISTS = {"train": "lists/TBX11K_train.txt", "val": "lists/TBX11K_val.txt"}
LAYOUT = Layout(
    name="tbx11k", title="TBX11K", page="https://mmcheng.net/tb/", files=(*TABLES.values(), "imgs"), folder="TBX11K"
)  # fmt: skip
ACTIVE, LATENT, UNCERTAIN = "Active Tuberculosis", "Latent Tuberculosis", "Uncertain Tuberculosis"
KINDS = {"ActiveTuberculosis": ACTIVE, "ObsoletePulmonaryTuberculosis": LATENT, "PulmonaryTuberculosis": UNCERTAIN}
CLASSES = ("Healthy", "Sick but not Tuberculosis", "Tuberculosis", ACTIVE, LATENT)
FOLDERS = {"health": (1.0, 0.0, 0.0, 0.0, 0.0), "sick": (0.0, 1.0, 0.0, 0.0, 0.0), "tb": None}  # of tb, boxes tell the kind
KNOWN_COUNTS = {  # Liu et al. 2020; of boxes and kinds: SUMMARY.md of https://github.com/dataset-ninja/tbx-11k
    "images": 8_400, "official/train": 6_600, "official/val": 1_800, "images/test": 1_800, "boxes": 1_211,
    "images with boxes": 799, "positive/Healthy": 3_800, "positive/Sick but not Tuberculosis": 3_800,
    "positive/Tuberculosis": 800, "positive/Active Tuberculosis": 660, "positive/Latent Tuberculosis": 169,
}  # fmt: skip
VAL_RULE = "tbx11k-val-is-test-val-eighth-0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tbx11k:
    """The images on a disk, read as they are asked for. A `benchmark.types.Source`, made by `open_source`."""

    root: Path
    version: str
    records: tuple[Record, ...]
    name: str = "tbx11k"
    classes: tuple[str, ...] = CLASSES
    mask_names: tuple[str, ...] = (ACTIVE, LATENT)
    box_classes: tuple[str, ...] = (ACTIVE, LATENT)
    flags: tuple[str, ...] = ("patients-unknown",)
    known_counts: Mapping[str, int] = field(default_factory=dict)  # as layout.py says

    def image(self, record: Record) -> NDArray[np.uint8]:
        """(H, W) uint8. Raises ImageError."""
        return read_image(self.root / record.image, record.uid)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        """(H, W) uint8: 1 in any box of the kind, 0 elsewhere. Raises ImageError."""
        if name not in record.masks:
            raise ImageError(record.uid, f"{LAYOUT.title} has no mask {name!r} of this image; use its boxes")
        return filled(record.boxes or (), name, image_shape(self.root / record.image, record.uid))


def open_source(location: str, options: SourceOptions) -> Tbx11k:
    """Reads and checks the annotations; opens no image. A missing image is skipped and named when it is read.

    Args:
        location: the folder, as it follows `tbx11k:`.
        options: `where` keeps images by file_name, folder (health, sick, tb) or official_split.

    Raises:
        UserError: one sentence naming the file and the way out.
    """
    root = find_root(LAYOUT, location, options)
    rows: list[dict[str, str]] = []
    boxes: dict[str, list[Box]] = {}
    for split, name in TABLES.items():
        found, drawn = _table(root / name)
        _compare(root / LISTS[split], found)
        both = sorted({row["file_name"] for row in rows} & set(found))
        if both:
            raise UserError(f"{root / name} has {both[0]!r}, which {TABLES['train']} has too; download both from {LAYOUT.page}")
        rows += [{"file_name": file, "folder": file.partition("/")[0], "official_split": split} for file in found]
        boxes |= drawn
    listed = [row["file_name"] for row in rows]
    rows = keep_where(rows, options.where, root / TABLES["train"])
    kinds, records = _with_masks([_record(root, row, tuple(boxes.get(row["file_name"], ()))) for row in rows])
    folders = [folder for folder in FOLDERS if (root / "imgs" / folder).is_dir()]
    there = {f"{folder}/{name}" for folder in folders for name in list_files(root, f"imgs/{folder}")}
    if there.isdisjoint(listed):
        raise UserError(
            f"{root / 'imgs'} has none of the {len(listed)} images in health, sick and tb; "
            f"unpack the archive of {LAYOUT.page} again"
        )
    tables = {name: root / name for name in (*TABLES.values(), *LISTS.values()) if (root / name).exists()}
    return Tbx11k(
        root=root, version=version_of(VAL_RULE, tables, options), records=records,
        box_classes=kinds, mask_names=kinds,
        flags=("patients-unknown", *partial_download((row["file_name"] for row in rows), listed, there)),
        known_counts={} if options.where else KNOWN_COUNTS,
    )  # fmt: skip


def _with_masks(read: Sequence[Record]) -> tuple[tuple[str, ...], tuple[Record, ...]]:
    """The kinds that have boxes, and the records with a mask of each where they are annotated."""
    found = {box.label for record in read for box in record.boxes or ()}
    kinds = tuple(kind for kind in KINDS.values() if kind in found)
    masks = dict.fromkeys(kinds, DRAWN)
    return kinds, tuple(record if record.boxes is None else replace(record, masks=masks) for record in read)


def _table(path: Path) -> tuple[list[str], dict[str, list[Box]]]:
    """File names, and boxes by file name, of an annotation file.

    Raises:
        UserError: it cannot be read, is not JSON of this form, or names an image twice or a box without its image.
    """
    try:
        content = json.loads(path.read_bytes())
        kinds = {item["id"]: KINDS[item["name"]] for item in content["categories"]}
        images = {item["id"]: item for item in content["images"]}
        names = [str(item["file_name"]) for item in images.values()]
        pairs = [(images[item["image_id"]], kinds[item["category_id"]], item["bbox"]) for item in content["annotations"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} is not an annotation file of {LAYOUT.title} ({reason}); download it again from {LAYOUT.page}"
        ) from error
    if len(set(names)) < len(content["images"]):
        raise UserError(f"{path} has an image more than once; download it again from {LAYOUT.page}")
    boxes: dict[str, list[Box]] = {}
    for image, kind, values in pairs:
        boxes.setdefault(str(image["file_name"]), []).append(_box(image, kind, values, path))
    return names, boxes


def _box(image: Mapping[str, Any], kind: str, values: Any, path: Path) -> Box:
    """values: left, top, width and height in pixels of the image."""
    numbers = [float(value) for value in values if type(value) in (int, float)] if isinstance(values, list) else []
    sizes = [float(image[side]) for side in ("width", "height") if type(image.get(side)) in (int, float)]
    if len(numbers) != 4 or len(sizes) != 2 or not all(map(math.isfinite, (*numbers, *sizes))):
        raise UserError(
            f"{path}: a box of {image['file_name']} is not four numbers in a sized image; download it again from {LAYOUT.page}"
        )
    x, y, width, height = numbers
    if min(x, y) < 0 or min(width, height) <= 0 or x + width > sizes[0] + 1 or y + height > sizes[1] + 1:
        raise UserError(
            f"{path}: box {values} of {image['file_name']} has no area or leaves its {sizes[0]:g} x {sizes[1]:g} pixels; "
            f"download it again from {LAYOUT.page}"
        )
    return Box(kind, x, y, min(x + width, sizes[0]), min(y + height, sizes[1]))  # a pixel of rounding is cut off


def _compare(path: Path, names: list[str]) -> None:
    """Raises UserError where a list and the annotations name different images."""
    if not path.exists():
        return
    try:
        listed = set(path.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); download it again from {LAYOUT.page}") from error
    other = sorted(listed ^ set(names))
    if other:
        raise UserError(
            f"{path} and its annotations differ in {len(other)} images, the first is {other[0]!r}; download both again from "
            f"{LAYOUT.page}"
        )


def _record(root: Path, row: Mapping[str, str], boxes: tuple[Box, ...]) -> Record:
    file, folder, split = row["file_name"], row["folder"], row["official_split"]
    if folder not in FOLDERS:
        raise UserError(
            f"{TABLES[split]} of {root} names {file!r}, not in {', '.join(FOLDERS)}; download it again from {LAYOUT.page}"
        )
    kinds = {box.label for box in boxes}
    known = FOLDERS[folder]
    if known is not None and boxes:
        raise UserError(
            f"{TABLES[split]} of {root} has boxes in {file!r}, an image without tuberculosis; download it again from "
            f"{LAYOUT.page}"
        )
    drawn = (
        bool(kinds) and UNCERTAIN not in kinds
    )  # an image of tb without a box, or with one of an uncertain kind, tells no kind
    labels = known or (0.0, 0.0, 1.0, *(float(kind in kinds) if drawn else math.nan for kind in (ACTIVE, LATENT)))
    val = split == "train" and draw(VAL_RULE, file) < 1 / 8
    uid = file.removesuffix(".png")
    return Record(
        uid=uid,
        patient=uid,
        study=uid,
        split="test" if split == "val" else "val" if val else "train",
        image=inside(root, f"imgs/{file}", TABLES[split]),
        view="FRONTAL",
        labels=labels,
        boxes=boxes if boxes or known is not None else None,
        attributes={"folder": folder, "official_split": split},
    )
