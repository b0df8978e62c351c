"""The board as CSV: one line a result, every metric in a column of its own, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from leaderboards.rows import Row
from leaderboards.standings import Standing
from leaderboards.text import clean

_NAMES = (
    *("task", "dataset", "dataset_version", "protocol", "protocol_hash", "label_fraction", "method", "title", "role", "seed"),
    *("eval_seed", "status", "metric", "higher_is_better", "value", "low", "high", "n", "n_used", "n_expected"),
)
_COSTS = (
    *("peak_allocated_mib", "peak_reserved_mib", "peak_device_mib", "peak_host_mib", "images_per_second", "step_seconds"),
    *("gmacs", "params", "batch_size", "device"),
)
_STANDING = ("rank", "rank_low", "rank_high", "difference_to_best", "difference_low", "difference_high", "p", "p_holm")
_TAIL = ("flags", "reason", "key")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def safe(value: object) -> str | int | float:
    """A cell: numbers as they are, None empty, and text that a spreadsheet would run as a formula behind an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, int | float):
        return value
    text = str(value)
    if text.isprintable() and text[:1].isalnum():
        return text
    line = clean(text)
    return f"'{line}" if text.startswith(_FORMULA) or line.lstrip().startswith(_FORMULA) else line


def csv_table(
    rows: Sequence[Row], standings: Mapping[str, Standing] | None = None, unranked: Mapping[str, str] | None = None
) -> str:
    """The whole file; empty cells are unknown, undefined or not measured. Lines end in \\n.

    Args:
        standings: of the lines that the rows belong to, by the key of the row. unranked: why their table has no ranks.
    """
    metrics = sorted({name for row in rows for name in row.metrics})
    phases = sorted({phase for row in rows for phase in row.cost["seconds"]})
    head = [*_NAMES, "seconds", *(f"seconds:{phase}" for phase in phases), *_COSTS]
    head += [
        *(f"pretraining:{name}" for name in ("seconds", *_COSTS)),
        *_STANDING,
        *_TAIL,
        *(f"metric:{name}" for name in metrics),
        "unranked",
    ]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([safe(name) for name in head])
    for row in rows:
        why = (unranked or {}).get(row.key)
        writer.writerow([safe(item) for item in (*_line(row, (standings or {}).get(row.key), metrics, phases), why)])
    return buffer.getvalue()


def _of_standing(found: Standing | None) -> Iterable[Any]:
    if found is None:
        return [None] * len(_STANDING)
    difference = found.difference or {}
    places = (found.rank, found.low, found.high)
    return (*places, *(difference.get(name) for name in ("value", "low", "high")), found.p, found.p_holm)


def _line(row: Row, found: Standing | None, metrics: Iterable[str], phases: Iterable[str]) -> Iterable[Any]:
    yield from (getattr(row, name) for name in _NAMES)
    yield row.seconds
    yield from (row.cost["seconds"].get(phase) for phase in phases)
    yield from (row.cost[name] for name in _COSTS)
    before = row.pretraining
    yield None if before is None else sum(before["seconds"].values()) if before["seconds"] else None
    yield from ((None if before is None else before[name]) for name in _COSTS)
    yield from _of_standing(found)
    yield from (";".join(row.flags), row.reason, row.key)
    yield from (row.metrics.get(name, {}).get("value") for name in metrics)
