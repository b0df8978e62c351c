"""What tells that files of a set on a disk are others than before, without reading them."""

from __future__ import annotations

import os
from pathlib import Path

from benchmark.types import Source, digest

ABSENT = (-1, -1)


class FileStamps:
    """Size and modification time of the files of a source; the disk is asked once for each.

    A file that was changed and has both as before cannot be told from the old one.

    Args:
        source: its `root`, where it has one, is the folder that its paths start from.
    """

    def __init__(self, source: Source) -> None:
        self.root: Path | None = getattr(source, "root", None)
        self._found: dict[str, tuple[int, int]] = {}

    def of(self, file: str) -> tuple[int, int]:
        """(bytes, modification time in ns) when it was first asked for; ABSENT if there is no such file, or no root."""
        stamp = self._found.get(file)
        if stamp is None:
            stamp = self._found[file] = self._ask(file)
        return stamp

    def is_current(self, file: str) -> bool:
        """Whether the file is still what `of` said."""
        return self._ask(file) == self.of(file)

    def _ask(self, file: str) -> tuple[int, int]:
        if self.root is None:
            return ABSENT
        try:
            status = os.stat(os.path.join(self.root, file))
        except (OSError, ValueError):  # a mask may be a text that is drawn, and no file
            return ABSENT
        return status.st_size, status.st_mtime_ns


def version_with_sizes(source: Source, stamps: FileStamps) -> str:
    """The version of a source and, for sets on a disk, a digest of the bytes of every image and mask that it names.

    Sizes are the same for everybody who has the same release whole; a missing, resized or replaced file shows. A folder of
    one's own (csv) has the like in its version already.
    """
    if stamps.root is None or source.name.startswith("csv:"):
        return source.version
    files = (file for record in source.records for file in (record.image, *record.masks.values()))
    return f"{source.version}-{digest([stamps.of(file)[0] for file in files], 8)}"
