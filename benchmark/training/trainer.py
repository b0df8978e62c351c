"""One step of a pretraining: loss, backward, gradients of all processes, clipping, optimizer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import patch_environment
from torch import Tensor

from benchmark import collectives, repro
from benchmark.errors import UserError
from benchmark.meter import count_gmacs
from benchmark.parts import Tensors, is_separable, take_rows
from benchmark.schedule import learning_rate, stage_at, stages
from benchmark.training import shards
from benchmark.training.blocks import prepare_blocks, restore_blocks
from benchmark.training.faults import not_finite
from benchmark.training.optimizers import Average, optimizer_of
from benchmark.training.pieces import Pieces, no_batch_norm, require_parts
from benchmark.types import Batch, Recipe, Step

UNSUPPORTED = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron"}


@dataclass(frozen=True, slots=True)
class Taken:
    """What a step gave: terms of the loss of the whole batch, and the norm of its gradient before clipping."""

    terms: dict[str, float]
    gradient_norm: float


class Trainer:
    """A method with its optimizer, on the device and in training mode; one in each process.

    Args:
        method: nn.Module with the capability "trainable".
        seed: of the run. folder: where a batch is put whose loss is not finite.
        sharded: whether blocks are spread over the processes; the method is then copied, and given the weights by `finish`.

    Raises:
        UserError: a setting that this method does not allow.
    """

    def __init__(
        self,
        method: Any,
        recipe: Recipe,
        device: torch.device,
        seed: int = 0,
        folder: Path | None = None,
        sharded: bool = False,
    ) -> None:
        self.given, self.sharded = method, sharded
        method = deepcopy(method) if sharded else method
        self.method, self.recipe, self.device, self.seed, self.folder = method, recipe, device, seed, folder
        self.accelerator = accelerator_of(device, recipe)
        self.separable = is_separable(method)
        require_parts(method, recipe)
        if collectives.count() > 1 and getattr(method, "local_negatives", False):
            raise UserError(
                f"{method.name} trains in one process only: with several its loss would see fewer negatives; start it in one, "
                "without torchrun or accelerate launch"
            )
        prepare_blocks(method, recipe)
        self.method.to(device).train()
        collectives.share_batch_norm(method)
        if sharded:
            shards.shard(method, recipe, device)
        self.optimizer = self.accelerator.prepare(optimizer_of(method, recipe))
        self.average = Average(method, recipe.average) if recipe.average else None

    def step(self, batch: Batch, index: int, epoch: int) -> Taken:
        """Takes step `index`. Raises UserError, before the step is taken, if its loss or gradient is not finite."""
        stage = stage_at(self.recipe, index)
        if index == stage.start > 0:
            self.optimizer.state.clear()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, index) * group.get("factor", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        found: dict[str, Tensor] = {}
        with repro.seeded(self.seed, "step", index):
            for terms in self._passes(batch, Step(index, epoch, self.recipe.steps, stage.number)):
                for name, value in terms.items():
                    found[name] = found.get(name, 0) + value.detach().double()
        collectives.mean_gradients(self.method.parameters())
        clip = shards.clip if self.sharded else self.accelerator.clip_grad_norm_
        norm = clip(self.method.parameters(), self.recipe.clip_norm or float("inf"))
        taken = self._checked(found, norm, batch, index)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.method, index)
        return taken

    def finish(self) -> None:
        """After the last step: the method holds what is to be kept, which is the average where there is one."""
        if self.average is not None:
            self.average.give(self.method)
        restore_blocks(self.method)
        if self.sharded:
            self.given.load_state_dict(shards.whole_state(self.method))
            self.method = self.given.to(self.device)
        self.method.eval()

    def gmacs(self, batch: Batch, epoch: int) -> float:
        """Multiply-accumulates of a forward step of the last stage for each image; moves no statistics."""
        batch = _first_rows(batch, self.recipe.micro_batch) if self.recipe.micro_batch > 1 else batch
        kept = [(buffer, buffer.detach().clone()) for buffer in self.method.buffers()]
        with repro.seeded(self.seed, "count"), self.accelerator.autocast():
            last = Step(0, epoch, self.recipe.steps, stages(self.recipe)[-1].number)
            total = count_gmacs(lambda: list(self.method.loss(batch, last)))
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
        return total / len(batch.uids)

    def _passes(self, batch: Batch, step: Step) -> Iterator[Tensors]:
        """The terms of each backward pass, once its gradients are there."""
        if self.separable and (self.recipe.micro_batch or collectives.count() > 1):
            rows = len(batch.uids)
            size = min(self.recipe.micro_batch or rows, rows)

            def drawing(start: int) -> AbstractContextManager[object]:
                return self._drawing(step.index, batch.start + start, whole=size == rows)

            pieces = Pieces(size, self.accelerator.autocast, self.accelerator.backward, drawing)
            yield from map(pieces.run, self.method.parts(batch, step))
            return
        passes = iter(self.method.loss(batch, step))
        while True:
            with self.accelerator.autocast():
                terms: Tensors | None = next(passes, None)
            if terms is None:
                return
            self.accelerator.backward(terms["total"])
            yield terms

    @contextmanager
    def _drawing(self, index: int, row: int, whole: bool) -> Iterator[None]:
        """Dropout of the rows from a row of the whole batch on: of its own for each process, and the same when done again."""
        with repro.seeded(self.seed, "step", index, "row", row), no_batch_norm(self.method, not whole):
            yield

    def _checked(self, found: dict[str, Tensor], norm: Tensor, batch: Batch, index: int) -> Taken:
        own = torch.stack([*found.values(), norm.detach().double()]).tolist()
        values = collectives.mean_of(own, self.device)
        if not all(map(isfinite, values[:-1])):
            mine = [name for name, value in zip(found, own) if not isfinite(value)]
            raise not_finite(self.method.name, mine, index, batch, self.folder)
        scaler = self.accelerator.scaler  # skips such a step by itself and halves the scale, which cannot help for ever
        if not isfinite(values[-1]) and (scaler is None or scaler.get_scale() < 1):
            raise not_finite(self.method.name, ["gradient norm"], index, batch, self.folder)
        return Taken({name: round(value, 6) for name, value in zip(found, values)}, values[-1])


def _first_rows(batch: Batch, rows: int) -> Batch:
    return replace(
        batch, uids=batch.uids[:rows], patients=batch.patients[:rows], images=batch.images[:rows], texts=batch.texts[:rows],
        targets={name: take_rows(item, slice(rows)) for name, item in batch.targets.items()}, whole=batch.reports,
    )  # fmt: skip


def accelerator_of(device: torch.device, recipe: Recipe) -> Accelerator:
    """Joins the processes that torchrun or `accelerate launch` started. Raises UserError for what they cannot be here."""
    for variable, name in UNSUPPORTED.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise UserError(
                f"{name} is not supported: losses here are no single forward pass that it could wrap; launch with plain data "
                "parallel processes or FSDP, and use micro_batch and gradient_checkpointing for less memory"
            )
    if recipe.precision == "fp16" and device.type == "cpu":
        raise UserError(
            "precision=fp16 needs a GPU; add "
            "--set precision=bf16 or --set precision=fp32 (a method may have fp16 in --preset paper)"
        )
    precision = "no" if recipe.precision == "fp32" else recipe.precision
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier method of this run used another precision
    with patch_environment(accelerate_use_fsdp="false"):  # or it would wrap the optimizer for a model that it had wrapped
        return Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
