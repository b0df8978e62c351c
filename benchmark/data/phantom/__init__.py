"""The phantom: procedural chest X-rays with reports, labels, masks and boxes, made from a seed and nothing else.

What is drawn, how often, and how hard it is to learn: docs/phantom.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from benchmark.data.phantom.anatomy import Frontal
from benchmark.data.phantom.findings import BOXED, CLASSES, labels_of
from benchmark.data.phantom.patient import Patient, Study, sample_patient, sample_study
from benchmark.data.phantom.render import boxes, masks, render_frontal, render_lateral
from benchmark.data.phantom.report import write_report
from benchmark.data.sources import SourceOptions
from benchmark.errors import ImageError, UserError
from benchmark.registry import unknown
from benchmark.types import SPLITS, Record

VERSION = 1  # bumped whenever pixels, texts or labels change
MASKS = ("lungs", "heart", "lesion")
SPLIT_STRIDE = 100_000  # patients of train, val and test are numbered from 0, 100000 and 200000: sizes do not move them
PRESETS = {
    "quick": {"train": 1500, "val": 250, "test": 400, "size": 128},
    "small": {"train": 6000, "val": 500, "test": 1000, "size": 128},
    "paper": {"train": 4000, "val": 500, "test": 1000, "size": 224},
}


@dataclass(frozen=True, slots=True)
class PhantomSettings:
    """How much is drawn. size: height and width in pixels. train, val, test: images, at least."""

    seed: int
    size: int
    train: int
    val: int
    test: int


def open_source(location: str, options: SourceOptions) -> PhantomSource:
    """The phantom at a preset; the location may override, as in "train=4000,size=224".

    Raises:
        UserError: an unknown preset or key, or a value that is not a number in range.
    """
    if options.preset not in PRESETS:
        raise unknown("preset", options.preset, list(PRESETS))
    values = {"seed": options.seed, **PRESETS[options.preset]}
    for part in filter(None, (item.strip() for item in location.split(","))):
        name, _, text = part.partition("=")
        if name not in values:
            raise unknown("key of the phantom", name, list(values))
        lowest, highest = {"size": (32, 1024), "seed": (0, 2**31)}.get(name, (1, SPLIT_STRIDE))
        if not text.isdecimal() or not lowest <= int(text) <= highest:
            raise UserError(f"phantom:{part}: {name} takes a whole number from {lowest} to {highest}")
        values[name] = int(text)
    return PhantomSource(PhantomSettings(**values), options.where)


class PhantomSource:
    """Records without pixels, and pixels on demand; everything is a pure function of (seed, patient, study, view).

    Args:
        settings: sizes and seed.
        where: (column, value) pairs; a record is kept when its field or attribute has the value.
    """

    name = "phantom"
    classes = CLASSES
    mask_names = MASKS
    box_classes = BOXED
    flags = ("phantom",)

    def __init__(self, settings: PhantomSettings, where: tuple[tuple[str, str], ...] = ()) -> None:
        self.settings = settings
        self.version = _version(settings)
        made = (record for place, split in enumerate(SPLITS) for record in self._split(split, place))
        self.records = tuple(sorted((record for record in made if _matches(record, where)), key=lambda record: record.uid))

    def image(self, record: Record) -> NDArray[np.uint8]:
        """(H, W) uint8. Raises ImageError for a record of another source."""
        study, view = self._study(record)
        return render_lateral(study, self.settings.size) if view == 2 else render_frontal(study, self.settings.size)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        """(H, W) uint8 0/1. Raises ImageError for a lateral view or an unknown name."""
        study, view = self._study(record)
        if view == 2 or name not in MASKS:
            raise ImageError(record.uid, f"the phantom has no mask {name!r} of this view; ask for one that the record names")
        return masks(study, self.settings.size)[name]

    def study(self, record: Record) -> Study:
        """Everything that is in the picture of a record."""
        return self._study(record)[0]

    def _study(self, record: Record) -> tuple[Study, int]:
        try:
            patient, number, view = (int(part) for part in record.image.split("/"))
        except ValueError as error:
            raise ImageError(record.uid, f"{record.image!r} is not patient/study/view; it is not of the phantom") from error
        return sample_study(_patient(self.settings.seed, patient), number), view

    def _split(self, split: str, place: int) -> list[Record]:
        wanted = {"train": self.settings.train, "val": self.settings.val, "test": self.settings.test}[split]
        found: list[Record] = []
        index = place * SPLIT_STRIDE
        while len(found) < wanted:
            patient = sample_patient(self.settings.seed, index)
            for number in range(1, patient.studies + 1):
                found += self._records(sample_study(patient, number), split)
            index += 1
        return found

    def _records(self, study: Study, split: str) -> list[Record]:
        patient = study.patient
        name = f"p{patient.index:06d}"
        geometry = Frontal(study)
        sections, labels = write_report(study, geometry), labels_of(study.findings)
        found = boxes(study, self.settings.size, geometry)
        attributes = {"habitus": patient.habitus, "projection": study.projection, "studies": str(patient.studies)}
        made = []
        for view in (1, 2) if study.lateral else (1,):
            image = f"{patient.index}/{study.number}/{view}"
            made.append(
                Record(
                    uid=f"{name}-s{study.number}-v{view}", patient=name, study=f"{name}-s{study.number}", split=split,
                    image=image, view="LATERAL" if view == 2 else study.projection, sections=sections, labels=labels,
                    boxes=found if view == 1 else None, masks=dict.fromkeys(MASKS, image) if view == 1 else {},
                    age=float(patient.age), sex=patient.sex, attributes=attributes,
                )
            )  # fmt: skip
        return made


@lru_cache(maxsize=256)
def _patient(seed: int, index: int) -> Patient:
    return sample_patient(seed, index)


def _version(settings: PhantomSettings) -> str:
    text = f"{VERSION}@{settings.size}"
    counts = {name: getattr(settings, name) for name in SPLITS}
    if not any(counts.items() <= preset.items() and preset["size"] == settings.size for preset in PRESETS.values()):
        text += "," + ",".join(f"{name}={count}" for name, count in counts.items())
    return text + (f",seed={settings.seed}" if settings.seed else "")


def _matches(record: Record, where: tuple[tuple[str, str], ...]) -> bool:
    plain = {"split": record.split, "view": record.view, "sex": record.sex, "patient": record.patient, "study": record.study}
    known = {**record.attributes, **plain}
    for column, value in where:
        if column not in known:
            raise unknown("column of the phantom", column, list(known))
        if known[column] != value:
            return False
    return True
