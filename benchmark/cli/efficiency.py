"""measure a pretraining step on generated input: seconds, memory, images a second

Needs no data. --corners runs MCR's ablation: single or dual stream, mapping before or after aggregation.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXAMPLES = """examples:
  python -m benchmark efficiency --method mcr,clip
  python -m benchmark efficiency --method mcr --corners --preset paper --set image_weights=none --set text_weights=none \\
      --batch 256 --precision bf16 --record leaderboards/measured/mcr-corners.json
"""


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
    """Measures and prints a table."""
    import shlex

    from tabulate import tabulate

    from benchmark import repro, store
    from benchmark.context import choose_device
    from benchmark.efficiency import CORNERS, StepCost, measure, table_rows, with_batch
    from benchmark.options import override, parse_settings
    from benchmark.plan import chosen
    from methods import METHODS

    device = choose_device(arguments.device)
    settings = parse_settings(arguments.settings)
    costs: list[StepCost] = []
    for name in chosen(METHODS, arguments.method.split(",")):
        method = METHODS.load(name)
        if not hasattr(method, "loss"):
            print(f"{name} is not trained; nothing to measure")
            continue
        for corner in CORNERS if arguments.corners else ({},):
            extra = tuple((name, key, value) for key, value in corner.items())
            preset_config, preset_recipe = method.preset(arguments.preset)
            config, recipe, _ = override(preset_config, preset_recipe, (*settings, *extra), name)
            recipe = with_batch(recipe, arguments.batch, arguments.precision)
            tokens = arguments.tokens or getattr(config, "max_tokens", 112)
            sizes = {"tokens": tokens, "vocabulary": arguments.vocabulary, "steps": arguments.steps}
            costs.append(measure(method, config, recipe, device, settings=corner, **sizes))
            print(f"measured {name} {corner or ''}", file=sys.stderr, flush=True)
    headers = ["method", "settings", "batch", "precision", "s/step (quartiles)", "images/s", "GMACs forward/pair",
               "peak MiB", "above static", "static MiB", "host MiB"]  # fmt: skip
    print(tabulate(table_rows(costs), headers=headers))
    if arguments.record:
        command = f"python -m benchmark {shlex.join(sys.argv[1:])}"
        store.write_json(arguments.record, {"command": command, "environment": repro.environment(device), "rows": costs})
        print(arguments.record)
    return 0
