"""paired difference of two methods or runs by task, with its interval over patients; or results beside published numbers

Both must have run the same protocols on the same rows. Seeds are averaged within each draw of patients.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.errors import UserError

EXAMPLES = """examples:
  python -m benchmark compare mcr random
  python -m benchmark compare runs/before runs/after          two folders, method by method
  python -m benchmark compare runs/a:mcr runs/b:mcr           a method of one folder and one of another
  python -m benchmark compare mcr clip --out runs/small --metric average_precision
  python -m benchmark compare --published                     every measured method beside what was published
  python -m benchmark compare --published mgca --out runs/mimic
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `compare`."""
    parser.add_argument("first", nargs="?", default="", help="method name, title or result key; a folder; or FOLDER:METHOD")
    parser.add_argument("second", nargs="?", default="", help="as the first")
    parser.add_argument("--published", action="store_true",
                        help="set the results (of the named methods, or all) beside published numbers")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of results (default: runs)")
    parser.add_argument("--metric", default="", help="instead of each protocol's primary metric")
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap (default: 1000)")


def main(arguments: argparse.Namespace) -> int:
    """Prints first minus second for every cell that both have."""
    if arguments.published:
        return _beside_published(arguments)
    if not arguments.second:
        raise UserError("compare needs two methods, or --published; `report` shows which methods have results")
    from tabulate import tabulate

    from benchmark.comparison import compare
    from leaderboards.text import clean

    rows, left_out = compare(arguments.out, arguments.first, arguments.second, arguments.metric, arguments.draws)
    if not rows and left_out:
        raise UserError(f"{', '.join(left_out)}: protocols that this version no longer has; run both methods again")
    if not rows:
        raise UserError(f"{arguments.first} and {arguments.second} share no finished cell in {arguments.out}; see `report`")
    both = (arguments.first, arguments.second)
    lines = [[clean(cell) for cell in _line(row)] for row in rows]
    print(tabulate(lines, headers=(*_HEADS, *map(clean, both), *_TAIL), disable_numparse=True))
    for line in _below(rows, left_out):
        print(clean(line))
    return 0


def _below(rows: list[Any], left_out: list[str]) -> Iterator[str]:
    """How to read the table, and what differs in the specs."""
    yield ""
    if any(row.costs for row in rows):
        yield "time and memory: first by second" + (
            "; * measured on different devices, so no comparison of methods" if _marked(rows) else ""
        )
    told: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        told.setdefault(row.differs, []).append(f"{row.protocol} at {row.fraction:g}")
    for differs, cells in told.items():
        where = "" if len(told) == 1 else f" ({', '.join(dict.fromkeys(cells))})"
        yield f"differs{where}: {'; '.join(differs) or 'nothing in the spec but seeds'}"
    for name in left_out:
        yield f"left out: {name}, which this version no longer has; run both methods again"


def _marked(rows: list[Any]) -> bool:
    return any(ratio.marked for row in rows for ratio in row.costs.values())


def _beside_published(arguments: argparse.Namespace) -> int:
    """Needs result files alone and no torch."""
    from leaderboards import load, make_row
    from leaderboards.published_text import beside_table

    folder = arguments.out / "results"
    if not folder.is_dir():
        raise UserError(f"{arguments.out} has no results; `run` writes them there, or name another folder by --out")
    names = {name for name in (arguments.first, arguments.second) if name}
    results, refused = load(folder)
    rows = [make_row(result) for result in results]
    print(beside_table([row for row in rows if not names or names & {row.method, row.key, row.title}], arguments.metric))
    for path, reason in refused:
        print(f"left out: {Path(path).name} {reason}")
    return 0


_HEADS = ("dataset", "protocol", "labels", "seed", "method", "metric")
_TAIL = ("difference", "95 %", "p", "", "pretraining", "evaluation", "memory")


def _line(row: Any) -> list[str]:
    difference = row.difference
    interval = "undefined" if difference.low is None else f"[{difference.low:+.4f}, {difference.high:+.4f}]"
    clear = difference.low is not None and (difference.low > 0 or difference.high < 0)
    values = ["undefined" if value is None else f"{value:.4f}" for value in (row.first, row.second)]
    shown = "undefined" if difference.value is None else f"{difference.value:+.4f}"
    titles = row.titles[0] if row.titles[0] == row.titles[1] else " | ".join(row.titles)
    return [
        row.dataset,
        row.protocol,
        f"{row.fraction:g}",
        row.seeds,
        titles,
        row.metric,
        *values,
        shown,
        interval,
        "-" if row.p is None else f"{row.p:.2g}",
        "excludes 0" if clear else "",
        *(_ratio(row.costs.get(name)) for name in ("pretraining", "evaluation", "memory")),
    ]


def _ratio(ratio: Any) -> str:
    return "-" if ratio is None else f"x{ratio.value:.2f}{'*' if ratio.marked else ''}"
