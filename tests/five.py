"""A set like CheXpert 5x200 on the toy's pixels: rows with one of five classes, and some with none, two or unknown ones."""

from __future__ import annotations

from dataclasses import replace

from tasks.prompts import FIVE
from tests.toy import ToySource

CLASSES = ("No Finding", *reversed(FIVE))  # not in the order of the protocols


class FiveSource(ToySource):
    """The toy with other labels: of 12 images in a row ten have one class each, one has two and one has none."""

    name = "five"
    classes = CLASSES

    def __init__(self, patients: int = 60, version: str = "1") -> None:
        super().__init__(patients, version=version)
        found = []
        for place, record in enumerate(sorted(self.records, key=lambda record: (record.split, record.uid))):
            kind = place % 12
            own = (FIVE[kind % 5],) if kind < 10 else ((FIVE[0], FIVE[1]) if kind == 10 else ("No Finding",))
            labels = tuple(float(name in own) for name in CLASSES)
            if kind == 3:
                labels = (float("nan"), *labels[1:])
            words = f"{' and '.join(own)} in study {place}.".capitalize()
            found.append(replace(record, labels=labels, sections={"findings": words}, boxes=None, masks={}))
        self.records = tuple(found)
