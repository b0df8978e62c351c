"""The board as LaTeX tables (package booktabs), one a group. Bold are the scores of the first rank group, all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from leaderboards.costs import DEVICES, cost_cells, cost_columns, several_devices
from leaderboards.rows import Entry, Group
from leaderboards.text import EMPTY, arrow, cells, clean, left_out, notes, rank, ranked, subtitle, task_title

_SPECIAL = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
        **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "|": r"\textbar{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "`": r"\textasciigrave{}"},
        **{"↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$", "—": r"\textemdash{}", "–": r"\textendash{}"},
    }
)
_SHOWN = (0, 1, 2, 3, 5, 7, 8, 9)  # of text.cells: method, score, interval, seeds, GPU memory, time, images/s, parameters
_FLOATS = 12  # tables that LaTeX is given to place at once; of a hundred it says "Too many unprocessed floats"
_LAST_LATIN = 0x17F  # what pdflatex sets without further packages
_HEAD = ("95 % interval", "Seeds", "GPU GiB", "Time", "Images/s", "Parameters")


@lru_cache(maxsize=4096)  # the same few cells stand in every line
def escape(text: object) -> str:
    """Text that LaTeX sets as it is."""
    # Two hyphens would become one dash, and an option of a command another word.
    return re.sub(r"-(?=-)", "-{}", clean(text).translate(_SPECIAL))


def latex(groups: Sequence[Group], refused: Sequence[tuple[str, str]]) -> str:
    """A file to \\input, or to copy tables from."""
    parts = [r"% Needs \usepackage{booktabs} and, for wide tables, \usepackage{graphicx}."]
    tables = [_table(group) for group in groups]
    if any(ord(letter) > _LAST_LATIN for table in tables for letter in table):
        parts.append("% Has letters beyond Latin ones: compile it by xelatex or lualatex.")
    parts += [f"% {clean(EMPTY)}"] if not groups else []
    for place, table in enumerate(tables):
        parts += [*([r"\clearpage"] if place and place % _FLOATS == 0 else []), table]
    parts += [f"% {clean(line)}" for line in (*(notes(groups) if groups else ()), *left_out(refused))]
    return "\n".join(parts) + "\n"


def _table(group: Group) -> str:
    row = group.first
    caption = f"{task_title(row.task)}: {subtitle(group)}."
    warnings = "".join(f" \\textbf{{{escape(banner)}.}}" for banner in group.banners)
    lines = [r"\begin{table}", r"\centering", f"\\caption{{{escape(caption)}{warnings}}}", r"\resizebox{\linewidth}{!}{%"]
    place, more = (("Rank",) if ranked(group) else ()), cost_columns(group)
    lines += [rf"\begin{{tabular}}{{{'r' * len(place)}l{'r' * (len(_SHOWN) - 1 + len(more))}}}", r"\toprule"]
    lines += [_line([escape(cell) for cell in (*place, "Method", arrow(group), *_HEAD, *more)]), r"\midrule"]
    kind = None
    for entry in group.entries:
        if kind is not None and entry.kind != kind:
            lines.append(r"\midrule")
        kind = entry.kind
        lines.append(_line(_cells(entry, group, more)))
    lines += [r"\bottomrule", r"\end{tabular}}"]
    lines += [rf"\par\footnotesize {escape(reason)}" for reason in group.reasons]
    lines += [rf"\par\footnotesize {escape(DEVICES)}"] if several_devices(group) else []
    lines += [
        f"\\par\\footnotesize {escape(f'{e.label}: {e.first.status}, {e.first.reason}')}"
        for e in group.entries
        if e.first.reason
    ]
    return "\n".join([*lines, r"\end{table}"])


def _cells(entry: Entry, group: Group, more: tuple[str, ...]) -> list[str]:
    texts = cells(entry)
    method, value, *rest = (escape(texts[number]) for number in _SHOWN)
    name = f"\\emph{{{method}}}" if entry.first.role == "reference" else method
    bold = f"\\textbf{{{value}}}" if entry.label in group.leaders else value
    costs = [escape(cell) for cell in cost_cells(entry, more)]
    return [*([escape(rank(entry))] if ranked(group) else []), name, bold, *rest, *costs]


def _line(row: Sequence[str]) -> str:
    return f"{' & '.join(row)} \\\\"
