"""The one pretraining loop, for every trainable method; resumable at any step, bit for bit on a CPU.

Nothing random is carried from step to step: the order of rows depends on (seed, epoch), augmentation on (seed, epoch, uid),
and the global generators are seeded from (seed, step) before each step. So a state is the weights, the optimizer and a number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from benchmark import repro, store, weights
from benchmark.errors import UserError
from benchmark.meter import count_parameters
from benchmark.schedule import learning_rate
from benchmark.training import state
from benchmark.training.batches import Loader, training_rows
from benchmark.training.log import StepLog
from benchmark.training.trainer import Trainer
from benchmark.types import Cost, PretrainSpec, Recipe, plain, reads_reports

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
        weights.apply(method, weights.load(folder / "model.safetensors", done.sha256), f"pretrained folder {folder}")
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
    state.remove(folder)
    return record


class _Loop:
    def __init__(self, method: Any, data: Dataset, spec: PretrainSpec, recipe: Recipe, folder: Path, context: Context) -> None:
        self.key, self.recipe, self.folder, self.context = spec.key, recipe, folder, context
        self.trainer = Trainer(method, recipe, context)
        self.loader = Loader(method, data, training_rows(data, reads_reports(method)), recipe, context)
        self.begun = self.saved = monotonic()
        self.first, self.earlier = state.restore(folder, self.key, self.trainer)

    def run(self) -> None:
        meter, steps = self.context.meter, self.recipe.steps
        meter.gmacs = self.trainer.gmacs(*self.loader.batch(0))
        meter.params = count_parameters(self.trainer.method)
        meter.batch_size = self.loader.batch_size
        log = StepLog(self.folder / "log.jsonl", self.first)
        with self.context.progress_bar(steps, f"pretrain {self.trainer.method.name}") as bar:
            bar.update(self.first)
            for index in range(self.first, steps):
                begin = meter.clock()
                batch, epoch = self.loader.batch(index)
                terms = self.trainer.step(batch, index, epoch)
                seconds = meter.clock() - begin
                if index - self.first >= WARM_UP_STEPS:
                    meter.step(seconds)
                rate = learning_rate(self.recipe, index)
                log.append({"step": index, "seconds": round(seconds, 5), "learning_rate": rate, **terms})
                bar.set_postfix({"loss": f"{terms['total']:.3f}"}, refresh=False)
                bar.update(1)
                if monotonic() - self.saved > SAVE_SECONDS and index + 1 < steps:
                    state.save(self.folder, self.key, self.trainer, index + 1, self.earlier + monotonic() - self.begun)
                    self.saved = monotonic()

    def cost(self) -> Cost:
        """The meter's figures, seconds of earlier processes included, and images a second in training."""
        cost = self.context.meter.cost()
        rate = None if not cost.step_seconds else self.loader.batch_size / cost.step_seconds
        seconds = {"pretrain": cost.seconds.get("pretrain", 0.0) + self.earlier}
        return replace(cost, images_per_second=rate, seconds=seconds)
