"""The learning rate of a pretraining, step by step, in one stage or in several."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

from benchmark.errors import UserError
from benchmark.types import Recipe


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of a pretraining: steps from `start` up to `end`, and the factor of its learning rate."""

    number: int
    start: int
    end: int
    rate: float


def stages(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of a recipe over its steps; one where it names none.

    Raises:
        UserError: a text other than "LENGTH:RATE,..." of positive numbers, or fewer steps than stages.
    """
    try:
        pairs = [tuple(map(float, part.split(":"))) for part in recipe.stages.split(",")] if recipe.stages else [(1.0, 1.0)]
        if any(len(pair) != 2 or not 0 < min(pair) <= max(pair) < 1e9 for pair in pairs):
            raise ValueError(recipe.stages)
    except ValueError as error:
        raise UserError(
            f"stages={recipe.stages!r} is not LENGTH:RATE,LENGTH:RATE,... of positive numbers; write 20:1,30:1,100:0.5"
        ) from error
    ends = [round(sum(length for length, _ in pairs[: n + 1]) / sum(length for length, _ in pairs) * recipe.steps)
            for n in range(len(pairs))]  # fmt: skip
    starts = [0, *ends[:-1]]
    if recipe.steps and any(start >= end for start, end in zip(starts, ends)):
        raise UserError(f"steps={recipe.steps} leaves a stage of stages={recipe.stages!r} without a step; give more steps")
    return tuple(Stage(n + 1, start, end, pair[1]) for n, (start, end, pair) in enumerate(zip(starts, ends, pairs)))


def stage_at(recipe: Recipe, index: int) -> Stage:
    """The stage of a step; past the end, the last."""
    found = stages(recipe)
    return next((stage for stage in found if index < stage.end), found[-1])


def learning_rate(recipe: Recipe, index: int) -> float:
    """In each stage a linear warm-up, then what the recipe's schedule says: by default a half cosine to zero."""
    stage = stage_at(recipe, index)
    place, length, rate = index - stage.start, stage.end - stage.start, recipe.learning_rate * stage.rate
    warmup = max(1, round(recipe.warmup * length))
    if place < warmup:
        return rate * (place + 1) / warmup
    return rate * _decayed(recipe.schedule, (place - warmup) / max(1, length - warmup), place / length)


def _decayed(schedule: str, after: float, place: float) -> float:
    """The factor of a rate at a place in 0 to 1 behind the warm-up, and of the stage as a whole.

    Raises:
        UserError: no schedule of this name.
    """
    if schedule == "cosine":
        return (1 + cos(pi * after)) / 2
    if schedule == "linear":
        return 1 - after
    if schedule == "constant":
        return 1.0
    return float(0.1 ** sum(place >= fall for fall in falls(schedule)))


def falls(schedule: str) -> tuple[float, ...]:
    """The places of "step:0.6,0.8" at which the rate falls to a tenth. Raises UserError for anything else."""
    name, _, text = schedule.partition(":")
    try:
        found = tuple(float(part) for part in text.split(","))
        if name != "step" or not all(0 < place < 1 for place in found):
            raise ValueError(schedule)
    except ValueError as error:
        raise UserError(
            f"schedule={schedule!r} is none of cosine, linear, constant and step:PLACE,... with places between 0 and 1, "
            "such as step:0.6,0.8"
        ) from error
    return found
