"""SIIM-ACR Pneumothorax: DICOM in folders of studies and series, and runs down the columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.types import Record
from tests.replicas.common import JPEG, boxed, draw, lesion, named, picture, save_dicom, studies


def write(root: Path, patients: int = 12) -> Path:
    """The set in ROOT/siim-acr-pneumothorax-segmentation; a positive image has two rows, and one more has no row at all."""
    home = root / "siim-acr-pneumothorax-segmentation"
    chosen = studies((_positive, lambda record: not _positive(record)), patients)
    uids = named(_uids(), _split, [split for _, split in chosen])
    lines = ["ImageId, EncodedPixels"]  # with that space
    for uid, (record, _) in zip(uids, chosen):
        _image(home / "dicom-images-train", uid, record)
        parts = [_runs(part) for part in _halves(_mask(record)) if part.any()]
        lines += [f"{uid}, {text}" for text in parts or ["-1"]]
    _image(home / "dicom-images-train", "1.2.276.0.7230010.3.1.4.8323329.1.1517875162.1", chosen[0][0])  # not annotated
    (home / "train-rle.csv").write_bytes("\n".join([*lines, ""]).encode())
    return home


def _positive(record: Record) -> bool:
    return bool(boxed(record, "Pneumothorax"))


def _image(folder: Path, uid: str, record: Record) -> None:
    save_dicom(folder / f"{uid}.9" / f"{uid}.8" / f"{uid}.dcm", picture(record), JPEG, ViewPosition=record.view)


def _uids() -> Iterator[str]:
    yield from (f"1.2.276.0.7230010.3.1.4.8323329.{number}.1517875162.{number}" for number in range(300, 9_000))


def _split(uid: str) -> str:
    place = draw("siim-image-60-20-20-0", uid)
    return "test" if place < 0.2 else "val" if place < 0.4 else "train"


def _mask(record: Record) -> NDArray[np.uint8]:
    """The lesions within the boxes of pneumothorax."""
    inside = np.zeros_like(lesion(record))
    for box in boxed(record, "Pneumothorax"):
        inside[int(box.y0) : int(np.ceil(box.y1)), int(box.x0) : int(np.ceil(box.x1))] = 1
    return inside & lesion(record)


def _halves(mask: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The mask above and below the middle of what it covers."""
    rows = np.flatnonzero(mask.any(1))
    middle = int(rows.mean()) if len(rows) else 0
    above, below = mask.copy(), mask.copy()
    above[middle:], below[:middle] = 0, 0
    return [above, below]


def _runs(mask: NDArray[np.uint8]) -> str:
    """The challenge's encoding: down the columns, each start counted from the end of the run before."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel(), [0]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    gaps = starts - np.concatenate([[0], ends[:-1]])
    return " ".join(f"{gap} {length}" for gap, length in zip(gaps.tolist(), (ends - starts).tolist()))
