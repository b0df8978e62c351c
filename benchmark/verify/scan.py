"""Every image decoded once, in parallel, and what it showed kept in a file that survives a kill.

    scan.jsonl      CHECKSUM JSON, one line an image, appended

A line counts if its checksum (crc32, 8 hexadecimal digits) fits, so a file that was cut anywhere is read up to the cut and
appended to. It is used again while its key holds: decoders, root, file names, their sizes and times, the boxes that masks are
drawn from; without files, the version of the set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmark.data.decoding import CHUNK, decoder_versions
from benchmark.data.geometry import IGNORE
from benchmark.data.images import image_shape, read_image
from benchmark.data.stamps import FileStamps
from benchmark.data.workers import in_workers
from benchmark.errors import ImageError, UserError
from benchmark.types import Record, Source, digest, plain
from benchmark.verify.files import is_file, is_missing
from benchmark.verify.near import Looks, fingerprint

FORMAT = 1  # bumped when a line says something else for the same pixels


@dataclass(frozen=True, slots=True)
class MaskScan:
    """What a mask showed. structure: pixels of it; problem: "", "size", "values" or "unreadable", with the reason."""

    structure: int = 0
    problem: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ImageScan:
    """What an image showed.

    sha256: of its shape and pixels. constant: all pixels are one value. reason: why it could not be decoded; the rest is then
    empty.
    """

    key: str
    height: int = 0
    width: int = 0
    sha256: str = ""
    constant: bool = False
    looks: Looks = field(default_factory=Looks)
    reason: str = ""
    masks: Mapping[str, MaskScan] = field(default_factory=dict)


def scan(source: Source, stamps: FileStamps, path: Path, workers: int, progress: bool) -> dict[str, ImageScan]:
    """uid -> what its image showed, for every image that is there; decodes those that no line is kept of, or that failed.

    Args:
        source: images and masks.
        stamps: of its files.
        path: the scan file; made, with its folder, if it is not there.
        workers: processes.
        progress: shows a bar on a terminal.

    Raises:
        UserError: the folder cannot be written, or a worker was killed.
    """
    common = [FORMAT, decoder_versions(source.records), str(stamps.root) if stamps.root else f"{source.name} {source.version}"]
    keys = {
        index: digest([*common, *_named(record, stamps)], 24)
        for index, record in enumerate(source.records)
        if not is_missing(record.image, stamps)
    }
    kept = {key: image for key, image in _read(path).items() if not _failed(image)}  # a decoder may have been installed since
    scans = {source.records[index].uid: kept[key] for index, key in keys.items() if key in kept}
    todo = [index for index, key in keys.items() if key not in kept]
    chunks = [[(index, keys[index]) for index in todo[start : start + CHUNK]] for start in range(0, len(todo), CHUNK)]
    bar = tqdm(
        total=len(keys), initial=len(scans), desc=f"decoding {source.name}", unit="image", leave=False, delay=1.0,
        disable=None if progress else True,
    )  # fmt: skip
    work = in_workers(_scan_chunk, (source, stamps), chunks, min(workers, len(chunks)), f"decodes images of {source.name!r}")
    with _writing(path), path.open("ab") as file, bar, closing(work):
        if file.tell() and not _ends_a_line(path):
            file.write(b"\n")
        for chunk, looked in zip(chunks, work):
            file.write(b"".join(map(_line, looked)))
            file.flush()
            scans |= {source.records[index].uid: image for (index, _), image in zip(chunk, looked)}
            bar.update(len(chunk))
    return scans


def _failed(image: ImageScan) -> bool:
    return bool(image.reason) or any(mask.problem == "unreadable" for mask in image.masks.values())


def _named(record: Record, stamps: FileStamps) -> list[object]:
    """What decides the pixels of a record: its files as they are now, and what masks are drawn from."""
    files = [(name, file, stamps.of(file) if is_file(file) else None) for name, file in sorted(record.masks.items())]
    return [record.image, stamps.of(record.image), files, repr(record.boxes) if files else ""]


# --------------------------------------------------------------------------------------------- one image


def _scan_chunk(source: Source, stamps: FileStamps, chunk: list[tuple[int, str]]) -> list[ImageScan]:
    return [scan_one(source, source.records[index], stamps, key) for index, key in chunk]


def scan_one(source: Source, record: Record, stamps: FileStamps, key: str = "") -> ImageScan:
    """One image and its masks. An ImageError becomes the reason; masks of such an image are not looked at."""
    try:
        image = source.image(record)
    except ImageError as error:
        return ImageScan(key, reason=error.reason)
    masks = {
        name: _scan_mask(source, record, name, image.shape)
        for name, file in record.masks.items()
        if not (is_file(file) and is_missing(file, stamps))
    }
    return ImageScan(
        key=key,
        height=image.shape[0],
        width=image.shape[1],
        sha256=sha256(repr(image.shape).encode() + image.tobytes()).hexdigest(),
        constant=bool((image == image.flat[0]).all()),
        looks=fingerprint(image),
        masks=masks,
    )


def _scan_mask(source: Source, record: Record, name: str, shape: tuple[int, ...]) -> MaskScan:
    try:
        mask = source.mask(record, name)
    except ImageError as error:
        return MaskScan(problem=_problem(source, record, name, shape), reason=error.reason)
    if mask.shape != shape:
        return MaskScan(problem="size", reason=f"{mask.shape}, the image {shape}")
    strange = _strange(mask)
    if strange:
        return MaskScan(problem="values", reason=f"it holds the value {strange[0]}")
    return MaskScan(int((mask == 1).sum()))


def _strange(mask: NDArray[np.uint8]) -> list[int]:
    return sorted(set(np.unique(mask).tolist()) - {0, 1, IGNORE})


def _problem(source: Source, record: Record, name: str, shape: tuple[int, ...]) -> str:
    """Of a mask that its source refuses: a file of another size, one that can be read and so holds other values, or neither."""
    root, file = getattr(source, "root", None), record.masks[name]
    if root is None or not is_file(file):
        return "unreadable"
    try:
        if image_shape(root / file, record.uid) != shape:
            return "size"
        read_image(root / file, record.uid)
    except ImageError:
        return "unreadable"
    return "values"


# ------------------------------------------------------------------------------------------- the scan file


def _line(image: ImageScan) -> bytes:
    text = json.dumps(plain(image), separators=(",", ":"), ensure_ascii=True).encode()
    return b"%08x %s\n" % (crc32(text), text)


def _read(path: Path) -> dict[str, ImageScan]:
    """Key -> scan, of the lines that are whole."""
    kept: dict[str, ImageScan] = {}
    try:
        with path.open("rb") as file:
            for line in file:
                image = _parse(line)
                if image is not None:
                    kept[image.key] = image
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions, or delete it") from error
    return kept


def _parse(line: bytes) -> ImageScan | None:
    head, _, text = line.rstrip(b"\n").partition(b" ")
    if head != b"%08x" % crc32(text):
        return None
    try:
        value: dict[str, Any] = json.loads(text)
        masks = {name: MaskScan(**mask) for name, mask in value["masks"].items()}
        return ImageScan(**{**value, "masks": masks, "looks": Looks(**value["looks"])})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # whole, and of another version of this file


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


@contextmanager
def _writing(path: Path) -> Generator[None, None, None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); make room there or choose another folder by --out"
        ) from error
