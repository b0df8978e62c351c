"""Work on the records of a source in several processes, in order, without leaving any behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from benchmark.errors import UserError

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 8  # tasks a worker may be ahead of who takes the results: covers a pause of the disk, and bounds the memory
_JOB: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []  # set once in each worker, so that it is not sent with every task


def in_workers(
    work: Callable[..., R], shared: tuple[Any, ...], tasks: Iterable[T], workers: int, doing: str
) -> Generator[R, None, None]:
    """work(*shared, task) of every task, in order; close the generator to stop early.

    Args:
        work: a function of a module; it uses Pillow and numpy alone, neither torch's threads nor CUDA.
        shared: given to each process once.
        tasks: small things to be sent.
        workers: processes; 0 or 1 works in this one.
        doing: what a process does, for the error.

    Raises:
        UserError: a worker was killed.
    """
    if workers < 2:
        for task in tasks:
            yield work(*shared, task)
        return
    method = "fork" if sys.platform == "linux" else "spawn"  # fork is safe here, as `work` is bound to be, and cheap
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(method), _start, (work, shared, os.getpid()))
    waiting: deque[Future[R]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(_call, task))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(f"a process that {doing} was killed, perhaps for lack of memory; use fewer workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _call(task: Any) -> Any:
    work, shared = _JOB[0]
    return work(*shared, task)


def _start(work: Callable[..., Any], shared: tuple[Any, ...], parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops the workers
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    _JOB[:] = [(work, shared)]


def _exit_with(parent: int) -> None:
    """Ends a worker whose parent was killed: with fork, workers hold each other's pipes open and would wait for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
