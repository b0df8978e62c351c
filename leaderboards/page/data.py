"""The board as the data that the page draws from: plain JSON, every text a leaf that the page shows as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from leaderboards.averages import Average, average_table, averages, below
from leaderboards.costs import gpu_hours
from leaderboards.page.analysis import of_entry
from leaderboards.page.curves import shown_curves
from leaderboards.published_cells import beside, of_seeds
from leaderboards.rows import Entry, Group, Row, total_seconds
from leaderboards.text import clean, left_out, notes, task_title

_COSTS = (
    *("images_per_second", "step_seconds", "peak_allocated_mib", "peak_reserved_mib", "peak_device_mib", "peak_host_mib"),
    *("params", "gmacs", "batch_size"),
)
_MEANS = 60  # lines of a table of means
_SHARED = ("task", "dataset", "dataset_version", "protocol", "protocol_hash", "label_fraction")


class _Table:
    """Values that many rows share, each kept once; a row holds the place."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: object) -> int:
        text = json.dumps(value, sort_keys=True)
        if text not in self._places:
            self._places[text] = len(self.values)
            self.values.append(value)
        return self._places[text]


def page_data(
    groups: Sequence[Group],
    refused: Sequence[tuple[str, str]],
    analysis: Mapping[str, Any] | None = None,
    curves: Sequence[Mapping[str, Any]] = (),
    *,
    runs: bool = True,
    most: int | None = None,
) -> dict[str, Any]:
    """Everything that the page shows.

    Args:
        runs: with the details of every single result; without them the page names the JSON file that has them.
        most: lines of a group that are kept, from the best on; None for all.
    """
    table, variants = _Table(), _Table()
    shown = [_group(group, analysis or {}, (table, variants), runs, most) for group in groups]
    rows = [row for group in groups for row in group.rows]
    return {
        "groups": shown,
        "table": table.values,
        "level": (analysis or {}).get("level"),
        "curves": shown_curves(curves, _pretrainings(groups, variants)) if runs else [],
        "averages": [_average(average) for average in averages(groups)],
        "banners": list(dict.fromkeys(banner for group in groups for banner in group.banners)),
        "notes": notes(groups) if groups else [],
        "left_out": [clean(line) for line in left_out(refused)],
        "results": len(rows),
        "methods": len({row.variant for row in rows if row.role == "method"}),
        "latest": max((row.finished for row in rows), default=""),
        "runs": runs,
        "lines": sum(len(group["entries"]) for group in shown),
        "all_lines": sum(len(group.entries) for group in groups),
    }


def _pretrainings(groups: Sequence[Group], variants: _Table) -> dict[str, int]:
    """Key of a pretraining -> number of the variant that used it."""
    lines = [entry for group in groups for entry in group.entries if entry.kind == "method"]
    return {row.spec["weights"]: variants.place(entry.first.variant) for entry in lines for row in entry.rows}


def _average(average: Average) -> dict[str, Any]:
    """Means over tasks as text, with the formula and what was left out."""
    head, lines = average_table(average)
    shown = [[clean(cell) for cell in line] for line in lines[:_MEANS]]
    return {"dataset": clean(average.dataset), "head": list(head), "lines": shown, "below": below(average)}


def _group(
    group: Group, analysis: Mapping[str, Any], tables: tuple[_Table, _Table], runs: bool, most: int | None
) -> dict[str, Any]:
    row = group.first
    key = row.group_key
    names = list(dict.fromkeys(name for item in group.rows for name in item.metrics)) if runs else []
    return {
        **{name: clean(getattr(row, name)) if isinstance(getattr(row, name), str) else getattr(row, name) for name in _SHARED},
        "task_title": task_title(row.task),
        "metric": clean(group.metric),
        "higher": group.higher_is_better,
        "banners": list(group.banners),
        "reasons": [clean(reason) for reason in group.reasons],
        "series": tables[0].place(json.dumps([key[:5], key[6:]])),  # all of the key but the label fraction
        "metrics": [clean(name) for name in names],
        "splits": tables[0].place(row.spec["splits"]),
        "entries": [_entry(entry, group, analysis, tables, names) for entry in group.entries[:most]],
    }


