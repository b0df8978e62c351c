"""The board as GitHub Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from leaderboards.averages import Average, average_table, averages, below
from leaderboards.costs import DEVICES, cost_cells, cost_columns, several_devices
from leaderboards.rows import Entry, Group
from leaderboards.text import COLUMNS, EMPTY, arrow, cells, clean, left_out, notes, rank, ranked, subtitle, task_title

_SPECIAL = re.compile(r"([\\`*_\[\]|~$#])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


@lru_cache(maxsize=4096)  # the same few cells stand in every line
def escape(text: object) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    return _SPECIAL.sub(r"\\\1", clean(text).translate(_ENTITIES)).strip()


def markdown(groups: Sequence[Group], refused: Sequence[tuple[str, str]]) -> str:
    """The whole file."""
    parts = ["# Leaderboard", *([] if groups else [EMPTY])]
    task = None
    for group in groups:
        if group.first.task != task:
            task = group.first.task
            parts.append(f"## {escape(task_title(task))}")
        parts += _section(group)
    means = averages(groups)
    parts += ["## Means over tasks"] if means else []
    for average in means:
        parts += _average(average)
    if groups:
        parts += ["## How to read it", "\n".join(f"- {line}" for line in notes(groups))]
    if refused:
        parts += ["## Left out", "\n".join(f"- {escape(line)}" for line in left_out(refused))]
    return "\n\n".join(parts) + "\n"


def _section(group: Group) -> list[str]:
    more = cost_columns(group)
    head = (*(("Rank",) if ranked(group) else ()), "Method", arrow(group), *COLUMNS[:-1], *more, COLUMNS[-1])
    place = head.index("Method")
    lines = [_line(head), _line(["---:"] * place + ["---", *["---:"] * (len(head) - 2 - place), "---"], raw=True)]
    lines += [_line(_cells(entry, group, more), raw=True) for entry in group.entries]
    marks = [f"> {escape(reason)}" for reason in group.reasons]
    marks += [f"> {DEVICES}"] if several_devices(group) else []
    banners = [f"> **{escape(banner)}**" for banner in group.banners]
    return [f"### {escape(subtitle(group))}", *banners, *marks, "\n".join(lines)]


def _average(average: Average) -> list[str]:
    head, lines = average_table(average)
    table = [_line(head), _line(["---", *["---:"] * (len(head) - 1)], raw=True), *map(_line, lines)]
    return [f"### {escape(average.dataset)}", "\n".join(table), "\n".join(f"- {escape(line)}" for line in below(average))]


def _cells(entry: Entry, group: Group, more: tuple[str, ...]) -> list[str]:
    method, value, *rest = (escape(cell) for cell in cells(entry))
    costs = [escape(cell) for cell in cost_cells(entry, more)]
    name = f"*{method}*" if entry.first.role == "reference" else method
    bold = f"**{value}**" if entry.label in group.leaders else value
    return [*([rank(entry)] if ranked(group) else []), name, bold, *rest[:-1], *costs, rest[-1]]


def _line(row: Sequence[str], *, raw: bool = False) -> str:
    return f"| {' | '.join(row if raw else map(escape, row))} |"
