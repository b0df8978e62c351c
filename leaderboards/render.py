"""Writes the board in every format, and the table at the end of a run."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmark.store import write
from leaderboards.averages import average_json, averages
from leaderboards.csv_table import csv_table
from leaderboards.latex import latex
from leaderboards.markdown import markdown
from leaderboards.page import html_page
from leaderboards.page.analysis import read_analysis
from leaderboards.page.curves import read_curves
from leaderboards.page.examples import read_examples
from leaderboards.rows import Entry, Group, Row, group_rows, make_row, with_standings
from leaderboards.schema import SCHEMA, load
from leaderboards.text import EMPTY, arrow, clean, duration, gib, interval, number, percent, rank, ranked, rate, score

_TERMINAL = (
    "Protocol@hash, data", "Rank", "Method", "Metric", "Value [low, high]", "Peak GiB", "Pretrain", "Time", "img/s", "Flags"
)  # fmt: skip
_RANK, _METHOD = 1, 2  # the method takes the room that the others leave
_WIDTHS = (36, 9, 60, 14, 24, 10, 9, 9, 6, 16)
_TOTAL = 156
_BLANK = [""] * len(_TERMINAL)
_ROW_FIELDS = tuple(item.name for item in fields(Row))


def write_board(out: Path) -> dict[str, Path]:
    """Renders `<out>/results` into `<out>/leaderboard.{md,csv,tex,json,html}`, each file replaced in one step.

    Ranks come from `<out>/analysis.json`, which `benchmark.analysis` writes before; groups that it does not fit have none.

    Returns:
        format -> path, in that order. Files that cannot be shown are named on the board; the others appear.

    Raises:
        UserError: the folder cannot be written.
    """
    results, refused = load(out / "results")
    analysis, fault = read_analysis(out)
    refused += [(str(out / "analysis.json"), fault)] if fault else []
    return write_groups(out, with_standings(group_rows(map(make_row, results)), analysis), refused, analysis)


def write_groups(
    out: Path, groups: Sequence[Group], refused: Sequence[tuple[str, str]], analysis: Mapping[str, Any] | None
) -> dict[str, Path]:
    """As `write_board`, of groups and their analysis that are there already."""
    standings = {row.key: entry.standing for group in groups for entry in group.entries if entry.standing for row in entry.rows}
    why = {row.key: "; ".join(group.reasons) for group in groups if group.reasons for row in group.rows}
    ordered = [row for group in groups for row in group.rows]
    makers: dict[str, Callable[[], str]] = {
        "md": lambda: markdown(groups, refused),
        "csv": lambda: csv_table(ordered, standings, why),
        "tex": lambda: latex(groups, refused),
        "json": lambda: json_board(groups, refused),
        "html": lambda: html_page(groups, refused, analysis, read_curves(out), read_examples(out, groups)),
    }
    paths = {name: out / f"leaderboard.{name}" for name in makers}
    gc.freeze()  # thousands of results stay to the end: the collector need not look through them again and again
    try:
        for name, make in makers.items():
            write(paths[name], make().encode())
    finally:
        gc.unfreeze()
    return paths


def json_board(groups: Sequence[Group], refused: Sequence[tuple[str, str]]) -> str:
    """The board for programs: groups, in each the lines as shown (entries) and every result (rows)."""
    board = {
        "schema": SCHEMA,
        "generated_from": sum(len(group.rows) for group in groups),
        "left_out": [{"file": Path(path).name, "reason": clean(reason)} for path, reason in refused],
        "averages": [average_json(average) for average in averages(groups)],
        "groups": [_json_group(group) for group in groups],
    }
    # One line: json.dumps without an indent is the fast path in C.
    return json.dumps(board, allow_nan=False) + "\n"


def _json_group(group: Group) -> dict[str, Any]:
    row = group.first
    shared = ("task", "dataset", "dataset_version", "protocol", "protocol_hash", "label_fraction")
    entries = [
        {
            "label": entry.label,
            "kind": entry.kind,
            "value": entry.value,
            "spread": entry.spread,
            "interval": entry.interval,
            "standing": None if entry.standing is None else asdict(entry.standing),
            "flags": entry.flags,
            "keys": [item.key for item in entry.rows],
        }
        for entry in group.entries
    ]
    return {
        **{name: getattr(row, name) for name in shared},
        "splits": row.spec["splits"],
        "task_version": row.spec["task_version"],
        "metric": group.metric,
        "higher_is_better": group.higher_is_better,
        "banners": group.banners,
        "entries": entries,
        "rows": [{**{name: getattr(row, name) for name in _ROW_FIELDS}, "seconds": row.seconds} for row in group.rows],
    }


def terminal_groups(groups: Sequence[Group]) -> str:
    """A table of at most 156 columns for the end of a run, grouped by what may be compared.

    A group names its protocol in its first line and its data in the second; why a score is missing stands below the table.
    Ranks stand there where any group has them.
    """
    if not groups:
        return EMPTY
    lines = [line for place, group in enumerate(groups) for line in (*([_BLANK] if place else []), *_terminal_lines(group))]
    widths = [max(len(line[place]) for line in (*lines, _TERMINAL)) for place in range(len(_TERMINAL))]
    room = max(24, _TOTAL - sum(widths) + widths[_METHOD] - 2 * (len(widths) - 1))
    lines = [[_fit(text, room) if place == _METHOD else text for place, text in enumerate(line)] for line in lines]
    shown = [list(_TERMINAL), *lines]
    if not any(ranked(group) for group in groups):
        shown = [[text for place, text in enumerate(line) if place != _RANK] for line in shown]
    table = tabulate(shown[1:], headers=shown[0], tablefmt="simple", disable_numparse=True)
    below = [*_reasons(groups), *unranked(groups), *dict.fromkeys(banner for group in groups for banner in group.banners)]
    return "\n".join([table, *([""] if below else []), *below])


def unranked(groups: Sequence[Group]) -> list[str]:
    """Why groups have no ranks, a line each."""
    return [clean(f"{group.first.protocol} on {group.first.dataset}: {reason}") for group in groups for reason in group.reasons]


def _reasons(groups: Sequence[Group]) -> list[str]:
    """Why scores are missing: one line for each status, method and reason, with the tasks that it kept away."""
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for group in groups:
        for entry in group.entries:
            if entry.first.reason:
                line = (entry.first.status, clean(entry.label), clean(entry.first.reason))
                found.setdefault(line, {})[clean(group.first.task)] = None
    return [f"{status}: {label} ({', '.join(tasks)}): {reason}" for (status, label, reason), tasks in found.items()]


def _terminal_lines(group: Group) -> list[list[str]]:
    row = group.first
    share = "" if row.label_fraction == 1 else f", {percent(row.label_fraction)} of the labels"
    tail = f"@{row.protocol_hash}"
    heads = [_fit(row.protocol, _WIDTHS[0] - len(tail)) + tail, f"  {row.dataset}{share}"]
    lines = [_terminal_line(entry, arrow(group)) for entry in group.entries]
    lines += [[""] * len(lines[0])] if len(lines) == 1 else []
    heads += [""] * (len(lines) - 2)
    return [[_fit(text, width) for text, width in zip((head, *line), _WIDTHS)] for head, line in zip(heads, lines)]


def _terminal_line(entry: Entry, metric: str) -> list[str]:
    mark = "· " if entry.first.role == "reference" else ""
    value = f"{score(entry)} {interval(entry)}" if entry.interval else score(entry)
    if entry.spread is not None:
        value = f"{value} ± {number(entry.spread)} ({len(entry.rows)} seeds)"
    host, peak = entry.cost("peak_host_mib"), entry.cost("peak_allocated_mib")
    memory = f"{gib(host)} host" if peak is None and host is not None else gib(peak)
    trained = entry.cost("total", "pretraining")
    cost = (memory, duration(trained), duration(entry.cost("total")), rate(entry.cost("images_per_second")))
    return [rank(entry) if entry.kind == "method" else "", f"{mark}{entry.label}", metric, value, *cost, " ".join(entry.flags)]


def _fit(text: str, width: int) -> str:
    line = clean(text)
    return line if len(line) <= width else f"{line[: width - 1]}…"
