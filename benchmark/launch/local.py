"""A queue of processes on one machine: one for each GPU, or as many as asked for, and no job stops the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from types import FrameType

from benchmark.launch.jobs import Job

POLL_SECONDS = 0.2
PATIENCE = 120.0  # seconds to save a state in, after SIGTERM
Done = Callable[[Job, int], None]


def slots(count: int, gpus: Sequence[str]) -> tuple[dict[str, str], ...]:
    """What is added to the environment of each of the processes that run at the same time.

    Args:
        count: of processes; 0: one a GPU, or one. gpus: names for CUDA_VISIBLE_DEVICES, none for a run on the CPU.
    """
    count = count or len(gpus) or 1
    if gpus:
        return tuple({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} for place in range(count))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // count)))  # processes that share cores
    return tuple({"OMP_NUM_THREADS": threads} for _ in range(count))


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may give to others, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    return tuple(named[:count]) if named else tuple(map(str, range(count)))


def run_queue(
    jobs: Sequence[Job], places: Sequence[Mapping[str, str]], words: Callable[[Job], Sequence[str]], logs: Path, done: Done
) -> None:
    """Runs every job in a process of its own, as many at once as there are places; a job waits for the pretraining it needs.

    Args:
        words: a job -> the words after `python -m benchmark`. logs: folder of what the processes print.
        done: is called with each job and its exit status as it ends. The jobs that wait for a pretraining that failed are
            not run: theirs is the status of the pretraining.

    Raises:
        KeyboardInterrupt: this process was interrupted or told to end; the others were told too, and have saved their state.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, ended = list(jobs), dict[str, int]()
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    with _ending_together(running):
        while waiting or running:
            for place in (place for place in range(len(places)) if place not in running):
                job = _next(waiting, jobs, ended, done)
                if job is not None:
                    running[place] = (job, _start(words(job), logs / f"{job.name}.log", places[place]))
            for place, (job, process) in list(running.items()):
                status = process.poll()
                if status is not None:
                    del running[place]
                    ended |= dict.fromkeys(job.keys, status) if job.pretrains else {}
                    done(job, status)
            sleep(POLL_SECONDS if running else 0)


def _next(waiting: list[Job], jobs: Sequence[Job], ended: Mapping[str, int], done: Done) -> Job | None:
    """Takes the first job that can start; those whose pretraining failed end here."""
    pretrainings = {key for job in jobs if job.pretrains for key in job.keys}
    for job in list(waiting):
        status = ended.get(job.after) if job.after in pretrainings else 0
        if status is None:
            continue
        waiting.remove(job)
        if status == 0:
            return job
        done(job, status)
    return None


def _start(words: Sequence[str], log: Path, added: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603  (this interpreter, and the words of this command line)
            [sys.executable, "-m", "benchmark", *words], env={**os.environ, **added}, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


@contextmanager
def _ending_together(running: Mapping[int, tuple[Job, subprocess.Popen[bytes]]]) -> Iterator[None]:
    """Inside, SIGTERM ends like Ctrl-C; however the block ends, no process outlives it."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        signal.signal(signal.SIGTERM, before)
