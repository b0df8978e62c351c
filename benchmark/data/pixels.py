"""The cache of decoded pixels: every image of a source decoded once to a method's canvas, in one memory-mapped file.

    <folder>/<digest>/pixels.u8    N x S x S bytes, rows in the order of the source's records
    <folder>/<digest>/index.json   uids, original sizes, a checksum a row, and the reasons of images that failed

A cache is built in a temporary folder beside it and renamed once, so that a killed build leaves nothing that looks whole.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4
from zlib import crc32

import numpy as np
import PIL
from numpy.typing import NDArray
from tqdm import tqdm

from benchmark.data.geometry import Geometry
from benchmark.data.images import decode_all
from benchmark.data.stamps import cache_stamp
from benchmark.errors import ImageError, UserError
from benchmark.store import TEMPORARY, sync_folder
from benchmark.types import InputSpec, Record, Source, canonical_json, digest

FORMAT = 1  # bumped when decoding, resizing or the layout changes
STALE_SECONDS = 3600.0  # a temporary folder that nobody wrote to for so long belongs to a build that was killed


class PixelCache:
    """Decoded images of one source at one input size. Made by `open`.

    Args:
        folder: a finished cache.
        index: its index, as `open` checked it.
        spec: the size and resize policy it was made for.
    """

    def __init__(self, folder: Path, index: Mapping[str, Any], spec: InputSpec) -> None:
        self.folder = folder
        self.failed: Mapping[str, str] = index["failed"]
        self._spec = spec
        self._rows: dict[str, int] = {uid: row for row, uid in enumerate(index["uids"])}
        self._heights: list[int] = index["heights"]
        self._widths: list[int] = index["widths"]
        self._checksums: list[int] = index["checksums"]
        self._checked = np.zeros(len(self._rows), np.bool_)
        shape = (len(self._rows), spec.size, spec.size)
        self._pixels: NDArray[np.uint8] = np.memmap(folder / "pixels.u8", np.uint8, "r", shape=shape)

    @classmethod
    def open(cls, source: Source, spec: InputSpec, folder: Path, workers: int = 0, progress: bool = True) -> PixelCache:
        """The cache of a source, built when it is not there or damaged.

        Args:
            source: its name, version, uids and image references decide which cache it is.
            spec: size, resize and interpolation decide too.
            folder: where caches lie.
            workers: processes that decode; 0 decodes in this one.
            progress: shows a bar on a terminal.

        Raises:
            UserError: the folder cannot be written or the disk is full, the source has no rows, or a worker was killed.
        """
        if not source.records:
            raise UserError(f"dataset {source.name!r} has no rows to decode; check its location and --where")
        key = cache_key(source, spec)
        target = folder / key
        index = _read_index(target, key, spec)
        if index is None:
            _build(source, spec, target, workers, progress)
            index = _read_index(target, key, spec)
            if index is None:
                raise UserError(f"the pixel cache {target} is damaged right after it was written; check the disk of {folder}")
        return cls(target, index, spec)

    def take(self, records: Sequence[Record]) -> NDArray[np.uint8]:
        """(N, S, S) uint8, a copy. A row's checksum is compared the first time it is taken.

        Raises:
            UserError: a record that is not in the cache, failed to decode, or whose cached bytes have changed since.
        """
        rows = np.array([self._row(record.uid) for record in records], np.intp)
        pixels: NDArray[np.uint8] = np.asarray(self._pixels[rows])
        for place in np.flatnonzero(~self._checked[rows]):
            if crc32(pixels[place]) != self._checksums[rows[place]]:
                uid = records[int(place)].uid
                raise UserError(f"cached pixels of {uid!r} are damaged; delete {self.folder} and run again")
            self._checked[rows[place]] = True
        return pixels

    def geometry(self, uid: str) -> Geometry:
        """How the original image lies on the canvas. Raises UserError as `take` does."""
        row = self._row(uid)
        return Geometry(self._heights[row], self._widths[row], self._spec.size, self._spec.resize)

    def __len__(self) -> int:
        return len(self._rows)

    def _row(self, uid: str) -> int:
        if uid in self.failed:
            raise ImageError(uid, self.failed[uid])
        try:
            return self._rows[uid]
        except KeyError:
            raise UserError(f"record {uid!r} is not in the pixel cache {self.folder}; open it for the same records") from None


def cache_key(source: Source, spec: InputSpec) -> str:
    """16 hexadecimal digits over everything that decides cached pixels."""
    rows = [(record.uid, record.image) for record in source.records]
    policy = (spec.size, spec.resize, spec.interpolation)
    known = [FORMAT, PIL.__version__, source.name, source.version, policy, rows]
    stamp = cache_stamp(source)
    return digest(known if stamp is None else [*known, stamp])


def _read_index(folder: Path, key: str, spec: InputSpec) -> dict[str, Any] | None:
    """The index of a whole cache, or None when it is absent, truncated or altered."""
    try:
        stored = json.loads((folder / "index.json").read_bytes())
        index, seal = stored["index"], stored["sha256"]
        length = (folder / "pixels.u8").stat().st_size
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if seal != sha256(canonical_json(index).encode()).hexdigest() or index["key"] != key:
        return None
    return index if length == len(index["uids"]) * spec.size**2 else None


@contextmanager
def _writing(folder: Path) -> Generator[None, None, None]:
    """What the cache cannot write is one sentence; what a source cannot read is not touched."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"decoded pixels cannot be written to {folder} ({error.strerror or error}); make room there or set "
            "BENCHMARK_CACHE to a folder with more"
        ) from error


