"""measure a pretraining step on generated input: seconds, memory, images a second, energy

Needs no data. Each row is measured in a process of its own. --corners runs MCR's ablation: single or dual stream, mapping
before or after aggregation, and prints the ratios.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.efficiency.jobs import Job
    from benchmark.efficiency.record import Record

EXAMPLES = """examples:
  python -m benchmark efficiency --method mcr,clip --batch 64,128,256 --record steps.json   also writes steps.md and steps.svg
  python -m benchmark efficiency --method mcr --corners --preset paper --set image_weights=none --set text_weights=none \\
      --batch 256 --precision bf16 --record leaderboards/measured/mcr-corners.json
  python -m benchmark efficiency --method all --largest-batch --memory-limit-gib 4
  python -m benchmark efficiency --programme gpu --dry-run      what `make gpu-bench` measures
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `efficiency`."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--method", metavar="NAME[,NAME]", help="methods, or all")
    what.add_argument("--programme", choices=("gpu",), help="a fixed list of measurements; the record is named after the GPU")
    parser.add_argument("--preset", default="quick", choices=("quick", "small", "paper"))
    parser.add_argument("--batch", default="", metavar="N[,N]", help="batch sizes (default: the recipe's)")
    parser.add_argument("--largest-batch", action="store_true", help="search the largest batch that fits, from --batch on")
    parser.add_argument(
        "--memory-limit-gib", type=float, default=0.0, help="of tensors on a GPU, or of what a step takes on the host"
    )
    parser.add_argument("--precision", default="", choices=("", "fp32", "bf16", "fp16"), help="(default: the recipe's)")
    parser.add_argument("--deterministic", action="store_true", help="with deterministic algorithms, as pretraining on a GPU")
    parser.add_argument("--tokens", type=int, default=0, help="of each report (default: the method's limit)")
    parser.add_argument("--vocabulary", type=int, default=28996, help="of the tokenizer (default: 28996, BERT-base-cased)")
    parser.add_argument("--steps", type=int, default=20, help="measured, after 5 of warm-up (default: 20)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--corners", action="store_true", help="each method in the corners of MCR's ablation")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="[METHOD.]KEY=VALUE")
    parser.add_argument("--record", type=Path, default=None, metavar="FILE.json",
                        help="figures, machine and versions; rows that are in it are not measured again")  # fmt: skip
    parser.add_argument("--one-process", action="store_true", help="faster start; host memory is then that of all rows so far")
    parser.add_argument("--dry-run", action="store_true", help="print what would be measured")


def main(arguments: argparse.Namespace) -> int:
    """Measures and prints a table; 1 if a step did not fit or failed. The record is written after each row."""
    from benchmark.cli.measurement import environment_apart, resolve
    from benchmark.efficiency.record import Record, ordered
    from benchmark.efficiency.table import printed

    jobs = _programme() if arguments.programme else _jobs(arguments)
    for job in jobs:
        resolve(job)  # every job is checked before the first is measured
    if arguments.dry_run:
        print("\n".join(f"{job.key}  {job}" for job in jobs))
        print(f"{len(jobs)} measurements; nothing was measured")
        return 0
    environment = environment_apart("cuda" if arguments.programme else arguments.device)
    if arguments.programme and not arguments.record:
        arguments.record = Path("leaderboards/measured") / f"{environment['gpu'].lower().replace(' ', '-')}.json"
    record = Record(arguments.record, f"python -m benchmark {shlex.join(sys.argv[1:])}", environment)
    for number, job in enumerate(jobs, 1):
        _measure(job, record, arguments.one_process, f"{number}/{len(jobs)}")
    rows = ordered(record.rows, jobs)
    print(printed(rows))
    print("\n".join(map(str, record.write())), end="\n" if arguments.record else "")
    return 1 if any("error" in row for row in rows) else 0


def _measure(job: Job, record: Record, one_process: bool, place: str) -> None:
    from benchmark.cli.measurement import measured, measured_apart

    found = record.row(job)
    if found is None:
        print(f"{place} {job}", file=sys.stderr, flush=True)
        found = record.add(job, measured(job) if one_process else measured_apart(job))
    state = found.get("error") or f"{found['seconds']:.3f} s a step at batch {found['batch_size']}"
    print(f"{place} {job.method}: {state}", file=sys.stderr, flush=True)


def _programme() -> tuple[Job, ...]:
    from benchmark.efficiency.jobs import gpu_programme
    from methods import METHODS

    return gpu_programme([name for name in METHODS if hasattr(METHODS.load(name), "loss")])


def _jobs(arguments: argparse.Namespace) -> tuple[Job, ...]:
    """Every method, corner and batch size. Raises UserError for what is too small, unknown, or set and never used."""
    from benchmark.cli.measurement import resolve
    from benchmark.efficiency.jobs import CORNERS, Job
    from benchmark.options import parse_settings, require_used, setting_names
    from benchmark.plan import chosen
    from methods import METHODS

    _check(arguments)
    settings = parse_settings(arguments.settings)
    common = {name: getattr(arguments, name) for name in ("preset", "precision", "tokens", "vocabulary", "steps", "device",
                                                          "memory_limit_gib", "deterministic")}  # fmt: skip
    names, found, used, known = chosen(METHODS, arguments.method.split(",")), [], set[str](), list[str]()
    for name in names:
        if not hasattr(METHODS.load(name), "loss"):
            print(f"{name} is not trained; nothing to measure")
            continue
        for corner in CORNERS if arguments.corners else ({},):
            for size in _batches(arguments.batch):
                job = Job(method=name, corner=corner, batch_size=size, largest=arguments.largest_batch, **common)
                job = replace(job, settings=tuple(item for item in settings if item[0] in ("", name)))
                _, config, recipe, taken = resolve(job)
                known += setting_names(config, recipe)
                used |= taken
                found.append(job)
    if found:
        require_used(settings, frozenset(used), known, names)
    return tuple(found)


def _check(arguments: argparse.Namespace) -> None:
    for name, least in (("tokens", 0), ("vocabulary", 10), ("steps", 1), ("memory_limit_gib", 0)):
        if getattr(arguments, name) < least or (name == "tokens" and 0 < arguments.tokens < 3):
            raise UserError(f"--{name.replace('_', '-')} {getattr(arguments, name)} is too small")
    from benchmark.context import choose_device

    if arguments.largest_batch and choose_device(arguments.device).type == "cpu" and not arguments.memory_limit_gib:
        raise UserError("--largest-batch on a CPU needs a limit: --memory-limit-gib 4, or as much as may be used")


def _batches(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(",")) if text else (0,)
    except ValueError as error:
        raise UserError(f"--batch {text!r}: expected numbers separated by commas") from error
    if text and min(sizes) < 2:
        raise UserError(f"--batch {text} is too small: a contrastive loss needs 2 rows")
    return sizes
