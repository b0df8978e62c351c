"""Linear probes and fine-tuning in rounds: so many steps, val after them, early stopping, the best round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import cos, nan, pi
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from benchmark import metrics
from benchmark.context import Context
from benchmark.repro import seed_of
from benchmark.types import Protocol
from tasks.heads.loop import Drawn, Pace, Problem, fit

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


@dataclass(frozen=True, slots=True)
class Rounds:
    """A training of certain parameters, as `tasks.heads.loop.fit` takes it.

    Args:
        groups: of parameters, as torch's optimizers take them; one without "lr" has that of the training.
        protocol: the hash that seeds the order of rows.
    """

    training: Training
    groups: Sequence[dict[str, Any]]
    protocol: str

    @property
    def batch_size(self) -> int:
        """Rows of a step."""
        return self.training.batch_size

    @property
    def clip_norm(self) -> float:
        """Of the whole gradient; 0: not clipped."""
        return self.training.clip_norm

    def length(self, rows: int) -> tuple[int, int]:
        """Steps of all rounds, and of one."""
        every = self.training.round_steps or len(_cut(list(range(rows)), self.batch_size))
        return self.training.rounds * every, every

    def order(self, rows: int, eval_seed: int) -> Iterator[Drawn]:
        """Epoch after epoch, each row once in it."""
        generator = torch.Generator().manual_seed(seed_of("rows", self.protocol, eval_seed))
        for epoch in count():
            for part in _cut(torch.randperm(rows, generator=generator).tolist(), self.batch_size):
                yield part, [epoch] * len(part)

    def pace(self, module: nn.Module, steps: int) -> Pace:
        """A fresh optimizer of the groups."""
        del module
        return _Rounds(self.training, self.groups, steps)


def fit_rounds(problem: Problem, rounds: Rounds, context: Context) -> None:
    """Trains a module in place and leaves it in eval mode, with the weights of the best round.

    A value on val that is undefined is never the best one and does not count for the patience; where it is undefined in
    every round, all rounds are run and the last one is kept. Notes in the result: val_score, best_round (0: none was
    defined), rounds.

    Raises:
        UserError: a loss or gradient is not finite; the step and rows are named.
    """
    found = fit(problem, rounds, context)
    score = -found.score if rounds.training.selection == LOSS else found.score
    context.notes |= {"best_round": found.best, "rounds": found.evaluations} | ({"val_score": score} if found.best else {})


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum of the binary cross-entropies of logits (B, K) over the known ones of targets (B, K) 1, 0, nan = unknown."""
    known = ~torch.isnan(targets)
    return binary_cross_entropy_with_logits(logits.float(), targets.nan_to_num(0.0), known.float(), reduction="sum")


def summed_softmax_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum of the cross-entropies of logits (B, K) with rows of targets (B, K) that have one 1 each."""
    return -(log_softmax(logits.float(), dim=1) * targets).sum()


@dataclass(frozen=True, slots=True)
class Criterion:
    """A loss summed over what is known of logits and targets (B, K), and how much that is of each row of labels (N, K)."""

    summed: Callable[[Tensor, Tensor], Tensor]
    known: Callable[[NDArray[Any]], NDArray[np.int64]]


BINARY = Criterion(summed_loss, lambda labels: (~np.isnan(labels)).sum(axis=1))
SOFTMAX = Criterion(summed_softmax_loss, lambda labels: np.ones(len(labels), np.int64))
CRITERIA: Mapping[str, Criterion] = {"binary cross-entropy": BINARY, "softmax cross-entropy": SOFTMAX}


def criterion_of(protocol: Protocol) -> Criterion:
    """That of a protocol's setting "loss"; binary cross-entropy, class by class, without it. Raises KeyError."""
    return CRITERIA[dict(protocol.settings).get("loss", "binary cross-entropy")]  # type: ignore[index]


def value_on(scores: NDArray[Any], targets: NDArray[Any], selection: str, criterion: Criterion = BINARY) -> float:
    """The selected value of log-odds (N, K) on targets (N, K): mean loss of known labels, or macro AUROC; nan: undefined."""
    if selection == AREA:
        ones = np.ones((1, len(scores)))
        areas = [metrics.auroc(scores[:, k], targets[:, k], ones) for k in range(scores.shape[1])]
        return float(metrics.macro(areas)[0])
    known = int(criterion.known(targets).sum())
    total = criterion.summed(torch.from_numpy(np.asarray(scores)), torch.from_numpy(np.asarray(targets, np.float32)))
    return float(total) / known if known else nan


class _Rounds:
    """Early stopping on the selected value, and what moves the rate: after each step, or after each nth round."""

    def __init__(self, training: Training, groups: Sequence[dict[str, Any]], steps: int) -> None:
        self.training, self.best, self.waited, self.number, self.every = training, nan, 0, 0, 1
        self.optimizer: torch.optim.Optimizer = OPTIMIZERS[training.optimizer](
            groups, lr=training.learning_rate, weight_decay=training.weight_decay, betas=(training.beta1, training.beta2)
        )
        self.warm: torch.optim.lr_scheduler.LambdaLR | None = None
        self.plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        name, _, text = training.schedule.partition(":")
        if name == "cosine":
            warm = int(text)

            def rate(step: int) -> float:
                return (step + 1) / warm if step < warm else 0.5 * (1 + cos(pi * (step - warm) / max(1, steps - warm)))

            self.warm = torch.optim.lr_scheduler.LambdaLR(self.optimizer, rate)
        elif name == "plateau":
            factor, patience, every = text.split(",")
            mode: Any = "min" if training.selection == LOSS else "max"
            self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                self.optimizer, mode, factor=float(factor), patience=int(patience)
            )
            self.every = int(every)

    def before(self, step: int) -> None:
        pass

    def after(self) -> None:
        if self.warm is not None:
            self.warm.step()

    def judge(self, found: float) -> tuple[float, bool]:
        self.number += 1
        score = -found if self.training.selection == LOSS else found
        if score != score:
            return score, False
        if self.plateau is not None and self.number % self.every == 0:
            self.plateau.step(found)
        better = self.best != self.best or score > self.best
        self.best, self.waited = (score, 0) if better else (self.best, self.waited + 1)
        return score, self.waited >= self.training.patience

    def state(self) -> dict[str, Any]:
        moving = self.warm or self.plateau
        counted = {"best": self.best, "waited": self.waited, "number": self.number}
        return counted | {"rate": None if moving is None else dict(moving.state_dict())}

    def restore(self, state: Mapping[str, Any], step: int) -> None:
        del step
        self.best, self.waited, self.number = state["best"], state["waited"], state["number"]
        moving = self.warm or self.plateau
        if moving is not None:
            moving.load_state_dict(state["rate"])


def _cut(order: list[int], size: int) -> list[list[int]]:
    """Batches of an epoch; a last one of a single row, over which batch statistics may be undefined, joins the one before."""
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        single = parts.pop()
        parts[-1] += single
    return parts
