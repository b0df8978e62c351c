"""Published numbers as tables for the terminal: the store to look things up in, and measured results beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from statistics import fmean

from tabulate import tabulate

from benchmark.errors import UserError
from leaderboards.counterparts import COUNTERPARTS, Counterpart, plain
from leaderboards.published_cells import NO_SOURCE, Beside, beside, make_cells, of_seeds, printed
from leaderboards.published_schema import Published, near, vocabulary
from leaderboards.published_store import Absent, PublishedStore
from leaderboards.rows import Entry, Row, group_rows
from leaderboards.text import clean, number, percent

_HEAD = ("Method", "Dataset", "Task", "Protocol", "Labels", "Metric", "Value", "Range", "Kind", "Source", "Notes")
_BESIDE = ("Dataset", "Protocol@hash", "Labels", "Method", "Metric", "Measured", "Published", "Badge", "Source")
_UNITS = {"percent": " %"}
FILTERS = ("dataset", "task", "protocol", "metric", "kind")


def select(store: PublishedStore, method: str = "", **filters: str) -> tuple[list[Published], list[Absent]]:
    """The numbers and the known gaps that a question is about.

    Args:
        method: of this name or a variant of it ("mgca": MGCA, MGCA-R50, MGCA-ViT); "" for all.
        filters: dataset, task, protocol, metric, kind; case and hyphens do not matter, "" for all.

    Raises:
        UserError: a name that the store does not know.
    """
    names = {**vocabulary().names, "metric": dict.fromkeys(vocabulary().units)}
    wanted = {name: plain(text) for name, text in filters.items() if text}
    for name, text in wanted.items():
        if text not in map(plain, names[name]):
            raise UserError(f"--{name}: {near(name, filters[name], names[name])}")
    rows = [
        row
        for row in store.rows
        if _variant(method, row.method) and all(plain(getattr(row, name)) == text for name, text in wanted.items())
    ]
    # A gap that names no method, set or task is one of all of them; protocols, metrics and kinds are not asked of gaps.
    gaps = [
        gap
        for gap in store.absent
        if _variant(method, gap.method)
        and all(plain(getattr(gap, name)) in ("", wanted[name]) for name in ("dataset", "task") if name in wanted)
    ]
    known = {row.method for row in store.rows} | {gap.method for gap in store.absent if gap.method}
    if not any(_variant(method, name) for name in known):
        folded = {name.casefold(): name for name in sorted(known)}
        close = [folded[name] for name in get_close_matches(method.casefold(), folded)]
        hint = f"did you mean {' or '.join(close)}?" if close else "`leaderboard published` without --method prints them all"
        raise UserError(f"--method: no source prints a method {method!r}; {hint}")
    return rows, gaps


def published_table(rows: Sequence[Published], gaps: Sequence[Absent] = ()) -> str:
    """One line a number with its source and kind; below it the notes, the sources and what is absent.

    The order is no ranking: numbers of one cell stand together, in the order of their sources.
    """
    notes: dict[str, int] = {}
    ranges = {(row.file, row.line): cell.text for cell in make_cells(rows) if cell.disagree for row in cell.rows}
    lines = [
        _line(row, ranges.get((row.file, row.line), ""), notes.setdefault(row.remark, len(notes) + 1) if row.remark else "")
        for row in sorted(rows, key=_place)
    ]
    parts = [tabulate(lines, headers=_HEAD, disable_numparse=True)] if lines else ["no published number fits"]
    if lines:
        told = 'Values are percent (RSUM: points; mean rank: a rank). Only numbers of the kind "own" are the method\'s own.'
        parts.append(f"{len(lines)} numbers. {told}")
    if ranges:
        parts.append("Range: the sources disagree.")
    if notes:
        parts.append("\n".join(f"[{place}] {clean(text)}" for text, place in notes.items()))
    sources = dict.fromkeys(f"{row.citation} {row.url}".strip() for row in sorted(rows, key=_place))
    if sources:
        parts.append("\n".join(map(clean, sources)))
    if gaps:
        told = "\n".join(clean(f"  {_gap(gap)}: {gap.reason}") for gap in gaps)
        parts.append(f"Not in the store:\n{told}")
    return "\n\n".join(parts)


def beside_table(
    rows: Iterable[Row],
    metric: str = "",
    store: PublishedStore | None = None,
    counterparts: Mapping[str, Counterpart] = COUNTERPARTS,
) -> str:
    """Every measured line of the methods with its published counterpart, badge and source, and below why there is none.

    Args:
        rows: results; references and results without a score are passed over.
        metric: instead of the metrics that have a counterpart, or else the primary one.

    Raises:
        UserError: no result has a score of a method.
    """
    entries = [entry for group in group_rows(rows) for entry in group.entries if entry.kind == "method"]
    if not entries:
        raise UserError("no result here has a score of a method; `run` makes some, `report` shows what there is")
    lines: list[list[str]] = []
    reasons: dict[tuple[str, str], None] = {}
    for entry in entries:
        for name, value in _measured(entry, metric, counterparts):
            found = beside(of_seeds(entry.rows), name, value, store=store, counterparts=counterparts)
            lines.append(_beside_line(entry, name, value, found))
            if found.reason:
                reasons[entry.first.protocol, found.reason] = None
    table = tabulate(lines, headers=_BESIDE, disable_numparse=True)
    below = [clean(f"{protocol}: {NO_SOURCE} ({reason})") for protocol, reason in reasons]
    return "\n".join([table, *([""] if below else []), *below])


def _measured(entry: Entry, metric: str, counterparts: Mapping[str, Counterpart]) -> Iterator[tuple[str, float | None]]:
    """Metrics of a line with their means over the seeds."""
    row = entry.first
    counterpart = counterparts.get(row.protocol)
    listed = [name for name in (counterpart.metrics if counterpart else ()) if name in row.metrics]
    for name in [metric] if metric else listed or [row.metric]:
        values = [item.metrics.get(name, {}).get("value") for item in entry.rows]
        known = [value for value in values if value is not None]
        yield name, fmean(known) if len(known) == len(values) else None


def _beside_line(entry: Entry, name: str, value: float | None, found: Beside) -> list[str]:
    row, cell = entry.first, found.cell
    unit = _UNITS.get(cell.first.unit, "") if cell else ""
    measured = f"{100 * value:.2f}{unit}" if unit and value is not None else number(value)
    sources = "; ".join(
        f"{item.source} {item.table}".strip() + f" ({item.origin}){f': {item.remark}' if item.remark else ''}"
        for item in (cell.rows if cell else ())
    )
    head = (row.dataset, f"{row.protocol}@{row.protocol_hash}", percent(row.label_fraction), entry.label, name, measured)
    return [clean(text) for text in (*head, f"{cell.text}{unit}" if cell else "", ", ".join(found.badges), sources)]


def _variant(asked: str, name: str) -> bool:
    """Whether a name is the one asked for, or that with something after a space or a hyphen."""
    if plain(asked) == plain(name) or not asked:
        return True
    return name.casefold().startswith((f"{asked.casefold()} ", f"{asked.casefold()}-"))


def _place(row: Published) -> tuple[object, ...]:
    metric = list(vocabulary().units).index(row.metric)
    names = (row.dataset.casefold(), row.task, row.setting, row.protocol, metric, row.finding)
    return (*names, row.fraction or 0.0, row.file, row.line)


def _line(row: Published, spread: str, note: int | str) -> list[str]:
    task = f"{row.task}: {row.setting}" if row.setting else row.task
    metric = f"{row.metric} ({row.finding})" if row.finding else row.metric
    value = printed(row) if row.spread is None else f"{printed(row)} ± {row.spread:g}"
    source = f"{row.source}, {row.table}" if row.table else row.source
    labels = "" if row.fraction is None else percent(row.fraction)
    cells = (row.method, row.dataset, task, row.protocol or "unknown", labels, metric, value, spread, row.origin, source)
    return [*map(clean, cells), f"[{note}]" if note else ""]


def _gap(gap: Absent) -> str:
    return ", ".join(filter(None, (gap.method, gap.dataset, gap.task, gap.what)))
