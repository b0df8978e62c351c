"""Decoding many images of a source in several processes, and the versions of what decodes them."""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features

from benchmark.data.geometry import Geometry
from benchmark.data.workers import in_workers
from benchmark.errors import ImageError
from benchmark.types import InputSpec, Record, Source

CHUNK = 16  # images a task of a worker: large enough to hide the pipe, small enough to share the work out evenly
DICOM_ENDINGS = (".dcm", ".dicom")
DICOM_DECODERS = (  # pydicom and what it decodes with, as packages are named
    "pydicom", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pyjpegls", "python-gdcm", "gdcm",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image on its canvas, (S, S) uint8, with its original size; or None and the reason.

    passing: the reason lies with the machine, not with the file (no permission, no memory, an error of the disk).
    """

    pixels: NDArray[np.uint8] | None
    height: int = 0
    width: int = 0
    reason: str = ""
    passing: bool = False


def decoder_versions(records: Iterable[Record]) -> list[str | None]:
    """Versions of Pillow and its JPEG library and, where a record is a DICOM file, of pydicom and its decoders (None: absent).

    Lossy decoders differ by a gray level from version to version, and a decoder that is installed later reads more files.
    """
    found = [PIL.__version__, features.version("jpg")]
    if any(record.image.lower().endswith(DICOM_ENDINGS) for record in records):
        found += [_version(name) for name in DICOM_DECODERS]
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def decode_all(source: Source, spec: InputSpec, rows: Sequence[int], workers: int) -> Generator[Decoded, None, None]:
    """The images of a source's records with these numbers on their canvas, in this order; close the generator to stop early.

    Args:
        source: where images are read from or drawn.
        spec: size, resize policy and interpolation.
        rows: numbers of records.
        workers: processes; 0 or 1 decodes in this one.

    Raises:
        UserError: a worker was killed.
    """
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    workers = min(workers, len(chunks))
    if workers < 2:
        yield from (decode_one(source, spec, row) for row in rows)
    else:
        doing = f"decodes images of {source.name!r}"
        with closing(in_workers(_decode_chunk, (source, spec), chunks, workers, doing)) as done:
            for chunk in done:
                yield from chunk


def decode_one(source: Source, spec: InputSpec, row: int) -> Decoded:
    """One image. An ImageError becomes the reason; anything else is raised."""
    try:
        image = source.image(source.records[row])
    except ImageError as error:
        return Decoded(None, reason=error.reason, passing=_passes(error.__cause__))
    height, width = image.shape
    return Decoded(Geometry(height, width, spec.size, spec.resize).image_to_canvas(image, spec.interpolation), height, width)


def _passes(cause: BaseException | None) -> bool:
    """Whether an image may be read next time although its file stays as it is; decoders' own OSErrors have no number."""
    if isinstance(cause, OSError):
        return cause.errno not in (None, errno.ENOENT, errno.ENOTDIR)
    return isinstance(cause, MemoryError)


def _decode_chunk(source: Source, spec: InputSpec, rows: Sequence[int]) -> list[Decoded]:
    return [decode_one(source, spec, row) for row in rows]
