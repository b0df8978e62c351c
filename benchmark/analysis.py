"""What a board says beyond single results: differences by patient, rank groups, subgroups, calibration. Imports no torch.

Everything follows from result and prediction files and lies in <out>/analysis.json; what has not changed since is taken
from there, and the draws of each result from <out>/analysis.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark import draws as kept_draws
from benchmark.analysis_rows import Analyst, cell
from benchmark.statistics import INTERVAL, LEVEL, Resampled, holm, p_value
from benchmark.store import ANALYSIS, ANALYSIS_SCHEMA, fingerprint, read_analysis, write

METHOD = f"{INTERVAL}; paired on the same draws; Holm against the best of each rank group"
PAIRED = 20  # methods of a group, from the best on, that are compared each with each


def write_analysis(out: Path, groups: Sequence[Any], draws: int, progress: bool = False) -> dict[str, Any]:
    """Analyses the groups of a board, and writes <out>/analysis.json where it changed.

    Args:
        groups: leaderboards.rows.Group. draws: of the bootstrap; 0 leaves out whatever needs it.
    """
    before = read_analysis(out) or {}
    analyst = Analyst(out, draws)
    kept_groups = {str(group.get("fingerprint") or ""): group for group in before.get("groups", ())}
    kept = {name: before.get(name, {}) for name in ("sources", "subgroups", "calibration")}
    work = _work(analyst, groups, kept_groups, kept)
    analyst.begin(sum(len(group.rows) for group, _ in work if group is not None), progress)
    found: dict[str, Any] = {
        "schema": ANALYSIS_SCHEMA, "level": LEVEL, "draws": draws, "method": METHOD, "groups": [],
        "subgroups": {}, "calibration": {}, "per_class": {}, "sources": {},
    }  # fmt: skip
    for group in groups:
        mark = _fingerprint(analyst, group)
        found["groups"].append(kept_groups.get(mark) or _marked(analyst, group, mark))
        for row in group.rows:
            if row.role == "method" and row.status == "ok":
                _of_result(analyst, row, kept, found)
    analyst.end()
    text = json.dumps(found, allow_nan=False, separators=(",", ":")) + "\n"
    if found != before:
        write(out / ANALYSIS, text.encode())
    return found


def _marked(analyst: Analyst, group: Any, mark: str) -> dict[str, Any]:
    """A group's analysis; without its mark, so never kept, where a file of predictions is there and was of no use."""
    made = _group(analyst, group)
    return {**made, "fingerprint": mark if all(analyst.lasting(row) for row in group.rows) else ""}


def _work(
    analyst: Analyst, groups: Iterable[Any], kept_groups: Mapping[Any, Any], kept: Mapping[str, Any]
) -> list[tuple[Any, str]]:
    """The groups that must be computed."""
    marks = [(group, _fingerprint(analyst, group)) for group in groups]
    return [(group, mark) for group, mark in marks if mark not in kept_groups]


def _fingerprint(analyst: Analyst, group: Any) -> str:
    """Changes whenever the analysis of a group may."""
    members = [
        [row.key, row.predictions, row.metric, row.value, row.title, analyst.has(row)]
        for row in group.rows
        if row.status == "ok"
    ]
    return fingerprint([kept_draws.VERSION, METHOD, analyst.draws, members])


def _of_result(analyst: Analyst, row: Any, kept: Mapping[str, Any], found: dict[str, Any]) -> None:
    """Subgroups, calibration and classes of one result."""
    classes = _per_class(row)
    if classes:
        found["per_class"][row.key] = classes
    seen = f"{analyst.has(row)} {analyst.subjects_mark(row)}"
    mark = f"{kept_draws.VERSION} {INTERVAL} {analyst.draws} {row.predictions} {row.metric} {seen}"
    for name, make in (("subgroups", analyst.subgroups), ("calibration", analyst.calibration)):
        part = kept[name].get(row.key) if kept["sources"].get(row.key) == mark else make(row)
        if part:
            found[name][row.key] = part
    if kept["sources"].get(row.key) == mark or analyst.lasting(row):
        found["sources"][row.key] = mark


def _per_class(row: Any) -> dict[str, dict[str, Any]]:
    """Metrics named <metric>/<class>, as the result has them."""
    found: dict[str, dict[str, Any]] = {}
    for name, metric in row.metrics.items():
        kind, slash, label = name.partition("/")
        if slash:
            found.setdefault(kind, {})[label] = dict(metric)
    return found


