"""pretrain methods only, and keep their weights

The folder pretrained/<key> serves `run` with the same options, and `run --checkpoint` with any. One process, or several under
torchrun or `accelerate launch`; docs/pretraining.md says more. Exit status 75: a signal came, and the state was saved.
"""

from __future__ import annotations

import argparse

from benchmark.cli.arguments import add_run_arguments, run_options

EXAMPLES = """examples:
  python -m benchmark pretrain --method mcr --preset small
  python -m benchmark pretrain --method mcr --set image_mask_ratio=0.5 --set steps=2000
  python -m benchmark pretrain --method clip --set batch_size=1024 --set micro_batch=64
  torchrun --nproc-per-node 4 -m benchmark pretrain --method mcr --preset paper --data mimic-cxr --data-root /data
  torchrun --nproc-per-node 4 -m benchmark pretrain --method prior --preset paper --fsdp --data mimic-cxr --data-root /data
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `pretrain`."""
    add_run_arguments(parser)
    parser.add_argument("--fsdp", action="store_true", help="spread blocks, their gradients and moments over the processes")


def main(arguments: argparse.Namespace) -> int:
    """Pretrains and prints the folders."""
    options = run_options(arguments)
    from benchmark.collectives import leave, rank
    from benchmark.runner import Runner
    from methods import METHODS
    from tasks import TASKS

    runner = Runner(options, METHODS, TASKS, report=lambda result: None)
    records = runner.pretrain()
    for record in records if rank() == 0 else ():
        cost = record.cost
        peak = "" if cost.peak_allocated_mib is None else f", peak {cost.peak_allocated_mib:.0f} MiB allocated"
        step = "" if cost.step_seconds is None else f", {cost.step_seconds:.3f} s a step"
        print(f"{record.spec['method']}: {cost.seconds['pretrain']:.0f} s{step}{peak}")
        print(runner.store.pretrained_folder(record.key))
    leave()
    return 0
