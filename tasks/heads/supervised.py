"""The supervised loop of linear probes and of fine-tuning: rounds of steps, val after each, early stopping, the best round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil, cos, inf, nan, pi
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmark import metrics
from benchmark.context import Context
from benchmark.errors import UserError
from benchmark.repro import seed_of
from benchmark.types import Protocol

OPTIMIZERS: Mapping[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
Decide = Callable[[NDArray[Any]], NDArray[np.float64]]  # features (N, W) -> scores (N, K)
LOSS, AREA = "lowest loss on val", "highest macro auroc on val"


@dataclass(frozen=True, slots=True)
class Labelled:
    """N rows: uids, features (N, W) float32 and labels (N, K) 1, 0, nan = unknown. Each class has both values in training."""

    uids: tuple[str, ...]
    features: NDArray[Any]
    labels: NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a head is trained; every field is a setting of its protocol.

    rounds: evaluations on val at most. round_steps: optimizer steps between them, 0: an epoch. patience: rounds without a
    better value after which training ends. clip_norm: of the gradient, 0: not clipped. schedule: "constant";
    "cosine:WARMUP", steps of linear warm-up, then a cosine to zero at the last round; "plateau:FACTOR,PATIENCE,EVERY",
    torch's ReduceLROnPlateau on the selected value of each EVERYth round. selection: LOSS or AREA.
    """

    optimizer: str
    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    batch_size: int
    rounds: int
    round_steps: int
    patience: int
    clip_norm: float
    schedule: str
    selection: str

    @classmethod
    def of(cls, protocol: Protocol) -> Training:
        """The training that a protocol's settings state. Raises KeyError."""
        return cls(**{name: protocol.setting(name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is trained.

    Args:
        module: on the device; its parameters that require a gradient are trained.
        groups: of these parameters, as torch's optimizers take them; a group without "lr" has that of the training.
        loss: (rows, epoch) -> scalar sum of the losses of the rows' known labels; seeds what it draws by itself.
        known: (N,) how many labels of each row are known, at least 1. The loss of a step is its sum over its known labels,
            so that accumulation over parts of a batch gives the gradient of the whole batch.
        uids: N names. evaluate: the selected value on val, nan where undefined; called in eval mode, without gradients.
        at_once: rows whose gradient is computed together; a larger batch is accumulated.
    """

    module: nn.Module
    groups: Sequence[dict[str, Any]]
    loss: Callable[[Sequence[int], int], Tensor]
    known: Sequence[int]
    uids: Sequence[str]
    evaluate: Callable[[], float]
    at_once: int = 2**31


def fit_rounds(problem: Problem, training: Training, seed: str, context: Context) -> None:
    """Trains a module in place and leaves it in eval mode, with the weights of the best round.

    A value on val that is undefined is never the best one and does not count for the patience; where it is undefined in
    every round, all rounds are run and the last one is kept. Deterministic in (module, rows, training, seed) on a CPU.
    Notes in the result: val_score, best_round (0: none was defined), rounds, and batch_part where batches were accumulated.

    Raises:
        UserError: a loss or gradient is not finite; the step and rows are named.
    """
    loop = _Loop(problem, training, seed, context)
    lower = training.selection == LOSS
    best, best_round, waited, number = nan, 0, 0, 0
    kept: list[Tensor] = []
    for number in context.bar(range(1, training.rounds + 1), "fit head", training.rounds):
        loop.round()
        value = loop.evaluate(number)
        if value != value:
            continue
        if best_round == 0 or (value < best if lower else value > best):
            best, best_round, waited = value, number, 0
            kept = [item.detach().clone() for item in _state(problem.module)]
        else:
            waited += 1
        if waited >= training.patience:
            break
    with torch.no_grad():
        for item, value_kept in zip(_state(problem.module), kept):
            item.copy_(value_kept)
    problem.module.eval()
    context.notes |= {"best_round": best_round, "rounds": number} | ({"val_score": best} if best_round else {})


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum of the binary cross-entropies of logits (B, K) over the known ones of targets (B, K) 1, 0, nan = unknown."""
    known = ~torch.isnan(targets)
    return binary_cross_entropy_with_logits(logits.float(), targets.nan_to_num(0.0), known.float(), reduction="sum")


def value_on(scores: NDArray[Any], targets: NDArray[Any], selection: str) -> float:
    """The selected value of log-odds (N, K) on targets (N, K): mean loss of known labels, or macro AUROC; nan: undefined."""
    if selection == AREA:
        ones = np.ones((1, len(scores)))
        areas = [metrics.auroc(scores[:, k], targets[:, k], ones) for k in range(scores.shape[1])]
        return float(metrics.macro(areas)[0])
    known = int((~np.isnan(targets)).sum())
    total = summed_loss(torch.from_numpy(np.asarray(scores)), torch.from_numpy(np.asarray(targets, np.float32)))
    return float(total) / known if known else nan


class _Loop:
    def __init__(self, problem: Problem, training: Training, seed: str, context: Context) -> None:
        self.problem, self.training, self.context = problem, training, context
        self.optimizer = OPTIMIZERS[training.optimizer](
            problem.groups, lr=training.learning_rate, weight_decay=training.weight_decay,
            betas=(training.beta1, training.beta2),
        )  # fmt: skip
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=context.precision == "fp16")
        self.trained = [item for item in problem.module.parameters() if item.requires_grad]
        epoch = _epoch_steps(len(problem.uids), training.batch_size)
        self.round_steps = training.round_steps or epoch
        self.warm, self.plateau = _schedulers(self.optimizer, training, training.rounds * self.round_steps)
        self.batches = _batches(len(problem.uids), training.batch_size, seed_of("rows", seed, context.eval_seed))
        self.at_once, self.step = min(problem.at_once, training.batch_size + 1), 0
        if self.at_once < training.batch_size:
            context.notes["batch_part"] = self.at_once

    def round(self) -> None:
        self.problem.module.train()
        for _ in range(self.round_steps):
            epoch, rows = next(self.batches)
            self._update(rows, epoch)

    def evaluate(self, number: int) -> float:
        self.problem.module.eval()
        with torch.no_grad():
            value = self.problem.evaluate()
        if self.plateau is not None and number % self.plateau[1] == 0 and value == value:
            self.plateau[0].step(value)
        return value

    def _update(self, rows: list[int], epoch: int) -> None:
        self.step += 1
        total = self._gradient(rows, epoch)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.trained, self.training.clip_norm or inf)
        # in half precision the scaler skips a step whose gradient overflows
        if not torch.isfinite(total if self.scaler.is_enabled() else total + norm):
            names = ", ".join(self.problem.uids[row] for row in rows[:4])
            raise UserError(
                f"loss or gradient of the head is not finite at step {self.step} (rows {names}, ...); check these rows"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.warm is not None:
            self.warm.step()

    def _gradient(self, rows: list[int], epoch: int) -> Tensor:
        """Sets the gradient of the mean loss of the batch; in smaller parts, from the start, when memory runs out."""
        while True:
            buffers = [item.clone() for item in self.problem.module.buffers()]
            try:
                return self._accumulate(rows, epoch)
            except torch.OutOfMemoryError:
                if min(self.at_once, len(rows)) <= 1:
                    raise
                for item, value in zip(self.problem.module.buffers(), buffers):
                    item.copy_(value)  # statistics of the parts that were done
                self.at_once = min(self.at_once, len(rows)) // 2
                self.context.notes["batch_part"] = self.at_once

    def _accumulate(self, rows: list[int], epoch: int) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        known = sum(self.problem.known[row] for row in rows)
        total = torch.zeros((), device=self.context.device)
        for part in np.array_split(rows, ceil(len(rows) / self.at_once)):
            loss = self.problem.loss(part.tolist(), epoch) / known
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total


def _schedulers(optimizer: torch.optim.Optimizer, training: Training, steps: int) -> tuple[Any, tuple[Any, int] | None]:
    """What moves the rate after each step, and (what moves it after each nth round, n); None where nothing does."""
    name, _, text = training.schedule.partition(":")
    if name == "constant":
        return None, None
    if name == "cosine":
        warm = int(text)

        def rate(step: int) -> float:
            return (step + 1) / warm if step < warm else 0.5 * (1 + cos(pi * (step - warm) / max(1, steps - warm)))

        return torch.optim.lr_scheduler.LambdaLR(optimizer, rate), None
    factor, patience, every = text.split(",")
    mode: Any = "min" if training.selection == LOSS else "max"
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, factor=float(factor), patience=int(patience))
    return None, (plateau, int(every))


def _state(module: nn.Module) -> Iterable[Tensor]:
    """What training changes: parameters with a gradient, and buffers."""
    yield from (item for item in module.parameters() if item.requires_grad)
    yield from module.buffers()


def _epoch_steps(n: int, size: int) -> int:
    return len(_cut(list(range(n)), size))


def _cut(order: list[int], size: int) -> list[list[int]]:
    """Batches of an epoch; a last one of a single row, over which batch statistics may be undefined, joins the one before."""
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        single = parts.pop()
        parts[-1] += single
    return parts


def _batches(n: int, size: int, seed: int) -> Iterator[tuple[int, list[int]]]:
    generator = torch.Generator().manual_seed(seed)
    for epoch in count():
        for part in _cut(torch.randperm(n, generator=generator).tolist(), size):
            yield epoch, part
