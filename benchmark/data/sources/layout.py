"""What the official layouts of data sets share: finding the root, reading tables, naming files inside it, a version.

Every source has `known_counts`, what its publisher or a reader of the whole release counted, for `verify` to compare: {} where
--where chose rows or the release is unknown. Keys: "images", "patients", "studies", "reports" (studies with any text),
"boxes", "images with boxes", "images with masks", "positive/CLASS", "images/SPLIT" (of Record.split) and "official/NAME"
(of Record.attributes["official_split"]). A key stands only where the number has a source and the source file cites it.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from benchmark.data.gray import DECODING
from benchmark.data.images import read_image
from benchmark.data.sections import PARSER
from benchmark.data.sources import SourceOptions
from benchmark.errors import ImageError, UserError
from benchmark.registry import unknown
from benchmark.types import Record, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a set lies on a disk as it was downloaded.

    name: of `--data NAME`. title: for people. page: where it is licensed. files: paths under the root that tell this set from
    others, tables first; folder: the usual name of its root, as archives unpack it.
    """

    name: str
    title: str
    page: str
    files: tuple[str, ...]
    folder: str = ""


def find_root(layout: Layout, location: str, options: SourceOptions) -> Path:
    """The folder that holds the set.

    Args:
        location: what follows the colon of `--data NAME:LOCATION`; empty: --data-root/FOLDER, --data-root/NAME or --data-root.

    Raises:
        UserError: no folder, one level too high or too low, an archive, or a download without some of its files.
    """
    if not location and options.root is None:
        raise UserError(
            f"--data {layout.name} needs its folder: write --data {layout.name}:DIR, or --data-root or BENCHMARK_DATA with the "
            f"folder above it; {layout.title} is licensed at {layout.page}"
        )
    names = [name for name in (layout.folder, layout.name) if name]
    tried = [Path(location)] if location else [Path(options.root or "", name) for name in (*names, "")]
    candidates = [Path(os.path.abspath(path.expanduser())) for path in tried]
    for root in candidates:
        if _holds(root, layout.files):
            return root
    root = next((path for path in candidates if path.exists()), candidates[0])
    raise UserError(f"--data {layout.name}: {_why_not(root, layout)} ({layout.title}, licensed at {layout.page})")


def _holds(root: Path, files: Iterable[str]) -> bool:
    return all((root / file).exists() for file in files)


def _why_not(root: Path, layout: Layout) -> str:
    """What is wrong with a root, and the way out."""
    if root.is_file():
        return f"{root} is a file; unpack it and name the folder" if root.suffix in (".zip", ".gz", ".tar", ".tgz") else (
            f"{root} is a file; name the folder that holds {layout.files[0]}"
        )  # fmt: skip
    if not root.is_dir():
        return f"there is no folder {root}; check the path"
    try:
        children = sorted(path for path in root.iterdir() if path.is_dir())
        archives = sorted(path.name for path in root.iterdir() if path.suffix in (".zip", ".tgz", ".tar", ".gz"))
    except OSError as error:
        return f"folder {root} cannot be read ({error.strerror}); check its permissions"
    near = next((path for path in (*children, root.parent) if _holds(path, layout.files)), None)
    if near is not None:
        return f"folder {root} is one level off; use --data {layout.name}:{near}"
    missing = [file for file in layout.files if not (root / file).exists()]
    hint = f"; unpack {archives[0]} there" if archives else "; the download is not complete, or it is another set"
    return f"folder {root} lacks {', '.join(missing)}{hint}"


def read_table(path: Path, columns: Sequence[str], layout: Layout, delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a table, cells without surrounding space. UTF-8 with or without its mark, any line ends.

    Raises:
        UserError: it cannot be read, is not UTF-8, lacks columns, has no rows, or has a row of another length.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}), as {layout.title} publishes it; download it again from {layout.page}"
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        table = [(reader.line_num, cells) for cells in reader if any(cells)]
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num} is no table ({error}); download it again from {layout.page}") from error
    header = [name.strip() for name in table[0][1]] if table else []
    missing = [name for name in columns if name not in header]
    if missing:
        raise UserError(
            f"{path} lacks the columns {', '.join(missing)} that {layout.title} has; download it again from {layout.page}"
        )
    if len(table) < 2:
        raise UserError(f"{path} has no rows; download it again from {layout.page}")
    for line, cells in table[1:]:
        if len(cells) != len(header):
            raise UserError(f"{path} line {line} has {len(cells)} cells and the header {len(header)}; download it again")
    return [dict(zip(header, map(str.strip, cells))) for _, cells in table[1:]]


