"""Published numbers by cell, and what may stand beside a measured one.

Numbers of different protocols never meet in a cell. Where sources print different numbers for one cell, the cell is their
range and says that they disagree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from leaderboards.counterparts import COUNTERPARTS, UNLIKE, UNSTATED, Counterpart, plain, published_names
from leaderboards.published_schema import Published
from leaderboards.published_store import PublishedStore, shipped
from leaderboards.rows import Row

NO_SOURCE = "no comparable source"
TOLERANCE = 1.0  # points around what the sources span that still count as "within"
NEVER = {
    "phantom": "synthetic data",
    "development": "data for checks",
    "own-data": "a folder of your own, whose rows nobody has published on",
    "partial": "not every row of the test split was used",
}
_KINDS = ("paper", "README", "reprint", "second hand", "aggregator")
_SUPERVISED = ("classification", "segmentation", "detection")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """All numbers that sources print for one method, data set, protocol, task, setting, finding, fraction and metric."""

    rows: tuple[Published, ...]  # at least one, by value

    @property
    def first(self) -> Published:
        """The lowest; it gives whatever the rows share."""
        return self.rows[0]

    @property
    def low(self) -> float:
        """The lowest value."""
        return self.rows[0].value

    @property
    def high(self) -> float:
        """The highest value."""
        return self.rows[-1].value

    @cached_property
    def disagree(self) -> bool:
        """Whether the values differ by more than the rounding of the coarser print."""
        coarsest = min(row.digits for row in self.rows)
        return self.high - self.low > 0.5 * 10.0**-coarsest + 1e-9

    @property
    def sources(self) -> tuple[str, ...]:
        """Short names, each once."""
        return tuple(dict.fromkeys(row.source for row in self.rows))

    @property
    def text(self) -> str:
        """The value as printed, with its spread where one source prints it; the range where they disagree."""
        if self.disagree:
            return f"{printed(self.rows[0])}–{printed(self.rows[-1])}"
        row = max(self.rows, key=lambda row: row.digits)
        return printed(row) if row.spread is None else f"{printed(row)} ± {row.spread:g}"

    def distance(self, value: float) -> float:
        """How far a value lies from what the sources span with their spreads; 0 inside."""
        low = min(row.value - (row.spread or 0.0) for row in self.rows)
        high = max(row.value + (row.spread or 0.0) for row in self.rows)
        return max(low - value, value - high, 0.0)

    def nearest(self, value: float) -> Published:
        """The number that lies nearest to a value; of equal ones the one that was read closest to who measured it."""
        return min(self.rows, key=lambda row: (abs(row.value - value), _KINDS.index(row.kind), row.measured_by != "authors"))


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What stands beside one measured value."""

    badges: tuple[str, ...]
    cell: Cell | None = None
    reason: str = ""  # why there is no cell


def printed(row: Published) -> str:
    """The value with as many decimals as its source prints."""
    return f"{row.value:.{row.digits}f}"


def make_cells(rows: Iterable[Published]) -> tuple[Cell, ...]:
    """Numbers by cell, in the order in which cells are met. A number of unknown protocol is a cell alone."""
    found: dict[tuple[object, ...], list[Published]] = defaultdict(list)
    for row in rows:
        found[row.cell if row.protocol else (row.file, row.line)].append(row)
    return tuple(Cell(rows=tuple(sorted(group, key=lambda row: row.value))) for group in found.values())


def published(  # noqa: PLR0913  (what a cell is)
    dataset: str,
    protocol: str,
    fraction: float | None,
    metric: str,
    method: str | None = None,
    *,
    task: str | None = None,
    setting: str | None = None,
    store: PublishedStore | None = None,
) -> tuple[Cell, ...]:
    """The cells of one data set, protocol family, label fraction and metric over all findings.

    Args:
        dataset, protocol, metric, method, task, setting: as in the store; case and hyphens do not matter in the first
            four. None: any. An empty protocol is unknown, so it gives nothing.
        fraction: in (0, 1], or None for numbers that have none.
    """
    rows = (shipped() if store is None else store).rows if protocol else ()
    asked = (plain(dataset), plain(protocol), plain(metric))
    return make_cells(
        row
        for row in rows
        if (plain(row.dataset), plain(row.protocol), plain(row.metric)) == asked
        and row.fraction == fraction
        and not row.finding
        and (method is None or plain(row.method) == plain(method))
        and (task is None or row.task == task)
        and (setting is None or row.setting == setting)
    )


