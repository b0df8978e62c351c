"""look up published numbers or check their files; send results and add those of others; averages over tasks

Needs neither torch nor a GPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.store import Store

EXAMPLES = """examples:
  python -m benchmark leaderboard published --method prior
  python -m benchmark leaderboard published --dataset chexpert --task classification
  python -m benchmark leaderboard pack 0123456789abcdef       one file of a result and its predictions, to send
  python -m benchmark leaderboard add mcr.json --out runs     checks it against its predictions and writes the board again
  python -m benchmark leaderboard average --method mcr,clip   means over the tasks that both have, with the formula
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
    packed = _action(actions, "pack", "write a result and its predictions as one JSON file")
    packed.add_argument("key", help="of the result; `report` and the page show it")
    packed.add_argument("--to", type=Path, default=None, help="the file (default: KEY.json here)")
    added = _action(actions, "add", "add packed results: their metrics are made again from their predictions")
    added.add_argument("files", nargs="+", type=Path, metavar="FILE")
    averaged = _action(actions, "average", "means over tasks, over cells that all compared methods have")
    averaged.add_argument("--method", default="", help="names or titles, separated by commas (default: all)")
    for parser_ in (packed, added, averaged):
        parser_.add_argument("--out", type=Path, default=Path("runs"), help="folder of results (default: runs)")


def main(arguments: argparse.Namespace) -> int:
    """Does what the action says."""
    actions = {"published": _published, "check": _check, "pack": _pack, "add": _add, "average": _average}
    return actions[arguments.action](arguments)


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


def _pack(arguments: argparse.Namespace) -> int:
    from benchmark.store import Store, write
    from benchmark.submission import pack

    path = arguments.to or Path(f"{arguments.key}.json")
    write(path, pack(Store(arguments.out), arguments.key))
    print(path)
    return 0


def _add(arguments: argparse.Namespace) -> int:
    from benchmark.cli.board import write_all
    from benchmark.errors import UserError
    from benchmark.store import Store

    store, refused = Store(arguments.out), 0
    for path in arguments.files:
        try:
            print(_add_one(store, path))
        except UserError as error:
            refused += 1
            print(f"refused: {path.name} {error}")
    if refused < len(arguments.files):
        for path in write_all(arguments.out, 1000)[0].values():
            print(path)
    return 1 if refused else 0


def _add_one(store: Store, path: Path) -> str:
    """One sentence of what was added. Raises UserError in words that follow the file's name."""
    from benchmark.errors import UserError
    from benchmark.store import predictions_from_bytes
    from benchmark.submission import add, checked, unpack
    from benchmark.submission_peers import FLAG, beside_peers
    from leaderboards.schema import fault

    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})") from error
    value, data = unpack(text)
    reason = fault(value)
    if reason:
        raise UserError(reason)
    result = beside_peers(store, checked(value, data), predictions_from_bytes(data))
    new, metric = add(store, result, data), result.metrics[result.primary].value
    score = "undefined" if metric is None else f"{metric:.3f}"
    verb = "added" if new else "was there already:"
    alone = "; unchecked: nothing here to compare its rows, patients and truth with" if FLAG in result.flags else ""
    cell = f"{result.spec.method}, {result.spec.protocol} on {result.spec.dataset}, {result.primary} {score}"
    return f"{verb} {result.key}: {cell}{alone}"


def _average(arguments: argparse.Namespace) -> int:
    from benchmark.errors import UserError
    from leaderboards import group_rows, load, make_row
    from leaderboards.averages import average_text, averages

    results, _ = load(arguments.out / "results")
    names = tuple(name for name in arguments.method.split(",") if name)
    found = averages(group_rows(map(make_row, results)), names)
    if not found:
        raise UserError(f"{arguments.out} has no scores{f' of {arguments.method}' if names else ''}; see `report`")
    print("\n\n".join(map(average_text, found)))
    return 0
