"""show one protocol whole: everything that its hash covers"""

from __future__ import annotations

import argparse

EXAMPLES = """examples:
  python -m benchmark show protocol retrieval-unique
  python -m benchmark show protocol unet-frozen --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `show`."""
    parser.add_argument("what", choices=("protocol",))
    parser.add_argument("name", help="see `list protocols`")
    parser.add_argument("--json", action="store_true", help="as JSON")


def main(arguments: argparse.Namespace) -> int:
    """Prints the literal."""
    import json

    from tabulate import tabulate

    from benchmark.plan import catalogue
    from benchmark.registry import unknown
    from benchmark.types import plain
    from tasks import TASKS

    known = {protocol.name: protocol for name in TASKS for protocol in catalogue(TASKS.load(name)())}
    if arguments.name not in known:
        raise unknown("protocol", arguments.name, list(known))
    protocol = known[arguments.name]
    fields = {"hash": protocol.hash, **plain(protocol), "settings": dict(protocol.settings)}
    if arguments.json:
        print(json.dumps(fields, indent=2, ensure_ascii=False))
        return 0
    settings = fields.pop("settings")
    rows = [(name, ", ".join(map(str, value)) if isinstance(value, list) else value) for name, value in fields.items()]
    print(tabulate([(name, str(value)) for name, value in (*rows, *settings.items())], tablefmt="plain", disable_numparse=True))
    return 0
