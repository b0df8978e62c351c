"""Files that records name and the disk lacks, and image files on the disk that no record names."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

from benchmark.types import Source
from benchmark.verify.findings import Finding, found

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".dcm", ".dicom"))  # of images; other masks are texts that are drawn
Stamp = tuple[int, int]  # bytes, modification time in ns


def stamps(source: Source) -> dict[str, Stamp | None]:
    """Every file that records name below the root -> its stamp, None where it is not there; empty for a generator."""
    root: Path | None = getattr(source, "root", None)
    known: dict[str, Stamp | None] = {}
    if root is None:
        return known
    for record in source.records:
        for file in (record.image, *filter(is_file, record.masks.values())):
            if file not in known:
                known[file] = stamp(root / file)
    return known


def is_file(reference: str) -> bool:
    """Whether the reference of a mask is a path, by its ending."""
    return PurePosixPath(reference).suffix.lower() in SUFFIXES


def stamp(path: Path) -> Stamp | None:
    """Size and time of a file; None where there is none, (-1, -1) where it cannot be asked."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


def check_files(dataset: str, source: Source, known: dict[str, Stamp | None], whole: bool) -> list[Finding]:
    """Missing and surplus files.

    Args:
        dataset: its name.
        source: records, and the root if it has one.
        known: of `stamps`.
        whole: no filter left rows out, so that what no record names is surplus.
    """
    lost = {file for file, found_there in known.items() if found_there is None}
    images = [f"{record.uid} ({record.image})" for record in source.records if record.image in lost]
    masks = [f"{record.uid} ({file})" for record in source.records for file in record.masks.values() if file in lost]
    root: Path | None = getattr(source, "root", None)
    return [
        *found("image-missing", dataset, images, f"of {len(source.records):,} images are not there"),
        *found("mask-missing", dataset, masks, "masks are not there"),
        *(_surplus(dataset, root, known) if root is not None and whole else []),
    ]


def _surplus(dataset: str, root: Path, known: dict[str, Stamp | None]) -> list[Finding]:
    folders: dict[str, list[str]] = defaultdict(list)
    for folder, inner, files in os.walk(root):
        inner.sort()
        place = Path(folder).relative_to(root).as_posix()
        for file in sorted(files):
            path = file if place == "." else f"{place}/{file}"
            if is_file(file) and path not in known:
                folders[place].append(file)
    most = sorted(folders, key=lambda place: -len(folders[place]))
    examples = [f"{place}: {len(folders[place]):,} ({folders[place][0]})" for place in most]
    number = sum(map(len, folders.values()))
    return found("image-surplus", dataset, examples, f"image files in {len(folders):,} folders are named by no record", number)
