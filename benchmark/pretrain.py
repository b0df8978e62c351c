"""The one pretraining loop, for every trainable method; resumable at any step, bit for bit on a CPU.

Nothing random is carried from step to step: the order of rows depends on (seed, epoch), augmentation on (seed, epoch, uid),
and the global generators are seeded from (seed, step) before each step. So a state is the weights, the optimizer and a number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from benchmark import collectives, repro, store, weights
from benchmark.errors import Stopped, UserError
from benchmark.meter import count_parameters
from benchmark.schedule import learning_rate
from benchmark.tracking import tracked
from benchmark.training import faults, state
from benchmark.training.batches import Loader, training_rows
from benchmark.training.log import StepLog
from benchmark.training.trainer import Taken, Trainer, accelerator_of
from benchmark.types import Cost, PretrainSpec, Recipe, canonical_json, plain, reads_reports

if TYPE_CHECKING:
    import torch

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
    processes: int = 1
    fsdp: bool = False
    data_wait_share: float | None = None  # of the time of steps, spent waiting for their batch


def read_pretrained(folder: Path) -> Pretrained | None:
    """The record of a finished pretraining, or None."""
    try:
        return _record((folder / "record.json").read_bytes())
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _record(data: bytes) -> Pretrained:
    value = json.loads(data)
    return Pretrained(**{**value, "cost": Cost(**value["cost"])})


def _finished(folder: Path, device: torch.device) -> Pretrained | None:
    """The record that process 0 has, in every process: their disks may differ."""
    done = read_pretrained(folder) if collectives.rank() == 0 else None
    text = collectives.share_bytes(canonical_json(done).encode() if done else b"", device)
    return _record(text) if text else None


def pretrain(method: Any, data: Dataset, spec: PretrainSpec, recipe: Recipe, folder: Path, context: Context) -> Pretrained:
    """Trains a method, or goes on where an earlier process stopped, and writes the finished folder.

    Under torchrun or `accelerate launch` all processes call it; process 0 writes, the others wait for it.

    Args:
        method: nn.Module with the capability "trainable"; holds the trained weights afterwards.
        folder: pretrained/<key>. A finished one is loaded and not trained again.

    Raises:
        UserError: the loss became NaN or infinite (step and uids named), too few rows, too little memory, a process that was
            lost, or a folder of other settings.
        Stopped: SIGTERM, SIGUSR1 or SIGUSR2 came; the state was saved, if there was a step.
    """
    with faults.listening() as bell:
        accelerator_of(context.device, recipe)
        if not collectives.agree(spec.key, context.device):
            raise UserError(
                f"process {collectives.rank()} has other settings or data than another ({spec.key}); give all the same"
            )
        done = _finished(folder, context.device)
        if done is not None:
            return _loaded(method, done, spec, folder, context)
        loop = _Loop(method, data, spec, recipe, folder, context)
        context.meter.start()
        with context.meter.phase("pretrain"):
            loop.run(bell)
        context.meter.stop()
        loop.trainer.finish()
        record = loop.record()
        if collectives.rank() == 0:
            store.write_json(folder / "config.json", {"spec": spec, "name": method.name, "version": method.version})
            if getattr(method, "tokenizer", None) is not None:
                store.write(folder / "tokenizer.json", method.tokenizer.to_str().encode())
            record = replace(record, sha256=weights.save_module(folder / "model.safetensors", method))
            store.write_json(folder / "record.json", record)
            state.remove(folder)
        collectives.wait()
        return record


def _loaded(method: Any, done: Pretrained, spec: PretrainSpec, folder: Path, context: Context) -> Pretrained:
    """The finished folder, its weights in the method, in process 0: nothing is scored in others."""
    if done.key != spec.key:
        raise UserError(f"{folder} holds another pretraining ({done.key}); move it away")
    if collectives.rank() == 0:
        weights.apply(method, weights.load(folder / "model.safetensors", done.sha256), f"pretrained folder {folder}")
        method.to(context.device).eval()
    return done


class _Loop:
    def __init__(self, method: Any, data: Dataset, spec: PretrainSpec, recipe: Recipe, folder: Path, context: Context) -> None:
        self.spec, self.key, self.recipe, self.folder, self.context = spec, spec.key, recipe, folder, context
        self.main = collectives.rank() == 0
        self.trainer = Trainer(method, recipe, context.device, context.seed, folder, context.fsdp)
        self.loader = Loader(method, data, training_rows(data, reads_reports(method)), recipe, context)
        self.begun = self.saved = monotonic()
        self.first, self.earlier = state.restore(folder, self.key, self.trainer)
        self.waited: list[tuple[float, float]] = []  # seconds of a step, and those of them until its batch was there

    def run(self, bell: faults.Bell) -> None:
        bell.early = False
        meter, steps, name = self.context.meter, self.recipe.steps, self.trainer.method.name
        meter.params, meter.batch_size = count_parameters(self.trainer.method), self.loader.batch_size
        log = StepLog(self.folder / "log.jsonl", self.first) if self.main else None
        with (
            self.explained(), self.context.progress_bar(steps, f"pretrain {name}") as bar,
            tracked(self.context.track if self.main else (), f"{name}-{self.key}", self.folder, plain(self.spec)) as track,
        ):  # fmt: skip
            meter.gmacs = self.trainer.gmacs(*self.loader.batch(0))
            bar.update(self.first)
            batches = self.loader.run(self.first, steps)
            for index in range(self.first, steps):
                begin = meter.clock()
                batch, epoch = next(batches)
                ready = meter.clock()
                taken = self.trainer.step(batch, index, epoch)
                line = self.noted(index, taken, (begin, ready, meter.clock()))
                if log is not None:
                    log.append(line)
                    track(line)
                bar.set_postfix({"loss": f"{taken.terms['total']:.3f}"}, refresh=False)
                bar.update(1)
                leaving = bell.rung(self.context.device)
                if index + 1 < steps and (leaving or self.due()):
                    self.save(index + 1)
                if leaving and index + 1 < steps:
                    collectives.wait()  # or the scheduler ends process 0, which is still writing, when the others have left
                    raise Stopped(f"{bell.name or 'a signal'}: stopped after step {index}; the same command goes on from here")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What torch raises for want of memory or of another process, as a UserError."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if faults.is_out_of_memory(error):
                trainer = self.trainer
                raise faults.out_of_memory(trainer.method.name, self.recipe, self.loader.own, trainer.separable) from error
            if faults.is_compiler(error):
                reason = str(error).strip().splitlines()[0]
                raise UserError(f"compile=true: torch.compile fails here ({reason}); leave compile out") from error
            if faults.is_lost_peer(error):
                raise faults.lost_peer() from error
            raise

    def noted(self, index: int, taken: Taken, times: tuple[float, float, float]) -> dict[str, Any]:
        """A step's line of the log; keeps its times for the record."""
        begin, ready, end = times
        meter = self.context.meter
        if index - self.first >= WARM_UP_STEPS:
            meter.step(end - begin)
            self.waited.append((end - begin, ready - begin))
        memory = meter.memory_mib()
        return {
            "step": index, "seconds": round(end - begin, 5), "data_seconds": round(ready - begin, 5),
            "images_per_second": round(self.loader.batch_size / max(end - begin, 1e-9), 2),
            "memory_mib": None if memory is None else round(memory, 1),
            "learning_rate": learning_rate(self.recipe, index),
            "gradient_norm": round(taken.gradient_norm, 6) if isfinite(taken.gradient_norm) else None, **taken.terms,
        }  # fmt: skip

    def due(self) -> bool:
        """Whether it is time to save, by the clock of process 0; in the others too where all have to."""
        due = self.main and monotonic() - self.saved > SAVE_SECONDS
        return any(collectives.numbers(due, self.context.device)) if self.trainer.sharded else due

    def save(self, step: int) -> None:
        state.save(self.folder, self.key, self.trainer, step, self.earlier + monotonic() - self.begun)
        self.saved = monotonic()

    def record(self) -> Pretrained:
        """What process 0 writes, but for the sha256; the meter's figures with the seconds of earlier processes."""
        cost = self.context.meter.cost()
        rate = None if not cost.step_seconds else self.loader.batch_size / cost.step_seconds
        seconds = {"pretrain": cost.seconds.get("pretrain", 0.0) + self.earlier}
        total = sum(step for step, _ in self.waited)
        return Pretrained(
            key=self.key, spec=plain(self.spec), sha256="", cost=replace(cost, images_per_second=rate, seconds=seconds),
            environment=repro.environment(self.context.device), rows_skipped=self.loader.n_skipped,
            texts_truncated=self.loader.n_truncated, processes=collectives.count(), fsdp=self.trainer.sharded,
            data_wait_share=round(sum(wait for _, wait in self.waited) / total, 4) if total else None,
        )  # fmt: skip
