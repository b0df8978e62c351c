"""check a data set on the disk: counts, every image, leaks between splits, overlap with pretraining sets

Writes report.md, report.json and a manifest; exit status 1 when there are errors. docs/verify.md explains each check.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.data.sources import SourceOptions
    from benchmark.types import Source

EXAMPLES = """examples:
  python -m benchmark verify chexpert --data-root /data
  python -m benchmark verify csv:my-folder --no-images              tables and files only: seconds
  python -m benchmark verify rsna,nih --data-root /data             also what they share
  python -m benchmark verify chexpert --data-root /data --split 5x200-mgca      does this split leak?
  python -m benchmark verify mimic-cxr --against csv:my-pretraining-set
started again, it goes on where it stopped; an image is decoded again only when its file changed
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `verify`."""
    parser.add_argument("data", metavar="NAME[,NAME]", help="data sets: chexpert, csv:DIR, ...; see `list datasets`")
    parser.add_argument("--against", default="", metavar="NAME[,NAME]", help="pretraining sets whose overlap is checked")
    parser.add_argument("--data-root", type=Path, default=None, help="folder of the real sets (default: $BENCHMARK_DATA)")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="keep matching rows; repeatable")
    parser.add_argument("--split", default="", metavar="NAME[:N]|FILE", help="look at this split; see `list splits`")
    parser.add_argument("--label-policy", default="", metavar="NAME", help="for blank and uncertain; see `list policies`")
    parser.add_argument("--no-images", action="store_true", help="decode nothing: tables, files and texts only")
    parser.add_argument("--out", type=Path, default=Path("verify"), help="folder of the report (default: verify)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that decode images")
    parser.add_argument("--json", action="store_true", help="print report.json in place of the tables")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")


def main(arguments: argparse.Namespace) -> int:
    """Prints the report; 1 if there are errors."""
    from benchmark.cli.arguments import data_names, data_root, pair
    from benchmark.data.opening import check_split
    from benchmark.data.sources import SourceOptions
    from benchmark.store import Store
    from benchmark.verify import VerifyOptions, verify
    from benchmark.verify.report import as_text, terminal, write_report

    where = tuple(pair(text) for text in arguments.where)
    options = SourceOptions(root=data_root(arguments.data_root), where=where)
    names = data_names(arguments.data)
    check_split(names, arguments.split)
    sources = _open(names, options, arguments.split, arguments.label_policy)
    against = _open(data_names(arguments.against), options) if arguments.against else {}
    Store(arguments.out).check_writable()
    command = f"python -m benchmark {shlex.join(sys.argv[1:])}"
    wanted = VerifyOptions(
        out=arguments.out,
        images=not arguments.no_images,
        filtered=bool(where),
        workers=max(0, arguments.workers),
        progress=not arguments.no_progress,
        command=command,
    )
    report = verify(sources, against, wanted)
    paths = write_report(report, arguments.out)
    print(as_text(report) if arguments.json else f"{terminal(report)}\n{paths[1]}\n{paths[0]}")
    return 1 if report.of("error") else 0


def _open(texts: tuple[str, ...], options: SourceOptions, split: str = "", policy: str = "") -> dict[str, Source]:
    """Name for people -> source; two of one name go by what was typed."""
    from benchmark.data.opening import open_source

    found: dict[str, Source] = {}
    for text in dict.fromkeys(texts):
        source = open_source(text, options, split, policy)
        found[source.name if source.name not in found else text] = source
    return found
