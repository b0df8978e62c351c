"""The cache of decoded pixels: every image of a source decoded once to a method's canvas, in one memory-mapped file.

One folder for each source as it lies on this disk and each canvas; `benchmark.data.pixel_files` says what is in it. A row
belongs to an image and the state of its file, not to a record: whatever rows, splits or labels a set is opened with, only
images that are not there yet are decoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmark.data.decoding import decode_all, decoder_versions
from benchmark.data.geometry import Geometry
from benchmark.data.pixel_files import KEY_BYTES, Appender, Contents, PixelFiles
from benchmark.data.stamps import ABSENT, FileStamps
from benchmark.errors import ImageError, UserError
from benchmark.types import InputSpec, Record, Source, digest

FORMAT = 2  # bumped when decoding, resizing or the layout changes
CHANGED = "its file changed after the set was opened; run again when nothing writes there"


class PixelCache:
    """Decoded images of one source at one input size. Made by `open`.

    Args:
        files: of the cache.
        spec: the size and resize policy it was made for.
        contents: what the files hold.
        keys: uid -> key, for each record.
        passing: key -> reason, of images that failed this time only.
    """

    def __init__(
        self, files: PixelFiles, spec: InputSpec, contents: Contents, keys: Mapping[str, bytes], passing: Mapping[bytes, str]
    ) -> None:
        self.folder = files.folder
        self._files = files
        self._spec = spec
        reasons = {**contents.failed, **passing}
        self._rows = {uid: contents.rows[key] for uid, key in keys.items() if key in contents.rows}
        self.failed: Mapping[str, str] = {uid: reasons[key] for uid, key in keys.items() if key not in contents.rows}
        self._records = contents.records
        self._checked = np.zeros(len(contents.records), np.bool_)
        self._pixels = files.pixels(len(contents.records))

    @classmethod
    def open(
        cls,
        source: Source,
        spec: InputSpec,
        folder: Path,
        workers: int = 0,
        progress: bool = True,
        stamps: FileStamps | None = None,
    ) -> PixelCache:
        """The cache of a source; images that are not in it, or whose file has changed, are decoded and appended.

        Args:
            source: its name, its root (without one, its version) and the decoders' versions decide which cache it is.
            spec: size, resize and interpolation decide too.
            folder: where caches lie; one that holds every image need not be writable.
            workers: processes that decode; 0 decodes in this one.
            progress: shows a bar on a terminal.
            stamps: the state of the source's files, if it is known already.

        Raises:
            UserError: the folder cannot be written or the disk is full (what was decoded stays), the source has no rows, or a
                worker was killed.
        """
        if not source.records:
            raise UserError(f"dataset {source.name!r} has no rows to decode; check its location and --where")
        files = PixelFiles(folder / cache_key(source, spec), spec.size)
        decoding = _Decoding(source, spec, stamps or FileStamps(source), workers, progress)
        keys = [row_key(record, source, decoding.stamps) for record in source.records]
        contents = files.read()
        passing: dict[bytes, str] = {}
        if missing := len(_missing(keys, contents)):
            what = f"decoded pixels of {source.name!r} ({missing:,} of {len(keys):,} images are not cached yet)"
            with Appender(files, what) as appender:
                # read once more: another process may have appended them in the meantime
                passing = decoding.run(_missing(keys, files.read()), appender)
            contents = files.read()
            if not _missing(keys, contents).keys() <= passing.keys():
                raise UserError(f"the pixel cache {files.folder} is damaged right after it was written; check its disk")
        return cls(files, spec, contents, {record.uid: key for record, key in zip(source.records, keys)}, passing)

    def take(self, records: Sequence[Record]) -> NDArray[np.uint8]:
        """(N, S, S) uint8, a copy. A row's checksum is compared the first time it is taken.

        Raises:
            UserError: a record that is not in the cache, failed to decode, or whose cached bytes have changed since.
        """
        rows = np.array([self._row(record.uid) for record in records], np.intp)
        pixels: NDArray[np.uint8] = self._pixels[rows]
        places, checksums = np.flatnonzero(~self._checked[rows]), self._records["checksum"][rows]
        damaged = [int(place) for place in places if crc32(pixels[place]) != checksums[place]]
        for place in damaged:
            self._files.drop(int(rows[place]))
        if damaged:
            raise UserError(
                f"cached pixels of {records[damaged[0]].uid!r} are damaged; run again to decode them anew, and delete "
                f"{self.folder} if that does not help"
            )
        self._checked[rows] = True
        return pixels

    def geometry(self, uid: str) -> Geometry:
        """How the original image lies on the canvas. Raises UserError as `take` does."""
        record = self._records[self._row(uid)]
        return Geometry(int(record["height"]), int(record["width"]), self._spec.size, self._spec.resize)

    def __len__(self) -> int:
        return len(self._rows) + len(self.failed)

    def _row(self, uid: str) -> int:
        if uid in self.failed:
            raise ImageError(uid, self.failed[uid])
        try:
            return self._rows[uid]
        except KeyError:
            raise UserError(f"record {uid!r} is not in the pixel cache {self.folder}; open it for the same records") from None


def cache_key(source: Source, spec: InputSpec) -> str:
    """16 hexadecimal digits over what decides the pixels of all rows of a cache; `row_key` has what decides each."""
    root: Path | None = getattr(source, "root", None)
    place = ["version", source.version] if root is None else ["root", str(root.resolve())]
    policy = (spec.size, spec.resize, spec.interpolation)
    return digest([FORMAT, decoder_versions(source.records), source.name, place, policy])


def row_key(record: Record, source: Source, stamps: FileStamps) -> bytes:
    """16 bytes over what decides a row's pixels: the image with its file's size and time or, without a file, the version."""
    stamp = stamps.of(record.image)
    state = f"version\0{source.version}" if stamp == ABSENT else f"file\0{stamp[0]}\0{stamp[1]}"
    return blake2b(f"{record.image}\0{state}".encode(errors="surrogatepass"), digest_size=KEY_BYTES).digest()


def _missing(keys: Sequence[bytes], contents: Contents) -> dict[bytes, int]:
    """Key -> number of a record with this key, of what is not there yet, in the order of records."""
    rows, failed = contents.rows, contents.failed
    return {key: row for row, key in enumerate(keys) if key not in rows and key not in failed}


@dataclass(frozen=True, slots=True)
class _Decoding:
    """How missing images are decoded."""

    source: Source
    spec: InputSpec
    stamps: FileStamps
    workers: int
    progress: bool

    def run(self, wanted: Mapping[bytes, int], appender: Appender) -> dict[bytes, str]:
        """Appends the records of these numbers; returns key -> reason of failures that may be gone next time."""
        passing: dict[bytes, str] = {}
        bar = tqdm(
            total=len(wanted), desc=f"decoding {self.source.name}", unit="image", leave=False, delay=1.0,
            disable=None if self.progress else True,
        )  # fmt: skip
        images = decode_all(self.source, self.spec, list(wanted.values()), self.workers)
        with bar, closing(images):
            for (key, row), image in zip(wanted.items(), images, strict=True):
                if not self.stamps.is_current(self.source.records[row].image):
                    passing[key] = CHANGED
                elif image.pixels is not None:
                    appender.add(key, image.pixels, image.height, image.width)
                elif image.passing:
                    passing[key] = image.reason
                else:
                    appender.fail(key, image.reason)
                bar.update()
        return passing
