"""Reads and checks the published numbers of leaderboards/published: one CSV file a source, one line a number."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from leaderboards.published_schema import FOLDER, Published, faults, near, number, text_fault, vocabulary

ABSENT_NAME = "absent.csv"
ABSENT_COLUMNS = ("method", "dataset", "task", "what", "reason")
_LONGEST = 1 << 20  # of a file, in bytes: a table that somebody typed is far smaller


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """A number that people look for and that the store does not have, and why."""

    method: str  # "" for several or unnamed methods
    dataset: str
    task: str
    what: str
    reason: str


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that is wrong with the store."""

    file: str
    line: int
    sentence: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.sentence}"


@dataclass(frozen=True, slots=True)
class PublishedStore:
    """What could be read, and what could not. A line with a fault is not among the rows."""

    rows: tuple[Published, ...]
    absent: tuple[Absent, ...]
    faults: tuple[Fault, ...]


@cache
def shipped() -> PublishedStore:
    """The store that comes with the package, read once."""
    return read_store(FOLDER)


def read_store(place: Path) -> PublishedStore:
    """Every number of a folder of CSV files, or of one file.

    Args:
        place: the folder, or one file of it; other files than *.csv are passed over. A place without any gives an empty store.
    """
    paths = [place] if place.is_file() else sorted(place.glob("*.csv"))
    rows: list[Published] = []
    absent: list[Absent] = []
    found: list[Fault] = []
    for path in paths:
        columns = ABSENT_COLUMNS if path.name == ABSENT_NAME else vocabulary().columns
        lines, unread = _lines(path, columns)
        found += unread
        if path.name == ABSENT_NAME:
            absent += _absent(path.name, lines, found)
        else:
            rows += _rows(path.name, lines, found)
    rows = _without_repeats(rows, found)
    return PublishedStore(tuple(rows), tuple(absent), tuple(sorted(found)))


def _lines(path: Path, columns: Sequence[str]) -> tuple[list[tuple[int, dict[str, str]]], list[Fault]]:
    """(number of the line, column -> text) of each line that has all columns, and faults of the others."""
    name = path.name
    try:
        if path.stat().st_size > _LONGEST:
            return [], [Fault(name, 1, f"the file is larger than {_LONGEST} bytes")]
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets put a mark before the first name
    except OSError as error:
        return [], [Fault(name, 1, f"the file cannot be read ({error.strerror})")]
    except UnicodeDecodeError as error:
        return [], [Fault(name, error.object[: error.start].count(b"\n") + 1, "the text is not UTF-8")]
    lines: list[tuple[int, dict[str, str]]] = []
    found: list[Fault] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    try:
        head = next(reader, [])
        if tuple(head) != tuple(columns):
            return [], [Fault(name, 1, f"the first line must name the columns {','.join(columns)}")]
        start = reader.line_num + 1
        for cells in reader:
            if len(cells) == len(columns):
                lines.append((start, dict(zip(columns, cells))))
            elif cells:  # an empty line is no number
                found.append(Fault(name, start, f"the line has {len(cells)} cells instead of {len(columns)}"))
            start = reader.line_num + 1
    except csv.Error as error:
        found.append(Fault(name, start, f"the line is not CSV ({error}); the rest of the file was not read"))
    return lines, found


def _rows(file: str, lines: Sequence[tuple[int, Mapping[str, str]]], found: list[Fault]) -> Iterator[Published]:
    sound = []
    for line, cells in lines:
        wrong = [Fault(file, line, sentence) for sentence in faults(cells)]
        found += wrong
        if not wrong:
            sound.append(_published(file, line, cells))
    fractions = {row.line for rows in _fractions(sound) for row in rows}
    for row in sound:
        if row.line in fractions:
            told = f"every {row.metric} of this file is at most 1, which reads as a fraction; multiply it by 100"
            found.append(Fault(file, row.line, told))
        else:
            yield row


def _fractions(rows: Sequence[Published]) -> Iterator[list[Published]]:
    """Two or more percentages of one metric that are all at most 1."""
    grouped: dict[str, list[Published]] = defaultdict(list)
    for row in rows:
        if row.unit == "percent":
            grouped[row.metric].append(row)
    yield from (group for group in grouped.values() if len(group) > 1 and all(row.value <= 1 for row in group))


def _published(file: str, line: int, cells: Mapping[str, str]) -> Published:
    numbers = {name: number(cells[name]) for name in ("fraction", "spread")}
    digits = len(cells["value"].partition(".")[2])
    value = float(cells["value"])
    return Published(**{**cells, **numbers, "value": value}, digits=digits, file=file, line=line)  # type: ignore[arg-type]


def _without_repeats(rows: Sequence[Published], found: list[Fault]) -> list[Published]:
    """The first of the numbers that one table of one source is said to print for one cell."""
    seen: dict[tuple[object, ...], Published] = {}
    for row in rows:
        first = seen.setdefault((row.citation, row.table, row.cell), row)
        if first is not row:
            told = f"repeats line {first.line} of {first.file}: the same cell of the same table of the same source"
            found.append(Fault(row.file, row.line, told))
    return list(seen.values())


def _absent(file: str, lines: Sequence[tuple[int, Mapping[str, str]]], found: list[Fault]) -> Iterator[Absent]:
    names = vocabulary().names
    for line, cells in lines:
        wrong = [fault for name, text in cells.items() if (fault := text_fault(name, text, 300))]
        wrong += [near(name, cells[name], names[name]) for name in ("dataset", "task") if cells[name] not in ("", *names[name])]
        wrong += [f"{name} is empty" for name in ("what", "reason") if not cells[name].strip()]
        found += [Fault(file, line, sentence) for sentence in wrong]
        if not wrong:
            yield Absent(**cells)
