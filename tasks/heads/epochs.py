"""Fitting in epochs as papers state it: Adam or AdamW, early stopping, a rate that falls on a plateau, a frozen start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from benchmark.features_trained import Finetuned
from benchmark.repro import seed_of
from benchmark.types import Protocol
from tasks.heads.fit import Schedule, whole_batches
from tasks.heads.loop import Drawn, Fitting, Pace

LOSS = "loss"  # the one value of an evaluation that is better when lower


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochSchedule:
    """A number of epochs with an evaluation after each; the best one is kept. No warm-up, no weight averaging.

    An epoch is rows // batch_size full batches, at least one (loaders of the papers drop the last part of a batch), from
    permutations laid end to end. monitor: "loss" on val, or a metric. stop_patience: evaluations without a better one
    after which the fit ends; None: never. plateau: the value that lowers the rates, by torch's ReduceLROnPlateau with
    its own threshold; "" : none does.
    With an encoder in training: its rate where it is another one, and a number of first steps in which it stays as it
    is, in eval mode, while the head has a rate of its own.
    """

    protocol: str
    epochs: int
    batch_size: int
    optimizer: Literal["adam", "adamw"]
    learning_rate: float
    weight_decay: float
    monitor: str
    clip_norm: float | None = None
    stop_patience: int | None = None
    plateau: str = ""
    plateau_factor: float = 0.5
    plateau_patience: int = 3
    encoder_learning_rate: float | None = None
    frozen_steps: int = 0
    frozen_learning_rate: float | None = None

    @classmethod
    def of(cls, protocol: Protocol) -> EpochSchedule:
        """The schedule that a protocol's settings state. Raises TypeError where they lack a part that has no default."""
        stated = {name: value for name, value in protocol.settings if name in cls.__dataclass_fields__}
        return cls(protocol=protocol.hash, **stated)  # type: ignore[arg-type]

    def length(self, rows: int) -> tuple[int, int]:
        """Steps of all epochs, and of one."""
        every = max(1, rows // self.batch_size)
        return self.epochs * every, every

    def order(self, rows: int, eval_seed: int) -> Iterator[Drawn]:
        """Full batches from permutations laid end to end."""
        return whole_batches(rows, self.batch_size, seed_of("head order", self.protocol, eval_seed))

    def pace(self, module: nn.Module, steps: int) -> Pace:
        """A fresh optimizer of the parameters of a head, or of a `Finetuned` encoder and head."""
        del steps
        return _Epochs(self, module)


def schedule_of(protocol: Protocol) -> Fitting:
    """In epochs where the protocol states epochs, else in steps. Raises KeyError or TypeError for what it lacks."""
    return EpochSchedule.of(protocol) if "epochs" in dict(protocol.settings) else Schedule.of(protocol)


class _Epochs:
    def __init__(self, schedule: EpochSchedule, head: nn.Module) -> None:
        self.schedule = schedule
        self.encoder = head.encoder if isinstance(head, Finetuned) else None
        rates = [schedule.learning_rate]
        groups: list[Iterable[nn.Parameter]] = [head.head.parameters() if isinstance(head, Finetuned) else head.parameters()]
        if self.encoder is not None:
            groups.append(self.encoder.trained)
            rates.append(schedule.learning_rate if schedule.encoder_learning_rate is None else schedule.encoder_learning_rate)
        self.rates = rates
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[schedule.optimizer]
        self.optimizer = kind(
            [{"params": list(group), "lr": rate} for group, rate in zip(groups, rates)], weight_decay=schedule.weight_decay
        )
        self.plateau = None
        if schedule.plateau:
            self.plateau = ReduceLROnPlateau(
                self.optimizer,
                mode="min" if schedule.plateau == LOSS else "max",
                factor=schedule.plateau_factor,
                patience=schedule.plateau_patience,
            )
        self.best, self.waited = float("nan"), 0

    def before(self, step: int) -> None:
        if self.encoder is None or not self.schedule.frozen_steps:
            return
        if step == 1:
            self.encoder.hold(True)
            first = self.schedule.frozen_learning_rate
            self._set(self.rates if first is None else [first] * len(self.rates))
        elif step == self.schedule.frozen_steps + 1:
            self.encoder.hold(False)
            self._set(self.rates)

    def after(self) -> None:
        pass

    def judge(self, found: Mapping[str, float]) -> tuple[float, bool]:
        monitored = found[self.schedule.monitor]
        score = -monitored if self.schedule.monitor == LOSS else monitored
        better = score > self.best or (self.best != self.best and score == score)
        self.best, self.waited = (score, 0) if better else (self.best, self.waited + 1)
        if self.plateau is not None:
            self.plateau.step(found[self.schedule.plateau])
        return score, self.schedule.stop_patience is not None and self.waited >= self.schedule.stop_patience

    def state(self) -> dict[str, Any]:
        plateau = None if self.plateau is None else dict(self.plateau.state_dict())
        return {"best": self.best, "waited": self.waited, "plateau": plateau}

    def restore(self, state: Mapping[str, Any], step: int) -> None:
        self.best, self.waited = state["best"], state["waited"]
        if self.plateau is not None:
            self.plateau.load_state_dict(state["plateau"])
        if self.encoder is not None and step <= self.schedule.frozen_steps:
            self.encoder.hold(True)

    def _set(self, rates: Iterable[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates):
            group["lr"] = rate
