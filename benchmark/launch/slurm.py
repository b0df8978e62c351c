"""Jobs of SLURM by submitit: arrays, cells after their pretraining, queued again where they are preempted or out of time."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.launch.jobs import Job

REMEDY = "install it by: pip install 'cxr-vlp-benchmark[slurm]'"
SHARED = {"nodes": int, "gpus_per_node": int, "cpus_per_task": int, "mem_gb": float}  # submitit's names for every cluster
# exit statuses of a process that a signal ended: its state saved (75, EX_TEMPFAIL of sysexits.h), or before it could listen
SAVED = (75, -signal.SIGTERM, -signal.SIGUSR1, -signal.SIGUSR2)
TIMEOUTS = 1000  # times that a job may run out of time and go on; submitit's own default is 3
NUMBER = "slurm_max_num_timeout"
PATIENCE = 80.0  # seconds to save a state in; SLURM kills 90 seconds after the signal


@dataclass(slots=True)
class Work:
    """What a job of the cluster calls: `python -m benchmark WORDS` in a process of its own.

    When the job is preempted or about to run out of time, that process is told to save its state, and the job goes back
    into the queue with the same words: what is finished is not done again.
    """

    words: tuple[str, ...]
    process: Any = field(default=None, repr=False)

    def __call__(self) -> int:
        """Runs the command. Raises CalledProcessError if it fails, so that jobs that wait for it never start.

        SLURM may signal the process itself before it signals this one: what left with its state saved is started again, and
        goes on until `checkpoint` is called.
        """
        command, status = [sys.executable, "-m", "benchmark", *self.words], SAVED[0]
        while status in SAVED:
            self.process = subprocess.Popen(command)  # noqa: S603  (this interpreter, the words of the user's command line)
            status = int(self.process.wait())
        self.process = None
        if status:
            raise subprocess.CalledProcessError(status, command)
        return status

    def checkpoint(self) -> Any:
        """Called by submitit when the job has to leave: the same work, to be queued again."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return DelayedSubmission(Work(self.words))


def parameters(settings: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """("partition=gpu", "time=2:00:00", "gpus-per-node=1") -> the cluster's name and submitit's parameters.

    `time` is in minutes or as SLURM writes it; `cluster` is slurm, or submitit's local or debug; a key that submitit does not
    know goes to sbatch as it stands. `max-num-timeout`: how often a job that ran out of time is queued again.

    Raises:
        UserError: not of the form key=value, or a value that is no number where one is needed.
    """
    cluster, found, further = "slurm", {"name": "benchmark", "timeout_min": 24 * 60, NUMBER: TIMEOUTS}, dict[str, str]()
    for text in settings:
        key, equals, value = text.partition("=")
        name = key.strip().lstrip("-").replace("-", "_")
        if not equals or not name or not value:
            raise UserError(f"--slurm {text!r} is not of the form key=value, as in --slurm partition=gpu")
        try:
            if name == "cluster":
                cluster = value
            elif name == "time":
                found["timeout_min"] = _minutes(value)
            elif name == "max_num_timeout":
                found[NUMBER] = int(value)
            elif name in SHARED:
                found[name] = SHARED[name](value)
            elif name in _known():
                found[f"slurm_{name}"] = int(value) if value.isdigit() else value
            else:
                further[name.replace("_", "-")] = value
        except ValueError as error:
            raise UserError(f"--slurm {text!r}: expected a number, or for time 90, 1:30:00 or 1-12:00:00") from error
    if cluster not in ("slurm", "local", "debug"):
        raise UserError(f"--slurm cluster={cluster}: use slurm, or for a try without a scheduler local or debug")
    return cluster, found | ({"slurm_additional_parameters": further} if further else {})


def _minutes(text: str) -> int:
    """ "90", "1:30:00" or "1-12:00:00" in minutes, as `sbatch --time` reads them. Raises ValueError."""
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    else:
        hours, minutes, seconds = (0, parts[0], 0) if len(parts) == 1 else (0, *parts) if len(parts) == 2 else parts
    total = int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0)
    if total < 1:
        raise ValueError(text)
    return total


def _known() -> frozenset[str]:
    return frozenset(_submitit().SlurmExecutor._valid_parameters())


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UserError(f"--launcher slurm needs submitit; {REMEDY}") from error
    return submitit


def submit(
    jobs: Sequence[Job], settings: Sequence[str], words: Callable[[Job], Sequence[str]], logs: Path
) -> list[tuple[Job, Any]]:
    """Submits every job: pretrainings as one array, then the cells of each as an array that waits for it.

    Returns:
        Each job with submitit's, in order.

    Raises:
        UserError: submitit is not installed, there is no SLURM here, or a setting that it refuses.
    """
    cluster, found = parameters(settings)
    submitted: list[tuple[Job, Any]] = []
    for after, group in _groups(jobs):
        first = next((job.job_id for item, job in submitted if item.pretrains and after in item.keys), None)
        waits = {"slurm_dependency": f"afterok:{first}"} if first is not None else {}
        executor = _executor(cluster, logs, {**found, **waits})
        with executor.batch():
            added = [(job, executor.submit(Work(tuple(words(job))))) for job in group]
        submitted += added
    return submitted


def _groups(jobs: Sequence[Job]) -> Iterator[tuple[str, list[Job]]]:
    """Jobs that wait for the same pretraining, and before them the pretrainings; in order."""
    ordered = sorted(jobs, key=lambda job: (not job.pretrains, job.after))
    for (_, after), group in groupby(ordered, lambda job: (job.pretrains, job.after)):
        yield after, list(group)


def _executor(cluster: str, logs: Path, found: Mapping[str, Any]) -> Any:
    submitit = _submitit()
    further = dict(found.get("slurm_additional_parameters", {}))
    if "slurm_dependency" in found:
        further.setdefault("kill-on-invalid-dep", "yes")  # or cells of a failed pretraining would wait for ever
    try:
        rest = dict(found)
        executor = submitit.AutoExecutor(folder=logs / "%j", cluster=cluster, **{NUMBER: rest.pop(NUMBER)})
        executor.update_parameters(**{**rest, **({"slurm_additional_parameters": further} if further else {})})
    except RuntimeError as error:
        raise UserError("there is no SLURM here (no srun); start this on a login node, or use --launcher local") from error
    except (NameError, AssertionError, TypeError, ValueError) as error:
        raise UserError(f"--slurm: {str(error).splitlines()[0]}") from error
    return executor
