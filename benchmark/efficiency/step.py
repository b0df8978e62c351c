"""A measured pretraining step: the very step of the training loop, on a generated batch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from benchmark import repro
from benchmark.efficiency.generated import generated_batch, word_tokenizer
from benchmark.efficiency.hardware import EnergyCounter, matmul_tflops, peak_tflops
from benchmark.efficiency.largest import Tries, is_out_of_memory, largest_batch
from benchmark.meter import MIB, Meter, count_parameters, host_now_mib
from benchmark.schedule import stages
from benchmark.training.trainer import Trainer
from benchmark.types import Batch, Cost, Recipe, Scalar

PASSES = 3  # forward is one, backward twice as much: the convention of model FLOPs utilization (PaLM, 2022, appendix B)
EPOCH = 1  # after epochs in which something rests
TRY_STEPS = 2  # the second has the optimizer's state beside the activations


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a measurement is of, beside method and recipe. tokens: of each report; vocabulary: words of the tokenizer."""

    tokens: int = 112
    vocabulary: int = 28996  # BERT-base-cased
    steps: int = 20  # measured
    warm_up: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """One row of the efficiency table. Memory in MiB; figures of a GPU are None on a CPU, never 0.

    static_mib: parameters, buffers, gradients and optimizer state; above_static_mib: the peak of tensors over it.
    host_idle_mib: resident with the model built and no step done. phase_seconds: medians of a step in its parts.
    tflops: 3 times the forward operations over the time of a step. of_peak: model FLOPs utilization, tflops over the data
    sheet's; of_matmul: over what a plain matrix product reaches here at the same precision.
    """

    method: str
    settings: Mapping[str, Scalar]
    batch_size: int
    precision: str
    image_size: int
    tokens: int
    seconds: float  # median
    seconds_quartiles: tuple[float, float]
    images_per_second: float
    phase_seconds: Mapping[str, float]
    peak_allocated_mib: float | None
    peak_reserved_mib: float | None
    peak_device_mib: float | None
    peak_host_mib: float | None
    host_idle_mib: float | None
    static_mib: float
    above_static_mib: float | None
    params: int
    gmacs: float  # forward, one image-report pair
    tflops: float
    matmul_tflops: float
    of_matmul: float
    of_peak: float | None
    joules_per_1000_images: float | None
    device: str
    deterministic: bool
    steps: int
    tried: Tries = ()  # batch sizes of the search for the largest, and whether they fitted


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """A row of the efficiency table for a step that did not fit, or could not be made."""

    method: str
    settings: Mapping[str, Scalar]
    batch_size: int
    precision: str
    error: str
    tried: Tries = ()


@dataclass(slots=True)
class Bench:
    """A method on a device, ready to train, with the batches it is measured on. Raises what building the method raises."""

    method_class: Any
    config: Any
    recipe: Recipe
    device: torch.device
    sizes: Sizes = field(default_factory=Sizes)
    method: Any = field(init=False)
    trainer: Trainer = field(init=False)

    def __post_init__(self) -> None:
        with repro.seeded(0, "init"):
            self.method = self.method_class.build(self.config, word_tokenizer(self.sizes.vocabulary))
        self.trainer = Trainer(self.method, self.recipe, self.device)

    def batch(self, size: int) -> Batch:
        """The generated batch of a size, on the device."""
        return generated_batch(self.method, size, self.sizes.tokens, self.sizes.vocabulary, self.device)

    def step(self, batch: Batch, index: int) -> None:
        """One step of pretraining in the last stage, where a method in stages does all that it does."""
        self.trainer.step(batch, stages(self.recipe)[-1].start + 1 + index, EPOCH)

    def fits(self, size: int) -> bool:
        """Whether steps at a batch size fit, from a fresh optimizer and an empty cache."""
        self.clear()
        try:
            batch = self.batch(size)
            for index in range(TRY_STEPS):
                self.step(batch, index)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def largest(self) -> tuple[int, Tries]:
        """The largest batch that fits, and all tries; starts from the recipe's."""
        found = largest_batch(self.fits, self.recipe.batch_size)
        self.clear()
        return found

    def clear(self) -> None:
        """Drops gradients and the optimizer's state, and gives cached memory back."""
        self.method.zero_grad(set_to_none=True)
        self.trainer.optimizer.state.clear()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def measure(bench: Bench, settings: Mapping[str, Scalar] | None = None) -> StepCost:
    """Measures full training steps of the last stage, after warm-up.

    Raises:
        torch.OutOfMemoryError, MemoryError, RuntimeError: the step does not fit (`is_out_of_memory`).
    """
    method, recipe, sizes = bench.method, bench.recipe, bench.sizes
    bench.clear()
    rate = matmul_tflops(bench.device, recipe.precision)
    idle = host_now_mib()
    batch = bench.batch(recipe.batch_size)
    gmacs = bench.trainer.gmacs(batch, EPOCH)
    bench.clear()
    meter, energy = Meter(bench.device), EnergyCounter(bench.device)
    for index in range(sizes.warm_up):
        bench.step(batch, index)
    meter.start()
    energy.start()
    for index in range(sizes.warm_up, sizes.warm_up + sizes.steps):
        begin = meter.clock()
        bench.step(batch, index)
        meter.step(meter.clock() - begin)
    joules = energy.stop()
    meter.stop()
    cost = meter.cost()  # before the steps in parts, which cost the same memory
    static = _static_mib(method, bench.trainer.optimizer)
    return StepCost(
        method=method.name,
        settings=settings or {},
        batch_size=recipe.batch_size,
        precision=recipe.precision,
        image_size=method.input.size,
        tokens=sizes.tokens,
        phase_seconds=_phases(meter, bench, batch),
        params=count_parameters(method),
        steps=sizes.steps,
        joules_per_1000_images=None if joules is None else joules / (sizes.steps * recipe.batch_size) * 1000,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        host_idle_mib=idle,
        **_memory(cost, static),
        **_speed(meter.steps, recipe, gmacs, rate, cost.device),
    )