def beside(
    row: Row,
    metric: str,
    value: float | None,
    *,
    tolerance: float = TOLERANCE,
    store: PublishedStore | None = None,
    counterparts: Mapping[str, Counterpart] = COUNTERPARTS,
) -> Beside:
    """The published counterpart of a measured value, or why there is none.

    Args:
        row: the result, or `of_seeds` of those that the value is a mean of.
        metric: ours, of which the value is.
        value: as measured, in [0, 1] where the published unit is percent.
    """
    entry = counterparts.get(row.protocol)
    reason = _never(row, metric, value, entry)
    if reason or entry is None or value is None:
        return Beside(badges=(NO_SOURCE,), reason=reason)
    dataset, name = entry.datasets[row.dataset], entry.metrics[metric]
    fraction = row.label_fraction if entry.task in _SUPERVISED else None
    names = published_names(row.method, row.spec["config"])
    cells = published(dataset, entry.family, fraction, name, task=entry.task, setting=entry.setting, store=store)
    rows = [item for cell in cells for item in cell.rows if plain(item.method) in names]
    if not rows:
        return Beside(badges=(NO_SOURCE,), reason=f"no source prints {row.method} under {entry.family} on {dataset}")
    cell = Cell(rows=tuple(sorted(rows, key=lambda item: item.value)))
    return Beside(badges=badges(cell, 100 * value if cell.first.unit == "percent" else value, tolerance), cell=cell)


def of_seeds(rows: Sequence[Row]) -> Row:
    """The first of the seeds of a line with the flags of all: what keeps one away keeps their mean away."""
    return replace(rows[0], flags=tuple(dict.fromkeys(flag for row in rows for flag in row.flags)))


def badges(cell: Cell, value: float, tolerance: float = TOLERANCE) -> tuple[str, ...]:
    """Where a value, in the unit of the cell, lies to what was published; then whether the sources disagree."""
    away, near = cell.distance(value), cell.nearest(value)
    if away <= tolerance + 1e-9:
        first = f"within {abs(value - near.value):.2f} of {near.source} ({near.origin})"
    else:
        whose = "/".join(cell.sources)
        first = f"outside {whose} range by {away:.2f}"
    return (first, f"sources disagree ({cell.text})") if cell.disagree else (first,)


def _never(row: Row, metric: str, value: float | None, entry: Counterpart | None) -> str:
    """Why a result has no counterpart, whatever the store holds; "" where it may have one."""
    flags = [*row.flags, *(["phantom"] if row.dataset.partition(":")[0] == "phantom" else [])]
    for flag, reason in NEVER.items():
        if flag in flags:
            return f"{flag}: {reason}"
    if entry is None:
        return UNLIKE.get(row.protocol, UNSTATED)
    if row.protocol_hash != entry.protocol_hash:
        return f"{row.protocol} is no longer the protocol that was compared with {entry.family} (@{entry.protocol_hash})"
    if row.dataset not in entry.datasets:
        return f"{entry.family} has no counterpart of the data set {row.dataset}"
    if "split_differs" in row.notes:
        return f"the rows are others: {row.notes['split_differs']}"
    other = next((name for name, value in entry.notes.items() if row.notes.get(name) != value), None)
    if other is not None:
        return (
            f"{entry.family} has {entry.notes[other]} {other}, and these rows have {row.notes.get(other, 'no number of them')}"
        )
    if metric not in entry.metrics:
        return f"{entry.family} prints no {metric}"
    return "the measured value is undefined" if value is None else ""
