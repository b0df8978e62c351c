"""The files of a pixel cache. They grow by appending, and what is whole in them survives a kill at any moment.

    pixels.u8      N x S x S bytes (uint8), row after row
    rows.bin       N records of 32 bytes (RECORD): whose pixels the row of the same number holds
    failed.jsonl   CHECKSUM ["KEY", "REASON"], a line for each image that cannot be decoded

Rows are on the disk before their records are written, about once a second; a row without a record, half a record and half a
line are cut off when the next process appends. A record whose seal is broken takes its row out of use and no other. Pixels
have their checksum in the record; who takes them compares.

One process appends at a time: it holds a lock (flock) on rows.bin, which the system takes back however the process ends.
Readers need no lock, as a row that has a record is neither moved nor written again. Local file systems and NFS on Linux (which
hands the lock on to the server) keep to this. Where there are no locks (Windows, a Lustre mounted without them) two processes
may write over each other's rows; a row that then is not its record's is refused by its checksum.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import UserError
from benchmark.store import sync_folder

if sys.platform != "win32":
    import fcntl

COMMIT_SECONDS = 1.0  # of work that a kill can lose
KEY_BYTES = 16
RECORD = np.dtype(
    [("key", f"V{KEY_BYTES}"), ("height", "<u4"), ("width", "<u4"), ("checksum", "<u4"), ("seal", "<u4")]
)  # height and width of the original image in pixels; checksum: CRC-32 of the row; seal: CRC-32 of what stands before it
_BODY, _SEAL = Struct(f"<{KEY_BYTES}s3I"), Struct("<I")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a cache holds. records: (N,) RECORD, to be read where `rows` points; rows, failed: by key."""

    records: NDArray[np.void]
    rows: Mapping[bytes, int]
    failed: Mapping[bytes, str]


class PixelFiles:
    """The files in one folder.

    Args:
        folder: of this cache alone; made when something is appended.
        size: S, height and width of a row in pixels.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self.data, self.index, self.failures = (folder / name for name in ("pixels.u8", "rows.bin", "failed.jsonl"))

    def read(self) -> Contents:
        """What is whole. Raises UserError if the files cannot be read."""
        try:
            raw, lines = _read(self.index), _read(self.failures)
            length = self.data.stat().st_size if self.data.exists() else 0  # looked at last: rows come before their records
        except OSError as error:
            raise UserError(
                f"the pixel cache {self.folder} cannot be read ({error.strerror or error}); make it readable or set "
                "BENCHMARK_CACHE to another folder"
            ) from error
        records = np.frombuffer(raw, RECORD, min(len(raw) // RECORD.itemsize, length // self.size**2))
        return Contents(records, _rows(raw, records), _failed(lines))

    def pixels(self, rows: int) -> NDArray[np.uint8]:
        """(N, S, S) uint8 of the first N rows, read-only, as the file lies on the disk."""
        shape = (rows, self.size, self.size)
        return np.asarray(np.memmap(self.data, np.uint8, "r", shape=shape)) if rows else np.zeros(shape, np.uint8)

    def drop(self, row: int) -> None:
        """Takes a damaged row out of use, so that its image is decoded again; nothing happens where that is not allowed."""
        with suppress(OSError), self.index.open("r+b", buffering=0) as file:
            file.seek(row * RECORD.itemsize)
            file.write(bytes(RECORD.itemsize))  # zeros do not have the seal of zeros


class Appender:
    """Appends to the files of a cache, in a `with` block; what was added stays, however the block ends.

    Args:
        files: of the cache.
        what: is written, for errors.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """

    def __init__(self, files: PixelFiles, what: str) -> None:
        self._files, self._what = files, what
        self._records, self._lines = bytearray(), bytearray()  # of what was added since the last commit
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with self._writing(), ExitStack() as stack:
            files = self._files
            files.folder.mkdir(parents=True, exist_ok=True)
            self._data, self._index, self._failures = (
                stack.enter_context(_Log(path)) for path in (files.data, files.index, files.failures)
            )
            for folder in (files.folder, files.folder.parent):
                sync_folder(folder)
            self._index.lock(f"waiting for another process that writes {files.folder}")
            rows = len(files.read().records)
            self._data.cut(rows * files.size**2)
            self._index.cut(rows * RECORD.itemsize)
            self._failures.cut(_read(files.failures).rfind(b"\n") + 1)
            self._open = stack.pop_all()
        self._committed = time.monotonic()
        return self

    def add(self, key: bytes, pixels: NDArray[np.uint8], height: int, width: int) -> None:
        """A row. pixels: (S, S) uint8. height, width: of the original image."""
        data = pixels.tobytes()
        with self._writing():
            self._data.append(data)
        body = _BODY.pack(key, height, width, crc32(data))
        self._records += body + _SEAL.pack(crc32(body))
        self._commit_when_due()

    def fail(self, key: bytes, reason: str) -> None:
        """An image that cannot be decoded as long as its key is this one."""
        body = json.dumps([key.hex(), reason]).encode()
        self._lines += b"%08x %s\n" % (crc32(body), body)
        self._commit_when_due()

    def commit(self) -> None:
        """Makes what was added durable and visible to others."""
        with self._writing():
            if self._records:
                self._data.sync()
                self._index.append(self._records)
                self._records.clear()
                self._index.sync()
            if self._lines:
                self._failures.append(self._lines)
                self._lines.clear()
                self._failures.sync()
        self._committed = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._open:
            if error is None:
                self.commit()
            else:
                with suppress(UserError):  # what ended the block is what the user must know
                    self.commit()

    def _commit_when_due(self) -> None:
        if time.monotonic() - self._committed >= COMMIT_SECONDS:
            self.commit()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            remedy = "make room there" if full else "make it a folder that can be written"
            raise UserError(
                f"{self._what} cannot be written to {self._files.folder} ({error.strerror or error}); {remedy} or set "
                "BENCHMARK_CACHE to another folder"
            ) from error


class _Log:
    """A file that grows at its end; an append that broke off is done over in the same place."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("r+b", buffering=0)
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def lock(self, message: str) -> None:
        """Waits, behind a message, until no other process has the lock; goes on without where there are no locks."""
        if sys.platform != "win32":
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(message, file=sys.stderr, flush=True)
                fcntl.flock(self._file, fcntl.LOCK_EX)
            except OSError:
                return

    def cut(self, length: int) -> None:
        """Drops what lies behind this many bytes; the file goes on from there."""
        if os.fstat(self._file.fileno()).st_size > length:
            self._file.truncate(length)
        self._end = length

    def append(self, data: bytes | bytearray) -> None:
        self._file.seek(self._end)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._end += len(data)

    def sync(self) -> None:
        os.fsync(self._file.fileno())


def _read(path: Path) -> bytes:
    """The bytes of a file, none where there is no file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _rows(raw: bytes, records: NDArray[np.void]) -> dict[bytes, int]:
    """Key -> row, of records whose seal is whole; the last one of a key counts."""
    places = range(0, len(records) * RECORD.itemsize, RECORD.itemsize)
    return {
        raw[place : place + KEY_BYTES]: row
        for row, (place, seal) in enumerate(zip(places, records["seal"].tolist()))
        if crc32(raw[place : place + _BODY.size]) == seal
    }


def _failed(lines: bytes) -> dict[bytes, str]:
    """Key -> reason, of whole lines."""
    found = {}
    for line in lines.split(b"\n")[:-1]:
        seal, _, body = line.partition(b" ")
        if seal == b"%08x" % crc32(body):
            key, reason = json.loads(body)
            found[bytes.fromhex(key)] = reason
    return found
