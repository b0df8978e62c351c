"""A measured pretraining step: the loss of the method, backward, clipping, optimizer, on a generated batch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from benchmark import repro
from benchmark.context import DTYPES
from benchmark.efficiency.generated import generated_batch, word_tokenizer
from benchmark.efficiency.hardware import EnergyCounter, matmul_tflops, peak_tflops
from benchmark.efficiency.largest import Tries, is_out_of_memory, largest_batch
from benchmark.meter import MIB, Meter, count_gmacs, count_parameters, host_now_mib
from benchmark.pretrain import optimizer_of
from benchmark.schedule import stages
from benchmark.types import Batch, Cost, Recipe, Scalar, Step

PASSES = 3  # forward is one, backward twice as much: the convention of model FLOPs utilization (PaLM, 2022, appendix B)
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
    """A method on a device with the batches it is measured on. Raises what building the method raises."""

    method_class: Any
    config: Any
    recipe: Recipe
    device: torch.device
    sizes: Sizes = field(default_factory=Sizes)
    method: Any = field(init=False)

    def __post_init__(self) -> None:
        with repro.seeded(0, "init"):
            built = self.method_class.build(self.config, word_tokenizer(self.sizes.vocabulary))
        self.method = built.to(self.device).train()

    def batch(self, size: int) -> Batch:
        """The generated batch of a size, on the device."""
        return generated_batch(self.method, size, self.sizes.tokens, self.sizes.vocabulary, self.device)

    def fits(self, size: int) -> bool:
        """Whether steps at a batch size fit, from a fresh optimizer and an empty cache."""
        self.clear()
        try:
            batch, optimizer = self.batch(size), optimizer_of(self.method, self.recipe)
            for index in range(TRY_STEPS):
                for _ in _parts(self.method, optimizer, batch, index, self.recipe):
                    pass
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
        """Drops gradients and gives cached memory back."""
        self.method.zero_grad(set_to_none=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def measure(bench: Bench, settings: Mapping[str, Scalar] | None = None) -> StepCost:
    """Measures full training steps of the last stage, after warm-up.

    Raises:
        torch.OutOfMemoryError, MemoryError, RuntimeError: the step does not fit (`is_out_of_memory`).
    """
    method, recipe, sizes = bench.method, bench.recipe, bench.sizes
    rate = matmul_tflops(bench.device, recipe.precision)
    idle = host_now_mib()
    batch, optimizer = bench.batch(recipe.batch_size), optimizer_of(method, recipe)
    gmacs = count_gmacs(lambda: list(method.loss(batch, _late(recipe, 0)))) / recipe.batch_size
    bench.clear()
    meter, energy = Meter(bench.device), EnergyCounter(bench.device)
    for index in range(sizes.warm_up):
        _step(method, optimizer, batch, index, recipe)
    meter.start()
    energy.start()
    for index in range(sizes.warm_up, sizes.warm_up + sizes.steps):
        begin = meter.clock()
        _step(method, optimizer, batch, index, recipe)
        meter.step(meter.clock() - begin)
    joules = energy.stop()
    meter.stop()
    cost = meter.cost()  # before the steps in parts, which cost the same memory
    static = _static_mib(method, optimizer)
    return StepCost(
        method=method.name,
        settings=settings or {},
        batch_size=recipe.batch_size,
        precision=recipe.precision,
        image_size=method.input.size,
        tokens=sizes.tokens,
        phase_seconds=_phases(meter, method, optimizer, batch, recipe),
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
    batch, optimizer = bench.batch(bench.recipe.batch_size), optimizer_of(bench.method, bench.recipe)
    return lambda: _step(bench.method, optimizer, batch, 0, bench.recipe)


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


def _late(recipe: Recipe, index: int) -> Step:
    """A step of the last stage, where a method in stages does all that it does, and after epochs in which something rests."""
    return Step(index, 1, max(1, recipe.steps), stages(recipe)[-1].number)


def _parts(method: Any, optimizer: torch.optim.Optimizer, batch: Batch, index: int, recipe: Recipe) -> Iterator[str]:
    """A training step; yields the name of each part after it is done."""
    dtype = DTYPES[recipe.precision]
    optimizer.zero_grad(set_to_none=True)
    passes = iter(method.loss(batch, _late(recipe, index)))
    while True:
        with torch.autocast(batch.images.device.type, dtype=dtype, enabled=recipe.precision != "fp32"):
            terms: Mapping[str, Tensor] | None = next(passes, None)
        yield "forward"
        if terms is None:
            break
        torch.autograd.backward(terms["total"])
        del terms
        yield "backward"
    torch.nn.utils.clip_grad_norm_(method.parameters(), recipe.clip_norm or float("inf"))
    optimizer.step()
    yield "optimizer"


def _step(method: Any, optimizer: torch.optim.Optimizer, batch: Batch, index: int, recipe: Recipe) -> None:
    for _ in _parts(method, optimizer, batch, index, recipe):
        pass


def _phases(
    meter: Meter, method: Any, optimizer: torch.optim.Optimizer, batch: Batch, recipe: Recipe, steps: int = 3
) -> dict[str, float]:
    """Median seconds of the parts of a step, the device waited for after each; several passes add up."""
    found: dict[str, list[float]] = {}
    for index in range(steps):
        spent: dict[str, float] = {}
        begin = meter.clock()
        for name in _parts(method, optimizer, batch, index, recipe):
            now = meter.clock()
            spent[name] = spent.get(name, 0.0) + now - begin
            begin = now
        for name, value in spent.items():
            found.setdefault(name, []).append(value)
    return {name: median(values) for name, values in found.items()}


def _static_mib(method: Any, optimizer: torch.optim.Optimizer) -> float:
    """Parameters, buffers, one gradient for each trained parameter, and the optimizer's tensors."""
    parameters = list(method.parameters())
    held = [*parameters, *method.buffers(), *(item for item in parameters if item.requires_grad)]
    held += [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return float(sum(item.numel() * item.element_size() for item in held)) / MIB


def with_batch(recipe: Recipe, batch_size: int, precision: str) -> Recipe:
    """The recipe at another batch size and precision; empty or 0 keeps its own."""
    return replace(recipe, batch_size=batch_size or recipe.batch_size, precision=precision or recipe.precision)  # type: ignore[arg-type]