def _entry(
    entry: Entry, group: Group, analysis: Mapping[str, Any], tables: tuple[_Table, _Table], names: Sequence[str]
) -> dict[str, Any]:
    row, (table, variants) = entry.first, tables
    keys = tuple(item.key for item in entry.rows)
    found: dict[str, Any] = {
        "label": clean(entry.label),
        "kind": entry.kind,
        "variant": variants.place(row.variant),
        "status": row.status,
        "value": short(entry.value),
        "spread": short(entry.spread),
        "interval": [short(end) for end in entry.interval] if entry.interval else None,
        "used": sum(item.n_used for item in entry.rows) // len(entry.rows),
        "expected": row.n_expected,
        "flags": [clean(flag) for flag in entry.flags],
        "reason": clean(row.reason),
        "cost": _cost(entry, "cost"),
        "keys": list(keys),
    }
    optional = {
        "pretraining": _cost(entry, "pretraining") if row.pretraining is not None else None,
        "standing": None if entry.standing is None else asdict(entry.standing),
        "gpu_hours": short(gpu_hours(entry)),
        **_of_one_seed(entry, "subgroups", analysis),
        **_of_one_seed(entry, "calibration", analysis),
        "published": _published(entry, group),
        "runs": [_run(item, table, names) for item in entry.rows] if names or row.status != "ok" else None,
    }
    return found | {name: value for name, value in optional.items() if value is not None}


def _of_one_seed(entry: Entry, part: str, analysis: Mapping[str, Any]) -> dict[str, Any]:
    """A part of the analysis that is of single results: of the first seed that has it, with that seed where there are more."""
    found, place = of_entry(analysis.get(part), tuple(row.key for row in entry.rows))
    several = found is not None and len(entry.rows) > 1
    return {part: found, f"{part}_seed": entry.rows[place].seed if several else None}


def short(value: float | None) -> float | None:
    """Six significant digits: more than is shown, less than a double prints."""
    return None if value is None else float(f"{value:.6g}")


def _cost(entry: Entry, phase: str) -> dict[str, Any]:
    """What was measured, over the seeds as in every format; what was not is not there."""
    found: dict[str, Any] = {name: short(entry.cost(name, phase)) for name in _COSTS}
    found["total"] = short(entry.cost("total", phase))
    costs = [row.cost if phase == "cost" else row.pretraining for row in entry.rows]
    found["device"] = ", ".join(dict.fromkeys(clean(cost["device"]) for cost in costs if cost is not None and cost["device"]))
    return {name: value for name, value in found.items() if value not in (None, "")}


def _published(entry: Entry, group: Group) -> dict[str, Any] | None:
    """The published range beside a measured value, in the unit of the measured one; None where nothing may stand there."""
    if entry.kind != "method":
        return None
    found = beside(of_seeds(entry.rows), group.metric, entry.value)
    if found.cell is None:
        return None
    scale = 0.01 if found.cell.first.unit == "percent" else 1.0
    sources = [
        " ".join(filter(None, (row.citation, row.table, f"({row.origin})", f"Remark: {row.remark}" if row.remark else "")))
        for row in found.cell.rows
    ]
    return {
        "low": short(found.cell.low * scale),
        "high": short(found.cell.high * scale),
        "text": clean(found.cell.text),
        "badges": [clean(badge) for badge in found.badges],
        "sources": [clean(source) for source in dict.fromkeys(sources)],
    }


def _run(row: Row, table: _Table, names: Sequence[str]) -> dict[str, Any]:
    """One result: what its cell was asked for, where it ran and how to repeat it."""
    spec = {name: clean(row.spec[name]) for name in ("method", "method_version", "task_version", "precision")}
    metrics = [row.metrics.get(name) for name in names]
    return {
        "key": row.key,
        "seed": row.seed,
        "eval_seed": row.eval_seed,
        "spec": table.place(spec),
        "weights": clean(row.spec["weights"]),
        "config": table.place(_texts(row.spec["config"])),
        "environment": table.place(_texts(row.environment)),
        "notes": table.place(_texts(row.notes)),
        "command": table.place(clean(row.command)),
        "predictions": clean(row.predictions),
        "finished": clean(row.finished),
        "skipped": row.skipped,
        "seconds": {clean(name): short(value) for name, value in row.cost["seconds"].items()},
        "total": short(total_seconds(row.cost)),
        "metrics": [_metric(item) for item in metrics],
    }


def _metric(item: Mapping[str, Any] | None) -> Any:
    """[value, low, high], or the value alone where there is no interval."""
    if item is None or item["low"] is None:
        return None if item is None else short(item["value"])
    return [short(item[name]) for name in ("value", "low", "high")]


def _texts(pairs: Mapping[str, Any]) -> dict[str, str]:
    """Names and values as one line each; what is nested is written as JSON."""
    return {
        clean(name): "—" if value is None else clean(json.dumps(value) if isinstance(value, dict | list) else value)
        for name, value in pairs.items()
    }
