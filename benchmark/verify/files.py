"""Files that records name and the disk lacks, and image files on the disk that no record names."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

from benchmark.data.stamps import ABSENT, FileStamps
from benchmark.types import Source
from benchmark.verify.findings import Finding, found

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".dcm", ".dicom"))  # of images; other masks are texts that are drawn


def is_file(reference: str) -> bool:
    """Whether the reference of a mask is a path, by its ending."""
    return PurePosixPath(reference).suffix.lower() in SUFFIXES


def is_missing(file: str, stamps: FileStamps) -> bool:
    """Whether a path below the root has no file; never for what is drawn."""
    return stamps.root is not None and stamps.of(file) == ABSENT


def check_files(dataset: str, source: Source, stamps: FileStamps, whole: bool) -> list[Finding]:
    """Missing and surplus files.

    Args:
        dataset: its name.
        source: records.
        stamps: of its files.
        whole: no filter left rows out, so that what no record names is surplus.
    """
    images = [f"{record.uid} ({record.image})" for record in source.records if is_missing(record.image, stamps)]
    masks = [
        f"{record.uid} ({file})"
        for record in source.records
        for file in record.masks.values()
        if is_file(file) and is_missing(file, stamps)
    ]
    named = {file for record in source.records for file in (record.image, *record.masks.values())}
    return [
        *found("image-missing", dataset, images, f"of {len(source.records):,} images are not there"),
        *found("mask-missing", dataset, masks, "masks are not there"),
        *(_surplus(dataset, stamps.root, named) if stamps.root is not None and whole else []),
    ]


def _surplus(dataset: str, root: Path, named: set[str]) -> list[Finding]:
    folders: dict[str, list[str]] = defaultdict(list)
    for folder, inner, files in os.walk(root):
        inner.sort()
        place = Path(folder).relative_to(root).as_posix()
        for file in sorted(files):
            path = file if place == "." else f"{place}/{file}"
            if is_file(file) and path not in named:
                folders[place].append(file)
    most = sorted(folders, key=lambda place: -len(folders[place]))
    examples = [f"{place}: {len(folders[place]):,} ({folders[place][0]})" for place in most]
    number = sum(map(len, folders.values()))
    return found("image-surplus", dataset, examples, f"image files in {len(folders):,} folders are named by no record", number)
