"""look up the published numbers, or check the files that hold them

Needs neither torch nor a GPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """examples:
  python -m benchmark leaderboard published --method prior
  python -m benchmark leaderboard published --dataset chexpert --task classification
  python -m benchmark leaderboard check                       the numbers that come with the package
  python -m benchmark leaderboard check my-paper.csv          one file before it is added; docs/published.md says how
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions of `leaderboard`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    shown = _action(actions, "published", "print published numbers with source, kind and known faults")
    shown.add_argument("--method", default="", help="this method and its variants; mgca gives MGCA, MGCA-R50 and MGCA-ViT")
    shown.add_argument("--dataset", default="", help="chexpert, rsna, siim, ...")
    shown.add_argument("--task", default="", help="classification, zeroshot, retrieval, segmentation, detection, ...")
    shown.add_argument("--protocol", default="", help="family of the protocol: mgca, benchx, lovt, ...")
    shown.add_argument("--metric", default="", help="auroc, dice, map, ...")
    shown.add_argument("--kind", default="", help="paper, readme, reprint, 'second hand' or aggregator")
    checked = _action(actions, "check", "check a folder or a file of published numbers; exit status 1 where something is wrong")
    checked.add_argument("folder", nargs="?", type=Path, default=None, help="default: the store of the package")


def main(arguments: argparse.Namespace) -> int:
    """Prints the numbers, or what is wrong with them."""
    return {"published": _published, "check": _check}[arguments.action](arguments)


def _action(actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Suppressed: the default of the parser above stays where the flag is not given behind the action.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error")
    return parser


def _published(arguments: argparse.Namespace) -> int:
    from leaderboards.published_store import shipped
    from leaderboards.published_text import FILTERS, published_table, select

    filters = {name: getattr(arguments, name) for name in FILTERS}
    print(published_table(*select(shipped(), arguments.method, **filters)))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from benchmark.errors import UserError
    from leaderboards.published_schema import FOLDER
    from leaderboards.published_store import read_store

    place = arguments.folder or FOLDER
    if not place.exists():
        raise UserError(f"{place} is not there; name a folder of CSV files of published numbers, or one of them")
    if not place.is_file() and not any(place.glob("*.csv")):
        raise UserError(f"{place} holds no CSV file of published numbers")
    store = read_store(place)
    for fault in store.faults:
        print(fault)
    files = len({row.file for row in store.rows})
    print(f"{len(store.rows)} numbers in {files} files, {len(store.absent)} known gaps, {len(store.faults)} faults")
    return 1 if store.faults else 0
