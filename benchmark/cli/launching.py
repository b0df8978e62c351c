"""`run --launcher`: the same cells as processes of this machine or as jobs of SLURM."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.launch.collect import Collecting
    from benchmark.launch.jobs import Job
    from benchmark.runner import Summary

OWN = ("launcher", "jobs", "per", "slurm", "dry_run", "only", "no_progress")  # options that are not handed on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of launching."""
    parser.add_argument("--launcher", choices=("local", "slurm"), default="",
                        help="cells in processes of their own: on this machine, or by submitit")  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=0, help="processes at once with --launcher local (default: one a GPU, or 1)"
    )
    parser.add_argument("--per", choices=("method", "cell"), default="",
                        help="a process for each (default: method with local, cell with slurm)")  # fmt: skip
    parser.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE",
                        help="partition, time, gpus-per-node, ... of the jobs; repeatable")  # fmt: skip
    parser.add_argument("--only", default="", metavar="KEY[,KEY]",
                        help="these cells of the plan, or these pretrainings alone; keys are in --dry-run")  # fmt: skip


def run(arguments: argparse.Namespace, runner: Collecting) -> Summary:
    """Runs what is left in processes of this machine, and takes their results as they end."""
    from benchmark.launch.jobs import jobs_of
    from benchmark.launch.local import run_queue, slots, visible_gpus

    if arguments.jobs < 0:
        raise UserError(f"--jobs {arguments.jobs} must not be below 0")
    planned = _planned(runner)
    jobs = jobs_of(planned, runner.store, by_cell=arguments.per == "cell")
    sets = {cell.spec.key: data for data, cells in planned for cell in cells}
    at_work = {cell.spec.key for job in jobs for cell in job.cells}
    for data, cells in planned:
        for cell in cells:
            if cell.spec.key not in at_work:  # finished before, or not to be had from this method or data
                runner.summary.reused |= {cell.spec.key} if runner.store.finished(cell.spec.key) else set()
                runner.collect(cell, data)
    logs = arguments.out / "logs"

    pretrainings = {key: job.name for job in jobs if job.pretrains for key in job.keys}

    def done(job: Job, status: int) -> None:
        log = logs / f"{job.name}.log"
        if not log.exists():  # it was not started, for want of its pretraining
            log = logs / f"{pretrainings.get(job.after, job.name)}.log"
        ending = "" if status in (0, 1) else _ending(status, log)
        for cell in () if job.pretrains else job.cells:
            runner.collect(cell, sets[cell.spec.key], ending)

    gpus = visible_gpus() if arguments.device in ("auto", "cuda") else ()
    places = slots(arguments.jobs, gpus)
    print(f"{len(jobs)} jobs, {len(places)} at a time; logs in {logs}", flush=True)
    run_queue(jobs, places, lambda job: [*words_of(arguments), "--only", ",".join(job.keys)], logs, done)
    return runner.summary


def submit(arguments: argparse.Namespace, runner: Collecting) -> int:
    """Submits what is left as jobs of SLURM, and says how to watch them."""
    from tabulate import tabulate

    from benchmark.launch.jobs import jobs_of
    from benchmark.launch.slurm import submit

    jobs = jobs_of(_planned(runner), runner.store, by_cell=arguments.per != "method")
    if not jobs:
        print("every cell is finished or cannot be run; nothing was submitted")
        return 0
    logs = arguments.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    submitted = submit(jobs, arguments.slurm, lambda job: [*words_of(arguments), "--only", ",".join(job.keys)], logs)
    rows = [(found.job_id, job.name, f"after {job.after[:8]}" if job.after else "") for job, found in submitted]
    print(tabulate(rows, headers=("job", "what", "")))
    print(f"\n{len(rows)} jobs were submitted; watch them by: squeue --me")
    print(f"what they print: {logs}/JOB/JOB_0_log.out and .err")
    print(f"a table of what is there so far, at any time: python -m benchmark report --out {arguments.out}")
    return 0


def words_of(arguments: argparse.Namespace) -> list[str]:
    """The words of `run` that ask for the same plan in another process."""
    from benchmark.cli import run as command

    parser = argparse.ArgumentParser(add_help=False)
    command.add_arguments(parser)
    words = ["run", "--no-progress"]
    for action in parser._actions:
        value: Any = getattr(arguments, action.dest)
        if action.dest in OWN or value == action.default:
            continue
        option = action.option_strings[-1]
        if action.nargs == 0:
            words.append(option)
        else:
            words += [part for item in (value if isinstance(value, list) else [value]) for part in (option, str(item))]
    return words


def _planned(runner: Collecting) -> Any:
    planned = runner.plan()
    runner.store.check_writable()
    return planned


def _ending(status: int, log: Path) -> str:
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return f"its process {how}; what it printed is in {log}, and the same command goes on from here"
