"""Dense heads in steps: the schedule of the presets, and what both dense families need of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil
from typing import Any
from typing import Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.context import Context
from benchmark.features_trained import Finetuned
from benchmark.repro import seed_of
from benchmark.types import Protocol, Record, digest
from tasks.heads.loop import ALL, Drawn, Pace, Problem

WARMUP = 0.05  # fraction of the steps


class Maps(Interface):
    """What `benchmark.features.FrozenMaps` gives: native maps of N rows."""

    info: tuple[tuple[int, int], ...]

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Maps (B, channels, h, w) float32 of the rows, on the device, from fine to coarse."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """AdamW (Loshchilov and Hutter 2019) with a short linear warm-up and a cosine to zero.

    protocol: hash, which seeds the order of rows. evaluations: how often, evenly, the head is scored on val; the best one
    is kept. 0 keeps the last.
    """

    protocol: str
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    clip_norm: float
    evaluations: int = 0

    @classmethod
    def of(cls, protocol: Protocol) -> Schedule:
        """The schedule that a protocol's settings state. Raises KeyError."""
        names = [name for name in cls.__dataclass_fields__ if name != "protocol"]
        return cls(protocol=protocol.hash, **{name: protocol.setting(name) for name in names})

    def length(self, rows: int) -> tuple[int, int]:
        """Steps, and steps between two evaluations; the number of rows does not matter."""
        del rows
        return self.steps, ceil(self.steps / self.evaluations) if self.evaluations else 0

    def order(self, rows: int, eval_seed: int) -> Iterator[Drawn]:
        """Full batches from permutations laid end to end."""
        return whole_batches(rows, self.batch_size, seed_of("head order", self.protocol, eval_seed))

    def pace(self, module: nn.Module, steps: int) -> Pace:
        """AdamW with warm-up and cosine."""
        return _Cosine(self, module, steps)


class _Cosine:
    def __init__(self, schedule: Schedule, head: nn.Module, steps: int) -> None:
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            head.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        self._scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: _rate(step, steps))

    def before(self, step: int) -> None:
        pass

    def after(self) -> None:
        self._scheduler.step()

    def judge(self, found: float) -> tuple[float, bool]:
        return found, False

    def state(self) -> dict[str, Any]:
        return dict(self._scheduler.state_dict())

    def restore(self, state: Mapping[str, Any], step: int) -> None:
        del step
        self._scheduler.load_state_dict(dict(state))


def numbers(protocol: Protocol, name: str) -> tuple[int, ...]:
    """A setting such as "256,128,64" as integers."""
    return tuple(int(part) for part in str(protocol.setting(name)).split(","))


def cap_rows(records: Sequence[Record], most: int | None, seed: int) -> tuple[Record, ...]:
    """At most this many records, whole patients in a seeded order (at least one): a smaller cap is a subset.

    The order is that of `benchmark.data.splits.nested_fraction`, so that caps and fractions nest in each other.
    """
    if most is None or len(records) <= most:
        return tuple(records)
    counts: dict[str, int] = {}
    for record in records:
        counts[record.patient] = counts.get(record.patient, 0) + 1
    kept: set[str] = set()
    total = 0
    for patient in sorted(counts, key=lambda name: digest([seed, name], 32)):
        total += counts[patient]
        if kept and total > most:
            break
        kept.add(patient)
    return tuple(record for record in records if record.patient in kept)


def dense_problem(
    module: nn.Module,
    loss: Callable[[Sequence[int], Sequence[int]], Mapping[str, Tensor]],
    records: Sequence[Record],
    evaluate: Callable[[], Any] | None,
    context: Context,
) -> Problem:
    """The problem of a head, or of a `Finetuned` encoder and head, whose batches over the run's batch size are cut in parts.

    Dense losses are pooled over a batch, so the gradient of parts is near that of the whole, not the same.
    """
    trained = isinstance(module, Finetuned)
    return Problem(
        module=module,
        loss=loss,
        uids=[record.uid for record in records],
        evaluate=evaluate,
        at_once=context.batch_size if trained else ALL,
        scaled=trained and context.precision == "fp16",
    )


def names_of(records: Sequence[Record]) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """uids and patients, (N,) str each, of no rows as well."""
    return np.array([record.uid for record in records], str), np.array([record.patient for record in records], str)


def in_chunks(n: int, size: int) -> Iterator[range]:
    """Ranges of at most `size` rows that cover n."""
    for start in range(0, n, size):
        yield range(start, min(n, start + size))


def _rate(step: int, steps: int) -> float:
    warm = max(1, round(WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * (step - warm) / max(1, steps - warm)))))


def whole_batches(n: int, batch_size: int, seed: int) -> Iterator[Drawn]:
    """Full batches from permutations laid end to end; never of one row, over which batch statistics are not defined."""
    generator = torch.Generator().manual_seed(seed)
    size = min(batch_size, max(2, n))
    pool: list[tuple[int, int]] = []
    for epoch in count():
        pool.extend((row, epoch) for row in torch.randperm(n, generator=generator).tolist())
        while len(pool) >= size:
            rows, epochs = zip(*pool[:size])
            yield list(rows), list(epochs)
            del pool[:size]
