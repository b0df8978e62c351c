"""Seeded random numbers, a stream of its own for every purpose, so that no draw moves another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

PATIENT, CHRONIC, STUDY, VIEW, TEXT, VESSELS, NOISE, TEXTURE = range(1, 9)


def generator(*key: int) -> np.random.Generator:
    """The generator of a key: (seed, purpose, index, ...)."""
    return np.random.default_rng(list(key))


class Draws:
    """Scalar draws from a buffered stream; numpy's own scalar calls would take most of the time of a record.

    Args:
        key: (seed, purpose, index, ...).
    """

    def __init__(self, *key: int) -> None:
        self._generator = generator(*key)
        self._buffer: list[float] = []

    def unit(self) -> float:
        """Uniform in [0, 1)."""
        if not self._buffer:
            self._buffer = self._generator.random(96).tolist()
        return self._buffer.pop()

    def uniform(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self.unit()

    def bell(self, mean: float, deviation: float) -> float:
        """The sum of three uniforms: nearly normal, and never beyond three deviations."""
        return mean + 2 * deviation * (self.unit() + self.unit() + self.unit() - 1.5)

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self.unit() < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, equally likely."""
        return options[int(self.unit() * len(options))]

    def shuffle(self, items: Sequence[T]) -> list[T]:
        """The items in a random order."""
        keys = [(self.unit(), place) for place in range(len(items))]
        return [items[place] for _, place in sorted(keys)]
