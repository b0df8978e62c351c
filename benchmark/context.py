"""What a run passes around once, instead of a dozen parameters."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from benchmark.errors import UserError
from benchmark.meter import Meter
from benchmark.types import Scalar

T = TypeVar("T")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(slots=True)
class Context:
    """Device, sizes, seeds, caches and the meter of one run.

    Args:
        cache: folder of decoded pixels. batch_size: images at once at inference; halved, and noted, when memory runs out.
        eval_seed: of subsets, folds and heads. draws: of the bootstrap. notes: facts that go into the result.
        state: the file by which a fit that was killed goes on; None: it starts again.
        examples: the file for a few answers to look at; None: they are of real data, and none may be written.
        track: live trackers of a pretraining, of benchmark.tracking. fsdp: whether it spreads blocks over its processes.
    """

    device: torch.device
    cache: Path
    precision: str = "fp32"
    batch_size: int = 64
    workers: int = 0
    seed: int = 0
    eval_seed: int = 0
    draws: int = 1000
    state: Path | None = None
    examples: Path | None = None
    progress: bool = True
    track: tuple[str, ...] = ()
    fsdp: bool = False
    meter: Meter = field(default_factory=Meter)
    notes: dict[str, Scalar] = field(default_factory=dict)
    features: dict[tuple[Any, ...], Any] = field(default_factory=dict)  # of the weights at hand; emptied with them

    def bar(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """The items behind a progress bar with an ETA, which shows after a second on a terminal only."""
        with self.progress_bar(total, description, items) as bar:
            yield from bar

    def progress_bar(self, total: int | None, description: str, items: Iterable[Any] | None = None) -> Any:
        """A bar to be updated by hand, or around items."""
        hidden = None if self.progress else True
        return tqdm(items, desc=description, total=total, disable=hidden, leave=False, delay=1.0)

    def autocast(self) -> torch.autocast:
        """Mixed precision as the run asks for; off for fp32."""
        dtype = DTYPES[self.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.precision != "fp32")

    def to_device(self, tensor: Tensor) -> Tensor:
        """The tensor on the run's device."""
        return tensor.to(self.device, non_blocking=True)


def choose_device(name: str) -> torch.device:
    """ "auto", "cpu", "cuda" or "cuda:1" to a device. Raises UserError if CUDA was asked for and is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; use --device cpu, or see `python -m benchmark doctor`")
    try:
        own = os.environ.get("LOCAL_RANK")  # several processes: each has its card
        return torch.device(f"cuda:{own}" if name == "cuda" and own is not None else name)
    except RuntimeError as error:
        raise UserError(f"--device {name!r} is not a device; use auto, cpu or cuda") from error
