"""COVID Rural with masks of opacities, as published: `--data covid-rural:DIR`.

    DIR/jpgs/PATIENT_MM-DD-YYYY-XR.jpg          224 images
    DIR/jpgs/jsons/PATIENT_MM-DD-YYYY-XR.json   outlines of lungs and opacities in 221 of them; not read
    DIR/pngs_masks/PATIENT_MM-DD-YYYY-XR.png    193 masks: 0 background, 1 opacity
    DIR/covid_rural_patient_info.csv            PATIENT_ID, AGE, SEX, ... of 105 patients, all positive

DIR is covid_rural_annot of https://github.com/haimingt/opacity_segmentation_covid_chest_X_ray, whose README and file lists tell
this; the images are of https://doi.org/10.7937/tcia.2020.py71-5978 (Desai et al., 2020). An image with outlines and without a
mask was annotated and has no opacity; one without outlines was not annotated. There is no official split: SPLIT_RULE draws 60,
20 and 20 % of the patients by their own hash, the shares of earlier work, not its lists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.data.images import image_shape, read_image
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.layout import Layout, draw, find_root, inside, keep_where, read_table, version_of
from benchmark.errors import ImageError, UserError
from benchmark.types import Record, digest

TABLE = "covid_rural_patient_info.csv"
LAYOUT = Layout(
    name="covid-rural", title="COVID Rural", page="https://doi.org/10.7937/tcia.2020.py71-5978",
    files=(TABLE, "jpgs", "pngs_masks"), folder="covid_rural_annot",
)  # fmt: skip
OPACITY = "Opacity"
KNOWN_COUNTS = {"images": 224, "images with masks": 221}  # by the file lists, as above: images with outlines have a mask here
SPLIT_RULE = "covid-rural-60-20-20-0"
NAME = re.compile(r"(?P<patient>COVID-19-\w+-\d+)_(?P<date>\d\d-\d\d-\d{4})-\w+(?:[-_. ]\w+)*\.jpg", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class CovidRural:
    """The images on a disk, read as they are asked for. A `benchmark.types.Source`, made by `open_source`."""

    root: Path
    version: str
    records: tuple[Record, ...]
    name: str = "covid-rural"
    classes: tuple[str, ...] = ()
    mask_names: tuple[str, ...] = (OPACITY,)
    box_classes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    known_counts: Mapping[str, int] = field(default_factory=dict)  # as layout.py says

    def image(self, record: Record) -> NDArray[np.uint8]:
        """(H, W) uint8. Raises ImageError."""
        return read_image(self.root / record.image, record.uid)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        """(H, W) uint8 of the image's size: 0 background, 1 opacity. Raises ImageError."""
        if name not in record.masks:
            raise ImageError(record.uid, f"it has no mask {name!r}; use one of {', '.join(record.masks) or 'none'}")
        path, shape = self.root / record.masks[name], image_shape(self.root / record.image, record.uid)
        if path.suffix == ".json":
            return np.zeros(shape, np.uint8)
        values = read_image(path, record.uid)
        if values.shape != shape:
            sizes = f"{values.shape[1]} x {values.shape[0]} pixels, the image {shape[1]} x {shape[0]}"
            raise ImageError(record.uid, f"mask {path} is {sizes}; download both again from {LAYOUT.page}")
        if int(values.max()) > 1:
            raise ImageError(
                record.uid, f"mask {path} holds {values.max()} beside 0 and 1; download it again from {LAYOUT.page}"
            )
        return values


def open_source(location: str, options: SourceOptions) -> CovidRural:
    """Lists the images and masks and reads the patients; opens no image.

    Args:
        location: the folder, as it follows `covid-rural:`.
        options: `where` keeps images by the columns of the patients' table, or by file.

    Raises:
        UserError: one sentence naming the file and the way out.
    """
    root = find_root(LAYOUT, location, options)
    patients = {row["PATIENT_ID"]: row for row in read_table(root / TABLE, ("PATIENT_ID", "AGE", "SEX"), LAYOUT)}
    rows = []
    for path in sorted((root / "jpgs").glob("*.jpg")):
        match = NAME.fullmatch(path.name)
        if match is None or match["patient"] not in patients:
            raise UserError(
                f"{path} is not named PATIENT_MM-DD-YYYY-XR.jpg after a patient of {TABLE}; "
                f"download the set again from {LAYOUT.page}"
            )
        rows.append(patients[match["patient"]] | {"file": path.name})
    if not rows:
        raise UserError(f"{root / 'jpgs'} has no *.jpg; download the set again (masks beside it: {LAYOUT.page})")
    outlines = {path.stem: f"jpgs/jsons/{path.name}" for path in sorted((root / "jpgs/jsons").glob("*.json"))}
    masks = outlines | {path.stem: f"pngs_masks/{path.name}" for path in sorted((root / "pngs_masks").glob("*.png"))}
    lost = sorted(set(masks) - {row["file"].removesuffix(".jpg") for row in rows})
    if lost:
        raise UserError(
            f"{root / 'pngs_masks'} has {len(lost)} masks without an image, the first is {lost[0]!r}; download the set again "
            f"from {LAYOUT.page}"
        )
    found = digest([[row["file"] for row in rows], sorted(masks.items())], 8)  # the table does not name the images
    version = version_of(f"{SPLIT_RULE}-{found}", {TABLE: root / TABLE}, options)
    rows = keep_where(rows, options.where, root / TABLE)
    return CovidRural(
        root=root,
        version=version,
        records=tuple(_record(root, row, masks) for row in rows),
        known_counts={} if options.where else KNOWN_COUNTS,
    )


def _record(root: Path, row: Mapping[str, str], masks: Mapping[str, str]) -> Record:
    patient, uid, age = row["PATIENT_ID"], row["file"].removesuffix(".jpg"), row["AGE"]
    share = draw(SPLIT_RULE, patient)
    return Record(
        uid=uid,
        patient=patient,
        study=uid,
        split="train" if share < 0.6 else "val" if share < 0.8 else "test",
        image=inside(root, f"jpgs/{row['file']}", "jpgs"),
        masks={OPACITY: inside(root, masks[uid], "pngs_masks")} if uid in masks else {},
        age=float(age) if age.isdecimal() else None,
        sex=row["SEX"] if row["SEX"] in ("F", "M") else "",
        attributes={name: value for name, value in (("sex", row["SEX"]), ("age", age)) if value},
    )
