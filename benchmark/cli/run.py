"""pretrain or load methods, take them through tasks, write the leaderboard

Exit status 1 when a cell failed, or when a method that was named is unavailable.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmark.cli import launching
from benchmark.cli.arguments import add_run_arguments, add_task_arguments, run_options
from benchmark.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmark.data.dataset import Dataset
    from benchmark.options import RunOptions
    from benchmark.runner import Runner, Summary
    from benchmark.types import RunResult

EXAMPLES = """examples:
  python -m benchmark run --method mcr --task all
  python -m benchmark run --method mcr,clip,random --task retrieval,zeroshot --preset small --seed 0,1,2
  python -m benchmark run --method mcr --set stream=dual --set alignment=abm
  python -m benchmark run --method mcr --data csv:my-folder --where source=iu-xray
  python -m benchmark run --method mcr --pretrain-data mimic-cxr --data chexpert,rsna,siim --data-root /data --preset paper
  python -m benchmark run --method mcr --data rsna,siim --data-root /data --split prior-5fold:0
  python -m benchmark run --method mcr --data chexpert --data-root /data --split my-list.csv --label-policy mgca
  python -m benchmark run --method all --task all --dry-run
  python -m benchmark run --method all --task all --launcher local --jobs 4
  python -m benchmark run --method all --task all --preset paper --launcher slurm --slurm partition=gpu --slurm gpus-per-node=1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add_run_arguments(parser)
    add_task_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and run nothing")
    launching.add_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Runs the cells and writes the board."""
    options = run_options(arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("run works in one process; start `pretrain` under torchrun, and `run` with the same options afterwards")
    if arguments.launcher == "slurm":
        options = replace(options, device="cpu")  # of this process, which only plans: a login node may have no GPU
    from benchmark.launch.collect import Collecting
    from methods import METHODS
    from tasks import TASKS

    runner = Collecting(options, METHODS, TASKS, report=_print_result)
    if arguments.dry_run:
        return _print_plan(runner)
    if arguments.launcher == "slurm":
        return launching.submit(arguments, runner)
    summary = launching.run(arguments, runner) if arguments.launcher == "local" else runner.run()
    if not options.only:  # a part of a run writes no board: others may be at work on the rest
        _print_board(options, summary)
    unavailable = summary.of("unavailable") if "all" not in options.methods else []
    return 1 if summary.of("failed") or unavailable else 0


def _print_plan(runner: Runner) -> int:
    from tabulate import tabulate

    from benchmark.plan import refusal

    rows, parts, reasons = [], [], dict[str, None]()
    for data, cells in runner.plan():
        parts += [(data.name, data.version, data.split or "default", *part) for part in _parts(data)]
        for cell in cells:
            spec = cell.spec
            refused = refusal(cell, data)
            state = "finished" if runner.store.finished(spec.key) else refused[0] if refused else "to run"
            reasons |= {f"{state}: {refused[1]}": None} if refused and state == refused[0] else {}
            steps = cell.entrant.recipe.steps
            pretrained = f"pretrain {steps} steps: {spec.weights}" if cell.entrant.pretraining else spec.weights[:12]
            name = f"{spec.protocol}@{spec.protocol_hash}"
            rows.append((spec.method, spec.seed, pretrained, data.name, name, spec.label_fraction, spec.key, state))
    headers = ("method", "seed", "weights", "dataset", "protocol", "labels", "key", "state")
    print(tabulate(parts, headers=("dataset", "version", "split", "part", "images", "patients", "digest")))
    print(f"\n{tabulate(rows, headers=headers)}")
    print("".join(f"\n{reason}" for reason in reasons))
    print(f"\n{len(rows)} cells, {sum(row[-1] == 'to run' for row in rows)} to run; nothing was run")
    return 0


def _parts(data: Dataset) -> Iterator[tuple[str, int, int, str]]:
    """Each split with its images and patients and the first digits of its digest, as it stands in every result."""
    for split, found in data.splits.items():
        records = data.rows(split)
        yield split, len(records), len({record.patient for record in records}), found[:8]


def _print_result(result: RunResult) -> None:
    spec = result.spec
    split = f" ({result.notes['split']})" if "split" in result.notes else ""
    where = f"{result.status:<12}{spec.method:<10}{spec.protocol} {spec.label_fraction:g} on {spec.dataset}{split}"
    if result.status != "ok":
        print(f"{where}: {(result.error or '').splitlines()[0] if result.error else ''}", flush=True)
        return
    metric: Any = result.metrics[result.primary]
    value = "undefined" if metric.value is None else f"{metric.value:.3f}"
    interval = "" if metric.low is None else f" [{metric.low:.3f}, {metric.high:.3f}]"
    print(f"{where}: {result.primary} {value}{interval}, {sum(result.cost.seconds.values()):.1f} s", flush=True)


def _print_board(options: RunOptions, summary: Summary) -> None:
    from benchmark.cli.board import write_all
    from leaderboards import terminal_groups

    print()
    paths, groups, left_out = write_all(options.out, options.draws, options.progress)
    keys = {result.key for result in summary.results}
    mine = [group for group in groups if any(row.key in keys for row in group.rows)]  # earlier rows of the folder beside them
    print("\n".join([terminal_groups(mine), *left_out]))
    counts = Counter(result.status for result in summary.results if result.role == "method")
    print(f"\ncells: {', '.join(f'{count} {status}' for status, count in sorted(counts.items()))}"
          f"{f'; {len(summary.reused)} were finished before' if summary.reused else ''}")  # fmt: skip
    for path in paths.values():
        print(path)
