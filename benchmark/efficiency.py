"""Memory and time of a pretraining step on generated input: no data set, no data loading, the same loss as in training."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from benchmark import repro
from benchmark.context import DTYPES
from benchmark.data.text import SPECIAL
from benchmark.data.transform import to_input
from benchmark.meter import MIB, Meter, count_gmacs, count_parameters
from benchmark.schedule import stages
from benchmark.training.optimizers import optimizer_of
from benchmark.types import Batch, Recipe, Scalar, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """One row of the efficiency table; memory in MiB, None on a CPU. Static: parameters, gradients and optimizer state."""

    method: str
    settings: Mapping[str, Scalar]
    batch_size: int
    precision: str
    seconds: float  # median
    seconds_quartiles: tuple[float, float]
    images_per_second: float
    peak_allocated_mib: float | None
    peak_reserved_mib: float | None
    peak_device_mib: float | None
    peak_host_mib: float | None
    static_mib: float
    above_static_mib: float | None
    params: int
    gmacs: float  # forward, one image-report pair
    device: str
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DidNotFit:
    """A row of the efficiency table for a step that needs more memory than there is."""

    method: str
    settings: Mapping[str, Scalar]
    batch_size: int
    precision: str
    error: str


def word_tokenizer(vocabulary: int) -> Tokenizer:
    """A tokenizer of the given size whose words are w5, w6, ...: the cost of a vocabulary without a text."""
    ids = {word: index for index, word in enumerate([*SPECIAL, *(f"w{index}" for index in range(len(SPECIAL), vocabulary))])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(".", "")])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return tokenizer


def generated_batch(method: Any, size: int, tokens: int, vocabulary: int, device: torch.device) -> Batch:
    """A batch of noise images, reports `tokens` long in sentences of eight words, as reports have them, and random labels."""
    generator = np.random.default_rng(0)
    side = method.input.size
    pixels = torch.from_numpy(generator.integers(0, 256, (size, 1, side, side), dtype=np.uint8)).to(device)
    words = generator.integers(len(SPECIAL), vocabulary, (size, tokens - 2))
    uids = tuple(f"generated-{row}" for row in range(size))
    texts = tuple(" ".join(_word(place, word) for place, word in enumerate(row)) for row in words)
    labels = torch.from_numpy(generator.integers(0, 2, (size, LABELS)).astype(np.float32)).to(device)
    return Batch(uids=uids, patients=uids, images=to_input(pixels, method.input), texts=texts, targets={"labels": labels})


def _word(place: int, word: int) -> str:
    """A word at its place in a report: a sentence begins with a capital and ends with a period, each one token all the same."""
    return f"W{word}" if place % SENTENCE == 0 else f"w{word}." if place % SENTENCE == SENTENCE - 1 else f"w{word}"


def measure(  # noqa: PLR0913  (the coordinates of a measurement)
    method_class: Any, config: Any, recipe: Recipe, device: torch.device, *, tokens: int = 112, vocabulary: int = 28996,
    steps: int = 20, warm_up: int = 5, settings: Mapping[str, Scalar] | None = None,
) -> StepCost:  # fmt: skip
    """Builds the method and measures full training steps: loss, backward, clipping, optimizer.

    Args:
        tokens: of each report; vocabulary: of the tokenizer (28,996 is BERT-base-cased). steps: after `warm_up` ones.

    Raises:
        torch.OutOfMemoryError: the step does not fit.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with repro.seeded(0, "init"):
        method = method_class.build(config, word_tokenizer(vocabulary)).to(device).train()
    optimizer = optimizer_of(method, recipe)
    batch = generated_batch(method, recipe.batch_size, tokens, vocabulary, device)
    gmacs = count_gmacs(lambda: list(method.loss(batch, _late(recipe, 0)))) / recipe.batch_size
    meter = Meter(device)
    for index in range(warm_up):
        _step(method, optimizer, batch, index, recipe)
    meter.start()
    for index in range(warm_up, warm_up + steps):
        begin = meter.clock()
        _step(method, optimizer, batch, index, recipe)
        meter.step(meter.clock() - begin)
    meter.stop()
    cost = meter.cost()
    static = _static_mib(method, optimizer)
    quartiles = quantiles(meter.steps, n=4) if len(meter.steps) > 1 else [meter.steps[0]] * 3
    return StepCost(
        method=method.name,
        settings=settings or {},
        batch_size=recipe.batch_size,
        precision=recipe.precision,
        seconds=median(meter.steps),
        seconds_quartiles=(quartiles[0], quartiles[2]),
        images_per_second=recipe.batch_size / median(meter.steps),
        peak_allocated_mib=cost.peak_allocated_mib,
        peak_reserved_mib=cost.peak_reserved_mib,
        peak_device_mib=cost.peak_device_mib,
        peak_host_mib=cost.peak_host_mib,
        static_mib=static,
        above_static_mib=None if cost.peak_allocated_mib is None else cost.peak_allocated_mib - static,
        params=count_parameters(method),
        gmacs=gmacs,
        device=cost.device,
        steps=steps,
    )


