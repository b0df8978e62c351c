"""paired difference of two methods by task, with its interval over patients; or results beside published numbers

Both must lie in the same folder of results and have run the same protocols on the same rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmark.errors import UserError

EXAMPLES = """examples:
  python -m benchmark compare mcr random
  python -m benchmark compare mcr clip --out runs/small --metric average_precision
  python -m benchmark compare --published                     every measured method beside what was published
  python -m benchmark compare --published mgca --out runs/mimic
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `compare`."""
    parser.add_argument("first", nargs="?", default="", help="method name or result key")
    parser.add_argument("second", nargs="?", default="", help="method name or result key")
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

    rows, left_out = compare(arguments.out, arguments.first, arguments.second, arguments.metric, arguments.draws)
    if not rows and left_out:
        raise UserError(f"{', '.join(left_out)}: protocols that this version no longer has; run both methods again")
    if not rows:
        raise UserError(f"{arguments.first} and {arguments.second} share no finished cell in {arguments.out}; see `report`")
    headers = ("protocol", "labels", "seed", "metric", arguments.first, arguments.second, "difference", "95 %", "")
    print(tabulate([_line(row) for row in rows], headers=headers))
    for name in left_out:
        print(f"left out: {name}, which this version no longer has; run both methods again")
    return 0


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


def _line(row: Any) -> list[str]:
    difference = row.difference
    interval = "undefined" if difference.low is None else f"[{difference.low:+.4f}, {difference.high:+.4f}]"
    clear = difference.low is not None and (difference.low > 0 or difference.high < 0)
    values = ["undefined" if value is None else f"{value:.4f}" for value in (row.first, row.second)]
    shown = "undefined" if difference.value is None else f"{difference.value:+.4f}"
    return [
        row.protocol,
        f"{row.fraction:g}",
        str(row.seed),
        row.metric,
        *values,
        shown,
        interval,
        "excludes 0" if clear else "",
    ]
