"""The largest batch that fits: doubling, then bisection, each try in a fresh state."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from benchmark.errors import UserError
from benchmark.meter import count_gmacs, host_private_mib
from benchmark.training import faults

CEILING = 65536  # no try goes above it
RESOLUTION = 16  # the search ends when the gap is a sixteenth of what fits
UNDER_A_LIMIT = ("could not create a primitive", "could not create a memory", "could not execute a primitive")  # of oneDNN
_limited = False
Tries = tuple[tuple[int, bool], ...]  # batch size, and whether it fitted


def largest_batch(fits: Callable[[int], bool], start: int) -> tuple[int, Tries]:
    """The largest batch size that fits, to within a sixteenth.

    Args:
        fits: whether a batch size fits; assumed to hold for all smaller ones where it holds. start: the first try, 1 or more.

    Returns:
        The size, 0 where not even one row fits, and every try (size, fitted) in its order.
    """
    tries: list[tuple[int, bool]] = []

    def tried(size: int) -> bool:
        tries.append((size, fits(size)))
        return tries[-1][1]

    low, high = 0, start
    while high <= CEILING and tried(high):
        low, high = high, 2 * high
    high = min(high, CEILING + 1)
    while low == 0 and high > 1:  # the first did not fit
        half = high // 2
        low, high = (half, high) if tried(half) else (0, half)
    while high - low > max(1, low // RESOLUTION):
        middle = (low + high) // 2
        low, high = (middle, high) if tried(middle) else (low, middle)
    return low, tuple(tries)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or, under a limit of the process, on the host."""
    if faults.is_out_of_memory(error):
        return True
    told = str(error).lower()
    return _limited and isinstance(error, RuntimeError) and any(words in told for words in UNDER_A_LIMIT)


def limit_memory(gib: float, device: torch.device) -> None:
    """Makes allocations of this process fail beyond a limit: of tensors on a GPU, of what comes after now on the host.

    Raises:
        UserError: on the host of a system other than Linux, which has no RLIMIT_DATA of this meaning.
    """
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        place = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 1024**3 / whole), place)
        return
    if sys.platform != "linux":
        raise UserError("--memory-limit-gib on a CPU needs Linux; leave it out here")
    import resource

    global _limited
    _limited = True
    count_gmacs(lambda: torch.mm(torch.ones(2, 2), torch.ones(2, 2)))  # torch loads its counter when it is first used
    now = int((host_private_mib() or 0) * 1024**2)
    resource.setrlimit(resource.RLIMIT_DATA, (now + int(gib * 1024**3), resource.getrlimit(resource.RLIMIT_DATA)[1]))
