"""What the replicas share: phantom studies to draw from, places in splits, tables, and real DICOM files."""

from __future__ import annotations

import csv
import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.data.phantom import CLASSES, PhantomSettings, PhantomSource
from benchmark.types import Box, Record, digest

SIZE = 64  # pixels of a side of every picture that is drawn
PLAN = ("train", "val", "test", "train")  # splits in turn, so that few patients fill all of them
GROUP = 3  # patients who show every class present and absent between them
PLAIN, JPEG, JPEG_2000, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"
Row = Mapping[str, str]


@lru_cache(maxsize=1)
def phantom() -> PhantomSource:
    """Enough studies to choose from; a picture is drawn when it is asked for."""
    return PhantomSource(PhantomSettings(seed=0, size=SIZE, train=400, val=1, test=1))


@lru_cache(maxsize=1)
def _pool() -> dict[str, tuple[Record, ...]]:
    """Patient -> frontal and lateral records."""
    found: dict[str, tuple[Record, ...]] = {}
    for record in phantom().records:
        if record.split == "train":
            found[record.patient] = (*found.get(record.patient, ()), record)
    return found


@lru_cache(maxsize=8)
def cohort(count: int) -> tuple[tuple[Record, ...], ...]:
    """Records of patients, each GROUP of whom shows every CheXpert class as present and as absent.

    The next patient is the one that adds most to its group, rare facts first, so that few images do.
    """
    pool = dict(_pool())
    common = Counter(fact for records in pool.values() for fact in _facts(records))
    chosen: list[tuple[Record, ...]] = []
    while len(chosen) < count:
        have = {fact for records in chosen[len(chosen) // GROUP * GROUP :] for fact in _facts(records)}
        best = max(pool, key=lambda name: sum(1 / common[fact] for fact in _facts(pool[name]) - have))
        chosen.append(pool.pop(best))
    return tuple(chosen)


def _facts(records: Sequence[Record]) -> set[tuple[str, float]]:
    return {(name, value) for record in records for name, value in zip(CLASSES, record.labels) if value == value}


def split_of(place: int) -> str:
    """The split of the patient at a place, whole groups of `cohort` in turn."""
    return PLAN[place // GROUP % len(PLAN)]


def frontals(count: int) -> list[tuple[int, str, Record]]:
    """Place of the patient, split and record of every frontal image of `cohort`."""
    found = enumerate(cohort(count))
    return [(place, split_of(place), item) for place, records in found for item in records if item.view != "LATERAL"]


def studies(kinds: Sequence[Callable[[Record], bool]], count: int) -> list[tuple[Record, str]]:
    """A frontal record of each of as many patients and its split, PLAN in turn for the first kind, then for the next one."""
    frontal = [next(record for record in records if record.view != "LATERAL") for records in _pool().values()]
    found = [iter([record for record in frontal if kind(record)]) for kind in kinds]
    return [(next(found[place // len(PLAN) % len(kinds)]), PLAN[place % len(PLAN)]) for place in range(count)]


def draw(rule: str, name: str) -> float:
    """The number in [0, 1) by which sources place a name by its own hash. rule: as the source writes it into its version."""
    return int(digest([rule, name], 8), 16) / 2**32


def named(names: Iterator[str], split: Callable[[str], str], wanted: Sequence[str]) -> list[str]:
    """The first names that a rule puts where they are wanted, one for each."""
    waiting: dict[str, list[str]] = {}
    found = []
    for place in wanted:
        while not waiting.get(place):
            name = next(names)
            waiting.setdefault(split(name), []).append(name)
        found.append(waiting[place].pop(0))
    return found


def shows(record: Record, *names: str) -> bool:
    """Whether a record has one of the labels."""
    return any(record.labels[CLASSES.index(name)] == 1 for name in names)


def boxed(record: Record, *names: str) -> list[Box]:
    """Its boxes of some findings."""
    return [box for box in record.boxes or () if box.label in names]


def picture(record: Record) -> NDArray[np.uint8]:
    """(SIZE, SIZE) uint8."""
    return phantom().image(record)


def lesion(record: Record) -> NDArray[np.uint8]:
    """(SIZE, SIZE) uint8 0/1: where lesions are."""
    return phantom().mask(record, "lesion")


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    """A PNG or JPEG, by the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 90} if path.suffix == ".jpg" else {"compress_level": 1}))


def table(path: Path, rows: Sequence[Row], header: Sequence[str] = ()) -> None:
    """A CSV file with "\\n" at line ends; blank where a row lacks a column."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, header or list(rows[0]), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue().encode())


def save_dicom(path: Path, pixels: NDArray[np.uint8], syntax: str, bits: int = 8, **tags: Any) -> None:
    """A DICOM file of one frame.

    Args:
        pixels: (H, W) uint8, 255 white.
        syntax: the transfer syntax; JPEG takes 8 bits alone.
        bits: stored; the gray values are stretched to them. PhotometricInterpretation MONOCHROME1 among the tags turns them.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = PLAIN
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    number = int.from_bytes(path.stem.encode()[-12:], "big")  # an identifier of its own, in digits
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"1.2.276.0.{number}"
    made.Modality, made.PatientID, made.PhotometricInterpretation = "CR", path.stem, "MONOCHROME2"
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PixelRepresentation = 1, 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 8 if bits <= 8 else 16, bits, bits - 1
    gray = 255 - pixels if tags.get("PhotometricInterpretation") == "MONOCHROME1" else pixels
    values = np.round(gray * ((2**bits - 1) / 255)).astype(np.uint8 if bits <= 8 else np.uint16)
    made.PixelData = values.tobytes()
    made["PixelData"].VR = "OB" if bits <= 8 else "OW"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some sets write values that the standard does not allow, and so does this
        for name, value in tags.items():
            setattr(made, name, value)
    if syntax == JPEG:
        stream = io.BytesIO()
        Image.fromarray(gray).save(stream, "JPEG", quality=95)
        made.PixelData = encapsulate([stream.getvalue()])
        made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
        made.file_meta.TransferSyntaxUID = JPEG
    elif syntax != PLAIN:
        made.compress(syntax, encoding_plugin={JPEG_2000: "pylibjpeg", RLE: "pydicom"}[syntax], generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_as(path, enforce_file_format=True)
