"""Decoding many images of a source in several processes, and the versions of what decodes them."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features

from benchmark.data.geometry import Geometry
from benchmark.errors import ImageError, UserError
from benchmark.types import InputSpec, Record, Source

CHUNK = 16  # images a task of a worker: large enough to hide the pipe, small enough to share the work out evenly
AHEAD = 8  # tasks a worker may be ahead of who takes the images: covers a pause of the disk, and bounds the memory
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


_JOB: list[tuple[Source, InputSpec]] = []  # set once in each worker, so that the source is not sent with every task


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
        for row in rows:
            yield decode_one(source, spec, row)
        return
    # fork where it is safe and cheap: a worker uses Pillow and numpy alone, neither torch's threads nor CUDA
    method = "fork" if sys.platform == "linux" else "spawn"
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(method), _start_worker, (source, spec, os.getpid()))
    waiting: deque[Future[list[Decoded]]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_decode_chunk, chunk))
            if len(waiting) > AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            f"a process that decodes images of {source.name!r} was killed, perhaps for lack of memory; use fewer workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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


def _decode_chunk(rows: Sequence[int]) -> list[Decoded]:
    source, spec = _JOB[0]
    return [decode_one(source, spec, row) for row in rows]


def _start_worker(source: Source, spec: InputSpec, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops the workers
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    _JOB[:] = [(source, spec)]


def _exit_with(parent: int) -> None:
    """Ends a worker whose parent was killed: with fork, workers hold each other's pipes open and would wait for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
