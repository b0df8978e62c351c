"""write the leaderboard again from the result files of a folder

Needs neither torch nor a GPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """examples:
  python -m benchmark report
  python -m benchmark report --out runs/mimic
  python -m benchmark report --format hf                                  a Hugging Face model card for each method
  python -m benchmark report --format hf --hub-dataset rsna=me/cxr-bench  and .eval_results of the sets with a benchmark there
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `report`."""
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of results (default: runs)")
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap behind ranks, differences and subgroups; "
                        "0 leaves them out (default: 1000)")  # fmt: skip
    parser.add_argument("--format", choices=("board", "hf"), default="board",
                        help="board: Markdown, CSV, LaTeX, JSON and the page; hf: files for the Hugging Face hub, "
                        "which nothing uploads (default: board)")  # fmt: skip
    parser.add_argument("--hub-dataset", action="append", default=[], metavar="NAME=OWNER/ID",
                        help="with --format hf: the benchmark of a data set on the hub, for .eval_results")  # fmt: skip


def main(arguments: argparse.Namespace) -> int:
    """Writes all formats and prints the table."""
    from benchmark.cli.board import write_all
    from benchmark.errors import UserError
    from leaderboards import terminal_groups
    from leaderboards.curves import curves_text
    from leaderboards.curves_figure import write_curves_figure

    if not (arguments.out / "results").is_dir():
        raise UserError(f"{arguments.out} has no results; `run` writes them there, or name another folder by --out")
    if arguments.format == "hf":
        return _huggingface(arguments)
    if arguments.hub_dataset:
        raise UserError("--hub-dataset belongs to --format hf")
    paths, groups, left_out = write_all(arguments.out, arguments.draws)
    print("\n".join([terminal_groups(groups), *left_out]))
    drawn = write_curves_figure(arguments.out)
    if drawn is not None:
        print(f"\npretrainings:\n{curves_text(arguments.out)}\n")
    for path in (*paths.values(), *([drawn] if drawn is not None else [])):
        print(path)
    return 0


def _huggingface(arguments: argparse.Namespace) -> int:
    """Writes the files for the hub and says what has no benchmark there."""
    from benchmark.errors import UserError
    from leaderboards.huggingface import write_huggingface

    pairs = [text.partition("=") for text in arguments.hub_dataset]
    if wrong := [name + mark for name, mark, identifier in pairs if not (name and identifier)]:
        raise UserError(f"--hub-dataset {wrong[0]}: give NAME=OWNER/ID, for example rsna=me/cxr-bench")
    paths = write_huggingface(arguments.out, {name: identifier for name, _, identifier in pairs})
    for path in paths:
        print(path)
    if not any(path.suffix == ".yaml" for path in paths):
        print(
            "no .eval_results: they name a benchmark on the hub, which --hub-dataset gives; never one for phantom or own checks"
        )
    return 0