def measured_step(bench: Bench) -> Callable[[], None]:
    """A call that takes one training step at the recipe's batch size, for a benchmark to time."""
    batch = bench.batch(bench.recipe.batch_size)
    return lambda: bench.step(batch, 0)


def _memory(cost: Cost, static: float) -> dict[str, Any]:
    names = ("peak_allocated_mib", "peak_reserved_mib", "peak_device_mib", "peak_host_mib", "device")
    above = None if cost.peak_allocated_mib is None else cost.peak_allocated_mib - static
    return {name: getattr(cost, name) for name in names} | {"static_mib": static, "above_static_mib": above}


def _speed(seconds: list[float], recipe: Recipe, gmacs: float, rate: float, device: str) -> dict[str, Any]:
    typical = median(seconds)
    quartiles = quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    tflops = PASSES * 2 * gmacs * recipe.batch_size / typical / 1000
    peak = peak_tflops(device, recipe.precision)
    return {
        "seconds": typical,
        "seconds_quartiles": (quartiles[0], quartiles[2]),
        "images_per_second": recipe.batch_size / typical,
        "gmacs": gmacs,
        "tflops": tflops,
        "matmul_tflops": rate,
        "of_matmul": tflops / rate,
        "of_peak": None if peak is None else tflops / peak,
    }


def _phases(meter: Meter, bench: Bench, batch: Batch, steps: int = 3) -> dict[str, float]:
    """Median seconds of the parts of a step, the device waited for at their borders; several passes add up.

    Empty with pieces of a batch (micro_batch), whose passes do not end where a backward pass does.
    """
    if bench.recipe.micro_batch:
        return {}
    accelerator, found, times = bench.trainer.accelerator, dict[str, list[float]](), list[float]()
    backward = accelerator.backward

    def timed(loss: Tensor, **options: Any) -> None:
        times.append(meter.clock())
        backward(loss, **options)
        times.append(meter.clock())

    accelerator.backward = timed
    try:
        for index in range(steps):
            times.clear()
            begin = meter.clock()
            bench.step(batch, index)
            end = meter.clock()
            spent = sum(after - before for before, after in zip(times[::2], times[1::2]))
            parts = {"forward": times[-1] - begin - spent, "backward": spent, "optimizer": end - times[-1]}
            for name, value in parts.items():
                found.setdefault(name, []).append(value)
    finally:
        del accelerator.backward  # the class's own again
    return {name: median(values) for name, values in found.items()}


def _static_mib(method: Any, optimizer: Any) -> float:
    """Parameters, buffers, one gradient for each trained parameter, and the optimizer's tensors."""
    parameters = list(method.parameters())
    held = [*parameters, *method.buffers(), *(item for item in parameters if item.requires_grad)]
    held += [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return float(sum(item.numel() * item.element_size() for item in held)) / MIB


def with_batch(recipe: Recipe, batch_size: int, precision: str) -> Recipe:
    """The recipe at another batch size and precision; empty or 0 keeps its own."""
    return replace(recipe, batch_size=batch_size or recipe.batch_size, precision=precision or recipe.precision)  # type: ignore[arg-type]