def _late(recipe: Recipe, index: int) -> Step:
    """A step of the last stage, where a method in stages does all that it does, and after epochs in which something rests."""
    return Step(index, 1, max(1, recipe.steps), stages(recipe)[-1].number)


def _step(method: Any, optimizer: torch.optim.Optimizer, batch: Batch, index: int, recipe: Recipe) -> None:
    precision = recipe.precision
    dtype = DTYPES[precision]
    passes = iter(method.loss(batch, _late(recipe, index)))
    optimizer.zero_grad(set_to_none=True)
    while True:
        with torch.autocast(batch.images.device.type, dtype=dtype, enabled=precision != "fp32"):
            terms: Mapping[str, Tensor] | None = next(passes, None)
        if terms is None:
            break
        torch.autograd.backward(terms["total"])
        del terms
    torch.nn.utils.clip_grad_norm_(method.parameters(), recipe.clip_norm or float("inf"))
    optimizer.step()


def _static_mib(method: Any, optimizer: torch.optim.Optimizer) -> float:
    """Parameters, buffers, one gradient for each trained parameter, and the optimizer's tensors."""
    parameters = list(method.parameters())
    held = [*parameters, *method.buffers(), *(item for item in parameters if item.requires_grad)]
    held += [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return float(sum(item.numel() * item.element_size() for item in held)) / MIB


SENTENCE = 8  # words
LABELS = 14  # classes, as CheXpert has
CORNERS: tuple[dict[str, str], ...] = (
    {"stream": "single", "alignment": "mba"},
    {"stream": "single", "alignment": "abm"},
    {"stream": "dual", "alignment": "mba", "backward": "joint"},
    {"stream": "dual", "alignment": "mba", "backward": "sequential"},
    {"stream": "dual", "alignment": "abm", "backward": "joint"},
    {"stream": "dual", "alignment": "abm", "backward": "sequential"},
)


def table_rows(costs: Sequence[StepCost | DidNotFit]) -> list[list[str]]:
    """Cells of the table; a dash where there is no figure."""

    def shown(value: float | None, digits: int = 0) -> str:
        return "—" if value is None else f"{value:.{digits}f}"

    def cells(cost: StepCost | DidNotFit) -> list[str]:
        settings = ", ".join(f"{key}={value}" for key, value in cost.settings.items())
        where = [cost.method, settings, str(cost.batch_size), cost.precision]
        if isinstance(cost, DidNotFit):
            return [*where, cost.error, *["—"] * 6]
        quartiles = f"{cost.seconds_quartiles[0]:.3f}-{cost.seconds_quartiles[1]:.3f}"
        return [
            *where,
            f"{cost.seconds:.3f} ({quartiles})",
            shown(cost.images_per_second, 1),
            shown(cost.gmacs, 2),
            shown(cost.peak_allocated_mib),
            shown(cost.above_static_mib),
            shown(cost.static_mib),
            shown(cost.peak_host_mib),
        ]

    return [cells(cost) for cost in costs]


def with_batch(recipe: Recipe, batch_size: int, precision: str) -> Recipe:
    """The recipe at another batch size and precision; empty or 0 keeps its own."""
    return replace(recipe, batch_size=batch_size or recipe.batch_size, precision=precision or recipe.precision)  # type: ignore[arg-type]
