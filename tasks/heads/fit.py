"""The one supervised loop for dense heads, on the maps of a frozen encoder or with the encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Any
from typing import Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.context import Context
from benchmark.errors import UserError
from benchmark.repro import seed_of
from benchmark.types import Protocol, Record, digest

WARMUP = 0.05  # fraction of the steps


class Maps(Interface):
    """What `benchmark.features.FrozenMaps` gives: native maps of N rows."""

    info: tuple[tuple[int, int], ...]

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Maps (B, channels, h, w) float32 of the rows, on the device, from fine to coarse."""
        ...


class Pace(Interface):
    """The optimizer of one fit, how its rates go, and what an evaluation means for them."""

    optimizer: torch.optim.Optimizer

    def before(self, step: int) -> None:
        """Called before each step, from 1 on."""
        ...

    def after(self) -> None:
        """Called after each step."""
        ...

    def judge(self, found: Any) -> tuple[float, bool]:
        """What `evaluate` gave -> a score, higher is better, and whether to stop."""
        ...


class Fitting(Interface):
    """How long and how a head is fitted: `Schedule`, in steps, or `tasks.heads.epochs.EpochSchedule`."""

    @property
    def protocol(self) -> str:
        """The hash that seeds the order of rows."""
        ...

    @property
    def batch_size(self) -> int:
        """Rows of a step."""
        ...

    @property
    def clip_norm(self) -> float | None:
        """Of the whole gradient; None: not clipped."""
        ...

    def length(self, rows: int) -> tuple[int, int]:
        """Steps for so many training rows, and steps between two evaluations (0: none)."""
        ...

    def pace(self, head: nn.Module) -> Pace:
        """A fresh optimizer of a head's parameters."""
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

    def pace(self, head: nn.Module) -> Pace:
        """AdamW with warm-up and cosine."""
        return _Cosine(self, head)


class _Cosine:
    def __init__(self, schedule: Schedule, head: nn.Module) -> None:
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            head.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        self._scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: _rate(step, schedule.steps))

    def before(self, step: int) -> None:
        pass

    def after(self) -> None:
        self._scheduler.step()

    def judge(self, found: float) -> tuple[float, bool]:
        return found, False


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


def fit(
    head: nn.Module,
    loss: Callable[[Sequence[int]], Mapping[str, Tensor]],
    uids: Sequence[str],
    schedule: Fitting,
    context: Context,
    evaluate: Callable[[], Any] | None = None,
) -> float:
    """Trains a head in place, in float32; deterministic in (head, rows, schedule, eval seed) on a CPU.

    Args:
        head: moved to the device and left in eval mode, with the weights of the best evaluation or the last step.
        loss: rows -> scalar terms, whose sum is minimized.
        uids: of the N training rows, in the order that `loss` indexes; they also name rows when a loss is not finite.
        evaluate: the score on val, higher is better, or whatever the schedule judges; called with the head in eval mode.
            None: the last step is kept.

    Returns:
        The best score on val, nan where there was no evaluation.

    Raises:
        UserError: a loss or gradient is not finite.
    """
    head.to(context.device).train()
    pace, (steps, every) = schedule.pace(head), schedule.length(len(uids))
    best, kept, over = float("nan"), None, False
    seed = seed_of("head order", schedule.protocol, context.eval_seed)
    order = _batches(len(uids), steps, schedule.batch_size, seed)
    for step, rows in enumerate(context.bar(order, "fit head", steps), start=1):
        pace.before(step)
        if not _update(head, loss(rows), pace.optimizer, schedule.clip_norm):
            names = ", ".join(uids[row] for row in rows[:4])
            raise UserError(f"loss or gradient of the head is not finite at step {step} (rows {names}, ...); check these rows")
        pace.after()
        if every and evaluate and (step % every == 0 or step == steps):
            score, over = pace.judge(_evaluate(head, evaluate))
            if score > best or (kept is None and score == score):  # nan, an undefined score, is never the best
                best, kept = score, {name: item.detach().clone() for name, item in head.state_dict().items()}
        if over:
            break
    if kept is not None:
        head.load_state_dict(kept)
    head.eval()
    return best


def names_of(records: Sequence[Record]) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """uids and patients, (N,) str each, of no rows as well."""
    return np.array([record.uid for record in records], str), np.array([record.patient for record in records], str)


def in_chunks(n: int, size: int) -> Iterator[range]:
    """Ranges of at most `size` rows that cover n."""
    for start in range(0, n, size):
        yield range(start, min(n, start + size))


def _update(head: nn.Module, terms: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, clip_norm: float | None) -> bool:
    """One step down the sum of the terms; False, with nothing changed, when the sum or its gradient is not finite."""
    optimizer.zero_grad(set_to_none=True)
    total = torch.stack(list(terms.values())).sum()
    total.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(head.parameters(), inf if clip_norm is None else clip_norm)
    if not torch.isfinite(total.detach() + norm):
        return False
    optimizer.step()
    return True


def _evaluate(head: nn.Module, evaluate: Callable[[], Any]) -> Any:
    head.eval()
    with torch.no_grad():
        score = evaluate()
    head.train()
    return score


def _rate(step: int, steps: int) -> float:
    warm = max(1, round(WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * (step - warm) / max(1, steps - warm)))))


def _batches(n: int, steps: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Full batches from permutations laid end to end; never of one row, over which batch statistics are not defined."""
    generator = torch.Generator().manual_seed(seed)
    size = min(batch_size, max(2, n))
    pool: list[int] = []
    for _ in range(steps):
        while len(pool) < size:
            pool.extend(torch.randperm(n, generator=generator).tolist())
        yield pool[:size]
        del pool[:size]
