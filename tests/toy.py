"""A data set small enough for every test: bright discs on noise, with reports, labels, masks and boxes that tell where."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.types import Box, Record

CLASSES = ("Lung Lesion", "Pleural Effusion", "No Finding")
SIZE = 64


class ToySource:
    """`patients` patients with two images each; half of the images show a disc at the left, some a bar at the bottom."""

    name = "toy"
    classes = CLASSES
    mask_names = ("lesion",)
    box_classes = ("Lung Lesion",)
    flags = ("toy",)

    def __init__(self, patients: int = 40, broken: tuple[str, ...] = (), version: str = "1") -> None:
        self.broken = broken
        self.version = f"{version}-{patients}"
        self.records = tuple(self._record(patient, image) for patient in range(patients) for image in range(2))

    def _facts(self, patient: int, image: int) -> tuple[bool, bool, int, int]:
        generator = np.random.default_rng([patient, image])
        disc, bar = generator.random(2) < 0.5
        x, y = generator.integers(12, SIZE - 12, 2)
        return bool(disc), bool(bar), int(x), int(y)

    def _record(self, patient: int, image: int) -> Record:
        disc, bar, x, y = self._facts(patient, image)
        split = ("train", "train", "train", "val", "test")[patient % 5]
        words = [f"A nodule of size {x} is at row {y}." if disc else "No nodule.", "Effusion below." if bar else "No effusion."]
        return Record(
            uid=f"p{patient:03d}-{image}",
            patient=f"p{patient:03d}",
            study=f"p{patient:03d}-{image}",
            split=split,
            image=f"{patient}/{image}",
            view="PA",
            sections={"findings": " ".join(words), "impression": f"Study {patient}."},
            labels=(float(disc), float(bar), float(not disc and not bar)),
            boxes=(Box("Lung Lesion", x - 8, y - 8, x + 8, y + 8),) if disc else (),
            masks={"lesion": f"{patient}/{image}"},
            age=50.0,
            sex="F",
        )

    def image(self, record: Record) -> NDArray[np.uint8]:
        """(64, 64) uint8."""
        from benchmark.errors import ImageError

        if record.uid in self.broken:
            raise ImageError(record.uid, "cut short; copy it again")
        patient, image = map(int, record.image.split("/"))
        disc, bar, x, y = self._facts(patient, image)
        pixels = np.random.default_rng([patient, image, 1]).normal(60, 10, (SIZE, SIZE))
        rows, columns = np.mgrid[:SIZE, :SIZE]
        if disc:
            pixels[(rows - y) ** 2 + (columns - x) ** 2 < 64] += 120
        if bar:
            pixels[-10:] += 80
        return np.clip(pixels, 0, 255).astype(np.uint8)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        """(64, 64) uint8, 1 on the disc."""
        patient, image = map(int, record.image.split("/"))
        disc, _, x, y = self._facts(patient, image)
        rows, columns = np.mgrid[:SIZE, :SIZE]
        return (((rows - y) ** 2 + (columns - x) ** 2 < 64) & disc).astype(np.uint8)