def _group(analyst: Analyst, group: Any) -> dict[str, Any]:
    """Differences to the best method, rank groups, and all pairs of the first methods; none where a method cannot be scored."""
    measured = [entry for entry in group.entries if entry.kind in ("method", "reference")]
    known = [(entry, analyst.entry(entry) if entry.first.metric == group.metric else None) for entry in measured]
    sign = 1 if group.higher_is_better else -1
    scored = [(entry, found) for entry, found in known if found is not None]
    methods = [entry for entry, _ in sorted(scored, key=lambda pair: -sign * pair[1].value) if entry.kind == "method"]
    entries = {row.key: dict(_EMPTY) for entry in measured for row in entry.rows}
    unscored = [entry for entry, found in known if found is None and entry.kind == "method"]
    made: dict[str, Any] = {
        "group": _plain_key(group.first.group_key),
        "metric": group.metric,
        "higher_is_better": group.higher_is_better,
        "best": methods[0].first.key if methods and not unscored else None,
        "entries": entries,
        "pairs": [],
        "reasons": _reasons(analyst, measured, unscored),
    }
    if not unscored and methods and analyst.draws:
        _compare(analyst, [entry for entry, _ in scored], methods, made)
    return made


def _reasons(analyst: Analyst, measured: Sequence[Any], unscored: Sequence[Any]) -> list[str]:
    """What does not match, and why there is no ranking."""
    told = [
        f"{entry.label} {analyst.disagreeing[row.key]}"
        for entry in measured
        for row in entry.rows
        if row.key in analyst.disagreeing
    ]
    return told + [f"not ranked: {entry.label} cannot be scored from its predictions" for entry in unscored]


def _compare(analyst: Analyst, scored: Sequence[Any], methods: Sequence[Any], made: dict[str, Any]) -> None:
    """Fills in the lines and pairs of a group. methods: from the best on."""
    best, entries = methods[0], made["entries"]
    differences = {id(entry): analyst.difference(entry, best) for entry in scored if entry is not best}
    apart = [entry for entry in methods[1:] if differences[id(entry)] is None]
    if apart:
        why = "share no test row or name different patients"
        made["reasons"] += [f"not ranked: {entry.label} and {best.label} {why}" for entry in apart]
        made["best"] = None
        return
    for entry in scored:
        found = differences.get(id(entry))
        line = {} if found is None else {"difference_to_best": cell(found), "p": _p(found)}
        _into(entries, entry, line)
    for entry, corrected in zip(methods[1:], _holm([differences[id(entry)] for entry in methods[1:]]), strict=True):
        _into(entries, entry, {"p_holm": corrected})
    for entry, places in _ranks(analyst, methods):
        _into(entries, entry, places)
    made["pairs"] = _pairs(analyst, methods[:PAIRED])


_EMPTY = {"rank": None, "rank_low": None, "rank_high": None, "difference_to_best": None, "p": None, "p_holm": None}


def _into(entries: dict[str, Any], entry: Any, line: Mapping[str, Any]) -> None:
    for row in entry.rows:
        entries[row.key].update(line)


def _ranks(analyst: Analyst, methods: Sequence[Any]) -> list[tuple[Any, dict[str, int]]]:
    """Methods from the best on: the leader shares its rank with all whose difference from it may be noise, and so on.

    Noise: Holm's p over all that remain is 1 less the level or more.
    """
    found, remaining, place = [], list(methods), 1
    while remaining:
        leader, *others = remaining
        corrected = _holm([analyst.difference(entry, leader) for entry in others])
        equal = [entry for entry, p in zip(others, corrected, strict=True) if p is None or p >= 1 - LEVEL]
        line = {"rank": place, "rank_low": place, "rank_high": place + len(equal)}
        found += [(entry, line) for entry in (leader, *equal)]
        place += 1 + len(equal)
        remaining = [entry for entry in others if entry not in equal]
    return found


def _holm(differences: Sequence[Resampled | None]) -> list[float | None]:
    """Corrected p of each difference; None where it has none."""
    found = [None if item is None else p_value(item) for item in differences]
    corrected = iter(holm([p for p in found if p is not None]))
    return [None if p is None else _rounded(next(corrected)) for p in found]


def _pairs(analyst: Analyst, methods: Sequence[Any]) -> list[dict[str, Any]]:
    found = []
    for place, first in enumerate(methods):
        for second in methods[place + 1 :]:
            difference = analyst.difference(first, second)
            if difference is not None:
                line = {"first": first.first.key, "second": second.first.key}
                found.append({**line, "difference": cell(difference), "p": _p(difference)})
    return found


def _p(difference: Resampled) -> float | None:
    found = p_value(difference)
    return None if found is None else _rounded(found)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _plain_key(key: Sequence[Any]) -> list[Any]:
    """A Row.group_key as JSON has it."""
    return json.loads(json.dumps(key))  # type: ignore[no-any-return]
