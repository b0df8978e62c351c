"""A measurement in a process of its own, so that no memory of another one is counted."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from benchmark import repro
from benchmark.context import choose_device
from benchmark.efficiency.jobs import Job
from benchmark.efficiency.largest import RESOLUTION, Tries, is_out_of_memory, largest_batch, limit_memory
from benchmark.efficiency.step import Bench, NotMeasured, Sizes, measure, with_batch
from benchmark.errors import UserError
from benchmark.options import override
from benchmark.types import Recipe, plain

Row = dict[str, Any]  # a StepCost or a NotMeasured as JSON has it


def resolve(job: Job) -> tuple[Any, Any, Recipe, frozenset[str]]:
    """Method class, configuration, recipe at the job's batch and precision, and the settings that were used."""
    from methods import METHODS

    method = METHODS.load(job.method)
    config, recipe = method.preset(job.preset)
    corner = tuple((job.method, name, str(value)) for name, value in job.corner.items())
    config, recipe, used = override(config, recipe, (*job.settings, *corner), job.method)
    return method, config, with_batch(recipe, job.batch_size, job.precision), used


def measured(job: Job) -> Row:
    """Measures a job in this process."""
    try:
        bench = _bench(job)
        if job.largest:
            return _stepping_down(job, bench.largest(), lambda size: _measured_at(bench, job, size))
        return _measured_at(bench, job, bench.recipe.batch_size)
    except UserError as error:
        return _not_measured(job, str(error))


def measured_apart(job: Job) -> Row:
    """Measures a job in a fresh process. What ends that process ends this row alone.

    On a CPU, where freed memory is not all given back, each try of a search for the largest batch has its own process too.
    """
    try:
        if not job.largest or choose_device(job.device).type == "cuda":
            return _row_apart(job)
        found = largest_batch(lambda size: _fits_apart(_fixed(job, size)), resolve(job)[2].batch_size)
        return _stepping_down(job, found, lambda size: _row_apart(_fixed(job, size)))
    except UserError as error:
        return _not_measured(job, str(error))


def fits(job: Job) -> bool:
    """Whether steps at the batch size of a job fit, in this process."""
    return _bench(job).fits(job.batch_size)


def _fixed(job: Job, size: int) -> Job:
    return replace(job, batch_size=size, largest=False)


def _bench(job: Job) -> Bench:
    method, config, recipe, _ = resolve(job)
    device = choose_device(job.device)
    repro.full_fp32()
    if job.deterministic:
        repro.deterministic()
    if job.memory_limit_gib:
        limit_memory(job.memory_limit_gib, device)
    tokens = job.tokens or getattr(config, "max_tokens", Sizes().tokens)
    sizes = Sizes(tokens=tokens, vocabulary=job.vocabulary, steps=job.steps, warm_up=job.warm_up)
    return Bench(method, config, recipe, device, sizes)


def _measured_at(bench: Bench, job: Job, size: int) -> Row:
    bench.clear()
    bench.recipe = replace(bench.recipe, batch_size=size)
    try:
        return dict(plain(measure(bench, job.corner)))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return _not_measured(job, "out of memory", size)


def _stepping_down(job: Job, found: tuple[int, Tries], measure_at: Callable[[int], Row]) -> Row:
    """The row at the largest batch that fitted, and at ever less where the longer measurement does not fit after all."""
    size, tried = found
    less, row = max(1, size // RESOLUTION), _not_measured(job, "out of memory", 1)
    while size > 0:
        row = measure_at(size)
        fitted = "error" not in row
        tried = (*(item for item in tried if item[0] != size), (size, fitted))
        if fitted:
            break
        size, less = size - less, 2 * less
    return {**row, "tried": plain(tried)}


def _not_measured(job: Job, error: str, size: int = 0) -> Row:
    _, _, recipe, _ = resolve(job)
    size = size or recipe.batch_size
    return dict(plain(NotMeasured(job.method, job.corner, size, recipe.precision, error)))


def _row_apart(job: Job) -> Row:
    found, status = _apart(measured, job)
    if found is None:
        raise UserError(_ending(status))
    return dict(found)


def _fits_apart(job: Job) -> bool:
    found, status = _apart(fits, job)
    if found is None and status != -signal.SIGKILL:
        raise UserError(_ending(status))
    return bool(found)


def environment_apart(device: str) -> dict[str, str]:
    """Machine and versions, asked by another process, so that this one holds no memory of the GPU. Raises UserError."""
    choose_device(device)
    found, status = _apart(_environment, device)
    if found is None:
        raise UserError(f"the machine could not be asked for its versions: the process {_ending(status)}; see `doctor`")
    return dict(found)


def _environment(device: str) -> dict[str, str]:
    return repro.environment(choose_device(device))


def _apart(call: Callable[[Any], object], argument: object) -> tuple[Any, int]:
    """What a call returns in a fresh process, as JSON has it, None where the process died of it; and its exit status."""
    kinds = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
    if "forkserver" in kinds:
        context.set_forkserver_preload(["benchmark.cli.measurement", "methods.mcr"])  # imports once, nothing computed
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(there, call, argument))
    child.start()
    there.close()
    try:
        text = here.recv_bytes()
    except EOFError:
        text = b""
    except KeyboardInterrupt:
        child.terminate()
        raise
    finally:
        child.join()
    return json.loads(text) if text else None, int(child.exitcode)


def _send(there: Connection, call: Callable[[Any], object], argument: object) -> None:
    there.send_bytes(json.dumps(plain(call(argument))).encode())


def _ending(status: int) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        return f"killed by {name}{', as the system does when memory runs out' if name == 'SIGKILL' else ''}"
    return f"ended with status {status}; what went wrong stands above the table"
