"""Seconds by phase, memory peaks, throughput, parameters and multiply-accumulates of a piece of work.

GPU figures are None on a CPU, never 0. Allocated is what tensors took and can be compared; reserved is what torch held and
must fit; device is what the driver reports for the whole card (sampled), other libraries included.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark.types import Cost

MIB = 1024**2
SAMPLE_SECONDS = 0.1


class Meter:
    """Collects the cost of one cell or one pretraining.

    Args:
        device: what to synchronise and to read; None means the CPU.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.seconds: dict[str, float] = {}
        self.rates: list[tuple[int, float]] = []
        self.steps: list[float] = []
        self.batch_size: int | None = None
        self.params: int | None = None
        self.gmacs: float | None = None
        self.carried: list[Cost] = []  # of work that was done before and is used here
        self._sampler = _DeviceSampler(self.device)

    def start(self) -> None:
        """Resets the peaks; the device's memory is sampled from here to `stop`."""
        _reset_host_peak()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        self._sampler.start()

    def stop(self) -> None:
        """Ends the sampling."""
        self._sampler.stop()

    def clock(self) -> float:
        """Seconds of a monotonic clock, after the device has done what it was asked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the seconds of a block to a phase. Phases may follow each other but not nest."""
        begin = self.clock()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self.clock() - begin

    def memory_mib(self) -> float | None:
        """Peak so far: of tensors on a GPU, of this process on a CPU; None where the system does not tell."""
        return torch.cuda.max_memory_allocated(self.device) / MIB if self.device.type == "cuda" else host_peak_mib()

    def batch(self, n_images: int, seconds: float, warm_up: bool) -> None:
        """Notes the encoding of a batch; the first batch is warm-up and does not count for the throughput."""
        if not warm_up:
            self.rates.append((n_images, seconds))

    def step(self, seconds: float) -> None:
        """Notes a training step after warm-up."""
        self.steps.append(seconds)

    def cost(self) -> Cost:
        """What was collected so far."""
        cuda = self.device.type == "cuda"
        allocated = torch.cuda.max_memory_allocated(self.device) / MIB if cuda else None
        reserved = torch.cuda.max_memory_reserved(self.device) / MIB if cuda else None
        spent = sum(seconds for _, seconds in self.rates)
        return Cost(
            seconds={name: round(value, 4) for name, value in self.seconds.items()},
            images_per_second=sum(count for count, _ in self.rates) / spent if spent > 0 else None,
            step_seconds=median(self.steps) if self.steps else None,
            peak_allocated_mib=_highest(allocated, [cost.peak_allocated_mib for cost in self.carried]),
            peak_reserved_mib=_highest(reserved, [cost.peak_reserved_mib for cost in self.carried]),
            peak_device_mib=_highest(self._sampler.peak_mib, [cost.peak_device_mib for cost in self.carried]),
            peak_host_mib=_highest(host_peak_mib(), [cost.peak_host_mib for cost in self.carried]),
            params=self.params,
            gmacs=self.gmacs,
            batch_size=self.batch_size,
            device=torch.cuda.get_device_name(self.device) if cuda else "cpu",
        )


def _highest(value: float | None, others: list[float | None]) -> float | None:
    return max((item for item in (value, *others) if item is not None), default=None)


class _DeviceSampler:
    """Highest memory use of the whole card while it runs, by nvidia-ml-py in a thread; None where that cannot be read."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peak_mib: float | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self.device.type != "cuda" or self._thread is not None:
            return
        self.peak_mib = None
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        import pynvml

        try:
            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(self.device).uuid}")
            while True:
                used = pynvml.nvmlDeviceGetMemoryInfo(handle).used / MIB
                self.peak_mib = max(self.peak_mib or 0.0, used)
                if self._ended.wait(SAMPLE_SECONDS):
                    return
        except pynvml.NVMLError:
            return  # restricted container or partitioned card: the figure stays None


def _reset_host_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM of this process
    except OSError:
        return


def host_peak_mib() -> float | None:
    """Peak resident memory of this process since `Meter.start`, in MiB; None where the system does not tell."""
    return _status_mib("VmHWM")


def host_now_mib() -> float | None:
    """Resident memory of this process now, in MiB; None where the system does not tell."""
    return _status_mib("VmRSS")


def host_private_mib() -> float | None:
    """Private memory that this process has mapped to write in, used or not, in MiB; None where the system does not tell."""
    return _status_mib("VmData")


def _status_mib(name: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), None)


def count_parameters(module: nn.Module) -> int:
    """Parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_gmacs(call: Callable[[], object]) -> float:
    """Multiply-accumulates of a call in 10^9, as torch's FlopCounterMode counts them (2 per MAC; matrix products and
    convolutions only: softmax, norms and activations count 0)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return float(counter.get_total_flops()) / 2e9
