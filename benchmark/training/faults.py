"""What can go wrong while training, in words that say what to do: signals, NaN, memory, lost processes."""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from benchmark import collectives, store
from benchmark.errors import Stopped, UserError
from benchmark.types import Batch, Recipe

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))

NO_MEMORY = (  # in lower case: torch on the host, torch and CUDA, the C++ library, cuBLAS and cuDNN
    "can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "alloc_failed",
)  # fmt: skip


class Bell:
    """Whether a signal to leave has come."""

    def __init__(self) -> None:
        self.name = ""
        self.early = True  # there is nothing to save yet

    def ring(self, number: int, frame: FrameType | None) -> None:
        """Notes the signal; interrupts nothing but what comes before the first step."""
        self.name = signal.Signals(number).name
        if self.early:
            raise Stopped(f"{self.name}: stopped before its first step; the same command goes on from here")

    def rung(self, device: torch.device) -> bool:
        """Whether it has come in any process; every one of them must ask."""
        return collectives.mean_of([float(bool(self.name))], device)[0] > 0


@contextmanager
def listening() -> Iterator[Bell]:
    """SIGTERM, SIGUSR1 and SIGUSR2 ring the bell; outside of the main thread, where Python gives no signals, nothing does."""
    bell = Bell()
    if threading.current_thread() is not threading.main_thread():
        yield bell
        return
    before = {number: signal.signal(number, bell.ring) for number in SIGNALS}
    try:
        yield bell
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def not_finite(name: str, bad: Sequence[str], index: int, batch: Batch, folder: Path | None) -> UserError:
    """The error for terms that are NaN or infinite; writes the batch beside the log, where there is one.

    Args:
        bad: terms of this process's rows; empty where those of another are.
    """
    if not bad:
        return UserError(f"the loss of {name} is not finite at step {index} in another process, which names its rows")
    shown = f"{', '.join(batch.uids[:8])}{', ...' if len(batch.uids) > 8 else ''}"
    text = f"{', '.join(bad)} of {name} is not finite at step {index}, rows {shown}; lower learning_rate by --set, or look at "
    if folder is None:
        return UserError(f"{text}these rows")
    place = f"-process{collectives.rank()}" if collectives.count() > 1 else ""
    path = folder / f"not-finite-step{index}{place}.npz"
    arrays: dict[str, Any] = {f"target {key}": item.float().cpu().numpy() for key, item in batch.targets.items()}
    arrays |= {"step": np.array(index), "uids": np.array(batch.uids), "texts": np.array(batch.texts)}
    buffer = io.BytesIO()
    np.savez(buffer, images=batch.images.float().cpu().numpy(), **arrays)
    store.write(path, buffer.getvalue())
    return UserError(f"{text}{path}, which holds the batch")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU, or the host as torch asks it, had no more memory to give: the allocator's own error, or a library's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY)


def out_of_memory(name: str, recipe: Recipe, rows: int, separable: bool) -> UserError:
    """The error for a step that needs more memory than there is: what would need less, and leaves the batch what it is."""
    size = recipe.micro_batch or rows
    ways = [f"micro_batch={max(1, size // 2)}"] if separable and size > 1 else []
    ways += ["gradient_checkpointing=true"] if not recipe.gradient_checkpointing else []
    ways += ["precision=bf16"] if recipe.precision == "fp32" else []
    settings = " or ".join(f"--set {way}" for way in ways) or "a larger device"
    return UserError(
        f"a step of {name} with {size} rows at a time in {recipe.precision} does not fit into memory; add {settings}, and the "
        "batch stays as it is (a saved state goes on under its own settings only)"
    )


def is_compiler(error: BaseException) -> bool:
    """Whether torch.compile could not compile."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def is_lost_peer(error: BaseException) -> bool:
    """Whether another process of this training went away."""
    if not isinstance(error, RuntimeError) or collectives.count() == 1:
        return False
    words = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe")
    return isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in words)


def lost_peer() -> UserError:
    """The error of the processes that are left."""
    return UserError(
        f"process {collectives.rank()} of {collectives.count()} lost another one; see that one's message, then give the same "
        "command again: it goes on from the last state"
    )
