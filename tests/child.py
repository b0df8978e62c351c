"""What tests that kill a process run in it: children of a server that has imported everything, so that they start at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from benchmark.store import TEMPORARY

LONGEST = 900.0  # seconds that a child may take before the test fails


def server() -> ForkServerContext:
    """The context whose children start from a process that has computed nothing yet."""
    context = multiprocessing.get_context("forkserver")
    names = ("benchmark.runner", "benchmark.cli.run", "methods.mcr", "methods.clip", "methods.baselines", "leaderboards")
    families = ("tasks.retrieval", "tasks.zeroshot", "tasks.classification")
    context.set_forkserver_preload([*names, *families, "tests.toy"])
    return context


def start(target: Callable[..., None], *words: Any) -> ForkServerProcess:
    """A child at work on the target."""
    child = server().Process(target=target, args=words)
    child.start()
    return child


def finish(child: ForkServerProcess) -> int:
    """Waits; the exit status, negative for the signal that killed it."""
    child.join(LONGEST)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise TimeoutError(f"the child did not end in {LONGEST:.0f} s")
    return child.exitcode


def command(words: list[str], log: str, kill_at_write: int = 0) -> None:
    """In the child: a command on the toy, killed without notice at its n-th write of a file (0: never)."""
    import torch

    from benchmark.__main__ import main
    from benchmark.data.sources import SOURCES
    from tests.toy import ToySource

    torch.set_num_threads(1)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    SOURCES.add("toy", lambda location, options: ToySource(int(location or 30)))
    if kill_at_write:
        die_at_write(kill_at_write)
    os._exit(main(words))


def die_at_write(number: int) -> None:
    """Kills this process in the middle of its n-th atomic write: the temporary is half there, the target is not replaced yet.

    A whole file that is only given another name, as the older of two states, counts as one, and stays whole.
    """
    replace, count = os.replace, 0

    def dying(source: Any, target: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        if count == number:
            if Path(source).name.startswith(TEMPORARY):
                Path(source).write_bytes(Path(source).read_bytes()[:7])
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target, **options)

    os.replace = dying  # type: ignore[assignment]
