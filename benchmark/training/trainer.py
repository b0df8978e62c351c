"""One step of a pretraining: loss, backward, clipping, optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from benchmark import repro
from benchmark.context import Context
from benchmark.errors import UserError
from benchmark.meter import count_gmacs
from benchmark.schedule import learning_rate, stage_at, stages
from benchmark.training.optimizers import optimizer_of
from benchmark.types import Batch, Recipe, Step


class Trainer:
    """A method with its optimizer, on the device and in training mode.

    Args:
        method: nn.Module with the capability "trainable".
    """

    def __init__(self, method: Any, recipe: Recipe, context: Context) -> None:
        self.method, self.recipe, self.seed = method, recipe, context.seed
        self.accelerator = _accelerator(context, recipe)
        self.method.to(context.device).train()
        self.optimizer = self.accelerator.prepare(optimizer_of(method, recipe))

    def step(self, batch: Batch, index: int, epoch: int) -> dict[str, float]:
        """Takes step `index`; the terms of its loss. Raises UserError, before the step is taken, if one is not finite."""
        stage = stage_at(self.recipe, index)
        if index == stage.start > 0:
            self.optimizer.state.clear()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, index)
        self.optimizer.zero_grad(set_to_none=True)
        found: dict[str, float] = {}
        with repro.seeded(self.seed, "step", index):
            passes = iter(self.method.loss(batch, Step(index, epoch, self.recipe.steps, stage.number)))
            while (terms := self._forward(passes)) is not None:
                self._guard(terms, index, batch.uids)
                self.accelerator.backward(terms["total"])
                for name, value in terms.items():
                    found[name] = found.get(name, 0.0) + float(value.detach())
        norm = self.accelerator.clip_grad_norm_(self.method.parameters(), self.recipe.clip_norm or float("inf"))
        self._guard({"gradient norm": norm}, index, batch.uids)
        self.optimizer.step()
        return {name: round(value, 6) for name, value in found.items()}

    def gmacs(self, batch: Batch, epoch: int) -> float:
        """Multiply-accumulates of a forward step of the last stage for each image; moves no statistics."""
        kept = [(buffer, buffer.detach().clone()) for buffer in self.method.buffers()]
        with repro.seeded(self.seed, "count"), self.accelerator.autocast():
            last = Step(0, epoch, self.recipe.steps, stages(self.recipe)[-1].number)
            total = count_gmacs(lambda: list(self.method.loss(batch, last)))
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
        return total / len(batch.uids)

    def _forward(self, passes: Iterator[Mapping[str, Tensor]]) -> Mapping[str, Tensor] | None:
        with self.accelerator.autocast():
            return next(passes, None)

    def _guard(self, terms: Mapping[str, Tensor], index: int, uids: Sequence[str]) -> None:
        bad = [name for name, value in terms.items() if not bool(torch.isfinite(value))]
        scaled = self.recipe.precision == "fp16" and bad == ["gradient norm"]  # the scaler skips such a step by itself
        if bad and not scaled:
            raise UserError(
                f"{', '.join(bad)} of {self.method.name} is not finite at step {index}, rows {', '.join(uids[:8])}"
                f"{', ...' if len(uids) > 8 else ''}; lower learning_rate by --set, or look at these rows"
            )


def _accelerator(context: Context, recipe: Recipe) -> Accelerator:
    precision = "no" if recipe.precision == "fp32" else recipe.precision
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier method of this run used another precision
    accelerator = Accelerator(cpu=context.device.type == "cpu", mixed_precision=precision)
    if accelerator.num_processes > 1:
        raise UserError("pretraining runs in one process so far; start it without torchrun, or with --nproc-per-node 1")
    return accelerator