def stream_table(path: Path, columns: Sequence[str], layout: Layout) -> Iterator[dict[str, str]]:
    """The named columns of a .csv or .csv.gz, without the whole in memory, with the errors of `read_table`."""
    again = f"download it again from {layout.page}"
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in columns if name not in header]
            if missing:
                raise UserError(f"{path} lacks the columns {', '.join(missing)} that {layout.title} has; {again}")
            places = [(name, header.index(name)) for name in columns]
            for cells in filter(any, reader):
                if len(cells) != len(header):
                    raise UserError(f"{path} line {reader.line_num} has {len(cells)} cells, the header {len(header)}; {again}")
                yield {name: cells[place].strip() for name, place in places}
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8, as {layout.title} publishes it; {again}") from error
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise UserError(f"{path} cannot be read to its end ({error}); check its permissions, or {again}") from error


def inside(root: Path, relative: str, where: str) -> str:
    """The POSIX path of a file inside the root, as a table names it.

    Raises:
        UserError: a path that leads out of the root, by itself or by a link.
    """
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts or "\\" in relative or "\0" in relative:
        raise UserError(f"{where} names {relative!r}, a path that leaves {root}; the table was changed, download it again")
    path = root / pure
    try:
        real = path.resolve() if path.is_symlink() else path.parent.resolve() / path.name
    except (OSError, RuntimeError) as error:
        raise UserError(f"{where} names {relative!r}, a link that leads in a circle; replace it by the file") from error
    if not real.is_relative_to(root.resolve()):
        raise UserError(f"{where} names {relative!r}, a link that leads out of {root}; copy the file into the folder")
    return pure.as_posix()


def read_inside(root: Path, record: Record) -> NDArray[np.uint8]:
    """(H, W) uint8 of a record's image. Raises ImageError, also for a link that leads out of the root."""
    try:
        path = inside(root, record.image, "the table")
    except UserError as error:
        raise ImageError(record.uid, str(error)) from error
    return read_image(root / path, record.uid)


def list_files(root: Path, folder: str, ending: str = "") -> frozenset[str]:
    """Names of what lies in a folder and ends so, without that ending; one look at the folder, none at each file.

    Raises:
        UserError: it cannot be read, or is or has a link that leads out of the root.
    """
    inside(root, folder, "the layout")
    try:
        with os.scandir(root / folder) as entries:
            found = [(entry.name, entry.is_symlink()) for entry in entries if entry.name.endswith(ending)]
    except OSError as error:
        raise UserError(f"{root / folder} cannot be read as a folder ({error.strerror}); unpack it there again") from error
    for name in (name for name, is_link in found if is_link):
        inside(root, f"{folder}/{name}", folder)
    return frozenset(name.removesuffix(ending) for name, _ in found)


def partial_download(kept: Iterable[str], listed: Iterable[str], found: Collection[str]) -> tuple[str, ...]:
    """The flag "partial-download" where files are missing or a table was cut short, else none.

    Args:
        kept: names that the rows kept need.
        listed: names that the whole table knows.
        found: names that lie there.
    """
    return () if set(found).issuperset(kept) and set(found).issubset(listed) else ("partial-download",)


def draw(rule: str, name: str) -> float:
    """The number in [0, 1) by which a named rule places a patient or an image: it depends on both names alone."""
    return int(digest([rule, name], 8), 16) / 2**32


def keep_where(rows: list[dict[str, str]], where: Iterable[tuple[str, str]], path: Path) -> list[dict[str, str]]:
    """The rows that `--where column=value` keeps. Raises UserError for an unknown column or a value that none has."""
    for column, value in where:
        if column not in rows[0]:
            raise unknown(f"column in --where (of {path.name})", column, list(rows[0]))
        kept = [row for row in rows if row[column] == value]
        if not kept:
            there = sorted({row[column] for row in rows})
            shown = ", ".join(map(repr, there[:5])) + (", ..." if len(there) > 5 else "")
            raise UserError(f"--where {column}={value} leaves no row of {path.name}; values of {column!r} are {shown}")
        rows = kept
    return rows


def version_of(release: str, tables: Mapping[str, Path], options: SourceOptions) -> str:
    """RELEASE-DIGEST: of the bytes of the tables, the filter, how files are decoded and reports cut; `verify` reads images."""
    found = {name: sha256(path.read_bytes()).hexdigest() for name, path in sorted(tables.items())}
    return f"{release}-{digest([found, sorted(options.where), DECODING, PARSER], 8)}"
