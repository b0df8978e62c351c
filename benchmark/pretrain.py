"""The one pretraining loop, for every trainable method; resumable at any step, bit for bit on a CPU.

Nothing random is carried from step to step: the order of rows depends on (seed, epoch), augmentation on (seed, epoch, uid),
and the global generators are seeded from (seed, step) before each step. So a state is the weights, the optimizer and a number.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from benchmark import repro, store, weights
from benchmark.data.text import REPORT
from benchmark.data.transform import augment, to_input
from benchmark.errors import UserError
from benchmark.meter import count_gmacs, count_parameters
from benchmark.schedule import learning_rate, stage_at, stages
from benchmark.types import NOT_FRONTAL, Batch, Cost, PretrainSpec, Recipe, Record, Step, plain, reads_reports

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.data.dataset import Dataset

WARM_UP_STEPS = 5  # not counted in the step time
SAVE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Pretrained:
    """What lies in a finished folder: pretrained/<key>/record.json."""

    key: str
    spec: Mapping[str, Any]
    sha256: str  # of model.safetensors
    cost: Cost
    environment: Mapping[str, str]
    rows_skipped: int = 0  # training images that could not be read
    texts_truncated: int = 0  # training reports that are longer than the method reads


def read_pretrained(folder: Path) -> Pretrained | None:
    """The record of a finished pretraining, or None."""
    try:
        value = json.loads((folder / "record.json").read_text())
        return Pretrained(**{**value, "cost": Cost(**value["cost"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def training_rows(data: Dataset, with_text: bool) -> tuple[Record, ...]:
    """Training records that a method can learn from: not lateral, and with a report where the method reads text."""
    rows = tuple(record for record in data.rows("train") if record.view not in NOT_FRONTAL)
    texts = data.texts(rows, REPORT)
    return tuple(record for record, text in zip(rows, texts, strict=True) if text or not with_text)


class Loader:
    """Batches by step number alone: the same step gives the same batch in every process and after every restart.

    Args:
        records: N training rows. Batches never hold a row twice; the rest of an epoch that fills no batch is left out.
    """

    def __init__(self, method: Any, data: Dataset, records: Sequence[Record], recipe: Recipe, context: Context) -> None:
        self.records, skipped = data.readable(records, method.input, context)
        if len(self.records) < 2:
            raise UserError(f"dataset {data.name!r} has {len(self.records)} rows to pretrain on; at least 2 are needed")
        self.n_skipped = len(skipped)
        self._method, self._data, self._recipe, self._context = method, data, recipe, context
        self._texts = data.texts(self.records, REPORT)
        self.n_truncated = _truncated(method, self._texts) if reads_reports(method) else 0
        self._labels = torch.from_numpy(data.labels(self.records))
        self.batch_size = min(recipe.batch_size, len(self.records))
        self.batches = len(self.records) // self.batch_size

    def batch(self, index: int) -> tuple[Batch, int]:
        """The batch of a step, on the device, and its epoch."""
        epoch, place = divmod(index, self.batches)
        order = np.random.default_rng([self._context.seed, epoch]).permutation(len(self.records))
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        records = [self.records[row] for row in chosen]
        uids = tuple(record.uid for record in records)
        pixels = torch.from_numpy(self._data.pixels(self._method.input, self._context).take(records)).unsqueeze(1)
        images = self._context.to_device(pixels)  # (B, 1, S, S) uint8
        images = augment(images, uids, self._context.seed, epoch, self._recipe.augment)
        batch = Batch(
            uids=uids,
            patients=tuple(record.patient for record in records),
            images=to_input(images, self._method.input),
            texts=tuple(self._texts[row] for row in chosen),
            targets={"labels": self._context.to_device(self._labels[torch.as_tensor(chosen)])},
        )
        return batch, epoch


def _truncated(method: Any, texts: Sequence[str], chunk: int = 1024) -> int:
    """How many training reports are longer than the method reads, as they stand: one that draws sentences may lose less."""
    starts = range(0, len(texts), chunk)
    return sum(int(method.prepare_text(texts[start : start + chunk]).truncated) for start in starts)


def pretrain(method: Any, data: Dataset, spec: PretrainSpec, recipe: Recipe, folder: Path, context: Context) -> Pretrained:
    """Trains a method, or goes on where an earlier process stopped, and writes the finished folder.

    Args:
        method: nn.Module with the capability "trainable"; holds the trained weights afterwards.
        folder: pretrained/<key>. A finished one is loaded and not trained again.

    Raises:
        UserError: the loss became NaN or infinite (step and uids named), too few rows, or a folder of other settings.
    """
    done = read_pretrained(folder)
    if done is not None and done.key != spec.key:
        raise UserError(f"{folder} holds another pretraining ({done.key}); move it away")
    if done is not None:
        state = weights.load(folder / "model.safetensors", done.sha256)
        weights.apply(method, state, f"pretrained folder {folder}")
        method.to(context.device).eval()
        return done
    loop = _Loop(method, data, spec, recipe, folder, context)
    context.meter.start()
    with context.meter.phase("pretrain"):
        loop.run()
    context.meter.stop()
    method.eval()
    store.write_json(folder / "config.json", {"spec": spec, "name": method.name, "version": method.version})
    if getattr(method, "tokenizer", None) is not None:
        store.write(folder / "tokenizer.json", method.tokenizer.to_str().encode())
    sha256 = weights.save_module(folder / "model.safetensors", method)
    lost = (loop.loader.n_skipped, loop.loader.n_truncated)
    record = Pretrained(spec.key, plain(spec), sha256, loop.cost(), repro.environment(context.device), *lost)
    store.write_json(folder / "record.json", record)
    for path in (folder / "state.pt", folder / "state-previous.pt"):
        path.unlink(missing_ok=True)
    return record


class _Loop:
    def __init__(self, method: Any, data: Dataset, spec: PretrainSpec, recipe: Recipe, folder: Path, context: Context) -> None:
        self.method, self.spec, self.recipe, self.folder, self.context = method, spec, recipe, folder, context
        self.accelerator = _accelerator(context, recipe)
        self.method.to(context.device).train()
        self.optimizer = self.accelerator.prepare(optimizer_of(method, recipe))
        self.loader = Loader(method, data, training_rows(data, reads_reports(method)), recipe, context)
        self.first = self._restore()
        self.saved = monotonic()

    def run(self) -> None:
        self._count()
        log = self._open_log()
        with self.context.progress_bar(self.recipe.steps, f"pretrain {self.method.name}") as bar:
            bar.update(self.first)
            for index in range(self.first, self.recipe.steps):
                begin = self.context.meter.clock()
                terms = self._step(index)
                seconds = self.context.meter.clock() - begin
                if index - self.first >= WARM_UP_STEPS:
                    self.context.meter.step(seconds)
                log({"step": index, "seconds": round(seconds, 5), "learning_rate": learning_rate(self.recipe, index), **terms})
                bar.set_postfix({"loss": f"{terms['total']:.3f}"}, refresh=False)
                bar.update(1)
                if monotonic() - self.saved > SAVE_SECONDS and index + 1 < self.recipe.steps:
                    self.save(index + 1)

    def _step(self, index: int) -> dict[str, float]:
        batch, epoch = self.loader.batch(index)
        stage = stage_at(self.recipe, index)
        if index == stage.start > 0:
            self.optimizer.state.clear()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, index)
        self.optimizer.zero_grad(set_to_none=True)
        found: dict[str, float] = {}
        with repro.seeded(self.context.seed, "step", index):
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

    def _count(self) -> None:
        """Parameters, and multiply-accumulates of one forward step of the last stage for each image; moves no statistics."""
        batch, epoch = self.loader.batch(0)
        kept = [(buffer, buffer.detach().clone()) for buffer in self.method.buffers()]
        with repro.seeded(self.context.seed, "count"), self.accelerator.autocast():
            last = Step(0, epoch, self.recipe.steps, stages(self.recipe)[-1].number)
            total = count_gmacs(lambda: list(self.method.loss(batch, last)))
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
        self.context.meter.gmacs = total / len(batch.uids)
        self.context.meter.params = count_parameters(self.method)
        self.context.meter.batch_size = self.loader.batch_size

    def cost(self) -> Cost:
        """The meter's figures, seconds of earlier processes included, and images a second in training."""
        cost = self.context.meter.cost()
        rate = None if not cost.step_seconds else self.loader.batch_size / cost.step_seconds
        seconds = {"pretrain": cost.seconds.get("pretrain", 0.0) + self.earlier}
        return replace(cost, images_per_second=rate, seconds=seconds)

    def save(self, index: int) -> None:
        """Writes the state before step `index`; the one before it is kept."""
        path = self.folder / "state.pt"
        if path.exists():
            os.replace(path, self.folder / "state-previous.pt")
        spent = self.earlier + monotonic() - self.begun
        state = {"key": self.spec.key, "step": index, "seconds": spent, "model": self.method.state_dict()}
        weights.save_state(path, {**state, "optimizer": self.optimizer.state_dict(), "scaler": self._scaler_state()})
        self.saved = monotonic()

    def _scaler_state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {} if scaler is None else dict(scaler.state_dict())

    def _restore(self) -> int:
        self.begun, self.earlier = monotonic(), 0.0
        for path in (self.folder / "state.pt", self.folder / "state-previous.pt"):
            if not path.exists():
                continue
            try:
                state: dict[str, Any] = weights.load_state(path)
            except UserError:
                path.unlink()  # or the next save would move it over the one before it, which is good
                continue
            if state["key"] != self.spec.key:
                raise UserError(f"{path} belongs to another pretraining ({state['key']}); move it away")
            weights.apply(self.method, state["model"], str(path))
            self.optimizer.load_state_dict(state["optimizer"])
            if self.accelerator.scaler is not None and state["scaler"]:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            self.earlier = float(state["seconds"])
            return int(state["step"])
        return 0

    def _open_log(self) -> Callable[[Mapping[str, Any]], None]:
        """Appends a line a step to log.jsonl; lines of steps that will be done again are dropped first."""
        path = self.folder / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        store.write(path, "".join(f"{line}\n" for line in lines[: self.first]).encode())

        def append(values: Mapping[str, Any]) -> None:
            try:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(values, allow_nan=False) + "\n")
            except OSError as error:
                raise UserError(f"{path} cannot be written ({error.strerror}); free space, or choose another --out") from error

        return append


def _accelerator(context: Context, recipe: Recipe) -> Accelerator:
    precision = "no" if recipe.precision == "fp32" else recipe.precision
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier method of this run used another precision
    accelerator = Accelerator(cpu=context.device.type == "cpu", mixed_precision=precision)
    if accelerator.num_processes > 1:
        raise UserError("pretraining runs in one process so far; start it without torchrun, or with --nproc-per-node 1")
    return accelerator


def optimizer_of(method: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, with weight decay on matrices only: not on biases, norms and scalars."""
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2))
