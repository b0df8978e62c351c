"""How pretrainings went: every pretrained/<key>/log.jsonl of a folder as a few points a term, and a line a run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmark.store import strict_json, write
from leaderboards.csv_table import safe
from leaderboards.text import clean

POINTS = 300  # of a curve, at most
WARM_UP = 5  # steps that say nothing about throughput
NAMES = ("key", "method", "title", "seed", "dataset", "finished", "steps", "of", "batch_size", "first_total", "last_total",
         "seconds_a_step", "images_per_second", "waiting_for_data", "peak_memory_mib")  # fmt: skip
_TAIL = 0.02  # of the steps, at either end, whose mean is the first and the last total

Series = list[tuple[int, float | None]]


def write_curves(out: Path) -> dict[str, Path]:
    """Writes <out>/curves.json, for pages, and curves.csv, a line a pretraining; nothing where there is no log.

    Returns:
        format -> path. Raises UserError if the folder cannot be written.
    """
    runs = [run for run in map(_run, sorted((out / "pretrained").glob("*/log.jsonl"))) if run is not None]
    if not runs:
        return {}
    titles = _titles(out)
    for run in runs:
        run["title"] = titles.get(run["key"], run["title"])
    paths = {"curves": out / "curves.json", "curves csv": out / "curves.csv"}
    write(paths["curves"], (json.dumps({"points": POINTS, "runs": runs}, allow_nan=False) + "\n").encode())
    write(paths["curves csv"], _csv(runs).encode())
    return paths


def _run(path: Path) -> dict[str, Any] | None:
    """One pretraining: what it is, as far as its folder tells, its summary, and its series; None for an empty log."""
    rows = list(_lines(path))
    if not rows:
        return None
    spec = _json(path.with_name("record.json")).get("spec") or _json(path.with_name("config.json")).get("spec") or {}
    recipe = spec.get("recipe", {})
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "step"]
    series = {name: thinned([(row["step"], row.get(name)) for row in rows]) for name in names}
    return {
        "key": path.parent.name,
        "method": spec.get("method"),
        "title": spec.get("method"),
        "seed": spec.get("seed"),
        "dataset": spec.get("dataset"),
        "finished": path.with_name("record.json").is_file(),
        "steps": rows[-1]["step"] + 1,
        "of": recipe.get("steps"),
        "batch_size": recipe.get("batch_size"),
        **_summary(rows, recipe.get("batch_size")),
        "series": {name: points for name, points in series.items() if any(value is not None for _, value in points)},
    }


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The lines that are whole, of steps in their order; the last of a run that was killed may be cut."""
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield {name: value for name, value in row.items() if value is None or _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300  # a larger one may be JSON, and no float


def _json(path: Path) -> Mapping[str, Any]:
    try:
        value = strict_json(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def thinned(points: Sequence[tuple[int, float | None]], most: int = POINTS) -> Series:
    """At most so many points: means over equal stretches of the curve, each at its last step; unknown values are left out."""
    known = [(step, value) for step, value in points if value is not None]
    if len(known) <= most:
        return list(known)
    edges = [round(place * len(known) / most) for place in range(most + 1)]
    parts = [known[begin:end] for begin, end in pairwise(edges)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _summary(rows: Sequence[Mapping[str, Any]], batch_size: int | None) -> dict[str, float | None]:
    """Means of the loss at both ends; medians of times after warm-up; what was not logged is None."""
    tail = max(1, round(_TAIL * len(rows)))
    steady = rows[WARM_UP:] or rows
    seconds = _median(steady, "seconds")
    waited = [row["data_seconds"] / row["seconds"] for row in steady if row.get("data_seconds") is not None and row["seconds"]]
    rate = _median(steady, "images_per_second")
    if rate is None and seconds and batch_size:
        rate = batch_size / seconds
    return {
        "first_total": _mean(rows[:tail], "total"),
        "last_total": _mean(rows[-tail:], "total"),
        "seconds_a_step": seconds,
        "images_per_second": rate,
        "waiting_for_data": median(waited) if waited else None,
        "peak_memory_mib": max((row["memory_mib"] for row in rows if row.get("memory_mib") is not None), default=None),
    }


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else None


def _median(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return median(values) if values else None


def _titles(out: Path) -> dict[str, str]:
    """Key of a pretraining -> the title of a row that used it."""
    found: dict[str, str] = {}
    for path in sorted((out / "results").glob("*.json")):
        value = _json(path)
        spec = value.get("spec")
        if isinstance(spec, dict) and isinstance(value.get("title"), str):
            found.setdefault(str(spec.get("weights")), value["title"])
    return found


def _csv(runs: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(NAMES)
    writer.writerows([safe(run[name]) for name in NAMES] for run in runs)
    return buffer.getvalue()


def curves_text(out: Path) -> str:
    """A line a pretraining for a terminal, from the curves.json of a folder, with the total loss as block characters."""
    return "\n".join(map(_told, _json(out / "curves.json").get("runs", [])))


def _told(run: Mapping[str, Any]) -> str:
    steps = f"{run['steps']} of {run['of']} steps" if run["of"] else f"{run['steps']} steps"
    line = sparkline(run["series"].get("total", []))
    total = f"total {_short(run['first_total'])} {line} {_short(run['last_total'])}"
    speed = f"{_short(run['seconds_a_step'])} s a step, {_short(run['images_per_second'])} images/s"
    return f"{clean(run['title'] or run['key'])}: {steps}, {total}, {speed}"


def sparkline(points: Sequence[tuple[int, float | None]], width: int = 24) -> str:
    """A curve in one line of block characters; empty where there is none."""
    values = [value for _, value in thinned(points, width) if value is not None]
    if not values:
        return ""
    low, span = min(values), (max(values) - min(values)) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (value - low) / span)] for value in values)


def _short(value: float | None) -> str:
    return "—" if value is None else f"{value:.3g}"
