"""The board as GitHub Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from leaderboards.rows import Group
from leaderboards.text import COLUMNS, EMPTY, arrow, cells, clean, left_out, notes, subtitle, task_title

_SPECIAL = re.compile(r"([\\`*_\[\]|~$#])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


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
    if groups:
        parts += ["## How to read it", "\n".join(f"- {line}" for line in notes(groups))]
    if refused:
        parts += ["## Left out", "\n".join(f"- {escape(line)}" for line in left_out(refused))]
    return "\n\n".join(parts) + "\n"


def _section(group: Group) -> list[str]:
    head = ("Method", arrow(group), *COLUMNS)
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 2), "---"], raw=True)]
    for entry in group.entries:
        method, *rest = (escape(cell) for cell in cells(entry))
        lines.append(_line([f"*{method}*" if entry.first.role == "reference" else method, *rest], raw=True))
    return [f"### {escape(subtitle(group))}", *(f"> **{escape(banner)}**" for banner in group.banners), "\n".join(lines)]


def _line(row: Sequence[str], *, raw: bool = False) -> str:
    return f"| {' | '.join(row if raw else map(escape, row))} |"
