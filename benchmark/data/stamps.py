"""What tells that files of a set on a disk are others than before, without reading them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from benchmark.types import Source, digest


def version_with_sizes(source: Source) -> str:
    """The version of a source and, for sets on a disk, a digest of the bytes of every image and mask that it names.

    Sizes are the same for everybody who has the same release whole; a missing, resized or replaced file shows. A folder of
    one's own (csv) has the like in its version already.
    """
    root = _root(source)
    return source.version if root is None else f"{source.version}-{digest([size for size, _ in _stats(source, root)], 8)}"


def cache_stamp(source: Source) -> object:
    """Where a set lies on this machine, and size and modification time of its files: other files, another cache."""
    root = _root(source)
    return None if root is None else [str(root.resolve()), digest(list(_stats(source, root)))]


def _root(source: Source) -> Path | None:
    found = getattr(source, "root", None)
    return None if source.name.startswith("csv:") else found


def _stats(source: Source, root: Path) -> Iterator[tuple[int, int]]:
    """(bytes, modification time in ns) of each image and mask in the order of records, (-1, -1) where there is no such file."""
    for record in source.records:
        for file in (record.image, *record.masks.values()):
            try:
                status = os.stat(root / file)
            except (OSError, ValueError):  # a mask may be a text that is drawn, and no file
                yield -1, -1
            else:
                yield status.st_size, status.st_mtime_ns