def _build(source: Source, spec: InputSpec, target: Path, workers: int, progress: bool) -> None:
    folder = target.parent
    temporary = folder / f"{TEMPORARY}{target.name}-{uuid4().hex}"
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        temporary.mkdir()
    try:
        with (temporary / "pixels.u8").open("wb") as file:
            index = _fill(file, source, spec, workers, progress)
        index["key"] = target.name
        sealed = {"index": index, "sha256": sha256(canonical_json(index).encode()).hexdigest()}
        with _writing(folder), (temporary / "index.json").open("wb") as file:
            file.write(canonical_json(sealed).encode())
            _sync(file)
        with _writing(folder):
            _publish(temporary, target, spec)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(file: BinaryIO, source: Source, spec: InputSpec, workers: int, progress: bool) -> dict[str, Any]:
    """Writes the rows one after the other (a full disk then is an error, not a bus fault as in a memory map)."""
    failed: dict[str, str] = {}
    heights, widths, checksums = [], [], []
    blank = bytes(spec.size**2)
    bar = tqdm(
        total=len(source.records), desc=f"decoding {source.name}", unit="image", leave=False, delay=1.0,
        disable=None if progress else True,
    )  # fmt: skip
    with bar, closing(decode_all(source, spec, workers)) as decoded:
        for record, image in zip(source.records, decoded, strict=True):
            pixels = blank if image.pixels is None else image.pixels.tobytes()
            if image.pixels is None:
                failed[record.uid] = image.reason
            with _writing(Path(file.name).parents[1]):
                file.write(pixels)
            heights.append(image.height)
            widths.append(image.width)
            checksums.append(crc32(pixels))
            bar.update()
    with _writing(Path(file.name).parents[1]):
        _sync(file)
    uids = [record.uid for record in source.records]
    return {"uids": uids, "heights": heights, "widths": widths, "checksums": checksums, "failed": failed}


def _publish(temporary: Path, target: Path, spec: InputSpec) -> None:
    """Renames a finished cache into place; one that another process has published in the meantime stays."""
    if target.exists() and _read_index(target, target.name, spec) is None:
        damaged = target.with_name(f"{TEMPORARY}{target.name}-{uuid4().hex}")
        target.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        temporary.rename(target)
    except OSError:
        if _read_index(target, target.name, spec) is None:
            raise
        return
    sync_folder(target.parent)


def _sweep(target: Path) -> None:
    """Removes what killed builds of the same cache have left."""
    for stray in target.parent.glob(f"{TEMPORARY}{target.name}-*"):
        with suppress(OSError):  # it may be renamed or removed by whoever made it
            newest = max(path.stat().st_mtime for path in (stray, *stray.iterdir()))
            if time.time() - newest > STALE_SECONDS:
                shutil.rmtree(stray, ignore_errors=True)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
