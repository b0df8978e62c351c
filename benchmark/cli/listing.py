"""list methods, tasks, datasets, protocols, splits or label policies; draw a contact sheet of a data set"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """examples:
  python -m benchmark list methods
  python -m benchmark list methods --cards                  paper, license, pretraining data, published files of each
  python -m benchmark list protocols
  python -m benchmark list splits                           names of --split: data sets, whose images, sources, seeds
  python -m benchmark list datasets --show phantom          draws images with masks, boxes and reports to a PNG
  python -m benchmark list datasets --show csv:my-folder --file sheet.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `list`."""
    parser.add_argument("what", choices=tuple(TABLES))
    parser.add_argument("--show", default="", metavar="DATASET", help="with datasets: draw a contact sheet of this one")
    parser.add_argument("--cards", action="store_true", help="with methods: what each says of itself")
    parser.add_argument("--file", type=Path, default=None, help="where the contact sheet goes (default: DATASET.png)")
    parser.add_argument("--preset", default="quick", choices=("quick", "small", "paper"))
    parser.add_argument("--data-root", type=Path, default=None)


def main(arguments: argparse.Namespace) -> int:
    """Prints a table, or writes the sheet."""
    from tabulate import tabulate

    if arguments.show:
        return _show(arguments)
    if arguments.cards:
        print("\n\n".join(_cards()))
        return 0
    headers, rows = TABLES[arguments.what](arguments.preset)
    print(tabulate(rows, headers=headers))
    return 0


def _methods(preset: str) -> tuple[list[str], list[list[str]]]:
    from benchmark.types import capabilities
    from methods import METHODS

    rows = []
    for name in METHODS:
        method = METHODS.load(name)
        card = method.card
        _, recipe = method.preset(preset)
        steps = f"{recipe.steps} x {recipe.batch_size}" if recipe.steps else "not trained"
        rows.append(
            [name, card.title, str(card.year or ""), ", ".join(sorted(capabilities(method))), steps, METHODS.origin(name)]
        )
    return ["name", "title", "year", "capabilities", f"steps x batch ({preset})", "where"], rows


def _cards() -> list[str]:
    from methods import METHODS

    found = []
    for name in METHODS:
        method = METHODS.load(name)
        card = method.card
        layouts = method.published_layouts() if hasattr(method, "published_layouts") else ()
        facts = {
            "paper": card.paper, "license of its weights": card.license,
            "its weights were trained on": ", ".join(card.pretraining_data),
            "its numbers were published under": card.protocol,
            "--checkpoint reads": "; ".join(layout.title for layout in layouts),
        }  # fmt: skip
        lines = [f"{name}: {card.title}{f' ({card.year})' if card.year else ''}"]
        found.append("\n".join([*lines, *(f"  {fact}: {value}" for fact, value in facts.items() if value)]))
    return found


def _tasks(preset: str) -> tuple[list[str], list[list[str]]]:
    from tasks import TASKS

    rows = []
    for name in TASKS:
        task = TASKS.load(name)()
        protocols = ", ".join(protocol.name for protocol in task.protocols(preset))
        rows.append([name, ", ".join(sorted(task.needs)) or "images", protocols, TASKS.origin(name)])
    return ["name", "needs", f"protocols ({preset})", "where"], rows


def _protocols(preset: str) -> tuple[list[str], list[list[str]]]:
    from benchmark.plan import CATALOGUE, catalogue
    from tasks import TASKS

    rows = []
    for name in TASKS:
        task = TASKS.load(name)()
        for protocol in catalogue(task):
            sizes = [size for size in CATALOGUE if protocol in task.protocols(size)]
            runs = "when named" if sizes == ["published"] else ", ".join(sizes)
            arrow = "↑" if protocol.higher_is_better else "↓"
            rows.append([f"{protocol.name}@{protocol.hash}", f"{protocol.primary} {arrow}", runs, protocol.summary])
    return ["protocol@hash", "primary", "runs at", "summary"], rows


def _datasets(preset: str) -> tuple[list[str], list[list[str]]]:
    from benchmark.data.sources import SOURCES

    return ["name", "where"], [[name, SOURCES.origin(name)] for name in SOURCES]


def _splits(preset: str) -> tuple[list[str], list[list[str]]]:
    from textwrap import fill

    from benchmark.data.split_rules import all_rules

    rows = [
        [
            rule.usage,
            ", ".join(rule.datasets) or "any",
            fill(rule.what, 44, break_on_hyphens=False),
            rule.ids,
            fill(rule.source, 30, break_on_hyphens=False),
            rule.seed,
        ]
        for rule in all_rules()
    ]
    return ["name", "data sets", "what it is", "whose images", "source", "seed"], rows


def _policies(preset: str) -> tuple[list[str], list[list[str]]]:
    from benchmark.data.sources.chexpert import POLICIES

    def said(value: float) -> str:
        return "unknown" if value != value else f"{value:g}"

    rows = []
    for name, policy in POLICIES.items():
        named = ", ".join(f"{label} {said(value)}" for label, value in policy.named.items())
        rows.append([name, "chexpert, mimic-cxr", said(policy.blank), said(policy.uncertain), named])
    return ["name", "data sets", "not mentioned", "uncertain", "uncertain, but for"], rows


TABLES = {
    "methods": _methods, "tasks": _tasks, "datasets": _datasets, "protocols": _protocols, "splits": _splits,
    "policies": _policies,
}  # fmt: skip


def _show(arguments: argparse.Namespace) -> int:
    import io

    from benchmark import store
    from benchmark.data.contact_sheet import contact_sheet
    from benchmark.data.sources import SOURCES, SourceOptions

    name, _, location = arguments.show.partition(":")
    source = SOURCES.load(name)(location, SourceOptions(root=arguments.data_root, preset=arguments.preset))
    path = arguments.file or Path(f"{source.name.replace(':', '-')}.png")
    buffer = io.BytesIO()
    contact_sheet(source).save(buffer, format="PNG")
    store.write(path, buffer.getvalue())
    print(f"{source.name} {source.version}: {len(source.records)} images, {len(source.classes)} classes")
    print(path)
    return 0
