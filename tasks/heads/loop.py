"""The one supervised loop: a head on frozen features or maps, or with its encoder; in steps, epochs or rounds.

Mixed precision with scaled losses, accumulation at a fixed batch, the best evaluation kept, and a state file by which a fit
that was killed goes on where it stood, bit for bit on a CPU: everything random is drawn from seeds, or from the global
generators, whose states are in that file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil, inf, nan
from time import monotonic
from typing import Any
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import repro, weights
from benchmark.context import Context
from benchmark.errors import UserError
from benchmark.types import digest

SAVE_SECONDS = 60.0
ALL = 2**31  # rows at once: batches are not cut
Drawn = tuple[list[int], list[int]]  # rows of a batch, and for each how often the fit has drawn it before


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
        """What an evaluation gave -> a score, higher is better, nan never the best; and whether to stop."""
        ...

    def state(self) -> dict[str, Any]:
        """What `restore` needs beside the optimizer: plain values."""
        ...

    def restore(self, state: Mapping[str, Any], step: int) -> None:
        """Goes on as after so many steps, at least 1."""
        ...


class Fitting(Interface):
    """How long and how something is fitted: `Schedule` in steps, `EpochSchedule` in epochs, `Rounds` in rounds."""

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
        """Of the whole gradient; None or 0: not clipped."""
        ...

    def length(self, rows: int) -> tuple[int, int]:
        """Steps for so many training rows, and steps between two evaluations (0: none)."""
        ...

    def order(self, rows: int, eval_seed: int) -> Iterator[Drawn]:
        """Batches without end, by the seed alone."""
        ...

    def pace(self, module: nn.Module, steps: int) -> Pace:
        """A fresh optimizer of a module's parameters, for so many steps."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is fitted.

    Args:
        module: what is trained, and what holds its buffers.
        loss: (rows, how often each was drawn before) -> scalar terms, whose sum is minimized.
        uids: of the N training rows; they also name rows when a loss is not finite.
        evaluate: whatever the fitting judges, on val; called in eval mode, without gradients. None: the last step is kept.
        known: (N,) how many known labels each row has, at least 1, where `loss` is a sum over them: then parts of a batch add
            up to the mean over the known labels of the batch. None: `loss` is a mean over rows, parts count by their rows.
        at_once: rows whose gradient is computed together; larger batches are accumulated.
        scaled: whether losses are scaled against underflow, as float16 needs.
    """

    module: nn.Module
    loss: Callable[[Sequence[int], Sequence[int]], Mapping[str, Tensor]]
    uids: Sequence[str]
    evaluate: Callable[[], Any] | None = None
    known: Sequence[int] | None = None
    at_once: int = ALL
    scaled: bool = False


@dataclass(frozen=True, slots=True)
class Fitted:
    """The best score, nan where none was defined; the number of its evaluation, 0 for none; how many there were."""

    score: float
    best: int
    evaluations: int


def fit(problem: Problem, fitting: Fitting, context: Context) -> Fitted:
    """Trains a module in place; deterministic in (module, rows, fitting, eval seed) on a CPU, in one go or in several.

    The module moves to the device and is left in eval mode, with the weights of the best evaluation or the last step. With
    `context.state` the fit is saved there every minute; the file stays, for whoever keeps the result to remove. Note in the
    result: batch_part, where batches were accumulated.

    Raises:
        UserError: a loss or gradient is not finite; the step and rows are named.
    """
    loop = _Loop(problem, fitting, context)
    loop.run()
    return loop.found


class _Loop:
    def __init__(self, problem: Problem, fitting: Fitting, context: Context) -> None:
        self.problem, self.fitting, self.context = problem, fitting, context
        problem.module.to(context.device).train()
        self.steps, self.every = fitting.length(len(problem.uids))
        self.pace = fitting.pace(problem.module, self.steps)
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=problem.scaled)
        self.found = Fitted(nan, 0, 0)
        self.kept: list[Tensor] | None = None
        size = fitting.batch_size
        self.at_once = min(problem.at_once, size + 1)  # the last batch of an epoch may have one more
        if self.at_once < size:
            context.notes["batch_part"] = self.at_once
        self.saved = monotonic()

    def run(self) -> None:
        first = self._restore()
        batches = islice(self.fitting.order(len(self.problem.uids), self.context.eval_seed), first, self.steps)
        with self.context.progress_bar(self.steps, "fit head") as bar:
            bar.update(first)
            for step, (rows, epochs) in enumerate(batches, start=first + 1):
                self.pace.before(step)
                self._update(step, rows, epochs)
                self.pace.after()
                bar.update(1)
                if self._evaluated(step):
                    break
                self._save(step)
        if self.kept is not None:
            self._put(self.kept)
        self.problem.module.eval()

    def _evaluated(self, step: int) -> bool:
        """Evaluates where it is time to, and keeps what is better; whether to stop."""
        evaluate, module = self.problem.evaluate, self.problem.module
        if not self.every or evaluate is None or (step % self.every and step != self.steps):
            return False
        module.eval()
        with torch.no_grad():
            score, over = self.pace.judge(evaluate())
        module.train()
        number = self.found.evaluations + 1
        self.found = Fitted(self.found.score, self.found.best, number)
        if score > self.found.score or (self.kept is None and score == score):  # nan, an undefined score, is never the best
            self.found, self.kept = Fitted(score, number, number), [item.detach().clone() for item in self._changing()]
        return over

    def _update(self, step: int, rows: list[int], epochs: list[int]) -> None:
        total = self._gradient(rows, epochs)
        self.scaler.unscale_(self.pace.optimizer)
        norm = nn.utils.clip_grad_norm_(self.problem.module.parameters(), self.fitting.clip_norm or inf)
        # in half precision the scaler skips a step whose gradient overflows
        if not torch.isfinite(total if self.scaler.is_enabled() else total + norm):
            names = ", ".join(self.problem.uids[row] for row in rows[:4])
            raise UserError(f"loss or gradient of the head is not finite at step {step} (rows {names}, ...); check these rows")
        self.scaler.step(self.pace.optimizer)
        self.scaler.update()

    def _gradient(self, rows: list[int], epochs: list[int]) -> Tensor:
        """Sets the gradient of the loss of the batch; in smaller parts, from the start, when memory runs out."""
        while True:
            buffers = [item.clone() for item in self.problem.module.buffers()]
            try:
                return self._accumulate(rows, epochs)
            except torch.OutOfMemoryError:
                if min(self.at_once, len(rows)) <= 1:
                    raise
                for item, value in zip(self.problem.module.buffers(), buffers):
                    item.copy_(value)  # statistics of the parts that were done
                self.at_once = min(self.at_once, len(rows)) // 2
                self.context.notes["batch_part"] = self.at_once

    def _accumulate(self, rows: list[int], epochs: list[int]) -> Tensor:
        self.pace.optimizer.zero_grad(set_to_none=True)
        known = self.problem.known
        total = torch.zeros((), device=self.context.device)
        for part in np.array_split(np.arange(len(rows)), ceil(len(rows) / self.at_once)):
            terms = self.problem.loss([rows[place] for place in part], [epochs[place] for place in part])
            loss = torch.stack(list(terms.values())).sum()
            loss = loss / sum(known[row] for row in rows) if known else loss * (len(part) / len(rows))
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _changing(self) -> Iterator[Tensor]:
        """What training changes: the optimizer's parameters, and buffers."""
        for group in self.pace.optimizer.param_groups:
            yield from group["params"]
        yield from self.problem.module.buffers()

    def _put(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for item, value in zip(self._changing(), values, strict=True):
                item.copy_(value)

    @property
    def _name(self) -> str:
        """Of everything that a state must agree with."""
        shapes = [list(item.shape) for item in self._changing()]
        plan = (self.fitting.protocol, self.context.eval_seed, self.context.precision, self.steps, self.every)
        return digest([plan, list(self.problem.uids), shapes])

    def _save(self, step: int) -> None:
        path = self.context.state
        if path is None or monotonic() - self.saved < SAVE_SECONDS or step == self.steps:
            return
        state = {
            "fit": self._name, "step": step, "found": [self.found.score, self.found.best, self.found.evaluations],
            "values": [item.detach() for item in self._changing()], "kept": self.kept, "pace": self.pace.state(),
            "optimizer": self.pace.optimizer.state_dict(), "scaler": self.scaler.state_dict(), "random": repro.generators(),
        }  # fmt: skip
        weights.save_state(path, state)
        self.saved = monotonic()

    def _restore(self) -> int:
        """Goes on from the state file; the number of steps that are done, 0 where there is none that fits."""
        path = self.context.state
        if path is None or not path.is_file():
            return 0
        try:
            state: dict[str, Any] = weights.load_state(path)
        except UserError:
            return 0  # cut short: from the start
        if state.get("fit") != self._name:
            return 0
        self._put(state["values"])
        self.found, self.kept = Fitted(*state["found"]), state["kept"]
        self.pace.optimizer.load_state_dict(state["optimizer"])
        self.pace.restore(state["pace"], state["step"])
        self.scaler.load_state_dict(state["scaler"])
        repro.restore_generators(state["random"])
        return int(state["step"])
