"""measure a pretraining step on generated input: seconds, memory, images a second

Needs no data. --corners runs MCR's ablation: single or dual stream, mapping before or after aggregation.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmark.types import Recipe

EXAMPLES = """examples:
  python -m benchmark efficiency --method mcr,clip
  python -m benchmark efficiency --method mcr --corners --preset paper --set image_weights=none --set text_weights=none \\
      --batch 256 --precision bf16 --record leaderboards/measured/mcr-corners.json
"""
HEADERS = ("method", "settings", "batch", "precision", "s/step (quartiles)", "images/s", "GMACs forward/pair", "peak MiB",
           "above static", "static MiB", "host MiB")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `efficiency`."""
    parser.add_argument("--method", required=True, metavar="NAME[,NAME]")
    parser.add_argument("--preset", default="quick", choices=("quick", "small", "paper"))
    parser.add_argument("--batch", type=int, default=0, help="batch size (default: the recipe's)")
    parser.add_argument("--precision", default="", choices=("", "fp32", "bf16", "fp16"), help="(default: the recipe's)")
    parser.add_argument("--tokens", type=int, default=0, help="of each report (default: the method's limit)")
    parser.add_argument("--vocabulary", type=int, default=28996, help="of the tokenizer (default: 28996, BERT-base-cased)")
    parser.add_argument("--steps", type=int, default=20, help="measured, after 5 of warm-up (default: 20)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--corners", action="store_true", help="each method in the corners of MCR's ablation")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="[METHOD.]KEY=VALUE")
    parser.add_argument("--record", type=Path, default=None, help="write the figures with machine and versions as JSON")


def main(arguments: argparse.Namespace) -> int:
    """Measures and prints a table; 1 if a step did not fit. The record is written after each row."""
    import shlex

    from tabulate import tabulate

    from benchmark import repro, store
    from benchmark.context import choose_device
    from benchmark.efficiency import DidNotFit, StepCost, table_rows

    for name, least in (("batch", 0), ("tokens", 0), ("vocabulary", 10), ("steps", 1)):
        if getattr(arguments, name) < least or (name == "tokens" and 0 < arguments.tokens < 3):
            raise UserError(f"--{name} {getattr(arguments, name)} is too small")
    device = choose_device(arguments.device)
    command = f"python -m benchmark {shlex.join(sys.argv[1:])}"
    rows: list[StepCost | DidNotFit] = []
    for method, config, recipe, corner in _variants(arguments):
        rows.append(_measure(arguments, method, config, recipe, corner, device))
        print(f"measured {method.name} {corner or ''}", file=sys.stderr, flush=True)
        if arguments.record:
            record = {"command": command, "environment": repro.environment(device), "rows": rows}
            store.write_json(arguments.record, record)
    print(tabulate(table_rows(rows), headers=HEADERS))
    if arguments.record and rows:
        print(arguments.record)
    return 1 if any(isinstance(row, DidNotFit) for row in rows) else 0


def _variants(arguments: argparse.Namespace) -> Iterator[tuple[Any, Any, Recipe, Mapping[str, str]]]:
    """Method class, configuration, recipe and corner of each row, all checked before the first is measured."""
    from benchmark.efficiency import CORNERS, with_batch
    from benchmark.options import override, parse_settings, require_used, setting_names
    from benchmark.plan import chosen
    from methods import METHODS

    settings = parse_settings(arguments.settings)
    found: list[tuple[Any, Any, Recipe, Mapping[str, str]]] = []
    used: set[str] = set()
    known: list[str] = []
    names = chosen(METHODS, arguments.method.split(","))
    for name in names:
        method = METHODS.load(name)
        if not hasattr(method, "loss"):
            print(f"{name} is not trained; nothing to measure")
            continue
        for corner in CORNERS if arguments.corners else ({},):
            config, recipe = method.preset(arguments.preset)
            known += setting_names(config, recipe)
            extra = tuple((name, key, value) for key, value in corner.items())
            config, recipe, taken = override(config, recipe, (*settings, *extra), name)
            used |= taken
            found.append((method, config, with_batch(recipe, arguments.batch, arguments.precision), corner))
    if found:
        require_used(settings, frozenset(used), known, names)
    return iter(found)


def _measure(
    arguments: argparse.Namespace, method: Any, config: Any, recipe: Recipe, corner: Mapping[str, str], device: Any
) -> Any:
    import torch

    from benchmark.efficiency import DidNotFit, measure

    tokens = arguments.tokens or getattr(config, "max_tokens", 112)
    try:
        sizes = {"tokens": tokens, "vocabulary": arguments.vocabulary, "steps": arguments.steps}
        return measure(method, config, recipe, device, settings=corner, **sizes)
    except torch.OutOfMemoryError:
        return DidNotFit(
            method=method.name, settings=corner, batch_size=recipe.batch_size, precision=recipe.precision,
            error="out of memory",
        )  # fmt: skip
