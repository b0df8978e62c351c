"""write the leaderboard again from the result files of a folder

Needs neither torch nor a GPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """examples:
  python -m benchmark report
  python -m benchmark report --out runs/mimic
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `report`."""
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of results (default: runs)")
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap behind ranks, differences and subgroups; "
                        "0 leaves them out (default: 1000)")  # fmt: skip


def main(arguments: argparse.Namespace) -> int:
    """Writes all formats and prints the table."""
    from benchmark.cli.board import write_all
    from benchmark.errors import UserError
    from leaderboards import terminal_groups

    if not (arguments.out / "results").is_dir():
        raise UserError(f"{arguments.out} has no results; `run` writes them there, or name another folder by --out")
    paths, groups = write_all(arguments.out, arguments.draws)
    print(terminal_groups(groups))
    for path in paths.values():
        print(path)
    return 0
