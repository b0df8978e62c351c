"""check that a method keeps the contract, clause by clause; for its author

Exit status 1 when a clause is not kept, or when the method's weights are unavailable here.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

EXAMPLES = """examples:
  python -m benchmark check-method mcr
  python -m benchmark check-method mypackage.mymethod:MyMethod      any class that can be imported from here
  python -m benchmark check-method mcr --preset small --set stream=dual
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `check-method`."""
    parser.add_argument("method", metavar="NAME|MODULE:CLASS", help="a registered method, or a class; see `list methods`")
    parser.add_argument("--preset", default="quick", choices=("quick", "small", "paper"), help="sizes (default: quick)")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE",
                        help="change a value of the method's configuration; repeatable")  # fmt: skip


def main(arguments: argparse.Namespace) -> int:
    """Prints the findings; 1 if one is not ok."""
    from tabulate import tabulate

    from benchmark.contract import check
    from benchmark.errors import Unavailable

    method = _load(arguments.method)
    try:
        findings = check(method, arguments.preset, config=_config(method, arguments))
    except Unavailable as error:
        print(f"{arguments.method} is unavailable: {error}")
        return 1
    print(tabulate([("ok" if item.ok else "BROKEN", item.name, item.message) for item in findings]))
    broken = [item for item in findings if not item.ok]
    if broken:
        print(f"\n{arguments.method} breaks {len(broken)} of {len(findings)} clauses")
        return 1
    print(f"\n{arguments.method} keeps all {len(findings)} clauses")
    return 0


def _load(name: str) -> Any:
    """The class behind a registered name or module:Class. Raises UserError."""
    from benchmark.registry import Registry
    from methods import METHODS

    if ":" not in name:
        return METHODS.load(name)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a class in the folder one stands in
    return Registry("method", entries={"given": name}).load("given")


def _config(method: Any, arguments: argparse.Namespace) -> Any:
    """The preset's configuration with the settings, or None where nothing is set. Raises UserError."""
    from benchmark.options import override, parse_settings, require_used, setting_names

    settings = parse_settings(arguments.settings)
    if not settings:
        return None
    config, recipe = method.preset(arguments.preset)
    changed, _, used = override(config, recipe, settings, method.name)
    require_used(settings, used, setting_names(config, recipe))
    return changed
